"""Linear maps packed for inference on a CPU: the same products, from weights that oneDNN laid out once.

PyTorch multiplies by a plain weight matrix, which its library lays out anew in every call. With few rows, as
in a step of decoding, that costs more than the product itself.
"""

from __future__ import annotations

import copy
from typing import TypeVar

import torch
from jaxtyping import Float
from torch import Tensor, nn

from multiway.core.block import FeedForward
from multiway.core.heads import WordHead

M = TypeVar("M", bound=nn.Module)

#: Rows that the layout is chosen for: some beams of some pictures. It serves any number.
ROWS = 24


class PackedLinear(nn.Module):
    """`nn.Linear` for inference; `gelu`: and GELU after it, in the same pass."""

    def __init__(self, weight: Tensor, bias: Tensor | None, *, gelu: bool = False):
        super().__init__()
        self.weight, self.bias = weight, bias  # the module's own, where somebody asks for them
        self.after = ("gelu", "none") if gelu else ("none", "")
        self.packed = torch.ops.mkldnn._reorder_linear_weight(weight.detach(), ROWS)

    def forward(self, x: Float[Tensor, "*P D"]) -> Float[Tensor, "*P E"]:
        name, variant = self.after
        return torch.ops.mkldnn._linear_pointwise(x, self.packed, self.bias, name, [], variant)


class PackedWordHead(nn.Module):
    """`WordHead` for inference: the table of words is packed when it is first seen."""

    def __init__(self, head: WordHead):
        super().__init__()
        self.dense = PackedLinear(head.dense.weight, head.dense.bias, gelu=True)
        self.norm, self.bias = head.norm, head.bias
        self._table: PackedLinear | None = None

    def forward(self, x: Float[Tensor, "*P D"], words: Float[Tensor, "V D"]) -> Float[Tensor, "*P V"]:
        table = self._table
        if table is None or table.weight is not words:
            table = self.__dict__["_table"] = PackedLinear(words, self.bias)  # not registered
        return table(self.norm(self.dense(x)))


def packed(module: M) -> M:
    """A twin for inference: its linear maps are packed as they are now, all else is shared with `module`.

    It takes as much memory again as the linear weights, and does not follow when they are changed: make one
    for a run over many pictures. Where there is nothing to gain (a GPU, another precision) it is `module`.
    """
    first = next(module.parameters(), None)
    if first is None or first.device.type != "cpu" or first.dtype != torch.float:
        return module
    if not torch.backends.mkldnn.is_available() or not hasattr(torch.ops.mkldnn, "_linear_pointwise"):
        return module
    with torch.inference_mode(False), torch.no_grad():
        return _twin(module, {}).eval()


def _twin(module, done: dict[int, nn.Module]):
    if id(module) in done:  # shared by several, as BLIP's encoder and decoder share
        return done[id(module)]
    if isinstance(module, nn.Linear):
        twin = PackedLinear(module.weight, module.bias)
    elif isinstance(module, WordHead):
        twin = PackedWordHead(module)
    elif isinstance(module, FeedForward) and isinstance(module.act, nn.GELU):
        twin = nn.Sequential(
            PackedLinear(module.fc1.weight, module.fc1.bias, gelu=True), _twin(module.fc2, done)
        )
    else:
        twin = copy.copy(module)
        shared = {n: _twin(v, done) for n, v in vars(module).items() if isinstance(v, nn.Module)}
        own = {n: _twin(v, done) for n, v in module._modules.items() if v is not None}
        twin.__dict__.update(shared, _modules={**module._modules, **own})
    done[id(module)] = twin
    return twin
