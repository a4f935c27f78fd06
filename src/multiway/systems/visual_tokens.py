"""Predicting the visual tokens of patches, as BEiT and BEiT-3 do: whose they are, and where they are kept."""

from __future__ import annotations

from typing import cast

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from multiway.errors import UserError
from multiway.systems.base import System
from multiway.systems.teacher import FrozenState, VisualTokenizer, pixels, tokenizer_of


class PredictsTokens(System):
    """A system whose config has `codes` and whose head says which of them a patch has."""

    _tokenizer: tuple[nn.Module, ...] = ()  # in a tuple, so that it is no submodule: it is not saved

    def learn_from(self, model: nn.Module) -> None:
        """Take a visual tokenizer.

        Raises:
            UserError: it is none, or has other tokens than the head, or not one for each patch.
        """
        config = self.config
        self._tokenizer = (tokenizer_of(model, config.codes, self.image_size, config.image.grid),)

    def init_state(self, *, steps_per_epoch: int = 1) -> FrozenState:
        return FrozenState(self._tokenizer[0] if self._tokenizer else None)

    @torch.no_grad()
    def visual_tokens(self, image: Float[Tensor, "B 3 H W"], state: FrozenState) -> Int[Tensor, "B N"]:
        """What the tokenizer sees in the same pictures, whole.

        Raises:
            UserError: there is no tokenizer.
        """
        if state.model is None:
            raise UserError(
                "masked patches are predicted by visual tokens: give --init.visual-tokenizer the folder of a "
                "VQ-KD or dVAE, or call learn_from"
            )
        tokenizer = cast(VisualTokenizer, state.model)
        return tokenizer.visual_tokens(pixels(image, self.image_mean, self.image_std))
