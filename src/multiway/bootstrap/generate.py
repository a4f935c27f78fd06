"""Captions by a system of ours: sampled or searched, several a picture."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from PIL import Image

from multiway.bootstrap.config import BootstrapConfig
from multiway.errors import UserError
from multiway.generation import GenerationConfig
from multiway.systems.base import System
from multiway.systems.captioning import Captioning


def captions(
    model: System, pictures: Sequence[Image.Image], keys: Sequence[str], config: BootstrapConfig
) -> list[list[str]]:
    """`config.candidates` captions of each picture, without the prompt; draws are keyed by (seed, key).

    Raises:
        UserError: the system does not generate text.
    """
    if not isinstance(model, Captioning):
        raise UserError(f"{type(model).__name__} does not generate text: name a captioning model")
    search = search_of(config, model.generation_config(model.prompt_ids(config.prompt).shape[1]))
    return model.texts(
        model.generate(list(pictures), prompt=config.prompt, config=search, keys=keys), config.prompt
    )


def search_of(config: BootstrapConfig, own: GenerationConfig) -> GenerationConfig:
    """The model's own settings of generation with the run's over them."""
    settings: dict[str, Any] = {"repetition_penalty": config.repetition_penalty, "seed": config.seed}
    most = own.max_length if config.max_length is None else config.max_length
    least = min(own.min_length, most) if config.min_length is None else config.min_length
    settings |= {"min_length": least, "max_length": most}
    if config.method == "nucleus":
        settings |= {"method": "sample", "samples": config.candidates, "top_p": config.top_p}
    else:
        settings |= {"method": "beam", "beams": config.beams, "n_best": config.candidates}
    return replace(own, **settings)
