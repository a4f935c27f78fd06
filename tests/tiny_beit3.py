"""A small BEiT-3 in both forms, and batches of pictures, texts and pairs."""

from __future__ import annotations

from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from multiway.batch import Batch
from multiway.systems import NETWORKS
from multiway.systems.beit3 import BEiT3, Draws
from multiway.systems.beit3_config import BEiT3Config, NetworkConfig, TextConfig
from multiway.systems.patches import ImageConfig
from multiway.systems.teacher import FrozenState
from multiway.text import Tokenizer, TokenizerConfig

#: A SentencePiece file trained on sentences of nobody's, and how its tokens are numbered.
SPM = Path(__file__).parent / "golden" / "cases" / "beit3" / "tokenizer" / "tiny.spm"
VOCAB, CLS, PAD, SEP, MASK = 70, 0, 1, 2, 66
CODES, PATCHES, PIXELS = 11, 12, (24, 32)

C = TypeVar("C", bound=NetworkConfig)


def config(kind: type[C] = BEiT3Config, **changes: Any) -> C:
    sizes = {
        "image": ImageConfig(image_size=PIXELS, patch_size=8),
        "text": TextConfig(vocab_size=VOCAB, positions=20),
        "tokenizer": TokenizerConfig(
            kind="sentencepiece", vocab=str(SPM), cleaning="none", add_sep=True, max_length=16
        ),
        "width": 24,
        "depth": 3,
        "heads": 3,
        "hidden": 40,
        "joint_layers": 1,
    }
    if kind is BEiT3Config:
        sizes["codes"] = CODES
    return kind(**(sizes | changes))


def build(config: NetworkConfig, seed: int = 0) -> Any:
    """A network with its tokenizer, its weights large enough to tell wrong from right."""
    torch.manual_seed(seed)
    model = NETWORKS[config.system].network()(config)
    noise = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim:
                parameter += 0.1 * torch.randn(parameter.shape, generator=noise)
    model.tokenizer = Tokenizer.load(config.tokenizer)
    return model


def beit3(seed: int = 0, **changes: Any) -> tuple[BEiT3, FrozenState]:
    model = build(config(**changes), seed)
    return model, model.init_state()


def texts(size: int, length: int = 9, *, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Ids and mask; the longest text has `length` tokens, the shortest three."""
    g = torch.Generator().manual_seed(seed)
    lengths = torch.randint(3, length + 1, (size,), generator=g)
    lengths[0], lengths[-1] = length, 3
    mask = (torch.arange(length) < lengths[:, None]).long()
    ids = torch.randint(4, MASK, (size, length), generator=g)
    ids[:, 0] = CLS
    ids = ids.scatter(1, lengths[:, None] - 1, SEP)
    return ids.masked_fill(~mask.bool(), PAD), mask


def pairs(size: int = 4, *, seed: int = 0, **fields: Any) -> Batch:
    g = torch.Generator().manual_seed(seed)
    ids, mask = texts(size, seed=seed)
    image = torch.randn(size, 3, *PIXELS, generator=g)
    return Batch(image=image, input_ids=ids, attention_mask=mask, ids=torch.arange(size), **fields)


def streams(size: int = 6, *, seed: int = 0) -> Batch:
    """Rows of three kinds, mixed: a picture, a text, a pair, and again."""
    whole, row = pairs(size, seed=seed), torch.arange(size) % 3
    mask, image = whole.attention_mask.clone(), whole.image.clone()
    mask[row == 0], image[row == 1] = 0, 0.0
    return Batch(image=image, has_image=row != 1, input_ids=whole.input_ids, attention_mask=mask)


def draws(batch: Batch, *, seed: int = 0) -> Draws:
    """At least one masked patch a picture and one masked word a text."""
    g, size = torch.Generator().manual_seed(seed), len(batch)
    patches = torch.rand(size, PATCHES, generator=g) < 0.4
    patches[:, 2] = True
    words = (torch.rand(batch.attention_mask.shape, generator=g) < 0.3) & batch.attention_mask.bool()
    words[:, 0] = False
    words[:, 1] = batch.attention_mask[:, 1].bool()
    return Draws(
        patch_mask=patches,
        codes=torch.randint(CODES, (size, PATCHES), generator=g),
        input_ids=batch.input_ids.masked_fill(words, MASK),
        labels=batch.input_ids.masked_fill(~words, -100),
    )


class FakeTokenizer(nn.Module):
    """Codes of pictures by how bright their patches are."""

    image_size: int | tuple[int, int] = PIXELS
    codes = CODES

    def visual_tokens(self, image: Tensor) -> Tensor:
        bright = nn.functional.avg_pool2d(image.mean(1, keepdim=True), 8).flatten(1)
        return (bright * (self.codes - 1)).long().clamp(0, self.codes - 1)
