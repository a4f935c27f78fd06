"""Starting from pretrained towers: a ViT in timm's layout, text layers in BERT's."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import tiny
import torch
from safetensors.torch import save_file

from multiway.core.embed import resize_positions
from multiway.errors import UserError
from multiway.systems.bert import TextStack
from multiway.systems.vit import VisionTransformer
from multiway.weights.initial import load_image_tower, load_text
from multiway.weights.keymap import Layout, to_theirs
from multiway.weights.parts import bert, timm_vit


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
