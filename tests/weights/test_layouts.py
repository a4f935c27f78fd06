"""Key maps: every key of the published checkpoints at full size, and back again without loss."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import tiny
import torch
from official_shapes import linear, predictions, shapes, vit

from multiway.systems import NETWORKS
from multiway.systems.albef import ALBEF, ALBEFConfig
from multiway.systems.albef_assignment import AssignmentConfig, TextAssignment
from multiway.systems.albef_heads import EntailmentConfig, EntailmentModel
from multiway.systems.albef_nlvr import NLVRConfig, PairModel
from multiway.systems.albef_vqa import AnswerModel, VQAConfig
from multiway.systems.clip import CLIP, CLIPConfig, CLIPTextConfig, clip_tokenizer, clip_vit
from multiway.text import TokenizerConfig
from multiway.weights import albef, clip, official
from multiway.weights.keymap import Layout, to_ours, to_theirs

SHARED = Path(__file__).parents[3] / "shared" / "golden" / "layouts"


def bert(prefix: str, *, width: int = 768, vocab: int = 30522, layers: int = 12, fusion: int = 6) -> dict:
    """ALBEF's xbert.py: cross-attention from layer `fusion` on; no pooler."""
    found = {
        "embeddings.word_embeddings.weight": (vocab, width),
        "embeddings.position_embeddings.weight": (512, width),
        "embeddings.token_type_embeddings.weight": (2, width),
        "embeddings.position_ids": (1, 512),
        "embeddings.LayerNorm.weight": (width,),
        "embeddings.LayerNorm.bias": (width,),
    }
    for i in range(layers):
        layer = f"encoder.layer.{i}"
        for attention in ("attention", *(["crossattention"] if i >= fusion else [])):
            for part in ("query", "key", "value"):
                found |= linear(f"{layer}.{attention}.self.{part}", width, width)
            found |= linear(f"{layer}.{attention}.output.dense", width, width)
            found |= {f"{layer}.{attention}.output.LayerNorm.{p}": (width,) for p in ("weight", "bias")}
        found |= linear(f"{layer}.intermediate.dense", 4 * width, width)
        found |= linear(f"{layer}.output.dense", width, 4 * width)
        found |= {f"{layer}.output.LayerNorm.{p}": (width,) for p in ("weight", "bias")}
    return {prefix + name: shape for name, shape in found.items()}


def official_albef(*, retrieval: bool) -> dict[str, tuple[int, ...]]:
    """ALBEF.pth as Pretrain.py saves it, or a checkpoint of Retrieval.py."""
    found = {"temp": (), "image_queue": (256, 65536), "text_queue": (256, 65536), "queue_ptr": (1,)}
    found |= linear("itm_head", 2, 768)
    for mark in ("", "_m"):
        found |= vit(f"visual_encoder{mark}.", size=384 if retrieval else 256)
        found |= bert(f"text_encoder{mark}." + ("" if retrieval else "bert."))
        found |= linear(f"vision_proj{mark}", 256, 768) | linear(f"text_proj{mark}", 256, 768)
        if not retrieval:
            found |= predictions(f"text_encoder{mark}.cls.predictions.")
    return found | ({"idx_queue": (1, 65536)} if retrieval else {})


@pytest.mark.parametrize("retrieval", [False, True], ids=["pretrain", "retrieval"])
def test_albef_at_full_size_has_the_official_keys(retrieval: bool) -> None:
    config = ALBEFConfig()
    if retrieval:
        image = replace(config.image, image_size=384)
        words = TokenizerConfig(max_length=30)
        config = replace(config, image=image, mlm_weight=0.0, positives="ids", temperature_range=None)
        config = replace(config, tokenizer=words)
    with torch.device("meta"):
        model = ALBEF(config)
        state = model.init_state()
    tensors = model.state_dict() | {f"state.{n}": t for n, t in state.state_dict().items()}
    layout = albef.layout(config)
    theirs = to_theirs(layout, tensors)
    assert shapes(theirs) == official_albef(retrieval=retrieval)
    # What the layout has no place for is our own bookkeeping.
    ours, missing, unexpected = to_ours(layout, theirs)
    assert (missing, unexpected) == ([], [])
    assert set(tensors) - set(ours) == {"state.step"} | (set() if retrieval else {"state.queue.ids"})
    found = albef.config_of(
        {k: torch.empty(s, device="meta") for k, s in official_albef(retrieval=retrieval).items()}
    )
    assert replace(found, text=replace(found.text, dropout=config.text.dropout)) == config


def official_albef_heads(kind: str) -> dict[str, tuple[int, ...]]:
    """Checkpoints of VQA.py, VE.py, NLVR.py and Pretrain_nlvr.py."""
    if kind == "nlvr_pretrain":
        found = {"temp": ()} | linear("ta_head", 3, 768) | linear("vision_proj", 256, 768)
        return found | linear("text_proj", 256, 768) | vit("visual_encoder.", size=256) | _doubled("")
    found = {}
    for mark in ("", "_m"):
        found |= vit(f"visual_encoder{mark}.", size=384)
        found |= _doubled(mark) if kind == "nlvr2" else bert(f"text_encoder{mark}.")
        if kind == "vqa":
            found |= bert(f"text_decoder{mark}.bert.", layers=6, fusion=0)
            found |= predictions(f"text_decoder{mark}.cls.predictions.")
        else:
            found |= linear(f"cls_head{mark}.0", 768, 768)
            found |= linear(f"cls_head{mark}.2", 3 if kind == "entailment" else 2, 768)
    return found


def _doubled(mark: str) -> dict[str, tuple[int, ...]]:
    """Each of the six fusion layers twice."""
    return bert(f"text_encoder{mark}.", layers=18)


@pytest.mark.parametrize("kind", ["vqa", "entailment", "nlvr2", "nlvr_pretrain"])
def test_albef_s_fine_tunings_at_full_size_have_the_official_keys(kind: str, tmp_path: Path) -> None:
    expected = official_albef_heads(kind)
    given = {name: torch.empty(shape, device="meta") for name, shape in expected.items()}
    config, layout = official.recognise(given, tmp_path)
    with torch.device("meta"):
        model = NETWORKS[config.system].network()(config)
        state = model.init_state()
    tensors = model.state_dict() | {f"state.{n}": t for n, t in state.state_dict().items()}
    assert shapes(to_theirs(layout, tensors)) == expected
    _, missing, unexpected = to_ours(layout, to_theirs(layout, tensors))
    assert (missing, unexpected) == ([], [])


def random(tensors: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    g = torch.Generator().manual_seed(0)
    made = {}
    for name, tensor in tensors.items():
        real = tensor.is_floating_point()
        made[name] = (
            torch.randn(tensor.shape, generator=g) if real else torch.randint(9, tensor.shape, generator=g)
        )
    return made


def round_trip(layout: Layout, tensors: dict[str, torch.Tensor]) -> None:
    """Ours to theirs to ours, and theirs to ours to theirs."""
    theirs = to_theirs(layout, tensors)
    assert theirs.keys() == layout.keys()
    ours, missing, unexpected = to_ours(layout, theirs)
    assert (missing, unexpected) == ([], [])
    for name in ours:
        assert torch.equal(ours[name], tensors[name]), name
    again = to_theirs(layout, ours)
    for name, value in theirs.items():
        assert torch.equal(again[name], value), name
    lost = dict(theirs)
    lost.pop(layout.entries[-1].theirs[0])
    lost["of another model"] = torch.zeros(1)
    _, missing, unexpected = to_ours(layout, lost)
    assert missing == [layout.entries[-1].ours]
    assert unexpected == ["of another model"]


@pytest.mark.parametrize("mlm", [1.0, 0.0])
def test_albef_round_trip(mlm: float) -> None:
    config = tiny.albef_config(mlm_weight=mlm)
    model, state = tiny.albef(config)
    tensors = model.state_dict() | {f"state.{n}": t for n, t in state.state_dict().items()}
    round_trip(albef.layout(config), random(tensors))


def test_layouts_of_tasks_with_one_picture() -> None:
    sizes = {"image": tiny.vit(), "text": tiny.bert()}
    for model, layout in (
        (AnswerModel(VQAConfig(decoder_layers=1, **sizes)), albef.vqa_layout),
        (EntailmentModel(EntailmentConfig(**sizes)), albef.entailment_layout),
    ):
        teacher = {f"state.{n}": t for n, t in model.init_state().state_dict().items() if n != "step"}
        tensors, entries = model.state_dict() | teacher, layout(model.config)
        assert {e.ours for e in entries.entries} == set(tensors)
        round_trip(entries, random(tensors))


def test_layouts_for_two_pictures() -> None:
    sizes = {"image": tiny.vit(), "text": tiny.bert(fusion_layers=4)}
    pair, assignment = PairModel(NLVRConfig(**sizes)), TextAssignment(AssignmentConfig(**sizes))
    teacher = {f"state.{n}": t for n, t in pair.init_state().state_dict().items() if n != "step"}
    for layout, tensors in (
        (albef.nlvr_layout(pair.config), pair.state_dict() | teacher),
        (albef.assignment_layout(assignment.config), assignment.state_dict()),
    ):
        assert {e.ours for e in layout.entries} == set(tensors)
        round_trip(layout, random(tensors))


def test_checkpoints_of_tasks_are_told_apart(tmp_path: Path) -> None:
    """By their keys, as load_checkpoint does; heads are 64 wide in all official ones."""
    text = tiny.bert(heads=1, fusion_layers=4, dropout=0.1, positions=60)
    sizes = {"image": tiny.vit(heads=1), "text": text}
    for model, layout in (
        (PairModel(NLVRConfig(**sizes)), albef.nlvr_layout),
        (TextAssignment(AssignmentConfig(**sizes, embed_dim=12)), albef.assignment_layout),
        (AnswerModel(VQAConfig(**sizes, decoder_layers=3)), albef.vqa_layout),
        (EntailmentModel(EntailmentConfig(**sizes)), albef.entailment_layout),
    ):
        theirs = to_theirs(layout(model.config), random(model.state_dict()))
        found, _ = official.recognise(theirs, tmp_path)
        assert found == model.config
        path = tmp_path / f"{found.system}.pth"
        torch.save({"model": theirs}, path)
        again = official.load_checkpoint(path)
        assert type(again) is type(model)
        assert shapes(to_theirs(layout(again.config), again.state_dict())) == shapes(theirs)


def tiny_clip() -> CLIPConfig:
    text = CLIPTextConfig(vocab_size=60, width=16, layers=2, heads=2, hidden=28, positions=11)
    image = clip_vit(image_size=32, patch_size=8, width=24, depth=2, heads=3, hidden=40)
    return CLIPConfig(image=image, text=text, tokenizer=clip_tokenizer(11), embed_dim=12)


@pytest.mark.parametrize("make", [clip.open_clip_layout, clip.transformers_layout])
def test_clip_round_trip(make) -> None:
    model = CLIP(tiny_clip())
    layout = make(model.config)
    assert {e.ours for e in layout.entries} == set(model.state_dict())
    round_trip(layout, random(model.state_dict()))


CLIP_SIZES = {
    "ViT-B-32": (CLIPConfig(), 151_277_313),
    "ViT-B-16": (CLIPConfig(image=clip_vit(patch_size=16)), 149_620_737),
    "ViT-L-14": (
        CLIPConfig(
            image=clip_vit(patch_size=14, width=1024, depth=24, heads=16, hidden=4096),
            text=CLIPTextConfig(width=768, heads=12, hidden=3072),
            embed_dim=768,
        ),
        427_616_513,
    ),
}


def recorded(path: Path) -> Iterator[tuple[str, tuple[int, ...]]]:
    """(key, shape) of a published model; a repeated block is one entry with `{i}` and "first..last"."""
    for entry in json.loads(path.read_text())["keys"]:
        first, last = (int(i) for i in entry.get("i", "0..0").split(".."))
        for i in range(first, last + 1):
            yield entry["key"].replace("{i}", str(i)), tuple(entry["shape"])


@pytest.mark.parametrize("name", CLIP_SIZES)
def test_clip_at_full_size(name: str) -> None:
    config, count = CLIP_SIZES[name]
    with torch.device("meta"):
        model = CLIP(config)
    assert sum(p.numel() for p in model.parameters()) == count
    theirs = shapes(to_theirs(clip.open_clip_layout(config), model.state_dict()))
    found = clip.open_clip_config_of(to_theirs(clip.open_clip_layout(config), model.state_dict()))
    assert found == replace(config, image=replace(config.image, fit="crop"))  # as OpenAI evaluates
    published = SHARED / f"open_clip_{name}.json"
    if published.is_file():
        assert theirs == dict(recorded(published))


def test_a_tied_tensor_is_stored_under_every_name() -> None:
    model, _ = tiny.albef()
    theirs = to_theirs(albef.layout(model.config), model.state_dict())
    words = theirs["text_encoder.bert.embeddings.word_embeddings.weight"]
    assert theirs["text_encoder.cls.predictions.decoder.weight"] is words
