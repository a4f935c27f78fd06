"""A twin of a model for inference on a CPU: the same numbers, from linear maps that oneDNN packed once.

    packed(model) --> PackedLinear       the weights as oneDNN lays them out; sums in the same pass
                      PackedNorm         LayerNorm, its arguments at hand
                      PackedBlock        the sums of a block left to its linear maps

PyTorch multiplies by a plain weight matrix, which its library lays out anew in every call. With few rows, as
in a step of decoding, that costs more than the product itself, and so do hundreds of small calls: what a
call needs is laid ready here.
"""

from __future__ import annotations

from typing import Any, TypeVar

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from multiway.core.attention import CrossAttention
from multiway.core.block import Block
from multiway.core.cache import KeyValue
from multiway.core.experts import Route
from multiway.core.feedforward import FeedForward
from multiway.core.heads import WordHead
from multiway.core.lora import LoRALinear
from multiway.core.ragged import Ragged, Reading

M = TypeVar("M", bound=nn.Module)

#: Rows that the layout is chosen for: some beams of some pictures. It serves any number.
ROWS = 24
#: From so many rows on, PyTorch's own product of the plain weights is as fast or faster.
MANY = 256


class PackedLinear(nn.Module):
    """`nn.Linear` for inference."""

    def __init__(self, weight: Tensor, bias: Tensor | None):
        super().__init__()
        self.weight, self.bias = weight, bias  # the module's own
        reordered = torch.ops.mkldnn._reorder_linear_weight(weight.detach(), ROWS)
        self._arguments = (reordered, bias, "none", [], "")
        self._arguments_plus = (reordered, bias, "add")
        self._many = MANY * weight.shape[1]
        self._map = torch.ops.mkldnn._linear_pointwise.default
        self._map_plus = torch.ops.mkldnn._linear_pointwise.binary

    def forward(self, x: Float[Tensor, "*P D"]) -> Float[Tensor, "*P E"]:
        if x.numel() >= self._many:
            return F.linear(x, self.weight, self.bias)
        return self._map(x, *self._arguments)

    def plus(self, x: Float[Tensor, "*P D"], other: Float[Tensor, "*P E"]) -> Float[Tensor, "*P E"]:
        """`other` and the map of x, summed in the same pass."""
        if x.numel() >= self._many:
            total = other.flatten(0, -2)
            total = total.clone() if self.bias is None else total + self.bias
            return total.addmm_(x.flatten(0, -2), self.weight.t()).view(other.shape)
        return self._map_plus(x, other, *self._arguments_plus)


class PackedNorm(nn.Module):
    """`nn.LayerNorm` for inference."""

    def __init__(self, norm: nn.LayerNorm):
        super().__init__()
        self.weight, self.bias = norm.weight, norm.bias
        self._arguments = (norm.normalized_shape, norm.weight, norm.bias, norm.eps)

    def forward(self, x: Float[Tensor, "*P D"]) -> Float[Tensor, "*P D"]:
        return torch.layer_norm(x, *self._arguments)


class PackedFeedForward(nn.Module):
    """`FeedForward` with GELU, for inference.

    GELU is not left to the linear map before it: oneDNN's takes several times as long as PyTorch's.
    """

    def __init__(self, plain: FeedForward):
        super().__init__()
        self.fc1 = PackedLinear(plain.fc1.weight, plain.fc1.bias)
        self.fc2 = PackedLinear(plain.fc2.weight, plain.fc2.bias)

    def forward(self, x: Float[Tensor, "*P D"]) -> Float[Tensor, "*P D"]:
        return self.fc2.forward(F.gelu(self.fc1.forward(x)))

    def plus(self, x: Float[Tensor, "*P D"], other: Float[Tensor, "*P D"]) -> Float[Tensor, "*P D"]:
        """`other` and what it makes of x, summed."""
        return self.fc2.plus(F.gelu(self.fc1.forward(x)), other)


class PackedWordHead(nn.Module):
    """`WordHead` for inference: the table of words is packed when it is first seen."""

    def __init__(self, head: WordHead):
        super().__init__()
        self.dense = PackedLinear(head.dense.weight, head.dense.bias)
        self.norm, self.bias = PackedNorm(head.norm), head.bias
        self._table: PackedLinear | None = None

    def forward(self, x: Float[Tensor, "*P D"], words: Float[Tensor, "V D"]) -> Float[Tensor, "*P V"]:
        table = self._table
        if table is None or table.weight is not words:
            table = self.__dict__["_table"] = PackedLinear(words, self.bias)  # not registered
        return table.forward(self.norm.forward(F.gelu(self.dense.forward(x))))


class PackedBlock(Block):
    """`Block` for inference: each residual is added by the linear map before it.

    Segments of several experts, and a last layer that computes some tokens only, take `Block`'s own way.
    """

    attention: Any  # `fits` saw that their last maps can add
    cross: Any
    norm_cross: Any
    norm_middle: Any
    ffn_middle: Any
    ffn: Any

    @staticmethod
    def fits(block: Block) -> bool:
        """Whether a block is of the known form: no experts in attention, no gains, no sub-norms."""
        return (
            isinstance(block.norm1, nn.LayerNorm)
            and block.attention.norm is None
            and block.gamma1 is None
            and (block.cross is None or isinstance(block.cross, CrossAttention))
            and all(_fused(ffn) for part in (block.ffn, block.ffn_middle or {}) for ffn in part.values())
        )

    def forward(
        self,
        x: Float[Tensor, "B T D"],
        *,
        route: Route = "all",
        context: KeyValue | None = None,
        context_mask: Tensor | None = None,
        crossing: Ragged | None = None,
        reading: Reading | None = None,
        **options: Any,
    ) -> Float[Tensor, "B R D"]:
        """As `Block.forward`; `options` are its other arguments, all of self-attention."""
        if reading is not None or not isinstance(route, str):
            options |= {"context": context, "context_mask": context_mask, "crossing": crossing}
            return super().forward(x, route=route, reading=reading, **options)
        pre, norm = self.pre_norm, self.norm1
        y = self.attention.mix(norm(x) if pre else x, **options)
        x = self.attention.out.plus(y, x)
        x = x if pre else norm(x)
        if self.ffn_middle is not None:
            norm = self.norm_middle[route]
            x = self.ffn_middle[route].plus(norm(x) if pre else x, x)
            x = x if pre else norm(x)
        if self.cross is not None and context is not None:
            norm, layout = self.norm_cross, options.get("ragged") if crossing is None else crossing
            y = norm(x) if pre else x
            y = self.cross.mix(y, context, mask=context_mask, ragged=layout, maps=options.get("maps"))
            x = self.cross.out.plus(y, x)
            x = x if pre else norm(x)
        norm = self.norm2[route]
        x = self.ffn[route].plus(norm(x) if pre else x, x)
        return x if pre else norm(x)


def _fused(module: nn.Module) -> bool:
    act = module.act if isinstance(module, FeedForward) else None
    return isinstance(act, nn.GELU) and act.approximate == "none"


def packed(module: M) -> M:
    """A twin for inference: its linear maps are packed, all else is shared with `module`.

    It takes as much memory again as the linear weights. They must not be changed while it is in use: make one
    for a run over many pictures. Where nothing is gained (a GPU, another precision) it is `module`.
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
    if isinstance(module, nn.Linear | LoRALinear):
        twin = PackedLinear(module.weight, module.bias)
    elif isinstance(module, nn.LayerNorm):
        twin = PackedNorm(module)
    elif isinstance(module, WordHead):
        twin = PackedWordHead(module)
    elif _fused(module):
        twin = PackedFeedForward(module)
    else:
        kind = PackedBlock if isinstance(module, Block) and PackedBlock.fits(module) else type(module)
        twin = object.__new__(kind)
        twin.__dict__.update(vars(module))
        shared = {n: _twin(v, done) for n, v in vars(module).items() if isinstance(v, nn.Module)}
        own = {n: _twin(v, done) for n, v in module._modules.items() if v is not None}
        # Each part also as a plain attribute: nn.Module's own search for it is a call.
        twin.__dict__.update(shared | own, _modules={**module._modules, **own})
    done[id(module)] = twin
    return twin
