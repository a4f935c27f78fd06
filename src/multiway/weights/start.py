"""What a system takes over from a model that it starts from, with or without adapters beside it."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import replace
from functools import reduce
from typing import Any

import torch
from torch import Tensor, nn

from multiway.core.lora import adapt
from multiway.core.relative import cut_table, resize_table
from multiway.errors import UserError
from multiway.systems.base import System
from multiway.text import Tokenizer
from multiway.train import optim
from multiway.train.run import LoRAConfig
from multiway.weights.positions import resized

SIZES = ("width", "heads")
#: What else no shape of a weight tells, and the width where it matters only if both are as wide.
UNSEEN = (
    ("image.quick_gelu", "image.width"),
    ("image.tanh_gelu", "image.width"),
    ("text.quick_gelu", "text.width"),
    ("text.tanh_gelu", "text.width"),
    ("pooler.heads", "text.width"),
    ("multimodal.heads", "text.width"),
    ("decoder_heads", "decoder_width"),
)
#: The first class of an official checkpoint, which does not name them.
UNNAMED = {"answer 0", "0"}


def start_from_model(system: System, model: System, name: str, *, lora: LoRAConfig | None = None) -> str:
    """Put every tensor of `model` that has a place in `system` there, positions resized; says how many.

    Args:
        name: the model's, for messages.
        lora: adapters to put beside what is taken; only they and what is left fresh are then trained.

    Raises:
        UserError: none has, or no linear map that was taken is called as `lora` says; or `model` has another
            number of heads, another activation, or a table of relative positions for shorter texts than
            `system`'s.
    """
    _compare_parts(model.config, system.config, name)
    image = system.config.image
    sized = hasattr(model.config.image, "grid") and not hasattr(model.config, "longest_side")  # ViLT adopts
    if sized and model.config.image.image_size != image.image_size:
        model = resized(model, image.image_size)
    given, own = _by_label(system.adopt(_tensors(model, system)), model, system), system.state_dict()
    fits = {name: t for name, t in given.items() if name in own and own[name].shape == t.shape}
    if not fits:
        kind = type(system).__name__
        raise UserError(f"init.checkpoint {name} shares no weight with {kind}: name another")
    system.load_state_dict(fits, strict=False)
    fresh, unused = len(own) - len(fits), len(given) - len(fits)
    said = f"{len(fits)} tensors taken, {fresh} left fresh, {unused} not used"
    shapes = [name for name in given if name in own and name not in fits]
    if shapes:  # these were meant to be taken
        said += f", {len(shapes)} of them for another shape: {', '.join(shapes[:5])}"
        said += " ..." if len(shapes) > 5 else ""
    return said if lora is None or not lora.rank else f"{said}; {_adapt(system, fits, lora)}"


def words_of(model: System, config: Any) -> Tokenizer | None:
    """The vocabulary of `model`, under the rules (length, cleaning) of a network that starts from it.

    Args:
        config: that network's.
    """
    rules = getattr(config, "tokenizer", None)
    return model.tokenizer if model.tokenizer is None or rules is None else model.tokenizer.under(rules)


def _compare_parts(theirs: Any, ours: Any, checkpoint: str) -> None:
    """Refuse weights that would fit, and mean something else: of another number of heads, of another GELU."""
    for part in ("image", "text"):
        old, new = (
            [getattr(getattr(config, part, None), size, getattr(config, size, None)) for size in SIZES]
            for config in (theirs, ours)
        )
        if old[0] == new[0] and None not in (old[1], new[1]) and old[1] != new[1]:
            raise UserError(
                f"init.checkpoint {checkpoint} has {old[1]} heads where it reads the {part}, and this run "
                f"{new[1]}: give it {old[1]}"
            )
    for name, width in UNSEEN:
        (old, wide), (new, own) = ((_at(config, name), _at(config, width)) for config in (theirs, ours))
        if None not in (old, new) and wide == own and old != new:
            raise UserError(
                f"init.checkpoint {checkpoint} has {name} {old}, and this run {new}: set system.{name} {old}"
            )


def _at(config: Any, name: str) -> Any:
    """What stands at a dotted name; None: nothing."""
    return reduce(lambda part, field: getattr(part, field, None), name.split("."), config)


def _tensors(model: System, system: System) -> dict[str, Tensor]:
    """`model`'s tensors, its table of relative positions as `system` needs it.

    Its rows do not tell the grid and the longest text that they are for; `model`'s config does.
    """
    old, new, tensors, name = model.config, system.config, model.state_dict(), "transformer.relative.table"
    if name in tensors and name in system.state_dict():
        table = resize_table(tensors[name], old.image.grid, new.image.grid)
        lengths = old.relative_positions, new.relative_positions
        tensors[name] = cut_table(table, new.image.grid, *lengths)
    return tensors


def _by_label(given: dict[str, Tensor], model: System, system: System) -> dict[str, Tensor]:
    """What `model` gives, without the rows of other classes than `system`'s; of the same ones in its order.

    An official checkpoint does not name its classes: of as many its rows are taken as they are.
    """
    old, new = (getattr(part.config, "labels", ()) for part in (model, system))
    if old == new or len(old) != len(new) or UNNAMED & {*old[:1]}:
        return given
    config = system.config
    more: dict[str, Any] = {"labels": (*new, "")}
    if hasattr(config, "classes"):
        more["classes"] = len(new) + 1
    tower = system.image_tower if getattr(config.image, "name", None) == "user" else None
    with torch.device("meta"):  # what has a row a class grows with one more
        larger = type(system)(replace(config, **more), tower)
    grown = {name for name, t in larger.state_dict().items() if t.shape != system.state_dict()[name].shape}
    if {*old} != {*new}:
        return {name: tensor for name, tensor in given.items() if name not in grown}
    order = torch.tensor([old.index(label) for label in new])
    return {name: tensor[order] if name in grown else tensor for name, tensor in given.items()}


def _adapt(system: System, taken: Collection[str], lora: LoRAConfig) -> str:
    """Freeze what was taken and put adapters beside it; the sentence that says so."""
    optim.check_prefixes(system, lora.train, "lora.train")
    frozen = set()
    for name, parameter in system.named_parameters():
        whole = any(optim.fits(name, prefix) for prefix in lora.train)
        if name in taken and parameter.requires_grad and not whole:
            parameter.requires_grad_(False)
            frozen.add(name)
    named = [
        name
        for name, part in system.named_modules()
        if isinstance(part, nn.Linear)
        and f"{name}.weight" in frozen
        and {*name.split(".")[-2:]} & {*lora.targets}  # an expert's name stands behind its map's
    ]
    if not named:
        kinds = sorted(
            {n.split(".")[-1] for n, part in system.named_modules() if isinstance(part, nn.Linear)}
        )
        raise UserError(
            f"train.lora.targets {', '.join(lora.targets)} name no linear map that the checkpoint brought: "
            f"there are {', '.join(kinds)}"
        )
    adapt(system, named, rank=lora.rank, alpha=lora.alpha)
    return f"{len(named)} adapters of rank {lora.rank}"
