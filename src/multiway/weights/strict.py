"""Configs and tensors read strictly: what does not fit is named."""

from __future__ import annotations

import json
from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter, ValidationError
from torch import nn

from multiway.errors import UserError
from multiway.systems import NETWORKS

#: Fields that say how a network is trained, or how its pictures are prepared, and not what it computes.
UNSEEN = {
    *("name", "drop_path", "dropout", "frozen_blocks", "position_std", "sincos", "eos_id"),
    *("mean", "std", "fit", "crop_share", "resample"),
}


def same_network(config: Any, back: Any, place: str, *, but: tuple[str, ...] = ()) -> None:
    """Whether what is written for another library would be read back as the same network.

    Args:
        config: the model's. back: what our reader makes of what is written. but: fields that may differ.

    Raises:
        UserError: a part differs, for which the other library has no place.
    """
    for part in ("image", "text", "multimodal", "pooler"):
        ours, theirs = getattr(config, part, None), getattr(back, part, None)
        for field in fields(ours) if is_dataclass(ours) else ():
            own, other = getattr(ours, field.name), getattr(theirs, field.name)
            dotted = f"{part}.{field.name}"
            if own != other and field.name not in UNSEEN and dotted not in but:
                raise UserError(
                    f"{place} has no place for {dotted} {own!r}: there it is {other!r}; keep this model as a "
                    "folder (multiway.save)"
                )


def square(size: int | tuple[int, int], place: str) -> int:
    """The side of square pictures.

    Raises:
        UserError: they are not, and the other library takes no others.
    """
    height, width = (size, size) if isinstance(size, int) else size
    if height != width:
        raise UserError(
            f"{place} takes square pictures, and this model {height} x {width}: keep it as a folder "
            "(multiway.save)"
        )
    return height


def load_theirs(model: nn.Module, tensors: dict, what: str) -> None:
    """Load tensors of another library's model whose config.json was read.

    Raises:
        UserError: one is not of the shape that the config says.
    """
    own = model.state_dict()
    for name, tensor in tensors.items():
        if own[name].shape != tensor.shape:
            raise UserError(
                f"these weights of {what} don't fit their config.json: {name} is {tuple(tensor.shape)} and "
                f"should be {tuple(own[name].shape)}; take another copy"
            )
    model.load_state_dict(tensors)


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
