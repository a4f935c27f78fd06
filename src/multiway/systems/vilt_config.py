"""Configs of ViLT and of its fine-tuning networks; the defaults are the official ones of ViLT-B/32."""

from __future__ import annotations

from dataclasses import dataclass, field, fields
from typing import Any, Literal

from multiway.errors import UserError
from multiway.systems.sizes import check_positions
from multiway.systems.vit import ViTConfig
from multiway.systems.vlmo_config import TextConfig
from multiway.text import TokenizerConfig

HALF = (0.5, 0.5, 0.5)  # Inception's mean and standard deviation


def vilt_vit(**changes: Any) -> ViTConfig:
    """ViT-B/32 as ViLT has it."""
    sizes: dict[str, Any] = {"image_size": 384, "patch_size": 32, "dropout": 0.1, "mean": HALF, "std": HALF}
    return ViTConfig(**(sizes | changes))


@dataclass(frozen=True, kw_only=True)
class OneTowerConfig:
    """One transformer that reads words and patches together.

    Attributes:
        image: the ViT whose blocks are the transformer; `image_size` is the shorter side of a picture, and
            its square the table of positions.
        longest_side: of a picture, in pixels; the official code's for 384 is int(1333 / 800 * 384).
        types: rows of the table that tells text (0) from picture (1, and 2 for a second one).
    """

    image: ViTConfig = field(default_factory=vilt_vit)
    text: TextConfig = field(default_factory=TextConfig)
    tokenizer: TokenizerConfig = field(
        default_factory=lambda: TokenizerConfig(cleaning="none", add_sep=True, max_length=40)
    )
    longest_side: int = 639
    types: int = 2

    def __post_init__(self) -> None:
        image = self.image
        if image.frozen_blocks or image.clip_stem or image.relative_bias != "none" or image.pool != "cls":
            raise UserError(
                "system.image of a ViLT is a plain ViT with a class token and a table of positions: leave "
                "frozen_blocks, clip_stem, relative_bias and pool as they are"
            )
        if not image.absolute_positions or not isinstance(image.image_size, int):
            raise UserError("system.image of a ViLT has one image_size, the shorter side, and positions")
        if all(abs(255 * mean - round(255 * mean)) < 1e-4 for mean in image.mean):
            raise UserError(
                f"system.image.mean {image.mean} is a colour that pictures have, and a ViLT takes pixels of "
                "0 for what lies beside a picture: give a mean between two of the 256 levels, as 0.5"
            )
        if self.longest_side < image.image_size:
            raise UserError(
                f"system.longest_side is {self.longest_side}, less than the shorter side, "
                f"{image.image_size}: raise it"
            )
        check_positions(self.text.positions, self.tokenizer.max_length)

    def sizes(self) -> dict[str, Any]:
        """The fields of the network itself, which its fine-tuning networks keep."""
        return {f.name: getattr(self, f.name) for f in fields(OneTowerConfig)}


@dataclass(frozen=True, kw_only=True)
class ViLTConfig(OneTowerConfig):
    """ViLT's pre-training.

    Attributes:
        itm_weight, mlm_weight, wpa_weight: 0 leaves a loss out; WPA needs ITM.
        mlm_probability: share of masked tokens. whole_word: mask whole words.
        max_patches: of a picture that are read while training, drawn anew in each pass; None: all.
        beta, iterations: of IPOT.
    """

    system: Literal["vilt"] = "vilt"
    itm_weight: float = 1.0
    mlm_weight: float = 1.0
    wpa_weight: float = 0.1
    mlm_probability: float = 0.15
    whole_word: bool = True
    max_patches: int | None = 200
    beta: float = 0.5
    iterations: int = 50

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.wpa_weight and not self.itm_weight:
            raise UserError("system.wpa_weight tells pairs apart as ITM draws them: set itm_weight too, or 0")
        if self.beta < 0.03 or self.iterations < 1:  # below, exp(-2 / beta) is 0 in single precision
            raise UserError(
                f"system.beta is {self.beta}, system.iterations {self.iterations}: give 0.03 and 1, or more"
            )
        if self.max_patches is not None and self.max_patches < 1:
            raise UserError(f"system.max_patches is {self.max_patches}: give 1 or more, or none for all")
        if not self.itm_weight and not self.mlm_weight:
            raise UserError("system.itm_weight and system.mlm_weight are both 0: nothing would be learned")


@dataclass(frozen=True, kw_only=True)
class RetrievalConfig(OneTowerConfig):
    """Which text belongs to a picture? One score a pair, learned against false texts.

    Attributes:
        false_texts: a picture's own text is told from so many others.
    """

    system: Literal["vilt_retrieval"] = "vilt_retrieval"
    false_texts: int = 15

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.false_texts < 1:
            raise UserError(f"system.false_texts is {self.false_texts}: give 1 or more")


@dataclass(frozen=True, kw_only=True)
class AnswerConfig(OneTowerConfig):
    """Questions about pictures, as a choice among answers.

    Attributes:
        labels: the answers, row by row of the head.
    """

    system: Literal["vilt_vqa"] = "vilt_vqa"
    labels: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class ReasoningConfig(OneTowerConfig):
    """Is a text true of two pictures (NLVR2)?"""

    system: Literal["vilt_nlvr2"] = "vilt_nlvr2"
    types: int = 3


NETWORKS = {"retrieval": RetrievalConfig, "nlvr2": ReasoningConfig, "vqa": AnswerConfig}
