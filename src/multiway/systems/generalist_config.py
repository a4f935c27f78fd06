"""What the generalist is made of, and which of its sources it follows."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Literal

from multiway.errors import UserError
from multiway.systems.prefix_network import PrefixConfig
from multiway.systems.towers import BackboneConfig
from multiway.systems.vit import ViTConfig
from multiway.systems.vqvae import VQVAEConfig
from multiway.text import TokenizerConfig


def generalist_tokenizer(locations: int = 1000, max_length: int = 128) -> TokenizerConfig:
    """BERT's words, location tokens (Unified-IO: 1000), prompt and answer in one text."""
    return TokenizerConfig(
        cleaning="none",
        add_sep=True,
        max_length=max_length,
        max_words=10**6,
        locations=locations,
        turns=True,
    )


@dataclass(frozen=True, kw_only=True)
class GeneralistConfig:
    """The generalist; the defaults are of SimVLM's base size, with a picture of 32 x 32 tokens.

    Attributes:
        image: the image encoder.
        text: encoder and decoder; `vocab_size` counts words and location tokens, picture tokens follow.
        pictures: the VQ-VAE whose tokens pictures are written in; --init.visual-tokenizer has its weights.
        form: who reads the prompt. `prefix`: the encoder, beside the picture (PaLI, Unified-IO);
            `semi_causal`: the decoder, as a span read in both directions (MetaLM).
        span: share of each answer's tokens that is such a span too, and not predicted; only there.
        draw_weight: of the picture tokens' loss.
        cosine_weight: of the contrast among a batch's answers (Uni-Perceiver); 0 leaves it out.
        logit_scale: what it starts with, a logarithm.
    """

    system: Literal["generalist"] = "generalist"
    image: ViTConfig | BackboneConfig = field(default_factory=lambda: ViTConfig(image_size=224))
    text: PrefixConfig = field(default_factory=lambda: PrefixConfig(vocab_size=31522, positions=1100))
    tokenizer: TokenizerConfig = field(default_factory=generalist_tokenizer)
    pictures: VQVAEConfig = field(default_factory=VQVAEConfig)
    form: Literal["prefix", "semi_causal"] = "prefix"
    span: float = 0.0
    draw_weight: float = 1.0
    cosine_weight: float = 0.0
    logit_scale: float = math.log(1 / 0.07)

    def __post_init__(self) -> None:
        if not (self.tokenizer.turns and self.tokenizer.add_sep):
            raise UserError(
                "a generalist reads prompts and answers: set tokenizer.turns and tokenizer.add_sep"
            )
        if self.tokenizer.locations and getattr(self.image, "fit", "squash") == "crop":
            raise UserError(
                "tokenizer.locations are places in a whole picture: set system.image.fit to squash, or "
                "tokenizer.locations to 0"
            )
        if not 0 <= self.span < 1:
            raise UserError(f"system.span is {self.span}: give a share of an answer from 0 to below 1")
        if self.span and self.form == "prefix":
            raise UserError("system.span is for the semi-causal form: set system.form to semi_causal")
        down, across = self.pictures.grid
        prompt = self.tokenizer.max_length
        longest = max(prompt, 1 + down * across + (prompt - 1) * (self.form == "semi_causal"))
        if longest > self.text.positions:
            raise UserError(
                f"sequences may have {longest} tokens and system.text.positions is {self.text.positions}: "
                "raise it, or lower tokenizer.max_length or the pictures' tokens"
            )
