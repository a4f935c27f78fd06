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
    """`language.mask_tokens` of all but first tokens (beit3 datasets.py, `_masking_on_text_tokens`).

    Raises:
        UserError: the model has no tokenizer, or it has no mask token.
    """
    if tokenizer is None or tokenizer.mask_id is None:
        raise UserError("words are masked with a tokenizer that has a mask token: take another tokenizer")
    return language.mask_tokens(
        input_ids,
        attention_mask.bool() & (input_ids != tokenizer.cls_id),
        mask_id=tokenizer.mask_id,
        vocab_size=tokenizer.vocab_size,
        probability=share,
        generator=generator,
    )


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
