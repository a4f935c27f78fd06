"""Starting from pretrained towers: a ViT in timm's layout, text layers in BERT's."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import tiny
import torch
from safetensors.torch import load_file, save_file

from multiway.batch import Batch
from multiway.core import masks
from multiway.core.embed import resize_positions
from multiway.core.heads import WordHead
from multiway.errors import UserError
from multiway.systems.albef import ALBEF, Draws
from multiway.systems.bert import TextStack
from multiway.systems.towers import BackboneConfig
from multiway.systems.vit import VisionTransformer
from multiway.weights.alignment import SPREAD, fusion_from_itc
from multiway.weights.initial import load_image_tower, load_text, load_word_head
from multiway.weights.keymap import Layout, to_theirs
from multiway.weights.parts import bert, timm_vit, word_head


def saved(tensors: dict[str, torch.Tensor], path: Path) -> str:
    save_file({name: tensor.detach().clone().contiguous() for name, tensor in tensors.items()}, path)
    return str(path)


def test_a_vit_of_another_resolution_and_with_a_classifier(tmp_path: Path) -> None:
    source = VisionTransformer(tiny.vit(image_size=40))
    theirs = to_theirs(Layout(tuple(timm_vit("", "", source.config))), source.state_dict())
    theirs["head.weight"] = torch.zeros(1000, source.width)
    tower = VisionTransformer(tiny.vit())
    report = load_image_tower(tower, saved(theirs, tmp_path / "deit.safetensors"))
    assert report.unexpected == ("head.weight",)
    assert report.resized == ("positions",)
    assert torch.equal(tower.positions, resize_positions(source.positions, (4, 4)))
    for name, value in tower.state_dict().items():
        if name != "positions":
            assert torch.equal(value, source.state_dict()[name]), name
    del theirs["norm.bias"]
    with pytest.raises(UserError, match=r"norm\.bias"):
        load_image_tower(tower, saved(theirs, tmp_path / "cut.safetensors"))
    theirs["dist_token"] = torch.zeros(1, 1, source.width)
    with pytest.raises(UserError, match="a distilled DeiT, with two class tokens"):
        load_image_tower(tower, saved(theirs, tmp_path / "distilled.safetensors"))


def bert_file(path: Path, *, layers: int, prefix: str = "", **sizes) -> tuple[TextStack, str]:
    """A BERT of `layers` layers without cross-attention, as bert-base-uncased is."""
    config = tiny.bert(layers=layers, fusion_layers=0, **sizes)
    torch.manual_seed(5)
    source = TextStack(config, context_width=24)
    theirs = to_theirs(Layout(tuple(bert("", prefix, config))), source.state_dict())
    return source, saved(theirs | {f"{prefix}pooler.dense.bias": torch.zeros(16)}, path)


@pytest.mark.parametrize(
    ("layers", "fusion_from", "taken"),
    [(4, None, (2, 3)), (4, 0, (0, 1)), (3, None, (1, 2)), (6, None, (2, 3))],
    ids=["cut in two", "from the first", "too few", "more than needed"],
)
def test_text_layers_first_then_fusion_layers(tmp_path: Path, layers, fusion_from, taken) -> None:
    source, path = bert_file(tmp_path / "bert.safetensors", layers=layers, prefix="bert.")
    text = TextStack(tiny.bert(), context_width=24)
    fresh = {n: p.clone() for n, p in text.named_parameters() if "cross" in n}
    load_text(text, path, fusion_from=fusion_from)
    assert torch.equal(text.embed.words.weight, source.embed.words.weight)
    for i in range(2):
        assert torch.equal(text.text[i].attention.qkv.weight, source.text[i].attention.qkv.weight)
        assert torch.equal(text.fusion[i].norm2["all"].bias, source.text[taken[i]].norm2["all"].bias)
        assert torch.equal(text.fusion[i].attention.qkv.weight, source.text[taken[i]].attention.qkv.weight)
    for name, value in fresh.items():
        assert torch.equal(text.get_parameter(name), value), name


def test_berts_published_file_names_its_norms_otherwise_and_has_a_head(tmp_path: Path) -> None:
    source, path = bert_file(tmp_path / "bert.safetensors", layers=4, prefix="bert.")
    head = WordHead(16, 50, eps=1e-12)
    torch.nn.init.normal_(head.bias)
    tensors = load_file(path) | {
        f"cls.predictions.{key}": tensor
        for key, tensor in to_theirs(Layout(tuple(word_head("", ""))), head.state_dict()).items()
    }
    olds = (("LayerNorm.weight", "LayerNorm.gamma"), ("LayerNorm.bias", "LayerNorm.beta"))
    for new, old in olds:
        tensors = {key.replace(new, old): tensor for key, tensor in tensors.items()}
    path = saved(tensors, tmp_path / "published.safetensors")
    text = TextStack(tiny.bert(), context_width=24)
    load_text(text, path)
    assert torch.equal(text.embed.norm.weight, source.embed.norm.weight)
    own = WordHead(16, 52, eps=1e-12)  # two more words
    assert load_word_head(own, path)
    assert torch.equal(own.dense.weight, head.dense.weight)
    assert torch.equal(own.norm.bias, head.norm.bias)
    assert torch.equal(own.bias, torch.cat([head.bias, torch.zeros(2)]))
    assert not load_word_head(WordHead(24, 50, eps=1e-12), path)  # of another width
    assert not load_word_head(own, bert_file(tmp_path / "bare.safetensors", layers=4)[1])


def test_shorter_tables_keep_their_rows_and_other_widths_are_refused(tmp_path: Path) -> None:
    source, path = bert_file(tmp_path / "bert.safetensors", layers=4, positions=12)
    text = TextStack(tiny.bert(), context_width=24)
    fresh = text.embed.positions.weight[12:].clone()
    load_text(text, path)
    assert torch.equal(text.embed.positions.weight[:12], source.embed.positions.weight)
    assert torch.equal(text.embed.positions.weight[12:], fresh)
    wide = TextStack(replace(tiny.bert(), width=18), context_width=24)
    with pytest.raises(UserError, match="give the sizes"):
        load_text(wide, path)


def test_a_name_that_is_neither_packaged_nor_a_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="minilm"):
        load_text(TextStack(tiny.bert(), context_width=24), str(tmp_path / "nothing"))


def pooled(**changes) -> ALBEF:
    """An ALBEF as the small recipes have it, its fusion layers started from the alignment."""
    off = {"momentum": None, "queue_size": 0, "alpha": 0.0, "mlm_weight": 0.0}
    config = tiny.albef_config(
        image=BackboneConfig(name="user", image_size=32),
        text=tiny.bert(width=16, fusion_layers=1),
        **({"embed_dim": 16, "text_pooling": "mean", "null_token": True} | off | changes),
    )
    torch.manual_seed(0)
    model = ALBEF(config, tiny.PatchMap())
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim:
                parameter += 0.1 * torch.randn_like(parameter)
    return model


@torch.no_grad()
def start(model: ALBEF, batch: Batch) -> tuple[torch.Tensor, torch.Tensor]:
    encoders, (ids, mask) = model.encoders, batch.text()
    image_embeds, text_embeds = encoders.image_tower(batch.image), encoders.text(ids, mask)
    fusion_from_itc(encoders, image_embeds, text_embeds, mask)
    return image_embeds, text_embeds


@torch.no_grad()
def test_fusion_from_itc_looks_where_alignment_does_and_the_null_token_scores_zero() -> None:
    model, batch = pooled(), tiny.batch(24)
    image_embeds, text_embeds = start(model, batch)
    encoders, block, real = model.encoders, model.encoders.text.fusion[0], batch.attention_mask.bool()
    hidden = block.norm1(text_embeds + block.attention(text_embeds, mask=masks.padding(batch.attention_mask)))
    key = encoders.context(image_embeds).layers[0].key  # [B, H, 1 + N, d], the null token first
    query = block.cross.query(hidden[real]).unflatten(-1, (block.cross.heads, -1))
    scores = torch.einsum("phd,bhnd->phbn", query, key) * query.shape[-1] ** -0.5
    assert scores[..., 0].abs().max() < 1e-4
    patches = scores[..., 1:]
    assert float(patches.mean().abs()) < 0.15 * SPREAD
    assert float(patches.std()) == pytest.approx(SPREAD, rel=0.1)
    # Summed over heads, the score is the similarity under the ITC projections, up to centring and scale.
    words = encoders.text_proj(hidden[real])
    pool = encoders.pool
    value = pool.attention.key_value.weight[16:] @ (pool.norm(image_embeds).flatten(0, 1).T)
    aligned = words @ encoders.image_proj.weight @ pool.attention.out.weight @ value

    def centred(x: torch.Tensor) -> torch.Tensor:
        x = x - x.mean(0, keepdim=True)
        return (x - x.mean(1, keepdim=True)).flatten()

    both = torch.stack([centred(aligned), centred(patches.sum(1).flatten(1))])
    assert float(torch.corrcoef(both)[0, 1]) > 0.999


def test_after_fusion_from_itc_the_gradient_of_itm_reaches_all_that_it_reads() -> None:
    model, batch = pooled(), tiny.batch(6)
    start(model, batch)
    draws = replace(tiny.draws(batch), mlm_input_ids=None, mlm_labels=None)
    assert isinstance(draws, Draws)
    model.losses(batch, model.init_state(), draws)["itm"].backward()
    unread = ("temperature", "encoders.image_proj", "encoders.text_proj", "encoders.pool.query")
    for name, parameter in model.named_parameters():
        read = not name.startswith((*unread, "encoders.pool.attention"))
        assert (parameter.grad is not None and bool(parameter.grad.any())) == read, name


def test_fusion_from_itc_needs_a_pool_a_null_token_and_equal_widths() -> None:
    for changes in ({"null_token": False}, {"embed_dim": 12}):
        with pytest.raises(UserError, match="null_token"):
            start(pooled(**changes), tiny.batch(4))


def test_reranking_takes_the_match_alone_or_adds_the_alignment() -> None:
    logits, cosine = torch.tensor([[0.5, 2.0], [1.0, -1.0]]), torch.tensor([0.3, -0.2])
    assert pooled().rerank_score(logits, cosine).tolist() == [2.0, -1.0]
    model = pooled(rerank="itm+itc", temperature=0.1)
    with torch.no_grad():
        model.temperature.fill_(0.1)
    torch.testing.assert_close(model.rerank_score(logits, cosine), torch.tensor([1.5 + 3.0, -2.0 - 2.0]))
