"""LoRA (Hu et al. 2021): a linear map that was learned stays, a low-rank one beside it learns.

    y = W x + b + alpha / r * B A x        A [r, D] drawn, B [E, r] zeros, so that training starts from W

`weight` is the merged one, so that whoever reads a map's weight (fast paths, export) reads what it computes.
"""

from __future__ import annotations

import math
from collections.abc import Collection

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

PLAIN = ".plain."  # between a map's name and its frozen tensors'


class LoRALinear(nn.Module):
    """A frozen linear map with a trained one of low rank beside it.

    Args:
        plain: the map; it is frozen here.
        rank: r. alpha: the low-rank map counts alpha / r times.
    """

    def __init__(self, plain: nn.Linear, rank: int, alpha: float):
        super().__init__()
        self.plain, self.scale = plain.requires_grad_(False), alpha / rank
        self.in_features, self.out_features = plain.in_features, plain.out_features
        self.lora_a = nn.Parameter(plain.weight.new_empty(rank, plain.in_features))
        self.lora_b = nn.Parameter(plain.weight.new_zeros(plain.out_features, rank))
        nn.init.kaiming_uniform_(self.lora_a, a=math.sqrt(5))

    @property
    def weight(self) -> Float[Tensor, "E D"]:
        """W + alpha / r * B A."""
        return self.plain.weight + self.scale * self.lora_b @ self.lora_a

    @property
    def bias(self) -> Tensor | None:
        """The frozen map's."""
        return self.plain.bias

    def forward(self, x: Float[Tensor, "*P D"]) -> Float[Tensor, "*P E"]:
        return self.plain(x) + self.scale * F.linear(F.linear(x, self.lora_a), self.lora_b)


def adapt(module: nn.Module, names: Collection[str], *, rank: int, alpha: float) -> None:
    """Put adapters beside the linear maps at `names`, wherever else in the module the same maps stand."""
    parts = map(module.get_submodule, names)
    made = {part: LoRALinear(part, rank, alpha) for part in parts if isinstance(part, nn.Linear)}
    for part in [*module.modules()]:
        # named_children() leaves out what comes again, and what is held without being registered
        for held in (part._modules, vars(part)):
            for child, linear in [*held.items()]:
                if isinstance(linear, nn.Linear) and linear in made:
                    held[child] = made[linear]


def is_adapter(name: str) -> bool:
    """Whether a parameter belongs to an adapter."""
    return name.endswith((".lora_a", ".lora_b"))


@torch.no_grad()
def merged(module: nn.Module) -> dict[str, Tensor]:
    """The state dict of the module without adapters that computes the same."""
    parts = module.named_modules(remove_duplicate=False)
    adapted = {name: part for name, part in parts if isinstance(part, LoRALinear)}
    found: dict[str, Tensor] = {}
    for name, tensor in module.state_dict().items():
        if not is_adapter(name):
            owner, inside, rest = name.partition(PLAIN)
            if inside and owner in adapted:
                tensor = adapted[owner].weight if rest == "weight" else tensor
                name = f"{owner}.{rest}"
            found[name] = tensor
    return found
