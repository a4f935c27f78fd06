"""A small SimVLM with every size different, and batches of pairs and of texts alone."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch

from multiway.batch import Batch
from multiway.systems.conv_tower import StemConfig
from multiway.systems.prefix_network import PrefixConfig
from multiway.systems.simvlm import PrefixSystem, SimVLM
from multiway.systems.simvlm_config import SimVLMConfig
from multiway.text import Tokenizer, TokenizerConfig, train_vocabulary

#: 2 x 3 tokens a picture.
SIZE, GRID = (32, 48), (2, 3)
PATCHES = GRID[0] * GRID[1]
WORDS = "a picture of the red blue green dog cat runs on grass and what colour is it ?"
CLS, SEP, PAD = 2, 3, 0


def stem(**changes: Any) -> StemConfig:
    return StemConfig(**({"image_size": SIZE, "width": 4, "blocks": (1, 2, 1)} | changes))


def text(**changes: Any) -> PrefixConfig:
    sizes = {"vocab_size": 90, "width": 24, "encoder_layers": 2, "decoder_layers": 3, "heads": 3}
    return PrefixConfig(**(sizes | {"hidden": 40, "positions": 30} | changes))


def tokenizer(**changes: Any) -> Tokenizer:
    options = {"cleaning": "none", "add_sep": True, "max_length": 20}
    return train_vocabulary([WORDS] * 2, size=90, config=TokenizerConfig(**(options | changes)))


def config(kind: type = SimVLMConfig, **changes: Any) -> Any:
    words = tokenizer()
    values = {"image": stem(), "text": text(vocab_size=words.vocab_size), "tokenizer": words.config}
    return kind(**(values | changes))


def build(settings: Any = None, network: type[PrefixSystem] = SimVLM, *, seed: int = 0) -> Any:
    """Weights large enough to tell wrong from right, also what starts at zero."""
    torch.manual_seed(seed)
    model = network(settings or config())
    noise = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter += 0.1 * torch.randn(parameter.shape, generator=noise)
    model.tokenizer = tokenizer()
    return model


def pairs(size: int = 5, length: int = 9, *, seed: int = 0, **more: Any) -> Batch:
    """Texts of different lengths; the last has `length` tokens."""
    g = torch.Generator().manual_seed(seed)
    lengths = torch.randint(3, length + 1, (size,), generator=g)
    lengths[-1] = length
    mask = (torch.arange(length) < lengths[:, None]).long()
    ids = torch.randint(5, tokenizer().vocab_size, (size, length), generator=g) * mask
    ids[:, 0] = CLS
    ids[torch.arange(size), lengths - 1] = SEP
    return Batch(image=torch.randn(size, 3, *SIZE, generator=g), input_ids=ids, attention_mask=mask, **more)


def mixed() -> Batch:
    """Pairs, and texts alone whose pictures are zeros."""
    batch = pairs()
    has = torch.tensor([True, False, True, False, True])
    return replace(batch, has_image=has, image=batch.image * has[:, None, None, None])
