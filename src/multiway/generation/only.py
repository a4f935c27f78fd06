"""A decoding in which only some of the vocabulary may come: words, location tokens, or picture tokens."""

from __future__ import annotations

from jaxtyping import Bool, Float, Int
from torch import Tensor

from multiway.generation.protocol import Decoding


class Only:
    """`Decoding` whose other logits are -inf.

    Args:
        allowed: which tokens may come.
    """

    def __init__(self, decoding: Decoding, allowed: Bool[Tensor, " V"]):
        self.decoding, self.forbidden = decoding, ~allowed
        self.groups, self.vocab_size = decoding.groups, decoding.vocab_size

    def room(self, prompt_length: int) -> int:
        """See `generation.Decoding`."""
        return self.decoding.room(prompt_length)

    def start(
        self, input_ids: Int[Tensor, "G P"], attention_mask: Int[Tensor, "G P"] | None = None
    ) -> Float[Tensor, "G V"]:
        """See `generation.Decoding`."""
        return self._only(self.decoding.start(input_ids, attention_mask))

    def step(self, tokens: Int[Tensor, "G K"], rows: Int[Tensor, "G K"]) -> Float[Tensor, "G K V"]:
        """See `generation.Decoding`."""
        logits = self._only(self.decoding.step(tokens, rows))
        self.groups = self.decoding.groups
        return logits

    def _only(self, logits: Tensor) -> Tensor:
        return logits.masked_fill(self.forbidden, float("-inf"))
