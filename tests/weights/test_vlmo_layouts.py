"""VLMo's key maps at full size on the meta device, both ways; official files back into networks."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import tiny_vlmo
import torch
from safetensors.torch import save_file
from torch import Tensor

import multiway
from multiway.errors import UserError
from multiway.systems import NETWORKS
from multiway.systems.patches import ImageConfig
from multiway.systems.vlmo_config import (
    AnswerConfig,
    MultiwayConfig,
    ReasoningConfig,
    RetrievalConfig,
    TextConfig,
    VLMoConfig,
)
from multiway.weights import vlmo
from multiway.weights.convert import official_layout
from multiway.weights.keymap import to_ours, to_theirs

SHARED = Path(__file__).parents[3] / "shared" / "golden" / "layouts"
LARGE = {"width": 1024, "depth": 24, "heads": 16, "hidden": 4096, "joint_layers": 3}
PLUS = LARGE | {"width": 544, "hidden": 2176, "positions": "absolute", "layer_scale": None}


def image(size: int) -> dict[str, Any]:
    return {"image": ImageConfig(image_size=size)}


CONFIGS: dict[str, MultiwayConfig] = {
    "base_patch16_224_pretrain": VLMoConfig(),
    "base_patch16_224_stage2_textmlm": VLMoConfig(
        stage="text", joint_layers=0, text=TextConfig(positions=196)
    ),
    "base_patch16_384_irtr": RetrievalConfig(**image(384)),
    "base_patch16_384_nlvr2": ReasoningConfig(**image(384)),
    "base_patch16_480_vqa": AnswerConfig(**image(480), labels=tuple(map(str, range(3129)))),
    "base_plus_patch16_224_pretrain": VLMoConfig(**PLUS),
    "large_patch16_224_pretrain": VLMoConfig(**LARGE),
}
#: Tensors of the official files, their buffer of positions included (golden/layouts).
COUNTS = dict(zip(CONFIGS, (293, 273, 282, 285, 285, 503, 551), strict=True))
PARAMETERS = {
    "base_patch16_224_pretrain": 202445470,
    "base_plus_patch16_224_pretrain": 184980734,
    "large_patch16_224_pretrain": 599127102,
}


def shapes(tensors: dict[str, Tensor]) -> dict[str, list[int]]:
    return {name: list(tensor.shape) for name, tensor in tensors.items()}


def built(config: MultiwayConfig) -> torch.nn.Module:
    with torch.device("meta"):
        return NETWORKS[config.system].network()(config)


@pytest.mark.parametrize("name", CONFIGS)
def test_full_size_both_ways(name: str) -> None:
    config = CONFIGS[name]
    model, layout = built(config), vlmo.layout(config)
    own = model.state_dict()
    theirs = to_theirs(layout, own)
    assert len(theirs) == COUNTS[name]
    back, missing, unexpected = to_ours(layout, theirs)
    assert not missing
    assert not unexpected
    assert shapes(back) == shapes(own)
    if name in PARAMETERS:
        assert sum(p.numel() for p in model.parameters()) == PARAMETERS[name]
    # and a config is read off such a file
    read = vlmo.config_of(theirs)
    labels = {"labels": config.labels} if isinstance(config, AnswerConfig) else {}
    longest = config.text.positions
    expected = replace(config, tokenizer=replace(config.tokenizer, max_length=longest))
    assert replace(read, **labels) == expected


@pytest.mark.skipif(not SHARED.is_dir(), reason="the recorded layouts are not beside the repository")
@pytest.mark.parametrize("name", CONFIGS)
def test_every_recorded_key_and_shape(name: str) -> None:
    recorded = json.loads((SHARED / f"vlmo_{name}.json").read_text())
    expected = {}
    for entry in recorded["keys"]:
        first, last = map(int, entry.get("i", "0..0").split(".."))
        for i in range(first, last + 1):
            expected[entry["key"].replace("{i}", str(i))] = entry["shape"]
    config = CONFIGS[name]
    assert shapes(to_theirs(vlmo.layout(config), built(config).state_dict())) == expected


def test_every_recorded_layout_has_a_config() -> None:
    if SHARED.is_dir():
        assert {f.stem.removeprefix("vlmo_") for f in SHARED.glob("vlmo_*.json")} == set(CONFIGS)


@pytest.mark.parametrize("name", tiny_vlmo.networks())
def test_an_official_file_is_loaded_and_computes_the_same(name: str, tmp_path: Path) -> None:
    given = tiny_vlmo.networks()[name]
    changes = {"relative_positions": 196, "heads": 1 if given.positions == "absolute" else 3}
    config = replace(given, **changes)
    torch.manual_seed(0)
    model = tiny_vlmo.shaken(NETWORKS[config.system].network()(config)).eval()
    theirs = to_theirs(vlmo.layout(config), model.state_dict())
    # as older files: with the indices of relative positions, and under Lightning's name
    if config.positions == "relative":
        theirs["relative_position_index"] = torch.zeros(17, 17, dtype=torch.long)
    torch.save({"state_dict": theirs}, tmp_path / "vlmo.ckpt")
    save_file({n: t.contiguous() for n, t in theirs.items()}, tmp_path / "vlmo.safetensors")
    for file in ("vlmo.ckpt", "vlmo.safetensors"):
        again = multiway.load(tmp_path / file)
        assert again.config.sizes() == config.sizes() | {"tokenizer": again.config.tokenizer, **_read(again)}
        for ours, own in zip(again.state_dict().items(), model.state_dict().items(), strict=True):
            assert ours[0] == own[0]
            assert torch.equal(ours[1], own[1])


def _read(model: Any) -> dict[str, Any]:
    """What a file does not tell: dropout and the rate of dropped branches are the official ones."""
    return {"text": model.config.text, "drop_path": model.config.drop_path}


def test_a_table_of_another_kind_is_refused_in_a_sentence() -> None:
    model = tiny_vlmo.vlmo()
    theirs = to_theirs(vlmo.layout(model.config), model.state_dict())
    with pytest.raises(UserError, match="relative_position_index"):
        vlmo.config_of(theirs)
    theirs["relative_position_index"] = torch.zeros(17, 17)
    assert vlmo.config_of(theirs).relative_positions == tiny_vlmo.LONGEST


@pytest.mark.parametrize(("stage", "joint"), [("pairs", 2), ("pairs", 0), ("text", 0)])
def test_a_converted_file_tells_for_what_texts_its_table_is(stage: str, joint: int, tmp_path: Path) -> None:
    given = tiny_vlmo.config(stage=stage, joint_layers=joint)
    model = tiny_vlmo.vlmo(given)
    theirs = to_theirs(official_layout(model), model.state_dict())
    save_file({n: t.contiguous() for n, t in theirs.items()}, tmp_path / "vlmo.safetensors")
    again = multiway.load(tmp_path / "vlmo.safetensors")
    assert again.config.relative_positions == tiny_vlmo.LONGEST
    assert (again.config.system, again.config.stage) == ("vlmo", stage)
    assert again.state_dict().keys() == model.state_dict().keys()
    assert all(torch.equal(a, b) for a, b in zip(again.parameters(), model.parameters(), strict=True))


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"positions": "absolute"}, "read with 1 heads at width 24, and this model has 3"),
        ({"image": ImageConfig(image_size=(32, 24), patch_size=8)}, "4 x 3 patches"),
    ],
)
def test_what_a_file_would_not_tell_is_not_written(changes: dict[str, Any], says: str) -> None:
    with pytest.raises(UserError, match=says):
        official_layout(tiny_vlmo.vlmo(tiny_vlmo.config(**changes)))
