"""MAE's key maps: every official key at full size, both ways, and checkpoints of each kind."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
import tiny_mae
import torch
from official_shapes import shapes

import multiway
from multiway.systems.base import System
from multiway.systems.mae import MAE, MAEConfig
from multiway.systems.mae_heads import Classifier, mae_vit
from multiway.weights import mae
from multiway.weights.convert import convert
from multiway.weights.keymap import to_ours, to_theirs
from multiway.weights.official import check

SHARED = Path(__file__).parents[3] / "shared" / "golden" / "layouts"
SIZES = {
    "mae_vit_base_patch16": {},
    "mae_vit_large_patch16": {"width": 1024, "depth": 24, "heads": 16, "hidden": 4096},
    "mae_vit_huge_patch14": {"width": 1280, "depth": 32, "heads": 16, "hidden": 5120, "patch_size": 14},
}


@pytest.mark.parametrize("name", SIZES)
def test_every_official_key_has_its_place(name: str) -> None:
    config = MAEConfig(image=mae_vit(sincos=True, **SIZES[name]))
    with torch.device("meta"):
        model = MAE(config)
    layout = mae.layout(config)
    theirs = to_theirs(layout, model.state_dict())
    ours, missing, unexpected = to_ours(layout, theirs)
    assert (missing, unexpected) == ([], [])
    assert shapes(ours) == shapes(model.state_dict())
    assert mae.config_of(theirs) == config
    recorded = SHARED / f"{name}.json"
    if recorded.is_file():
        found = {}
        for key in json.loads(recorded.read_text())["keys"]:
            last = int(key["i"].split("..")[1]) if "i" in key else 0
            found |= {key["key"].replace("{i}", str(i)): tuple(key["shape"]) for i in range(last + 1)}
        assert shapes(theirs) == found


def square(**changes):
    """Heads as wide as they must be to be read off the shapes."""
    return tiny_mae.vit(**({"image_size": 32, "width": 64, "heads": 1} | changes))


def models() -> dict[str, System]:
    model = tiny_mae.mae(tiny_mae.config(image=square(), decoder_width=32, decoder_heads=1))
    fine = model.fine_tuning("classify", ("0", "1", "2"))
    cls = replace(fine.image, pool="cls")
    found: dict[str, System] = {"pre-training": model}
    found["fine-tuned"] = Classifier(fine)
    found["probe"] = Classifier(replace(fine, image=cls, probe=True))
    found["encoder"] = Classifier(replace(fine, image=cls, labels=()))
    for kind in list(found)[1:]:
        found[kind].load_state_dict(found[kind].adopt(model.state_dict()), strict=False)
    return found


@pytest.mark.parametrize("kind", models())
def test_a_checkpoint_is_recognised_and_loaded(kind: str, tmp_path: Path) -> None:
    model = models()[kind]
    path = convert(multiway.save(model, tmp_path / "ours"), tmp_path / "checkpoint.pth", to="official")
    again = multiway.load(path)
    assert again.config == model.config
    state, other = model.state_dict(), again.state_dict()
    assert state.keys() == other.keys()
    assert all(torch.equal(tensor, other[name]) for name, tensor in state.items())
    report = check(path)
    assert (report.missing, report.resized, report.unexpected) == ((), (), ())


def test_a_published_encoder_is_fine_tuned(tmp_path: Path) -> None:
    encoder = models()["encoder"]
    names = {"cls_token", "pos_embed", "norm.bias", "blocks.2.mlp.fc2.weight"}
    theirs = to_theirs(mae.layout_of(encoder.config), encoder.state_dict())
    assert names <= theirs.keys()
    assert not any(name.startswith(("head", "decoder", "mask")) for name in theirs)
    config = encoder.fine_tuning("classify", ("cat", "dog"))
    head = Classifier(config)
    assert config.labels == ("cat", "dog")
    taken = head.adopt(encoder.state_dict())
    head.load_state_dict(taken, strict=False)
    assert head.image_tower.positions.equal(encoder.image_tower.positions)
