"""Masked words of a batch of texts: what the systems with MLM share."""

from __future__ import annotations

from typing import Any, Protocol, runtime_checkable

import torch
from jaxtyping import Int
from torch import Tensor

from multiway.errors import UserError
from multiway.objectives import language
from multiway.text import Tokenizer


@runtime_checkable
class MaskingConfig(Protocol):
    """What a system's config says about masking: the share of tokens, and whether whole words."""

    @property
    def text(self) -> Any: ...  # with a vocab_size
    @property
    def mlm_probability(self) -> float: ...
    @property
    def whole_word(self) -> bool: ...


def mask_words(
    tokenizer: Tokenizer | None,
    input_ids: Int[Tensor, "B T"],
    attention_mask: Int[Tensor, "B T"],
    config: MaskingConfig,
    generator: torch.Generator | None = None,
    *,
    spare_sep: bool = False,
) -> tuple[Int[Tensor, "B T"], Int[Tensor, "B T"]]:
    """Masked ids and labels of `language.mask_tokens`; [PAD] and [CLS] are spared.

    Source: ALBEF models/model_pretrain.py, `mask`.

    Args:
        spare_sep: [SEP] is spared too (VLMo, as transformers' collators do); in ALBEF it is not.

    Raises:
        UserError: the model has no tokenizer, or its vocabulary no mask token.
    """
    if tokenizer is None or tokenizer.mask_id is None:
        raise UserError("masked language modelling needs a tokenizer with a mask token: take a WordPiece one")
    maskable = attention_mask.bool() & (input_ids != tokenizer.cls_id)
    if spare_sep:
        maskable &= input_ids != tokenizer.sep_id
    return language.mask_tokens(
        input_ids,
        maskable,
        mask_id=tokenizer.mask_id,
        vocab_size=config.text.vocab_size,
        probability=config.mlm_probability,
        word_starts=tokenizer.word_starts(input_ids) if config.whole_word else None,
        generator=generator,
    )
