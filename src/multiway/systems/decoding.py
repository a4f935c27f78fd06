"""The next-token protocol over our own blocks: embeddings, a causal stack, a head for words.

```
   tokens of a group's K beams, side by side [G, K, D]
              |
     self-attention ----- cache [G, H, P + t K, d]: the prompt once, then K entries a step
              |           a beam sees the prompt and the entries of its own past: `_mask`
     cross-attention ---- context [G, H, N, d]: keys and values of the picture, once a group
              |
         feed-forward
```
Beams lie where a sequence's tokens would: neither the picture's keys and values nor a beam's own past are
ever copied. Reordering the beams reorders the rows of a small mask.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from multiway.core import masks
from multiway.core.block import Context, Stack
from multiway.core.cache import Cache, KeyValue
from multiway.core.embed import WordEmbed
from multiway.core.experts import Route
from multiway.systems.coca_network import Words


class StackDecoding:
    """`generation.Decoding` of a decoder.

    Args:
        embed: words to first hidden states.
        stack: the decoder's blocks.
        head: hidden states `[..., D]` to logits `[..., V]`.
        context: what the blocks cross-attend to, one row a group; None: nothing.
        groups: G; by default the context's rows.
        route: the expert of each layer.
        bidirectional: the prompt's tokens see each other (a span of MetaLM), else each those before it.
        padded_layers: the first layers, to which token 0 is padding: its key is not seen (open_clip's CoCa).
        late: there the key after it is not seen instead.
    """

    def __init__(
        self,
        embed: WordEmbed | Words,
        stack: Stack,
        head: Callable[[Tensor], Tensor],
        *,
        context: Context | None = None,
        groups: int | None = None,
        route: Route | Callable[[int], Route] = "all",
        bidirectional: bool = False,
        padded_layers: int = 0,
        late: bool = False,
    ):
        self.embed, self.stack, self.head, self.route = embed, stack, head, route
        self.context = None if context is None else _side_by_side(context)
        if groups is None:
            if context is None:
                raise ValueError("a decoding without a context needs the number of its groups")
            groups = next(len(kv.key) for kv in context.layers if kv is not None)
        self.groups, self.vocab_size = groups, embed.words.num_embeddings
        self.bidirectional, self._cache = bidirectional, Cache(len(stack))
        self._mask: Float[Tensor, "G K S"] | None = None  # 0 where a beam sees a cached token, else -inf
        self._position: int | Int[Tensor, " G"] = 0
        self.padded_layers, self.late = padded_layers, late
        self._zeros: Float[Tensor, "G S"] | None = None  # -inf where padded layers don't see a cached token
        self._last: Int[Tensor, "G K"] | None = None  # the tokens that `late` looks at

    def start(
        self, input_ids: Int[Tensor, "G P"], attention_mask: Int[Tensor, "G P"] | None = None
    ) -> Float[Tensor, "G V"]:
        """See `generation.Decoding`."""
        seen: dict[str, Any] = {"causal": True}
        if self.bidirectional:
            seen = {"mask": None if attention_mask is None else masks.padding(attention_mask)}
        if self.padded_layers:
            before = torch.cat([torch.ones_like(input_ids[:, :1]), input_ids[:, :-1]], dim=1)
            self._zeros = _hiding(before if self.late else input_ids)
            causal = masks.causal(input_ids.shape[1], input_ids.device)
            seen = {"mask": self._by_layer(causal & (self._zeros == 0)[:, None, None], causal)}
        hidden = self.stack(
            self.embed(input_ids), context=self.context, cache=self._cache, route=self.route, **seen
        )
        self._mask = torch.zeros_like(input_ids, dtype=torch.float)[:, None]
        if attention_mask is None:
            last, self._position = hidden[:, -1], input_ids.shape[1]
        else:
            self._mask.masked_fill_(attention_mask[:, None] == 0, float("-inf"))
            self._position = attention_mask.sum(-1)
            last = hidden[torch.arange(len(hidden), device=hidden.device), self._position - 1]
        ends = input_ids.shape[1] if attention_mask is None else attention_mask.sum(-1, keepdim=True)
        self._last = input_ids.gather(1, torch.zeros_like(input_ids[:, :1]) + ends - 1)
        return self.head(last)

    def step(self, tokens: Int[Tensor, "G K"], rows: Int[Tensor, "G K"]) -> Float[Tensor, "G K V"]:
        """See `generation.Decoding`."""
        if self._mask is None or self._last is None:
            raise ValueError("step comes after start")
        groups, beams = tokens.shape
        before, self._last = self._last.flatten()[rows], tokens
        past = self._mask.flatten(0, 1).index_select(0, rows.flatten()).view(groups, beams, -1)
        if groups < self.groups:
            self._keep(rows[:, 0] // self._mask.shape[1])
        own = past.new_full((beams, beams), float("-inf")).fill_diagonal_(0)
        self._mask = torch.cat([past, own.expand(groups, -1, -1)], dim=-1)
        alike = beams == 1 and isinstance(self._position, int)  # then every row sees all that is cached
        above = None if alike else self._mask[:, None]
        mask: Tensor | list[Tensor | None] | None = above
        if self._zeros is not None:
            self._zeros = torch.cat([self._zeros, _hiding(before if self.late else tokens)], dim=1)
            mask = self._by_layer((self._mask + self._zeros[:, None])[:, None], above)
        position = self._position
        start = position if isinstance(position, int) else position.repeat_interleave(beams)
        x = self.embed(tokens.reshape(-1, 1), start=start).view(groups, beams, -1)
        hidden = self.stack(x, mask=mask, context=self.context, cache=self._cache, route=self.route)
        self._position = position + 1
        return self.head(hidden)

    def _keep(self, groups: Int[Tensor, " H"]) -> None:
        """Only these groups go on."""
        self.groups = len(groups)
        self._cache.select(groups)
        self._zeros = None if self._zeros is None else self._zeros[groups]
        if self.context is not None:
            self.context = self.context.select(groups)
        if not isinstance(self._position, int):
            self._position = self._position[groups]

    def _by_layer(self, padded: Tensor, mask: Tensor | None) -> list[Tensor | None]:
        """The mask of padded layers, and of those above."""
        return [padded] * self.padded_layers + [mask] * (len(self.stack) - self.padded_layers)


def _hiding(tokens: Int[Tensor, "G N"]) -> Float[Tensor, "G N"]:
    """-inf at token 0, else 0."""
    return torch.zeros_like(tokens, dtype=torch.float).masked_fill_(tokens == 0, float("-inf"))


def _side_by_side(context: Context) -> Context:
    """The same keys and values, a head's own without gaps: every step reads all of them."""
    layers = [kv and KeyValue(kv.key.contiguous(), kv.value.contiguous()) for kv in context.layers]
    return replace(context, layers=tuple(layers))
