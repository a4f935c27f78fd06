"""The next-token protocol for a network that only fills in masks: one [MASK] is put where a word is wanted.

```
  fed each step, K beams of a group side by side:   w1 .. wK  [M]1 .. [M]K
                                                     |             |
         cache [G, H, N + P + t K, d]: kept for the words     forgotten again
```
A beam's word sees the picture, the prompt, its own past and itself; its [MASK] sees the word too.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from multiway.systems.beit3_config import UNUSED
from multiway.systems.beit3_network import MultiwayNetwork


class MaskDecoding:
    """`generation.Decoding` of a captioner.

    Args:
        head: hidden states to logits.
        image: one picture a group; its keys and values are computed once.

    Attributes:
        cache: keys and values of each group: its picture, its prompt, its beams' words.
    """

    def __init__(
        self,
        network: MultiwayNetwork,
        head: Callable[[Tensor], Tensor],
        image: Float[Tensor, "G 3 H W"],
        *,
        mask_id: int,
    ):
        self.network, self.head, self.mask_id = network, head, mask_id
        self.groups, self.vocab_size = len(image), network.words.num_embeddings
        self.cache = network.start(image)
        self._pictures = self.cache.length
        self._visible: Bool[Tensor, "G K S"] | None = None
        self._length: Int[Tensor, " G"] | None = None

    def room(self, prompt_length: int) -> int:
        """The mask stands behind the last word that is read, and two positions are unused."""
        return len(self.network.text_positions) - UNUSED - prompt_length

    def start(
        self, input_ids: Int[Tensor, "G P"], attention_mask: Int[Tensor, "G P"] | None = None
    ) -> Float[Tensor, "G V"]:
        """See `generation.Decoding`."""
        real = torch.ones_like(input_ids) if attention_mask is None else attention_mask
        self._length = length = real.sum(1)
        # The mask stands where the first word will; what comes after it is never seen.
        asked = torch.cat([input_ids, torch.full_like(input_ids[:, :1], self.mask_id)], dim=1)
        asked = asked.scatter(1, length[:, None], self.mask_id)
        hidden = self.network.write(asked, self.cache)
        self.cache.forget(1)
        pictures = torch.ones(len(real), self._pictures, dtype=torch.bool, device=real.device)
        self._visible = torch.cat([pictures, real.bool()], dim=1)[:, None]
        return self.head(hidden[torch.arange(len(hidden), device=hidden.device), length])

    def step(self, tokens: Int[Tensor, "G K"], rows: Int[Tensor, "G K"]) -> Float[Tensor, "G K V"]:
        """See `generation.Decoding`."""
        if self._visible is None or self._length is None:
            raise ValueError("step comes after start")
        groups, beams = tokens.shape
        past = self._visible.flatten(0, 1).index_select(0, rows.flatten()).view(groups, beams, -1)
        if groups < self.groups:
            kept = rows[:, 0] // self._visible.shape[1]
            self.groups, self._length = groups, self._length[kept]
            self.cache.select(kept)
        own = torch.eye(beams, dtype=torch.bool, device=past.device).expand(groups, -1, -1)
        self._visible = torch.cat([past, own], dim=-1)
        words = torch.cat([self._visible, torch.zeros_like(own)], dim=-1)
        masks = torch.cat([self._visible, own], dim=-1)
        visible = torch.cat([words, masks], dim=1)
        bias = torch.zeros_like(visible, dtype=torch.float).masked_fill_(~visible, float("-inf"))
        asked = torch.cat([tokens, torch.full_like(tokens, self.mask_id)], dim=1)
        # Of a group all words stand at one position, and all masks at the next.
        place = self._length[:, None] + torch.arange(2, device=tokens.device).repeat_interleave(beams)
        hidden = self.network.write(asked, self.cache, places=place, mask=bias[:, None])
        self.cache.forget(beams)
        self._length = self._length + 1
        return self.head(hidden[:, beams:])
