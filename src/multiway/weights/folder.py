"""A model folder: config.json, model.safetensors, tokenizer files and a card; written aside, then renamed."""

from __future__ import annotations

import json
from dataclasses import asdict, replace
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
from multiway.weights.aside import replacing, standing
from multiway.weights.card import card as make_card
from multiway.weights.hub import fetch
from multiway.weights.longer import longer
from multiway.weights.official import is_transformers, load_checkpoint, load_transformers
from multiway.weights.open_clip import is_open_clip, weights_of

FILES = ("config.json", "model.safetensors")
CALIBRATION = "calibration.json"


def save(model: System, folder: str | Path, *, card: str | None = None) -> Path:
    """Write `model` as a folder; killed at any moment, `load` reads the old one or the new one.

    Adapters (`core.lora`) are merged.

    Args:
        card: text of README.md, the model card; a short one is made when it is None.
    """
    folder = Path(folder)
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
        path: a folder with config.json (ours, or a BLIP of transformers) or open_clip_config.json,
            `owner/name` on the Hugging Face hub, or a `.pth`, `.pt` or `.safetensors` file in an official
            layout.
        image_tower: the module, when the model has a tower of the user's own.
        image_size: pixels, when a ViT tower shall take others than its own: its positions are resized.

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


def resized(model: System, image_size: int | tuple[int, int]) -> System:
    """The same model for pictures of another size, its table of positions interpolated.

    Raises:
        UserError: the image tower has no table of positions, or its patches do not fill such a picture.
    """
    old = getattr(model.config, "image", None)
    if old is None or not hasattr(old, "grid"):
        raise UserError("image_size is for towers with a table of positions, as a ViT: leave it out here")
    sides = (image_size, image_size) if isinstance(image_size, int) else image_size
    if any(side < 1 or side % old.patch_size for side in sides):
        raise UserError(f"image_size {image_size} is not made of patches of {old.patch_size} pixels")
    config = replace(model.config, image=replace(old, image_size=image_size))
    other, tensors = type(model)(config), model.state_dict()
    for name, tensor in other.state_dict().items():
        if tensors[name].shape != tensor.shape:
            fitted = other.resize(name, tensors[name], old.grid)
            assert fitted is not None  # nothing else depends on the size of pictures
            tensors[name] = fitted
    other.load_state_dict(tensors)
    other.tokenizer, other.calibration = model.tokenizer, model.calibration
    return other


def _load_folder(folder: Path, image_tower: nn.Module | None) -> System:
    if (folder / "adapter.json").is_file():
        from multiway.weights.adapter import load_adapter  # which loads its base from here

        return load_adapter(folder)
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


def read_config(system: str, values: dict, where: Path | str):
    """A system's config from its JSON, strictly: an unknown key or a wrong type is named.

    Raises:
        UserError: the first thing that is wrong, with its dotted path.
    """
    try:
        adapter = TypeAdapter(NETWORKS[system].config())
        return adapter.validate_json(json.dumps(values), strict=True, extra="forbid")
    except ValidationError as error:
        first = error.errors()[0]
        dotted = ".".join(str(part) for part in first["loc"])
        raise UserError(f"{where}: {dotted}: {first['msg']}: fix that field or take another copy") from None


def strict_load(model: nn.Module, tensors: dict, where: Path | str) -> None:
    """Load every tensor of a model; a missing, unexpected or misshapen one is named.

    Raises:
        UserError: the file does not fit the model.
    """
    own = model.state_dict()
    for name in [*own, *tensors]:
        if name not in tensors:
            raise UserError(f"{where} lacks the tensor {name}: it does not fit its config.json")
        if name not in own:
            raise UserError(f"{where} has a tensor {name} that its config.json knows nothing of")
        if own[name].shape != tensors[name].shape:
            shapes = f"{tuple(tensors[name].shape)} instead of {tuple(own[name].shape)}"
            raise UserError(f"{where}: {name} is {shapes}: it does not fit its config.json")
    model.load_state_dict(tensors)


def _card(model: System) -> str:
    """A short model card: what it is and how to use it."""
    count = sum(p.numel() for p in model.parameters())
    kind = type(model).__name__
    return make_card(
        model.config.system, title=kind, about=f"A {kind} of {count / 1e6:.1f} M parameters, by multiway."
    )
