"""A small BLIP, and its draws."""

from __future__ import annotations

import tiny
import torch

from multiway.batch import Batch
from multiway.systems.bert import BertConfig
from multiway.systems.blip import BLIP, Draws, State
from multiway.systems.blip_config import BLIPConfig, med_config

#: [DEC] and [ENC] are the last two words.
VOCAB = 62


def med(**changes) -> BertConfig:
    sizes = {"vocab_size": VOCAB, "width": 16, "fusion_layers": 2, "heads": 2, "hidden": 28}
    return med_config(**(sizes | {"positions": 20, "dropout": 0.0} | changes))


def config(**changes) -> BLIPConfig:
    return BLIPConfig(**({"image": tiny.vit(), "text": med(), "embed_dim": 12, "queue_size": 16} | changes))


def blip(config_: BLIPConfig | None = None, *, kind: type[BLIP] = BLIP, seed: int = 0) -> tuple[BLIP, State]:
    """A model and its state, `tiny.roughened`."""
    torch.manual_seed(seed)
    model = kind(config_ or config())
    return tiny.roughened(model, model.init_state(), seed)


def draws(batch: Batch, *, seed: int = 0) -> Draws:
    g = torch.Generator().manual_seed(seed)
    size = len(batch)
    shift = torch.randint(1, size, (2, size), generator=g)
    return Draws(
        negative_image=(torch.arange(size) + shift[0]) % size,
        negative_text=(torch.arange(size) + shift[1]) % size,
    )
