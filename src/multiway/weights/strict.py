"""Configs and tensors read strictly: what does not fit is named."""

from __future__ import annotations

import json
from pathlib import Path

from pydantic import TypeAdapter, ValidationError
from torch import nn

from multiway.errors import UserError
from multiway.systems import NETWORKS


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
