"""Which expert a token goes through: the route of a call, and modules that exist once an expert."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from jaxtyping import Float
from torch import Tensor, nn

from multiway.core.ragged import Reading

#: An expert's name for all tokens, or consecutive (expert, length) segments of the sequence.
Route = str | Sequence[tuple[str, int]]

#: A module, or any function of token features.
Map = Callable[[Tensor], Tensor]


def each(experts: Sequence[str] | None, make: Callable[[], nn.Module]) -> nn.Module:
    """One module for all tokens, or one an expert."""
    return make() if experts is None else per_expert(experts, make)


def per_expert(experts: Sequence[str], make: Callable[[], nn.Module]) -> nn.ModuleDict:
    """One module an expert."""
    return nn.ModuleDict({name: make() for name in experts})


def through(
    x: Float[Tensor, "B T D"], route: Route, *maps: Map | nn.ModuleDict | dict[str, Map]
) -> Float[Tensor, "B T E"]:
    """x through maps, one after the other; where one is a dict of experts, each token through its own."""
    if not any(isinstance(one, nn.ModuleDict | dict) for one in maps):
        route = "all"
    if isinstance(route, str):
        for one in maps:
            x = one[route](x) if isinstance(one, nn.ModuleDict | dict) else one(x)
        return x
    parts = x.split([length for _, length in route], dim=1)
    routed = zip(route, parts, strict=True)
    return torch.cat([through(part, expert, *maps) for (expert, _), part in routed], dim=1)


def read_route(route: Route, reading: Reading | None) -> Route:
    """The route of the tokens that are read of a packed sequence."""
    if reading is None or isinstance(route, str):
        return route
    ends = torch.tensor([length for _, length in route]).cumsum(0)
    segment = torch.bucketize(reading.rows.cpu(), ends, right=True)
    counts = segment.bincount(minlength=len(route)).tolist()
    return [(expert, count) for (expert, _), count in zip(route, counts, strict=True)]
