"""A model folder: config.json, model.safetensors, tokenizer files and a card; written aside, then renamed."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path

import torch
from pydantic import TypeAdapter, ValidationError
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import nn

from multiway.core.lora import merged
from multiway.errors import UserError
from multiway.metrics.calibration import Calibration
from multiway.systems import NETWORKS
from multiway.systems.base import System
from multiway.text import Tokenizer
from multiway.weights.adapter import load_adapter
from multiway.weights.aside import replacing, standing
from multiway.weights.card import card as make_card
from multiway.weights.hub import fetch
from multiway.weights.official import is_transformers, load_checkpoint, load_transformers
from multiway.weights.open_clip import is_open_clip, weights_of
from multiway.weights.positions import longer, resized
from multiway.weights.strict import read_config, strict_load

FILES = ("config.json", "model.safetensors")
CALIBRATION = "calibration.json"


def is_model(folder: Path) -> bool:
    """Whether `folder` is a model folder of ours."""
    return all((folder / name).is_file() for name in FILES)


def save(model: System, folder: str | Path, *, card: str | None = None) -> Path:
    """Write `model` as a folder; killed at any moment, `load` reads the old one or the new one.

    Adapters (`core.lora`) are merged.

    Args:
        card: text of README.md, the model card; a short one is made when it is None.

    Raises:
        UserError: `folder` is there, and it is neither empty nor a model folder.
    """
    folder = Path(folder).resolve()
    if folder.exists() and not (is_model(folder) or (folder.is_dir() and not any(folder.iterdir()))):
        raise UserError(
            f"{folder} is there and is no model folder, and saving would delete it: choose another folder"
        )
    with replacing(folder) as aside:
        (aside / "config.json").write_text(json.dumps(asdict(model.config), indent=1) + "\n")
        tensors = {name: tensor.contiguous() for name, tensor in merged(model).items()}
        save_file(tensors, aside / "model.safetensors", metadata={"format": "pt"})
        if model.tokenizer is not None:
            model.tokenizer.save(aside)
        if model.calibration is not None:
            (aside / CALIBRATION).write_text(json.dumps(asdict(model.calibration), indent=1) + "\n")
        (aside / "README.md").write_text(card or _card(model))
    return folder


def load(
    path: str | Path,
    *,
    image_tower: nn.Module | None = None,
    image_size: int | tuple[int, int] | None = None,
    text_length: int | None = None,
    device: str | torch.device = "cpu",
) -> System:
    """A model from a folder of ours, a hub id, or a published checkpoint; in eval mode, with its tokenizer.

    Args:
        path: a folder with config.json (ours, or BEiT, BLIP, CLIP, ViLT or ViTMAE of transformers) or
            open_clip_config.json,
            `owner/name` on the Hugging Face hub, or a `.pth`, `.pt` or `.safetensors` file in an official
            layout.
        image_tower: the module, when the model has a tower of the user's own.
        image_size: pixels, when a ViT tower shall take others than its own: its positions are resized.
        text_length: tokens, when texts may be longer than its own: its positions are extended.
        device: where the model is put.

    Raises:
        UserError: nothing is there, or it is not a model; the sentence says what is missing.
    """
    path = Path(path)
    if path.is_file():
        model = load_checkpoint(path)
    else:
        folder = standing(path)
        model = _load_folder(folder if folder.is_dir() else fetch(path.as_posix()), image_tower)
    if image_size is not None:
        model = resized(model, image_size)
    if text_length is not None:
        model = longer(model, text_length)
    return model.eval().to(device)


def _load_folder(folder: Path, image_tower: nn.Module | None) -> System:
    if (folder / "adapter.json").is_file():
        return load_adapter(folder, load)
    if is_transformers(folder):
        return load_transformers(folder)
    if is_open_clip(folder):
        return load_checkpoint(weights_of(folder))
    for name in FILES:
        if not (folder / name).is_file():
            raise UserError(
                f"{folder} has no {name}, so it is not a model folder: give one that multiway wrote"
            )
    try:
        values = json.loads((folder / "config.json").read_text())
    except ValueError as error:
        raise UserError(
            f"{folder / 'config.json'} is not JSON ({error}): the folder is damaged, take another copy"
        ) from None
    name = values.get("system") if isinstance(values, dict) else None
    if name not in NETWORKS:
        raise UserError(
            f"{folder / 'config.json'} names no system of ours (system: {name!r}): see `multiway systems`"
        )
    model = NETWORKS[name].network()(read_config(name, values, folder / "config.json"), image_tower)
    try:
        tensors = load_file(folder / "model.safetensors")
    except SafetensorError as error:
        raise UserError(
            f"{folder / 'model.safetensors'} can't be read ({error}): take another copy"
        ) from None
    strict_load(model, tensors, folder)
    if model.has_text:
        model.tokenizer = Tokenizer.load(model.config.tokenizer, folder)
    model.calibration = _calibration(folder / CALIBRATION)
    return model


def _calibration(path: Path) -> Calibration | None:
    if not path.is_file():
        return None
    try:
        return TypeAdapter(Calibration).validate_json(path.read_bytes())
    except ValidationError as error:
        raise UserError(
            f"{path} is damaged ({error.errors()[0]['msg']}): run `multiway calibrate` again"
        ) from None


def _card(model: System) -> str:
    """A short model card: what it is and how to use it."""
    count = sum(p.numel() for p in model.parameters())
    kind = type(model).__name__
    return make_card(
        model.config.system, title=kind, about=f"A {kind} of {count / 1e6:.1f} M parameters, by multiway."
    )
