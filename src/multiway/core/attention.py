"""Multi-head attention over `scaled_dot_product_attention`: self, cross, cached, and with its maps.

```
          x [B, T, D]                          context [B, N, C]
              |                                      |  once a picture: CrossAttention.context()
        qkv: q   k   v                             k   v     <- KeyValue, rows picked by .select()
              |   |   |                              |   |
              attend(q, k, v, mask)    or    attend(q, k, v, mask)
              |
             out [B, T, D]
```
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from multiway.core.cache import Cache, KeyValue
from multiway.core.experts import Map, Route, each, read_route, through
from multiway.core.ragged import Ragged, Reading


def attend(
    query: Float[Tensor, "B H T d"],
    context: KeyValue,
    *,
    mask: Tensor | None = None,
    causal: bool = False,
    dropout: float = 0.0,
    maps: list[Tensor] | None = None,
) -> Float[Tensor, "B H T d"]:
    """softmax(q k^T / sqrt(d) + mask) v.

    Args:
        mask: bool (True = may attend) or an additive float, broadcastable to `[B, H, T, N]`.
        causal: query t sees keys 0..t; only without `mask`.
        maps: a list that receives the attention probabilities `[B, H, T, N]`; giving one takes the slow path,
            which forms them and equals the fast path.
    """
    if maps is None:
        return F.scaled_dot_product_attention(
            query, context.key, context.value, attn_mask=mask, dropout_p=dropout, is_causal=causal
        )
    scores = query @ context.key.transpose(-1, -2) * query.shape[-1] ** -0.5
    if causal:
        mask = torch.ones(scores.shape[-2:], dtype=torch.bool, device=scores.device).tril()
    if mask is not None:
        scores = scores.masked_fill(~mask, float("-inf")) if mask.dtype == torch.bool else scores + mask
    probabilities = scores.softmax(-1)
    maps.append(probabilities)
    return F.dropout(probabilities, dropout) @ context.value


def _heads(x: Float[Tensor, "B T D"], heads: int) -> Float[Tensor, "B H T d"]:
    """Features as heads; by hand, for a step of decoding has two of these a layer and little else to do."""
    return x.unflatten(-1, (heads, -1)).transpose(1, 2)


class NoKeyBias(nn.Linear):
    """Queries, keys and values in one map; keys have no bias: it would move no attention (BEiT, VLMo)."""

    def __init__(self, width: int):
        super().__init__(width, 3 * width, bias=False)
        self.q_bias = nn.Parameter(torch.zeros(width))
        self.v_bias = nn.Parameter(torch.zeros(width))

    @property
    def bias(self) -> Tensor:  # pyrefly: ignore[bad-override]
        """The whole bias `[3 D]`, zeros for keys: what whoever asks a linear map for its bias needs."""
        return torch.cat([self.q_bias, torch.zeros_like(self.v_bias), self.v_bias])

    def forward(self, input: Float[Tensor, "*P D"]) -> Float[Tensor, "*P E"]:
        return F.linear(input, self.weight, self.bias)


class SelfAttention(nn.Module):
    """Multi-head self-attention with one fused projection.

    Args:
        width: D, a multiple of `heads`.
        dropout: probability of dropping an attention weight while training.
        experts: names; each has projections of its own, and all tokens see each other.
        norm_eps: of a LayerNorm before the last projection (Magneto), or None for no such norm.
        key_bias: whether keys have a bias.
    """

    def __init__(
        self,
        width: int,
        heads: int,
        *,
        dropout: float = 0.0,
        experts: Sequence[str] | None = None,
        norm_eps: float | None = None,
        key_bias: bool = True,
    ):
        super().__init__()
        self.heads, self.dropout = heads, dropout
        self.qkv = each(experts, lambda: nn.Linear(width, 3 * width) if key_bias else NoKeyBias(width))
        self.norm = None if norm_eps is None else each(experts, lambda: nn.LayerNorm(width, eps=norm_eps))
        self.out = each(experts, lambda: nn.Linear(width, width))

    def forward(
        self,
        x: Float[Tensor, "B T D"],
        *,
        route: Route = "all",
        mask: Tensor | None = None,
        causal: bool = False,
        cache: Cache | None = None,
        layer: int = 0,
        ragged: Ragged | None = None,
        reading: Reading | None = None,
        maps: list[Tensor] | None = None,
    ) -> Float[Tensor, "B R D"]:
        """R is T, or what `reading` says.

        Args:
            route: the expert of all tokens, or (expert, length) segments in order.
            ragged: `x` is its packed tokens `[1, N, D]`; the mask is then of the padded batch.
            reading: only these of the packed tokens are computed, `[1, R, D]`.
        """
        if reading is not None and ragged is not None:
            return self._read(x, route, ragged, reading, mask)
        options = {"cache": cache, "layer": layer, "ragged": ragged, "maps": maps}
        return self._project(self.mix(x, route=route, mask=mask, causal=causal, **options), route)

    def mix(
        self,
        x: Float[Tensor, "B T D"],
        *,
        route: Route = "all",
        mask: Tensor | None = None,
        causal: bool = False,
        cache: Cache | None = None,
        layer: int = 0,
        ragged: Ragged | None = None,
        maps: list[Tensor] | None = None,
    ) -> Float[Tensor, "B T D"]:
        """The heads' outputs side by side, before the last projection; arguments as in `forward`."""
        qkv = through(x, route, self.qkv)
        query, key, value = _heads(qkv if ragged is None else ragged.pad(qkv), 3 * self.heads).chunk(3, dim=1)
        context = KeyValue(key, value)
        if cache is not None:
            context = cache.append(layer, context)
            new, total = query.shape[2], context.key.shape[2]
            if causal and new < total:  # the fast causal mask starts at key 0: it fits an empty cache alone
                causal = False
                # One new token sees all that is cached.
                if new > 1:
                    mask = torch.ones(new, total, dtype=torch.bool, device=x.device).tril(total - new)
        dropout = self.dropout if self.training else 0.0
        y = attend(query, context, mask=mask, causal=causal, dropout=dropout, maps=maps)
        y = y.transpose(1, 2).flatten(2)
        return y if ragged is None else ragged.pack(y)

    def _project(self, y: Float[Tensor, "B R D"], route: Route) -> Float[Tensor, "B R D"]:
        if self.norm is None:
            return through(y, route, self.out)
        return through(y, route, self.norm, self.out)

    def _read(
        self, x: Float[Tensor, "1 N D"], route: Route, ragged: Ragged, reading: Reading, mask: Tensor | None
    ) -> Float[Tensor, "1 R D"]:
        """Keys and values of all packed tokens, queries of those that are read."""
        read, width = read_route(route, reading), x.shape[-1]
        query = through(reading.take(x), read, _rows(self.qkv, slice(width)))
        query = _heads(reading.queries.pad(query), self.heads)
        kv = through(x, route, _rows(self.qkv, slice(width, None)))
        key, value = _heads(ragged.pad(kv), 2 * self.heads).chunk(2, dim=1)
        dropout = self.dropout if self.training else 0.0
        y = attend(query, KeyValue(key, value), mask=reading.of_queries(mask), dropout=dropout)
        return self._project(reading.queries.pack(y.transpose(1, 2).flatten(2)), read)


def _rows(linear: nn.Module, rows: slice) -> Map | dict[str, Map]:
    """Some outputs of a linear map, or of every expert's."""
    if isinstance(linear, nn.ModuleDict):
        return {name: partial(_linear_rows, own, rows) for name, own in linear.items()}
    return partial(_linear_rows, linear, rows)


def _linear_rows(linear: Any, rows: slice, x: Float[Tensor, "*P D"]) -> Float[Tensor, "*P E"]:
    return F.linear(x, linear.weight[rows], linear.bias[rows])


class CrossAttention(nn.Module):
    """Queries from one sequence; keys and values from a context of width C, computed once by `context`.

    Args:
        context_eps: of a LayerNorm of the context (CoCa), or None for no such norm.
    """

    def __init__(
        self,
        width: int,
        heads: int,
        *,
        context_width: int,
        dropout: float = 0.0,
        context_eps: float | None = None,
    ):
        super().__init__()
        self.heads, self.dropout = heads, dropout
        self.norm = None if context_eps is None else nn.LayerNorm(context_width, eps=context_eps)
        self.query = nn.Linear(width, width)
        self.key_value = nn.Linear(context_width, 2 * width)
        self.out = nn.Linear(width, width)

    def context(self, tokens: Float[Tensor, "B N C"]) -> KeyValue:
        """Keys and values of the context, to be shared by every pass that looks at it."""
        tokens = tokens if self.norm is None else self.norm(tokens)
        key, value = _heads(self.key_value(tokens), 2 * self.heads).chunk(2, dim=1)
        return KeyValue(key, value)

    def forward(
        self,
        x: Float[Tensor, "R T D"],
        context: KeyValue,
        *,
        mask: Tensor | None = None,
        ragged: Ragged | None = None,
        maps: list[Tensor] | None = None,
    ) -> Float[Tensor, "S T D"]:
        """R rows are as many as the context's, or one for all of them.

        `ragged`: `x` is packed tokens, which it lays out by the row of the context that they look at.
        """
        return self.out(self.mix(x, context, mask=mask, ragged=ragged, maps=maps))

    def mix(
        self,
        x: Float[Tensor, "R T D"],
        context: KeyValue,
        *,
        mask: Tensor | None = None,
        ragged: Ragged | None = None,
        maps: list[Tensor] | None = None,
    ) -> Float[Tensor, "S T D"]:
        """The heads' outputs side by side, before the last projection; arguments as in `forward`.

        An `x` of one row is the same queries for every row of the context, projected once.
        """
        query = self.query(x) if ragged is None else ragged.pad(self.query(x))
        query = _heads(query, self.heads).expand(context.key.shape[0], -1, -1, -1)
        dropout = self.dropout if self.training else 0.0
        y = attend(query, context, mask=mask, dropout=dropout, maps=maps)
        y = y.transpose(1, 2).flatten(2)
        return y if ragged is None else ragged.pack(y)
