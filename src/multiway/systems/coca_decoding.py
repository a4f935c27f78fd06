"""open_clip's rule of padding while CoCa writes: token 0 hides a key from the text layers."""

from __future__ import annotations

from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from multiway.core import masks
from multiway.systems.decoding import StackDecoding


class PaddedDecoding(StackDecoding):
    """`StackDecoding` to whose first layers token 0 is padding, in a prompt and among new tokens.

    Source: open_clip's coca_model.py, `generate`, and transformer.py, `TextTransformer.build_cls_mask`.

    Args:
        layers: how many they are. late: the key after token 0 is hidden instead of its own.
    """

    def __init__(self, *args: Any, layers: int, late: bool, **options: Any):
        super().__init__(*args, **options)
        self.layers, self.late = layers, late
        self._hidden: Float[Tensor, "G S"] | None = None  # -inf where they don't see a cached token, else 0
        self._last: Int[Tensor, "G K"] | None = None  # the newest tokens, at which `late` looks

    def _prompt_mask(
        self, input_ids: Int[Tensor, "G P"], attention_mask: Int[Tensor, "G P"] | None
    ) -> dict[str, Any]:
        before = torch.cat([torch.ones_like(input_ids[:, :1]), input_ids[:, :-1]], dim=1)
        self._hidden = _hiding(before if self.late else input_ids)
        ends = input_ids.shape[1] if attention_mask is None else attention_mask.sum(-1, keepdim=True)
        self._last = input_ids.gather(1, torch.zeros_like(input_ids[:, :1]) + ends - 1)
        causal = masks.causal(input_ids.shape[1], input_ids.device)
        return {"mask": self._by_layer(causal & (self._hidden == 0)[:, None, None], causal)}

    def _beam_mask(self, tokens: Int[Tensor, "G K"], rows: Int[Tensor, "G K"]) -> list[Tensor | None]:
        assert self._mask is not None
        assert self._hidden is not None
        assert self._last is not None
        before, self._last = self._last.flatten()[rows], tokens
        self._hidden = torch.cat([self._hidden, _hiding(before if self.late else tokens)], dim=1)
        return self._by_layer((self._mask + self._hidden[:, None])[:, None], super()._beam_mask(tokens, rows))

    def _keep(self, groups: Int[Tensor, " H"]) -> None:
        super()._keep(groups)
        self._hidden = None if self._hidden is None else self._hidden[groups]

    def _by_layer(self, padded: Tensor, mask: Tensor | None) -> list[Tensor | None]:
        return [padded] * self.layers + [mask] * (len(self.stack) - self.layers)


def _hiding(tokens: Int[Tensor, "G N"]) -> Float[Tensor, "G N"]:
    """-inf at token 0, else 0."""
    return torch.zeros_like(tokens, dtype=torch.float).masked_fill_(tokens == 0, float("-inf"))
