"""Key maps of BEiT, BEiT v2, VQ-KD and the dVAE: every official key at full size, and checkpoints of them."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path

import pytest
import tiny_beit
import torch
from official_shapes import linear, shapes
from safetensors.torch import save_file
from torch import Tensor

import multiway
from multiway.errors import UserError
from multiway.systems.base import System
from multiway.systems.beit import BEiT
from multiway.systems.beit_config import BEiTConfig, ClassifierConfig, classifier_vit
from multiway.systems.beit_heads import Classifier
from multiway.systems.dvae import DVAE, DVAEConfig
from multiway.systems.vqkd import VQKD, VQKDConfig
from multiway.weights import beit, dvae, vqkd
from multiway.weights.keymap import Layout, to_ours, to_theirs
from multiway.weights.official import check, load_layout

SHARED = Path(__file__).parents[3] / "shared" / "golden" / "layouts"
IMAGENET = tuple(str(i) for i in range(1000))
Shapes = dict[str, tuple[int, ...]]


def blocks(prefix: str, depth: int, *, gains: bool = True, tables: bool = False) -> Shapes:
    """`Block` of BEiT's modeling_finetune.py, at the width of base."""
    found: Shapes = {}
    for i in range(depth):
        block = f"{prefix}{i}."
        for name in ("norm1", "norm2"):
            found |= {f"{block}{name}.weight": (768,), f"{block}{name}.bias": (768,)}
        found |= {f"{block}attn.qkv.weight": (2304, 768)}
        found |= {f"{block}attn.{bias}": (768,) for bias in ("q_bias", "v_bias")}
        found |= linear(f"{block}attn.proj", 768, 768)
        found |= linear(f"{block}mlp.fc1", 3072, 768) | linear(f"{block}mlp.fc2", 768, 3072)
        if gains:
            found |= {f"{block}gamma_1": (768,), f"{block}gamma_2": (768,)}
        if tables:
            found |= {f"{block}attn.relative_position_bias_table": (732, 12)}
            found |= {f"{block}attn.relative_position_index": (197, 197)}
    return found


def norm(name: str) -> Shapes:
    return {f"{name}.weight": (768,), f"{name}.bias": (768,)}


def patches(prefix: str = "", *, channels: int = 3, size: int = 16) -> Shapes:
    return {
        f"{prefix}cls_token": (1, 1, 768),
        f"{prefix}patch_embed.proj.weight": (768, channels, size, size),
        f"{prefix}patch_embed.proj.bias": (768,),
    }


def pretrain(aggregation: int = 0) -> Shapes:
    found = patches() | {"mask_token": (1, 1, 768)} | norm("norm") | linear("lm_head", 8192, 768)
    found |= {"rel_pos_bias.relative_position_bias_table": (732, 12)}
    found |= {"rel_pos_bias.relative_position_index": (197, 197)}
    return found | blocks("blocks.", 12) | blocks("cls_pt_layers.", aggregation)


def finetune() -> Shapes:
    return patches() | norm("fc_norm") | linear("head", 1000, 768) | blocks("blocks.", 12, tables=True)


def tokenizer(decoder: int) -> Shapes:
    found: Shapes = {}
    for part, depth, stem in (
        ("encoder.", 12, {}),
        ("decoder.", decoder, {"channels": 32, "size": 1}),
    ):
        found |= patches(part, **stem) | {f"{part}pos_embed": (1, 197, 768)} | norm(f"{part}fc_norm")
        found |= blocks(f"{part}blocks.", depth, gains=False)
    for name, width in (("encode", 32), ("decode", 512)):
        found |= linear(f"{name}_task_layer.0", 768, 768) | linear(f"{name}_task_layer.2", width, 768)
    found |= {f"quantize.embedding.{name}": (8192, 32) for name in ("weight", "embed_avg")}
    found |= {f"quantize.{name}": (8192,) for name in ("cluster_size", "embedding.cluster_size")}
    return found | {"quantize.embedding.initted": (1,)}


#: Name of the recorded layout -> (its keys, our network, our config, our layout).
FULL: dict[str, tuple[Shapes, type[System], object, Callable[..., Layout]]] = {
    "beit_base_patch16_224_pretrain": (pretrain(), BEiT, BEiTConfig(), beit.layout),
    "beit2_base_patch16_224_pretrain": (pretrain(), BEiT, BEiTConfig(), beit.layout),
    "beit2_base_patch16_224_pretrain_cls_pt": (pretrain(2), BEiT, BEiTConfig(early_layer=9), beit.layout),
    "beit_base_patch16_224_finetune": (
        finetune(),
        Classifier,
        ClassifierConfig(labels=IMAGENET),
        beit.classifier_layout,
    ),
    "beit2_base_patch16_224_finetune": (
        finetune(),
        Classifier,
        ClassifierConfig(labels=IMAGENET),
        beit.classifier_layout,
    ),
    "vqkd_encoder_base_decoder_1x768x12": (tokenizer(1), VQKD, VQKDConfig(decoder_layers=1), vqkd.layout),
    "vqkd_encoder_base_decoder_3x768x12": (tokenizer(3), VQKD, VQKDConfig(), vqkd.layout),
}


@pytest.mark.parametrize("name", FULL)
def test_at_full_size_there_are_the_official_keys(name: str) -> None:
    official, network, config, layout_of = FULL[name]
    with torch.device("meta"):
        model = network(config)
        made = {key: torch.empty(shape) for key, shape in official.items()}
    layout = layout_of(config)
    assert shapes(to_theirs(layout, model.state_dict())) == official
    ours, missing, unexpected = to_ours(layout, made)
    assert (missing, unexpected) == ([], [])
    assert shapes(ours) == shapes(model.state_dict())


@pytest.mark.golden_shared
@pytest.mark.skipif(not SHARED.is_dir(), reason="the recorded layouts are not beside the repository")
def test_every_recorded_layout_is_among_them() -> None:
    names = {path.stem for path in SHARED.glob("*.json")}
    assert {name for name in names if name.startswith(("beit_", "beit2_", "vqkd_"))} == set(FULL)


@pytest.mark.golden_shared
@pytest.mark.skipif(not SHARED.is_dir(), reason="the recorded layouts are not beside the repository")
@pytest.mark.parametrize("name", FULL)
def test_the_recorded_layouts_say_the_same(name: str) -> None:
    recorded: Shapes = {}
    for entry in json.loads((SHARED / f"{name}.json").read_text())["keys"]:
        first, last = map(int, entry["i"].split("..")) if "i" in entry else (0, 0)
        for i in range(first, last + 1):
            recorded[entry["key"].replace("{i}", str(i))] = tuple(entry["shape"])
    assert recorded == FULL[name][0]


def wide(**changes) -> dict:
    """Sizes whose heads are 64 wide, as a checkpoint without tables has to have."""
    return {"image_size": 32, "width": 128, "heads": 2} | changes


def models() -> dict[str, tuple[System, Layout]]:
    """One of each kind of checkpoint, small."""
    image = tiny_beit.vit(image_size=32)
    found = {}
    for name, changes in (
        ("beit", {}),
        ("shared head", {"early_layer": 0}),
        ("own head", {"early_layer": 0, "shared_head": False, "aggregation_layers": 1}),
    ):
        model = tiny_beit.beit(tiny_beit.beit_config(image=image, **changes))
        found[name] = model, beit.layout(model.config)
    classifier = Classifier(ClassifierConfig(image=classifier_vit(image), labels=("0", "1", "2")))
    tiny_beit.stir(classifier)
    found["classifier"] = classifier, beit.classifier_layout(classifier.config)
    config = tiny_beit.vqkd_config()
    tokenizer = tiny_beit.vqkd(replace(config, image=replace(config.image, **wide())))
    found["vqkd"] = tokenizer, vqkd.layout(tokenizer.config)
    encoder = DVAE(tiny_beit.dvae_config())
    found["dvae"] = encoder, dvae.layout(encoder.config)
    return found


def same(ours: System, theirs: System) -> None:
    state, other = ours.state_dict(), theirs.state_dict()
    assert state.keys() == other.keys()
    for name, tensor in state.items():
        torch.testing.assert_close(tensor, other[name], rtol=0, atol=0)


@pytest.mark.parametrize("kind", models())
@pytest.mark.parametrize("indices", [True, False], ids=["with indices", "without"])
def test_a_checkpoint_is_recognised_and_loaded(kind: str, indices: bool, tmp_path: Path) -> None:
    model, layout = models()[kind]
    theirs = {name: t.contiguous() for name, t in to_theirs(layout, model.state_dict()).items()}
    if not indices:
        theirs = {name: t for name, t in theirs.items() if "relative_position_index" not in name}
    if kind == "vqkd":  # as released
        theirs |= {"teacher_model.visual.proj": torch.zeros(3, 2), "scaling_layer.shift": torch.zeros(1)}
    path = tmp_path / "checkpoint.pth"
    torch.save({"model": theirs}, path)
    again = multiway.load(path)
    same(again, model)
    report = check(path)
    assert (report.missing, report.resized) == ((), ())
    assert len(report.unexpected) == (2 if kind == "vqkd" else 0)
    told = asdict(again.config)
    if kind not in ("vqkd", "dvae", "classifier"):
        assert told["codes"] == model.config.codes
        assert told["shared_head"] == model.config.shared_head
        assert told["early_layer"] == model.config.early_layer
    if kind == "dvae":
        assert told["width"] == 8
        assert told["blocks"] == 1


def test_what_a_tokenizer_never_reads_leaves_as_zeros_and_started_is_kept() -> None:
    model, layout = models()["vqkd"]
    theirs = to_theirs(layout, model.state_dict())
    assert theirs["quantize.embedding.initted"].tolist() == [1]
    assert not theirs["quantize.embedding.embed_avg"].any()
    fresh = VQKD(model.config)
    assert to_theirs(layout, fresh.state_dict())["quantize.embedding.initted"].tolist() == [0]


def test_a_pre_training_checkpoint_at_another_size_has_its_tables_resized(tmp_path: Path) -> None:
    model, layout = models()["beit"]
    theirs = to_theirs(layout, model.state_dict())
    larger = BEiT(tiny_beit.beit_config(image=tiny_beit.vit(image_size=48)))
    report = load_layout(larger, layout, theirs)
    assert report.resized == ("image_tower.relative.0.table",)
    assert not report.missing
    table: Tensor = larger.image_tower.relative[0].table
    assert table.shape == (11 * 11 + 3, 3)
    torch.testing.assert_close(table[-3:], model.image_tower.relative[0].table[-3:])


def test_a_shape_that_does_not_fit_is_missing(tmp_path: Path) -> None:
    model, layout = models()["beit"]
    other = BEiT(tiny_beit.beit_config(image=tiny_beit.vit(image_size=32), codes=5))
    report = load_layout(other, layout, to_theirs(layout, model.state_dict()))
    assert report.missing == ("head.weight", "head.bias")


def test_an_encoder_that_lacks_a_convolution_is_refused(tmp_path: Path) -> None:
    model, layout = models()["dvae"]
    theirs = to_theirs(layout, model.state_dict())
    del theirs["blocks.group_3.block_1.id_path.w"]
    save_file({k: t.contiguous() for k, t in theirs.items()}, tmp_path / "encoder.safetensors")
    with pytest.raises(UserError, match=r"lacks 1 tensors of DVAE, the first groups\.2\.0\.skip\.weight"):
        multiway.load(tmp_path / "encoder.safetensors")


def test_openais_encoder_is_the_default() -> None:
    with torch.device("meta"):
        model = DVAE(DVAEConfig())
    assert sum(p.numel() for p in model.parameters()) == 53_786_240
