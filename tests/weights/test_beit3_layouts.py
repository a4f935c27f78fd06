"""BEiT-3's official keys and shapes at full size, both ways, and checkpoints that load by themselves."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from tiny_beit3 import SPM
from torch import Tensor

from multiway.errors import UserError
from multiway.systems import NETWORKS
from multiway.systems.beit3_config import (
    BEiT3Config,
    CaptionerConfig,
    ClassifierConfig,
    NetworkConfig,
    NLVR2Config,
    RetrievalConfig,
    TextConfig,
    VQAConfig,
)
from multiway.systems.patches import ImageConfig
from multiway.weights import beit3, load
from multiway.weights.convert import official_layout
from multiway.weights.keymap import to_ours, to_theirs
from multiway.weights.official import check

LAYOUTS = Path(__file__).parents[3] / "shared" / "golden" / "layouts"

#: What each task's official network adds to the backbone, for width D.
HEADS = {
    "retrieval": lambda d: {"vision_head.weight": (d, d), "language_head.weight": (d, d), "logit_scale": ()},
    "vqav2": lambda d: {
        **pair("pooler.norm", d),
        **pair("pooler.dense", d, d),
        **pair("head.0", 2 * d, d),
        **pair("head.1", 2 * d),
        **pair("head.3", 3129, 2 * d),
    },
    "nlvr2": lambda d: {
        **pair("head.norm1", 4 * d),
        **pair("head.dense1", 2 * d, 4 * d),
        **pair("head.norm2", 2 * d),
        **pair("head.dense2", 2, 2 * d),
    },
    "captioning": lambda d: pair("mlm_head", 64010, d),
    "imageclassification": lambda d: {**pair("fc_norm", d), **pair("head", 1000, d)},
}
CONFIGS: dict[str, type[NetworkConfig]] = {
    "retrieval": RetrievalConfig,
    "vqav2": VQAConfig,
    "nlvr2": NLVR2Config,
    "captioning": CaptionerConfig,
    "imageclassification": ClassifierConfig,
}


def pair(name: str, *shape: int) -> dict[str, tuple[int, ...]]:
    return {f"{name}.weight": shape, f"{name}.bias": shape[:1]}


def official(task: str, *, width: int = 768, depth: int = 12, pixels: int = 224) -> dict[str, tuple]:
    """Keys and shapes as the official code builds them, written down from its modules."""
    rows = 2 + 1 + (pixels // 16) ** 2
    found: dict[str, tuple] = {
        "beit3.text_embed.weight": (64010, width),
        "beit3.vision_embed.cls_token": (1, 1, width),
        "beit3.vision_embed.mask_token": (1, 1, width),
        "beit3.vision_embed.proj.weight": (width, 3, 16, 16),
        "beit3.vision_embed.proj.bias": (width,),
        "beit3.encoder.embed_positions.A.weight": (rows, width),
        "beit3.encoder.embed_positions.B.weight": (1024, width),
    }
    for letter in "AB":
        for i in range(depth):
            layer = f"beit3.encoder.layers.{i}."
            for part in ("q", "k", "v", "out"):
                found |= pair(f"{layer}self_attn.{part}_proj.{letter}", width, width)
            for norm in ("self_attn.inner_attn_ln", "self_attn_layer_norm", "final_layer_norm"):
                found |= pair(f"{layer}{norm}.{letter}", width)
            found |= pair(f"{layer}ffn.{letter}.fc1", 4 * width, width)
            found |= pair(f"{layer}ffn.{letter}.fc2", width, 4 * width)
            found |= pair(f"{layer}ffn.{letter}.ffn_layernorm", 4 * width)
        if task not in ("vqav2", "imageclassification"):
            found |= pair(f"beit3.encoder.layer_norm.{letter}", width)
    return found | HEADS[task](width)


def covered(shapes: dict[str, tuple], task: str) -> None:
    """Every key has its place in ours, every tensor of ours is filled, and what leaves is what came."""
    with torch.device("meta"):
        theirs = {name: torch.empty(shape) for name, shape in shapes.items()}
        config = beit3.config_of(theirs)
        model = NETWORKS[config.system].network()(config)
    assert type(config) is CONFIGS[task]
    layout = beit3.layout(config)
    ours, missing, unexpected = to_ours(layout, theirs)
    assert (missing, unexpected) == ([], [])
    assert {n: t.shape for n, t in ours.items()} == {n: t.shape for n, t in model.state_dict().items()}
    assert {n: tuple(t.shape) for n, t in to_theirs(layout, ours).items()} == shapes


@pytest.mark.parametrize("task", HEADS)
def test_every_official_key_and_shape_is_covered_both_ways(task) -> None:
    covered(official(task), task)


def test_large_and_high_resolution_too() -> None:
    covered(official("vqav2", width=1024, depth=24, pixels=480), "vqav2")


@pytest.mark.skipif(not LAYOUTS.is_dir(), reason="the recorded layouts are not beside the repository")
@pytest.mark.parametrize("file", sorted(LAYOUTS.glob("beit3_*.json")), ids=lambda file: file.stem)
def test_the_recorded_layouts_are_these(file) -> None:
    size, pixels, task = re.fullmatch(r"beit3_(base|large)_patch16_(\d+)_(\w+)", file.stem).groups()
    recorded = {name: tuple(shape) for name, shape in recorded_shapes(file).items()}
    width, depth = (1024, 24) if size == "large" else (768, 12)
    assert recorded == official(task, width=width, depth=depth, pixels=int(pixels))
    covered(recorded, task)


def recorded_shapes(file: Path) -> dict[str, list[int]]:
    """Keys with `{i}` stand for a range of layers."""
    found = {}
    for entry in json.loads(file.read_text())["keys"]:
        first, last = (int(x) for x in entry.get("i", "0..0").split(".."))
        found |= {entry["key"].replace("{i}", str(i)): entry["shape"] for i in range(first, last + 1)}
    return found


def tiny(kind: type[NetworkConfig], **changes) -> NetworkConfig:
    sizes = {"width": 64, "depth": 2, "heads": 1, "hidden": 96}
    image = ImageConfig(image_size=32, patch_size=8)
    return kind(**(sizes | {"image": image, "text": TextConfig(vocab_size=70, positions=80)} | changes))


def exported(config: NetworkConfig, path: Path) -> tuple[torch.nn.Module, dict[str, Tensor]]:
    """A model and the official file of its weights."""
    torch.manual_seed(0)
    model = NETWORKS[config.system].network()(config)
    theirs = to_theirs(beit3.layout(config), model.state_dict())
    save_file({name: tensor.contiguous() for name, tensor in theirs.items()}, path)
    return model, theirs


@pytest.mark.parametrize(
    "config",
    [
        tiny(RetrievalConfig),
        tiny(VQAConfig, classes=7),
        tiny(NLVR2Config),
        tiny(CaptionerConfig),
        tiny(ClassifierConfig, classes=5),
        tiny(BEiT3Config, codes=11),
    ],
    ids=lambda config: config.system,
)
def test_an_official_file_tells_its_task_and_loads(config, tmp_path) -> None:
    shutil.copy(SPM, tmp_path / "beit3.spm")
    model, _ = exported(config, tmp_path / "model.safetensors")
    loaded = load(tmp_path / "model.safetensors")
    assert type(loaded) is type(model)
    assert loaded.config.network()["depth"] == config.depth
    for name, tensor in model.state_dict().items():
        assert torch.equal(loaded.state_dict()[name], tensor), name
    assert check(tmp_path / "model.safetensors").missing == ()


def test_a_file_for_small_pictures_is_loaded_for_larger_ones(tmp_path) -> None:
    shutil.copy(SPM, tmp_path / "beit3.spm")
    model, _ = exported(tiny(RetrievalConfig), tmp_path / "model.safetensors")
    larger = load(tmp_path / "model.safetensors", image_size=48)
    old, new = (m.state_dict()["network.image_positions"] for m in (model, larger))
    assert new.shape == (2 + 1 + 36, 64)
    assert torch.equal(new[:3], old[:3])
    assert larger.look(torch.zeros(1, 3, 48, 48)).shape == (1, 37, 64)


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"heads": 2}, "read with 1 heads at width 64, and this model has 2"),
        ({"image": ImageConfig(image_size=(32, 24), patch_size=8)}, "4 x 3 patches"),
    ],
)
def test_what_a_file_would_not_tell_is_not_written(changes, says, tmp_path) -> None:
    config = tiny(RetrievalConfig, **changes)
    with pytest.raises(UserError, match=says):
        official_layout(NETWORKS[config.system].network()(config))
    if "image" in changes:
        exported(config, tmp_path / "model.safetensors")
        with pytest.raises(UserError, match="12 patches"):
            load(tmp_path / "model.safetensors")


def test_without_its_tokenizer_a_file_is_refused_with_a_hint(tmp_path) -> None:
    exported(tiny(RetrievalConfig), tmp_path / "model.safetensors")
    with pytest.raises(UserError, match=r"beit3\.spm"):
        load(tmp_path / "model.safetensors")


def test_the_papers_form_has_no_official_layout() -> None:
    with pytest.raises(UserError, match="paper"):
        beit3.layout(tiny(BEiT3Config, form="paper", joint_layers=1))
