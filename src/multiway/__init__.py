"""multiway: one transformer core from which the systems of vision-language pre-training are built.

```python
import multiway

model = multiway.load("runs/albef/model")
model.encode_image(["cat.jpg", "dog.jpg"]) @ model.encode_text("a cat").T
model.match("cat.jpg", ["a cat", "a dog"])
```
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path

    from multiway.systems.base import System

__version__ = "0.1.0"
__all__ = ["__version__", "create", "list_systems", "load", "push_to_hub", "save"]


def list_systems() -> list[str]:
    """Names that `create` takes."""
    from multiway.systems import SYSTEMS

    return list(SYSTEMS)


def create(name: str, **config) -> System:
    """A system with fresh weights, at its paper's size unless `config` says otherwise, in training mode.

    Args:
        name: one of `list_systems()`, or a fine-tuning network as `blip_captioner`.
        config: fields of the system's config dataclass.

    Raises:
        UserError: there is no such system, or its config has no such field.
    """
    from difflib import get_close_matches

    from multiway.errors import UserError
    from multiway.systems import NETWORKS
    from multiway.text import Tokenizer

    if name not in NETWORKS:
        near = get_close_matches(name, NETWORKS, n=1)
        hint = f"did you mean {near[0]!r}?" if near else f"there are {', '.join(NETWORKS)}"
        raise UserError(f"no system is called {name!r}: {hint}")
    try:
        resolved = NETWORKS[name].config()(**config)
    except TypeError as error:
        raise UserError(f"{name}: {error}: see the fields of {NETWORKS[name].config().__name__}") from None
    model = NETWORKS[name].network()(resolved)
    if model.has_text:
        model.tokenizer = Tokenizer.load(resolved.tokenizer)
    return model


def load(path: str | Path, **options) -> System:
    """A model from a folder, a hub id or an official checkpoint: see `multiway.weights.load`."""
    from multiway.weights import load

    return load(path, **options)


def save(model: System, folder: str | Path, **options) -> Path:
    """Write a model as a folder that `load` reads: see `multiway.weights.save`."""
    from multiway.weights import save

    return save(model, folder, **options)


def push_to_hub(
    model: System | str | Path, name: str, *, private: bool = False, licence: str | None = None
) -> str:
    """Upload a model, or its folder, to the Hugging Face hub as `owner/name`; the address.

    Args:
        private: for you alone. licence: of the weights, by the hub's identifier, written into the card.

    Raises:
        UserError: it is no model, or the hub refuses or can't be reached.
    """
    import shutil
    import tempfile
    from pathlib import Path

    from multiway.errors import UserError
    from multiway.systems.base import System
    from multiway.weights.card import set_licence
    from multiway.weights.folder import save
    from multiway.weights.hub import push

    with tempfile.TemporaryDirectory() as place:
        folder = Path(place) / "model"
        if isinstance(model, System):
            save(model, folder)
        elif Path(model).is_dir():
            shutil.copytree(model, folder)
        else:
            raise UserError(f"{model} is no folder: give a model, or a folder that multiway.save wrote")
        if licence is not None:
            set_licence(folder, licence)
        return push(folder, name, private=private)
