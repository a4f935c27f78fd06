"""Configs of BLIP and of its fine-tuning networks; the defaults are the official ones."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any, Literal

from multiway.errors import UserError
from multiway.systems.bert import BertConfig, check_fusion
from multiway.systems.momentum_state import MomentumConfig
from multiway.systems.sizes import longer
from multiway.systems.towers import BackboneConfig
from multiway.systems.vit import ViTConfig
from multiway.text import Cleaning, TokenizerConfig

#: Slips of the official code that are mended unless `compat` names them: see docs/compat.md.
Quirk = Literal["momentum_before_tying", "itm_reads_cls", "question_padding"]
OFFICIAL: tuple[Quirk, ...] = ("momentum_before_tying", "itm_reads_cls", "question_padding")


def dropping(image: ViTConfig | BackboneConfig) -> ViTConfig | BackboneConfig:
    """A tower with stochastic depth of 0.1, if it has none: so VQA and NLVR2 are learned officially."""
    if not isinstance(image, ViTConfig) or image.drop_path:
        return image
    return replace(image, drop_path=0.1)


def med_config(**sizes: Any) -> BertConfig:
    """bert-base-uncased with cross-attention in every layer, no token types, and room for [DEC] and [ENC]."""
    defaults: dict[str, Any] = {"vocab_size": 30524, "layers": 0, "fusion_layers": 12, "types": 0}
    return BertConfig(**(defaults | sizes))


def check_med(text: BertConfig) -> None:
    """Refuse layers that BLIP's networks would not go through.

    Raises:
        UserError: there are some, or none that look at pictures.
    """
    check_fusion(text)
    if text.layers:
        raise UserError(
            f"system.text.layers is {text.layers}: all of BLIP's layers can look at pictures, give "
            "system.text.fusion_layers instead"
        )


def blip_tokenizer(max_length: int = 30, *, cleaning: Cleaning = "blip", **options: Any) -> TokenizerConfig:
    """BERT's vocabulary with [DEC] and [ENC], and [SEP] at the end."""
    special = ("[DEC]", "[ENC]")
    return TokenizerConfig(cleaning=cleaning, add_sep=True, max_length=max_length, extra=special, **options)


@dataclass(frozen=True, kw_only=True)
class BLIPConfig(MomentumConfig):
    """BLIP; the defaults are the official pre-training (configs/pretrain.yaml).

    Retrieval fine-tuning is `RETRIEVAL`.

    Attributes:
        lm_weight: 0 leaves LM out, and the decoder. label_smoothing: of LM.
        negatives_by: hard negatives by ITC's similarities, with the momentum features (pre-training), or by
            those of the batch's online features (retrieval).
        negative_floor: added to every candidate's probability of being drawn.
        negative_all_rank: ITM's negatives from all ranks, while ITC keeps this rank's candidates.
        rerank: by the ITM logit, by it plus ITC's cosine (official), or by its log-odds plus ITC's logit.
        prompt: what captions begin with; its words carry no loss.
        caption_length: least and most tokens of a caption, [DEC], prompt and [SEP] included.
        compat: official slips to keep.
    """

    system: Literal["blip"] = "blip"
    image: ViTConfig | BackboneConfig = field(default_factory=lambda: ViTConfig(image_size=224))
    text: BertConfig = field(default_factory=med_config)
    tokenizer: TokenizerConfig = field(default_factory=blip_tokenizer)
    queue_size: int = 57600
    alpha_ramp_epochs: int = 2
    lm_weight: float = 1.0
    label_smoothing: float = 0.1
    negatives_by: Literal["itc", "batch"] = "itc"
    negative_floor: float = 1e-4
    negative_all_rank: bool = False
    rerank: Literal["itm", "itm+cosine", "itm+itc"] = "itm+cosine"
    prompt: str = ""
    caption_length: tuple[int, int] = (5, 20)
    compat: tuple[Quirk, ...] = ()

    def __post_init__(self) -> None:
        super().__post_init__()
        check_med(self.text)


#: What `BLIPConfig` is in retrieval fine-tuning (models/blip_retrieval.py).
RETRIEVAL: dict[str, Any] = {
    "lm_weight": 0.0,
    "positives": "ids",
    "negatives_by": "batch",
    "negative_floor": 0.0,
    "alpha_ramp_epochs": 1,
}


@dataclass(frozen=True, kw_only=True)
class FineTunedConfig:
    """What all fine-tuning networks have.

    Attributes:
        null_token: as in `BLIPConfig`; for a start from a model that has one.
    """

    image: ViTConfig | BackboneConfig = field(default_factory=lambda: ViTConfig(image_size=224))
    text: BertConfig = field(default_factory=med_config)
    tokenizer: TokenizerConfig = field(default_factory=blip_tokenizer)
    null_token: bool = False

    def __post_init__(self) -> None:
        check_med(self.text)


@dataclass(frozen=True, kw_only=True)
class FeaturesConfig(FineTunedConfig):
    """Hidden states without heads (models/blip.py, BLIP_Base)."""

    system: Literal["blip_base"] = "blip_base"


@dataclass(frozen=True, kw_only=True)
class CaptionerConfig(FineTunedConfig):
    """The decoder alone over pictures (models/blip.py, BLIP_Decoder; configs/caption_coco.yaml).

    Attributes:
        prompt: what captions begin with; its words carry no loss. label_smoothing: of LM.
        caption_length: least and most tokens of a caption, [DEC], prompt and [SEP] included.
    """

    system: Literal["blip_captioner"] = "blip_captioner"
    image: ViTConfig | BackboneConfig = field(default_factory=lambda: ViTConfig(image_size=384))
    tokenizer: TokenizerConfig = field(default_factory=lambda: blip_tokenizer(40))
    prompt: str = "a picture of "
    caption_length: tuple[int, int] = (5, 20)
    label_smoothing: float = 0.1


@dataclass(frozen=True, kw_only=True)
class VQAConfig(FineTunedConfig):
    """Question answering (models/blip_vqa.py; configs/vqa.yaml).

    Attributes:
        label_smoothing: of the answers' LM, also where answers are ranked (official).
        labels: the answers that are ranked where no others are given.
        compat: official slips to keep.
    """

    system: Literal["blip_vqa"] = "blip_vqa"
    image: ViTConfig | BackboneConfig = field(
        default_factory=lambda: ViTConfig(image_size=480, drop_path=0.1)
    )
    tokenizer: TokenizerConfig = field(
        default_factory=lambda: blip_tokenizer(35, cleaning="blip_question", max_words=50)
    )
    label_smoothing: float = 0.1
    labels: tuple[str, ...] = ()
    compat: tuple[Quirk, ...] = ()


@dataclass(frozen=True, kw_only=True)
class NLVRConfig(FineTunedConfig):
    """Is the text true of two pictures (models/blip_nlvr.py; configs/nlvr.yaml)?

    Attributes:
        merge_from: the first layer that merges what both pictures gave by a linear map; below, their mean.
    """

    system: Literal["blip_nlvr"] = "blip_nlvr"
    image: ViTConfig | BackboneConfig = field(
        default_factory=lambda: ViTConfig(image_size=384, drop_path=0.1)
    )
    tokenizer: TokenizerConfig = field(default_factory=lambda: blip_tokenizer(100, max_words=40))
    merge_from: int = 6


def network_config(config: BLIPConfig, task: str, labels: tuple[str, ...]) -> Any:
    """The config of a BLIP's network for `task`, texts as its official fine-tuning reads them; None: no such.

    Args:
        labels: the answers of VQA.
    """
    words, places = config.tokenizer, config.text.positions
    if task == "retrieval":
        return replace(config, tokenizer=longer(words, 35, places), **RETRIEVAL)
    own: dict[str, Any] = {"text": config.text, "null_token": config.null_token}
    if task == "caption":  # a prompt is officially learned here, pre-training has none
        own |= {"prompt": config.prompt or CaptionerConfig.prompt, "caption_length": config.caption_length}
        return CaptionerConfig(image=config.image, tokenizer=words, **own)
    image = dropping(config.image)
    if task == "vqa":
        rule: Cleaning = "blip_question" if words.cleaning == "blip" else words.cleaning
        words = longer(words, 35, places, cleaning=rule, max_words=50)
        return VQAConfig(image=image, tokenizer=words, labels=labels, **own)
    if task == "nlvr2":
        return NLVRConfig(image=image, tokenizer=longer(words, 100, places, max_words=40), **own)
    return None
