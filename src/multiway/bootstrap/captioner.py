"""Captioners: a model of ours, any Python function, or an HTTP address."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from PIL import Image

from multiway.bootstrap import named
from multiway.bootstrap.config import BootstrapConfig
from multiway.bootstrap.endpoint import Endpoint

if TYPE_CHECKING:
    from multiway.systems.base import System

#: captioner(pictures, keys) -> the captions of each picture. A caption may depend on the picture, on its key
#: and on nothing else, least of all on its neighbours in the batch; then every run gives the same data set.
Captioner = Callable[[Sequence[Image.Image], Sequence[str]], list[list[str]]]


def open_captioner(config: BootstrapConfig, *, device: str = "auto") -> Captioner:
    """The captioner that `config.captioner` names.

    Raises:
        UserError: there is none, or the model does not generate text.
    """
    name = config.captioner or ""
    if named.is_address(name):
        return from_endpoint(Endpoint(name), number=config.candidates, seed=config.seed)
    if named.is_function(name):
        return named.function(name)
    return from_model(load(name, device), config)


def from_endpoint(endpoint: Endpoint, *, number: int = 1, seed: int = 0) -> Captioner:
    """A captioner behind an HTTP address (`endpoint.py` has the protocol)."""
    return lambda pictures, keys: endpoint.captions(pictures, keys, number=number, seed=seed)


def from_model(model: System, config: BootstrapConfig) -> Captioner:
    """`config.candidates` captions of each picture by a system that generates text."""
    from multiway.bootstrap.generate import captions

    return lambda pictures, keys: captions(model, pictures, keys, config)


def load(name: str, device: str) -> Any:
    """A model in evaluation mode, on its device."""
    import multiway
    from multiway.train.parallel import choose_device

    return multiway.load(name, device=choose_device(device)).eval()
