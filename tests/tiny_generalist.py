"""A small generalist with every size different, and a batch of its kinds of rows."""

from __future__ import annotations

from typing import Any

import tiny
import torch

from multiway.batch import Batch
from multiway.systems.generalist import Generalist
from multiway.systems.generalist_config import GeneralistConfig
from multiway.systems.prefix_network import PrefixConfig
from multiway.systems.vqvae import VQVAE, VQVAEConfig
from multiway.text import Tokenizer, TokenizerConfig, train_vocabulary

WORDS = "what does the picture show ? where is it draw red blue green dog cat large small and colour"
BINS, CODES = 10, 7
TEXTS = (
    "what does the picture show ?\ta red dog and a cat",
    "where is the dog ?\t<1><2><5><9>",
    "draw a blue cat\t",
    "what is at <1><2><5><9> ?\tthe dog",
    "what colour is it ?\tred",
)


def tokenizer() -> Tokenizer:
    options = {"cleaning": "none", "add_sep": True, "max_length": 24, "turns": True, "locations": BINS}
    return train_vocabulary([WORDS] * 2, size=110, config=TokenizerConfig(**options))


def pictures(**changes: Any) -> VQVAEConfig:
    sizes = {"image_size": 32, "strides": (2, 4), "width": 12, "blocks": 1, "codes": CODES, "code_width": 5}
    return VQVAEConfig(**(sizes | changes))


def vqvae(**changes: Any) -> VQVAE:
    """With a codebook."""
    torch.manual_seed(1)
    model = VQVAE(pictures(**changes))
    model.quantizer.codebook.copy_(torch.nn.functional.normalize(torch.randn(CODES, 5), dim=-1))
    model.quantizer.started.fill_(1.0)
    return model


def build(*, seed: int = 0, **changes: Any) -> Generalist:
    """Weights large enough to tell wrong from right."""
    words = tokenizer()
    sizes = {"width": 24, "encoder_layers": 2, "decoder_layers": 2, "heads": 3, "hidden": 40}
    text = PrefixConfig(vocab_size=words.vocab_size, positions=50, **sizes)
    config = GeneralistConfig(
        **({"image": tiny.vit(), "text": text, "tokenizer": words.config, "pictures": pictures()} | changes)
    )
    torch.manual_seed(seed)
    model = Generalist(config)
    noise = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if not name.startswith("pictures."):
                parameter += 0.1 * torch.randn(parameter.shape, generator=noise)
    model.learn_from(vqvae())
    model.tokenizer = words
    return model


def batch(texts: tuple[str, ...] = TEXTS, *, seed: int = 0) -> Batch:
    ids, mask = tokenizer()(texts)
    image = torch.randn(len(texts), 3, 32, 32, generator=torch.Generator().manual_seed(seed))
    return Batch(image=image, input_ids=ids, attention_mask=mask)
