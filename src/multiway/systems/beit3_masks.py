"""What masked data modelling hides: patches in blocks, and words, more of them where a picture helps."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Bool, Int
from torch import Tensor

from multiway.batch import Batch
from multiway.data.patch_masks import BlockMask, block_masks
from multiway.errors import UserError
from multiway.objectives import language
from multiway.systems.beit3_config import BEiT3Config
from multiway.text import Tokenizer

#: Ids before it are <s>, <pad> and </s>: a caption's masked words never become one of these.
FIRST_WORD = 3


@dataclass(frozen=True)
class Kinds:
    """What each row of a batch is; `image` and `text` say which rows have a picture and a text."""

    image: Bool[Tensor, " B"]
    text: Bool[Tensor, " B"]
    attention_mask: Int[Tensor, "B T"]

    @classmethod
    def of(cls, batch: Batch) -> Kinds:
        """The kinds of a batch's rows; without any text its mask has no columns."""
        mask = batch.attention_mask
        if mask is None:
            image = batch.need("image")
            mask = torch.zeros(len(image), 0, dtype=torch.long, device=image.device)
        has_image = torch.full((len(mask),), batch.image is not None, device=mask.device)
        if batch.has_image is not None:
            has_image = has_image & batch.has_image
        return cls(has_image, mask.bool().any(1), mask)

    @property
    def pair(self) -> Bool[Tensor, " B"]:
        """Which rows are pairs."""
        return self.image & self.text


def masked_words(
    config: BEiT3Config,
    tokenizer: Tokenizer | None,
    input_ids: Int[Tensor, "B T"],
    kinds: Kinds,
    generator: torch.Generator | None,
) -> tuple[Int[Tensor, "B T"], Int[Tensor, "B T"]]:
    """Ids after masking, and labels; the first token is spared, the end token is not.

    Raises:
        UserError: the model has no tokenizer, or it has no mask token.
    """
    share = torch.where(kinds.pair, config.pair_text_mask, config.text_mask)
    return mask_texts(tokenizer, input_ids, kinds.attention_mask, share[:, None], generator)


def mask_texts(
    tokenizer: Tokenizer | None,
    input_ids: Int[Tensor, "B T"],
    attention_mask: Int[Tensor, "B T"],
    share: float | Tensor,
    generator: torch.Generator | None,
) -> tuple[Int[Tensor, "B T"], Int[Tensor, "B T"]]:
    """`language.mask_tokens` of all but first tokens, each with probability `share`.

    Raises:
        UserError: the model has no tokenizer, or it has no mask token.
    """
    known, mask_id = _masking(tokenizer)
    return language.mask_tokens(
        input_ids,
        attention_mask.bool() & (input_ids != known.cls_id),
        mask_id=mask_id,
        vocab_size=known.vocab_size,
        probability=share,
        generator=generator,
    )


def mask_captions(
    tokenizer: Tokenizer | None,
    input_ids: Int[Tensor, "B T"],
    attention_mask: Int[Tensor, "B T"],
    share: float,
    generator: torch.Generator | None,
) -> tuple[Int[Tensor, "B T"], Int[Tensor, "B T"]]:
    """Ids after masking exactly a share of each text's tokens, at least one, and labels.

    The share is of all n tokens and at most n - 1 are masked, for the first is spared. Source: beit3
    datasets.py, `_masking_on_text_tokens`.

    Raises:
        UserError: the model has no tokenizer, or it has no mask token.
    """
    known, mask_id = _masking(tokenizer)
    maskable = attention_mask.bool() & (input_ids != known.cls_id)
    length = attention_mask.sum(1)
    count = (length.double() * share + 0.5).long().minimum(length - 1).clamp_min(1)
    noise = torch.rand(input_ids.shape, generator=generator, device=input_ids.device)
    rank = noise.masked_fill(~maskable, 2.0).argsort(1).argsort(1)
    return language.replace_tokens(
        input_ids,
        (rank < count[:, None]) & maskable,
        mask_id=mask_id,
        vocab_size=known.vocab_size,
        first_word=FIRST_WORD,
        generator=generator,
    )


def _masking(tokenizer: Tokenizer | None) -> tuple[Tokenizer, int]:
    """A tokenizer that can mask, and its mask token."""
    if tokenizer is None or tokenizer.mask_id is None:
        raise UserError("words are masked with a tokenizer that has a mask token: take another tokenizer")
    return tokenizer, tokenizer.mask_id


def masked_patches(
    config: BEiT3Config, kinds: Kinds, generator: torch.Generator | None
) -> Bool[Tensor, "B P"]:
    """Blocks of each picture's patches, their number exact as in BEiT v2; none where there is no picture."""
    grid = config.image.grid
    count = grid[0] * grid[1]
    blocks = BlockMask(
        patches=round(config.image_mask * count), smallest=max(1, count * 16 // 196), exact=True
    )
    device = kinds.image.device if generator is None else generator.device
    seed = int(torch.randint(2**62, (), generator=generator, device=device))
    drawn = block_masks(blocks, grid, len(kinds.image), np.random.default_rng(seed))
    return torch.from_numpy(drawn).to(kinds.image.device) & kinds.image[:, None]
