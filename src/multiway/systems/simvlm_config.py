"""Configs of SimVLM and of its classifier; the defaults are the paper's base model."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from multiway.errors import UserError
from multiway.systems.conv_tower import StemConfig
from multiway.systems.prefix_network import PrefixConfig
from multiway.systems.sizes import check_positions
from multiway.text import TokenizerConfig


def simvlm_tokenizer(max_length: int = 256) -> TokenizerConfig:
    """BERT's words, [SEP] at the end; the paper's own vocabulary was not published."""
    return TokenizerConfig(cleaning="none", add_sep=True, max_length=max_length, max_words=10**6)


@dataclass(frozen=True, kw_only=True)
class SimVLMConfig:
    """SimVLM; the defaults are the paper's base model (section 4.1, appendix A).

    Attributes:
        label_smoothing: of the words that are predicted.
        prompt: what captions begin with, read by the encoder ("a picture of": zero-shot, section 4.3).
        caption_length: fewest and most new tokens of a caption, [SEP] included.
    """

    system: Literal["simvlm"] = "simvlm"
    image: StemConfig = field(default_factory=StemConfig)
    text: PrefixConfig = field(default_factory=PrefixConfig)
    tokenizer: TokenizerConfig = field(default_factory=simvlm_tokenizer)
    label_smoothing: float = 0.0
    prompt: str = "a picture of"
    caption_length: tuple[int, int] = (2, 30)

    def __post_init__(self) -> None:
        check_positions(self.text.positions, self.tokenizer.max_length)
        if not self.tokenizer.add_sep:
            raise UserError("SimVLM's texts end with [SEP]: set system.tokenizer.add_sep true")


@dataclass(frozen=True, kw_only=True)
class VQAConfig:
    """A choice among `labels`, row by row of the head, or among `classes` answers without names."""

    system: Literal["simvlm_vqa"] = "simvlm_vqa"
    image: StemConfig = field(default_factory=lambda: StemConfig(image_size=480))
    text: PrefixConfig = field(default_factory=PrefixConfig)
    tokenizer: TokenizerConfig = field(default_factory=simvlm_tokenizer)
    labels: tuple[str, ...] = ()
    classes: int = 3129

    def __post_init__(self) -> None:
        check_positions(self.text.positions, self.tokenizer.max_length)
