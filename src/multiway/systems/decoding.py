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
from torch import Tensor, nn

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

    def room(self, prompt_length: int) -> int:
        """See `generation.Decoding`; the last new token is read by nobody, so it has no position."""
        positions = self.embed.positions
        count = positions.num_embeddings if isinstance(positions, nn.Embedding) else len(positions)
        return count - prompt_length + 1

    def start(
        self, input_ids: Int[Tensor, "G P"], attention_mask: Int[Tensor, "G P"] | None = None
    ) -> Float[Tensor, "G V"]:
        """See `generation.Decoding`."""
        seen = self._prompt_mask(input_ids, attention_mask)
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
        return self.head(last)

    def step(self, tokens: Int[Tensor, "G K"], rows: Int[Tensor, "G K"]) -> Float[Tensor, "G K V"]:
        """See `generation.Decoding`."""
        if self._mask is None:
            raise ValueError("step comes after start")
        groups, beams = tokens.shape
        past = self._mask.flatten(0, 1).index_select(0, rows.flatten()).view(groups, beams, -1)
        if groups < self.groups:
            self._keep(rows[:, 0] // self._mask.shape[1])
        own = past.new_full((beams, beams), float("-inf")).fill_diagonal_(0)
        self._mask = torch.cat([past, own.expand(groups, -1, -1)], dim=-1)
        mask = self._beam_mask(tokens, rows)
        position = self._position
        start = position if isinstance(position, int) else position.repeat_interleave(beams)
        x = self.embed(tokens.reshape(-1, 1), start=start).view(groups, beams, -1)
        hidden = self.stack(x, mask=mask, context=self.context, cache=self._cache, route=self.route)
        self._position = position + 1
        return self.head(hidden)

    def _prompt_mask(
        self, input_ids: Int[Tensor, "G P"], attention_mask: Int[Tensor, "G P"] | None
    ) -> dict[str, Any]:
        """What a prompt's tokens see of each other, as `Stack` takes it."""
        if not self.bidirectional:
            return {"causal": True}
        return {"mask": None if attention_mask is None else masks.padding(attention_mask)}

    def _beam_mask(self, tokens: Int[Tensor, "G K"], rows: Int[Tensor, "G K"]) -> Any:
        """What new tokens see of the cached ones and of each other, as `Stack` takes it."""
        assert self._mask is not None  # start came before
        alike = tokens.shape[1] == 1 and isinstance(self._position, int)
        return None if alike else self._mask[:, None]  # alike: every row sees all that is cached

    def _keep(self, groups: Int[Tensor, " H"]) -> None:
        """Only these groups go on."""
        self.groups = len(groups)
        self._cache.select(groups)
        if self.context is not None:
            self.context = self.context.select(groups)
        if not isinstance(self._position, int):
            self._position = self._position[groups]


def _side_by_side(context: Context) -> Context:
    """The same keys and values, a head's own without gaps: every step reads all of them."""
    layers = [kv and KeyValue(kv.key.contiguous(), kv.value.contiguous()) for kv in context.layers]
    return replace(context, layers=tuple(layers))
