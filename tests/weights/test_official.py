"""Checkpoint files: what authors store beside tensors is read, code is not, and all else is one sentence."""

from __future__ import annotations

import argparse
import json
import os
from pathlib import Path
from typing import Any

import pytest
import torch

import multiway
from multiway.errors import UserError
from multiway.weights.clip import vision_sizes
from multiway.weights.official import read_tensors, recognise


@pytest.mark.parametrize(
    "keys",
    [
        ("visual.conv1.weight", "token_embedding.weight", "visual.layer1.0.conv1.weight"),  # a ResNet of CLIP
        ("visual_encoder.pos_embed", "query_tokens"),  # BLIP-2
    ],
)
def test_networks_that_are_unknown_here(keys: tuple[str, ...], tmp_path: Path) -> None:
    with pytest.raises(UserError, match="layout"):
        recognise({key: torch.zeros(1, 1) for key in keys}, tmp_path / "x.pt")


def test_heads_of_the_largest_towers_are_wider() -> None:
    shapes = {
        "visual.conv1.weight": (1280, 3, 14, 14),
        "visual.positional_embedding": (257, 1280),
        "visual.transformer.resblocks.0.mlp.c_fc.bias": (5120,),
    }
    assert vision_sizes({key: torch.empty(shape, device="meta") for key, shape in shapes.items()}).heads == 16


class Hostile:
    def __reduce__(self) -> Any:
        return os.system, ("touch hostile",)


def test_arguments_beside_tensors(tmp_path: Path) -> None:
    args = argparse.Namespace(lr=1e-3, blocks=[1, 2], resume=None)
    torch.save({"model": {"a": torch.ones(2)}, "args": args, "epoch": 3}, tmp_path / "mae.pth")
    assert read_tensors(tmp_path / "mae.pth")["a"].tolist() == [1, 1]


@pytest.mark.parametrize("where", ["beside", "inside"])
def test_code_is_not_executed(where: str, tmp_path: Path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    args = Hostile() if where == "beside" else argparse.Namespace(lr=Hostile())
    torch.save({"model": {"a": torch.ones(2)}, "args": args}, tmp_path / "x.pth")
    with pytest.raises(UserError, match="holds code beside its tensors"):
        read_tensors(tmp_path / "x.pth")
    assert not Path("hostile").exists()


@pytest.mark.parametrize(
    ("values", "says"),
    [
        (b"hello world, this is no checkpoint\n", "is damaged"),
        (b"", "is damaged"),
        ([torch.ones(2)], "holds a list"),
        (torch.ones(2), "holds a Tensor"),
        ({0: torch.ones(2)}, "no tensors by their names"),
        ({"model": {0: torch.ones(2), "lr": 1}}, "no tensors by their names"),
    ],
)
def test_what_is_no_checkpoint_is_one_sentence(values: Any, says: str, tmp_path: Path) -> None:
    path = tmp_path / "x.pth"
    if isinstance(values, bytes):
        path.write_bytes(values)
    else:
        torch.save(values, path)
    with pytest.raises(UserError, match=says) as caught:
        read_tensors(path)
    assert "\n" not in str(caught.value)


def test_a_number_among_the_names_is_passed_over(tmp_path: Path) -> None:
    torch.save({0: torch.ones(2), "module.a": torch.ones(2)}, tmp_path / "x.pth")
    assert list(read_tensors(tmp_path / "x.pth")) == ["a"]


@pytest.mark.filterwarnings("ignore")  # TorchScript is deprecated
def test_a_torchscript_program_is_not_run(tmp_path: Path) -> None:
    torch.jit.save(torch.jit.script(torch.nn.Linear(2, 2)), tmp_path / "x.pt")
    with pytest.raises(UserError, match=r"is a TorchScript program.*state_dict\(\)"):
        read_tensors(tmp_path / "x.pt")


@pytest.mark.parametrize("kind", ["beit", "blip", "clip", "vilt", "vit_mae"])
def test_a_damaged_config_of_transformers_is_one_sentence(kind: str, tmp_path: Path) -> None:
    broken = {name: None for name in ("hidden_size", "num_attention_heads", "image_size", "patch_size")}
    values = broken | {"model_type": kind, "vision_config": broken, "text_config": broken}
    (tmp_path / "config.json").write_text(json.dumps(values))
    torch.save({"text_decoder.cls.predictions.bias": torch.zeros(1)}, tmp_path / "pytorch_model.bin")
    with pytest.raises(UserError) as caught:
        multiway.load(tmp_path)
    assert "\n" not in str(caught.value)
