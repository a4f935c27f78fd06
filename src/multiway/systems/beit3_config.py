"""Configs of BEiT-3: its network in both forms, masked data modelling, and the fine-tuning networks."""

from __future__ import annotations

from dataclasses import dataclass, field, fields
from typing import Any, Literal

from multiway.errors import UserError
from multiway.systems.contrast import ContrastConfig
from multiway.systems.patches import ImageConfig
from multiway.systems.sizes import check_heads, check_positions
from multiway.text import TokenizerConfig

#: Rows at the start of both tables of positions that no token uses, as fairseq has them.
UNUSED = 2


def beit3_tokenizer(max_length: int = 64, vocab: str = "beit3.spm") -> TokenizerConfig:
    """The official one's rules; its file, beit3.spm, is the user's to name."""
    return TokenizerConfig(
        kind="sentencepiece",
        vocab=vocab,
        cleaning="none",
        add_sep=True,
        max_length=max_length,
        max_words=10**6,
    )


@dataclass(frozen=True, kw_only=True)
class TextConfig:
    """Words and their positions; of the position table's rows the first two are unused."""

    vocab_size: int = 64010
    positions: int = 1024


@dataclass(frozen=True, kw_only=True)
class NetworkConfig:
    """The multiway transformer; the defaults are the released base model.

    Attributes:
        form: `release`: every projection and norm exists for pictures and for texts, with sub-norms; the
            layout of the published checkpoints. `paper`: attention is shared, feed-forwards are a picture's
            and a text's, and in the top layers a third one is for pairs.
        joint_layers: top layers with an expert for pairs; only in the paper's form.
        drop_path: rate at the last block, growing linearly from 0.
        head_scale: factor of the first weights of the heads that choose among classes of one picture or of
            two (`init_scale` of modeling_finetune.py), made for much pre-training: a small network that began
            with 0.001 stayed at chance where it learned with about `core.init.unit_gain`.
    """

    form: Literal["release", "paper"] = "release"
    image: ImageConfig = field(default_factory=ImageConfig)
    text: TextConfig = field(default_factory=TextConfig)
    tokenizer: TokenizerConfig = field(default_factory=beit3_tokenizer)
    width: int = 768
    depth: int = 12
    heads: int = 12
    hidden: int = 3072
    eps: float = 1e-5
    drop_path: float = 0.0
    joint_layers: int = 3
    head_scale: float = 0.001

    def __post_init__(self) -> None:
        if self.head_scale <= 0:
            raise UserError(f"system.head_scale is {self.head_scale}: give a positive factor")
        check_heads(self.heads, self.width, of="system.heads")
        check_positions(self.text.positions - UNUSED, self.tokenizer.max_length)
        if self.form == "paper" and not 0 <= self.joint_layers <= self.depth:
            raise UserError(
                f"system.joint_layers is {self.joint_layers}: give 0 to the {self.depth} layers there are"
            )

    def network(self) -> dict[str, Any]:
        """The fields of the network alone, for the config of another task."""
        return {f.name: getattr(self, f.name) for f in fields(NetworkConfig)}


def _check_share(name: str, share: float) -> None:
    if not 0 <= share <= 1:
        raise UserError(f"system.{name} is {share}: give a share from 0 to 1")


def _check_smoothing(share: float) -> None:
    if not 0 <= share < 1:
        raise UserError(f"system.label_smoothing is {share}: give a share from 0 to below 1")


def paper_giant() -> dict[str, Any]:
    """Sizes of the paper's model of 1.9 B parameters (table 2)."""
    sizes = {"width": 1408, "depth": 40, "heads": 16, "hidden": 6144, "joint_layers": 3}
    return {"form": "paper", "image": ImageConfig(patch_size=14), **sizes}


def large() -> dict[str, Any]:
    """Sizes of the released large model."""
    return {"width": 1024, "depth": 24, "heads": 16, "hidden": 4096}


@dataclass(frozen=True, kw_only=True)
class BEiT3Config(NetworkConfig):
    """Masked data modelling (section 2.2 and table 11).

    Attributes:
        codes: size K of the picture tokenizer's codebook.
        image_mask: share of a picture's patches that is masked, in blocks.
        text_mask: share of a text's tokens that is masked. pair_text_mask: likewise where there is a picture.
        normalisation: a stream's mean is over all ranks' masked positions, or over this rank's.
    """

    system: Literal["beit3"] = "beit3"
    codes: int = 8192
    image_mask: float = 0.4
    text_mask: float = 0.15
    pair_text_mask: float = 0.5
    normalisation: Literal["rank", "global"] = "global"

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("image_mask", "text_mask", "pair_text_mask"):
            _check_share(name, getattr(self, name))


@dataclass(frozen=True, kw_only=True)
class RetrievalConfig(NetworkConfig, ContrastConfig):
    """ITC fine-tuning, also the intermediate one on the pre-training pairs; the scale is not clamped."""

    system: Literal["beit3_retrieval"] = "beit3_retrieval"


@dataclass(frozen=True, kw_only=True)
class CaptionerConfig(NetworkConfig):
    """Captioning fine-tuning (get_started_for_captioning.md).

    Attributes:
        mask: share of a caption's tokens that is masked, the end token among them.
        label_smoothing: mass that is spread over the other words.
        drop_worst: share of the masked tokens, those of highest loss, that counts no more after
            `drop_worst_after` steps: captions that do not fit their pictures.
        prompt: what every caption begins with. caption_length: fewest and most tokens, the end one included.
    """

    system: Literal["beit3_captioner"] = "beit3_captioner"
    mask: float = 0.7
    label_smoothing: float = 0.1
    drop_worst: float = 0.2
    drop_worst_after: int = 12000
    prompt: str = ""
    caption_length: tuple[int, int] = (0, 30)

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("mask", "drop_worst"):
            _check_share(name, getattr(self, name))
        _check_smoothing(self.label_smoothing)


@dataclass(frozen=True, kw_only=True)
class VQAConfig(NetworkConfig):
    """VQA as a choice among `labels`, row by row of the head, or among `classes` answers without names."""

    system: Literal["beit3_vqa"] = "beit3_vqa"
    classes: int = 3129
    labels: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class NLVR2Config(NetworkConfig):
    """Whether a text is true of two pictures."""

    system: Literal["beit3_nlvr2"] = "beit3_nlvr2"
    classes: int = 2


@dataclass(frozen=True, kw_only=True)
class ClassifierConfig(NetworkConfig):
    """What a picture shows, among `labels` (row by row of the head) or `classes` without names."""

    system: Literal["beit3_classify"] = "beit3_classify"
    classes: int = 1000
    labels: tuple[str, ...] = ()
    label_smoothing: float = 0.1

    def __post_init__(self) -> None:
        super().__post_init__()
        _check_smoothing(self.label_smoothing)
