"""Rows of pictures, texts and pairs as one sequence of real tokens, every expert's side by side:

    | pictures alone | pictures of pairs | texts of pairs | texts alone |
    |<-------- image expert ----------->|<------- text expert ------->|    lower layers, and norms
    |<--- image ---->|<----------- joint expert ---->|<---- text ---->|    top layers of the paper's form

Only attention lays them out in rows, `[class token, patches, text]`.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Int
from torch import Tensor

from multiway.core import masks
from multiway.core.experts import Route


@dataclass(frozen=True)
class Rows:
    """What each row of a batch has, and where its tokens lie.

    Attributes:
        image: `[B]`, which rows have a picture. real: `[B, T]`, the tokens of their texts.
        prefix: N, tokens of a picture, the class token among them; 0 without pictures.
    """

    image: Bool[Tensor, " B"]
    real: Bool[Tensor, "B T"]
    prefix: int

    @property
    def text(self) -> Bool[Tensor, " B"]:
        """Which rows have a text."""
        return self.real.any(1)

    @property
    def tokens(self) -> Bool[Tensor, "B S"]:
        """Which places of `[class token, patches, text]` hold a token."""
        return torch.cat([self.image[:, None].expand(-1, self.prefix), self.real], dim=1)

    def mask(self, *, causal: bool) -> Bool[Tensor, "B 1 Q S"]:
        """Every token sees its row (Q is 1).

        With `causal` pictures see no text, and words see the picture and the words before them (Q is S).
        """
        mask = self.tokens[:, None, None, :]
        if not causal:
            return mask
        seen = masks.causal(self.prefix + self.real.shape[1], mask.device)
        seen[..., : self.prefix] = True
        return mask & seen

    def order(self) -> tuple[Int[Tensor, " n"], list[int]]:
        """Positions among the `B * S` in the order above, and how many tokens each of the four kinds has."""
        rows, length = len(self.image), self.prefix + self.real.shape[1]
        place = torch.arange(rows * length, device=self.real.device).view(rows, length)
        pictures, texts, pair = place[:, : self.prefix], place[:, self.prefix :], self.image & self.text
        parts = [
            pictures[self.image & ~self.text].flatten(),
            pictures[pair].flatten(),
            texts[self.real & pair[:, None]],
            texts[self.real & ~self.image[:, None]],
        ]
        return torch.cat(parts), [len(part) for part in parts]


def route(lengths: list[int], *, joint: bool) -> Route:
    """Experts for so many tokens of each of the four kinds, in a layer with or without a joint one."""
    alone, of_pairs, texts, texts_alone = lengths
    segments = [("image", alone + of_pairs), ("text", texts + texts_alone)]
    if joint:
        segments = [("image", alone), ("joint", of_pairs + texts), ("text", texts_alone)]
    segments = [(expert, length) for expert, length in segments if length]
    return segments[0][0] if len(segments) == 1 else segments
