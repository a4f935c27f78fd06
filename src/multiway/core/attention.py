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

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn

from multiway.core.ragged import Ragged, Reading


@dataclass(frozen=True)
class KeyValue:
    """Keys and values of one attention layer, each `[B, H, N, d]`."""

    key: Float[Tensor, "B H N d"]
    value: Float[Tensor, "B H N d"]

    def select(self, index: Int[Tensor, " P"]) -> KeyValue:
        """Rows `index` of the batch: hard negatives reuse a picture's keys and values."""
        return KeyValue(self.key.index_select(0, index), self.value.index_select(0, index))


class Cache:
    """Keys and values of the tokens decoded so far, one entry a layer; an argument of a decoding call.

    Room is kept for more of them, so that a step writes its own and copies nothing.
    """

    def __init__(self, layers: int):
        self._room: list[KeyValue | None] = [None] * layers
        self._lengths = [0] * layers

    @property
    def length(self) -> int:
        """How many tokens are cached."""
        return self._lengths[0]

    def append(self, layer: int, new: KeyValue) -> KeyValue:
        """Append this step's keys and values to a layer and return all of them."""
        old, room = self._lengths[layer], self._room[layer]
        total = old + new.key.shape[2]
        if room is None or total > room.key.shape[2]:
            larger = KeyValue(*(_with_room(x, 2 * total) for x in (new.key, new.value)))
            if room is not None:
                _write(larger, 0, KeyValue(room.key[:, :, :old], room.value[:, :, :old]))
            room = self._room[layer] = larger
        _write(room, old, new)
        self._lengths[layer] = total
        return KeyValue(room.key[:, :, :total], room.value[:, :, :total])

    def select(self, index: Int[Tensor, " P"]) -> None:
        """Rows `index` of the batch, in place: rows may be reordered, repeated or left out."""
        self._room = [kv if kv is None else kv.select(index) for kv in self._room]


def _with_room(x: Float[Tensor, "B H T d"], length: int) -> Float[Tensor, "B H L d"]:
    return x.new_empty(*x.shape[:2], length, x.shape[3])


def _write(room: KeyValue, start: int, new: KeyValue) -> None:
    end = start + new.key.shape[2]
    room.key[:, :, start:end] = new.key
    room.value[:, :, start:end] = new.value


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


class SelfAttention(nn.Module):
    """Multi-head self-attention with one fused projection.

    Args:
        width: D, a multiple of `heads`.
        dropout: probability of dropping an attention weight while training.
    """

    def __init__(self, width: int, heads: int, *, dropout: float = 0.0):
        super().__init__()
        self.heads, self.dropout = heads, dropout
        self.qkv = nn.Linear(width, 3 * width)
        self.out = nn.Linear(width, width)

    def forward(
        self,
        x: Float[Tensor, "B T D"],
        *,
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
            ragged: `x` is its packed tokens `[1, N, D]`; the mask is then of the padded batch.
            reading: only these of the packed tokens are computed, `[1, R, D]`; not with a mask that differs
                between queries.
        """
        if reading is not None and ragged is not None:
            return self._read(x, ragged, reading, mask)
        qkv = self.qkv(x) if ragged is None else ragged.pad(self.qkv(x))
        query, key, value = _heads(qkv, 3 * self.heads).chunk(3, dim=1)
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
        return self.out(y if ragged is None else ragged.pack(y))

    def _read(
        self, x: Float[Tensor, "1 N D"], ragged: Ragged, reading: Reading, mask: Tensor | None
    ) -> Float[Tensor, "1 R D"]:
        """Keys and values of all packed tokens, queries of those that are read."""
        parts = [x.shape[-1], 2 * x.shape[-1]]
        (w_q, w_kv), (b_q, b_kv) = self.qkv.weight.split(parts), self.qkv.bias.split(parts)
        query = reading.queries.pad(F.linear(reading.take(x), w_q, b_q))
        query = _heads(query, self.heads)
        kv = ragged.pad(F.linear(x, w_kv, b_kv))
        key, value = _heads(kv, 2 * self.heads).chunk(2, dim=1)
        dropout = self.dropout if self.training else 0.0
        y = attend(query, KeyValue(key, value), mask=mask, dropout=dropout)
        return self.out(reading.queries.pack(y.transpose(1, 2).flatten(2)))


class CrossAttention(nn.Module):
    """Queries from one sequence; keys and values from a context of width C, computed once by `context`."""

    def __init__(self, width: int, heads: int, *, context_width: int, dropout: float = 0.0):
        super().__init__()
        self.heads, self.dropout = heads, dropout
        self.query = nn.Linear(width, width)
        self.key_value = nn.Linear(context_width, 2 * width)
        self.out = nn.Linear(width, width)

    def context(self, tokens: Float[Tensor, "B N C"]) -> KeyValue:
        """Keys and values of the context, to be shared by every pass that looks at it."""
        key, value = _heads(self.key_value(tokens), 2 * self.heads).chunk(2, dim=1)
        return KeyValue(key, value)

    def forward(
        self,
        x: Float[Tensor, "B T D"],
        context: KeyValue,
        *,
        mask: Tensor | None = None,
        ragged: Ragged | None = None,
        maps: list[Tensor] | None = None,
    ) -> Float[Tensor, "B T D"]:
        """`ragged`: `x` is packed tokens, which it lays out by the row of the context that they look at."""
        query = self.query(x) if ragged is None else ragged.pad(self.query(x))
        query = _heads(query, self.heads)
        dropout = self.dropout if self.training else 0.0
        y = attend(query, context, mask=mask, dropout=dropout, maps=maps)
        y = y.transpose(1, 2).flatten(2)
        return self.out(y if ragged is None else ragged.pack(y))
