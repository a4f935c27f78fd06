"""Small CoCas, with every size different, and pairs for them."""

from __future__ import annotations

from typing import Any

import tiny
import torch

from multiway.batch import Batch
from multiway.systems.clip import CLIPTextConfig
from multiway.systems.coca import CoCa
from multiway.systems.coca_config import CoCaConfig, MultimodalConfig, PoolerConfig, coca_tokenizer, coca_vit

OPEN_CLIP = MultimodalConfig(layers=2, heads=4, hidden=28, feed_forwards=2, context_norm=True)


def config(**changes: Any) -> CoCaConfig:
    image = coca_vit(image_size=32, patch_size=8, width=24, depth=2, heads=3, hidden=40)
    text = CLIPTextConfig(vocab_size=tiny.VOCAB, width=16, layers=3, heads=2, hidden=28, positions=11)
    given = {
        "image": image,
        "text": text,
        "multimodal": MultimodalConfig(layers=2, heads=4, hidden=36),
        "pooler": PoolerConfig(queries=5, heads=2),
        "tokenizer": coca_tokenizer(11),
        "embed_dim": 12,
    }
    return CoCaConfig(**(given | changes))


def experts(**changes: Any) -> CoCaConfig:
    """Pictures and texts share the lower layers."""
    image = coca_vit(image_size=32, patch_size=8, width=16, depth=1, heads=2, hidden=40)
    return config(**({"image": image, "experts": True} | changes))


def coca(given: CoCaConfig | None = None, *, seed: int = 0) -> CoCa:
    """A model whose weights are large enough to tell wrong from right, gains and biases too."""
    torch.manual_seed(seed)
    model = CoCa(given or config())
    noise = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim:
                parameter += 0.05 * torch.randn(parameter.shape, generator=noise)
    return model


def batch(size: int = 5, *, seed: int = 0) -> Batch:
    return tiny.batch(size, seed=seed)
