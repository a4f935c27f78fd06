"""Configs of CoCa and of its classifier; the defaults are the paper's CoCa-Base."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any, Literal

from multiway.errors import UserError
from multiway.systems.clip import CLIPTextConfig, clip_tokenizer
from multiway.systems.contrast import ContrastConfig
from multiway.systems.sizes import check_heads, check_positions
from multiway.systems.towers import BackboneConfig
from multiway.systems.vit import ViTConfig
from multiway.text import TokenizerConfig

#: What open_clip does otherwise, and released weights were trained with: see docs/compat.md.
Quirk = Literal["shifted_padding_mask", "zero_is_padding", "beams_sum_logits"]
OFFICIAL: tuple[Quirk, ...] = ("shifted_padding_mask", "zero_is_padding", "beams_sum_logits")

#: single: open_clip's released models; cascade: the paper's; parallel: its alternative; none: no pooler.
Form = Literal["single", "cascade", "parallel", "none"]


def coca_vit(**sizes: Any) -> ViTConfig:
    """CoCa-Base's tower, ViT-B/18 at 288 pixels (table 1), whose tokens a pooler reads; `sizes` overrides."""
    base = ViTConfig(image_size=288, patch_size=18, eps=1e-5, clip_stem=True, pool="none")
    return replace(base, **sizes)


def coca_text(**sizes: Any) -> CLIPTextConfig:
    """The unimodal half of CoCa-Base: 12 layers of width 768 over texts of 76 tokens; `sizes` overrides."""
    base = CLIPTextConfig(width=768, heads=12, hidden=3072, positions=76)
    return replace(base, **sizes)


def coca_tokenizer(max_length: int = 76) -> TokenizerConfig:
    """CLIP's words; the paper's own vocabulary was not published."""
    return clip_tokenizer(max_length)


@dataclass(frozen=True, kw_only=True)
class MultimodalConfig:
    """The multimodal half of the text decoder; its width is the unimodal half's.

    Attributes:
        feed_forwards: of a layer: 1 after cross-attention, as the paper's count of parameters says; or 2, one
            after each attention (open_clip).
        context_norm: the pooled tokens are normalised in each layer first (open_clip).
    """

    layers: int = 12
    heads: int = 12
    hidden: int = 3072
    feed_forwards: Literal[1, 2] = 1
    context_norm: bool = False


@dataclass(frozen=True, kw_only=True)
class PoolerConfig:
    """From a picture's tokens to one vector for the contrast and some for captions (section 3.2).

    Attributes:
        form: `single`: one attention, whose first query is the contrast's; `cascade`: the contrast's query
            looks at what the captions' queries found; `parallel`: at the tokens, as they do; `none`: the
            class token, and the patches.
        queries: of the attention for captions; with `single` the contrast's is one of them.
    """

    form: Form = "cascade"
    queries: int = 256
    heads: int = 12


@dataclass(frozen=True, kw_only=True)
class CoCaConfig(ContrastConfig):
    """CoCa; the defaults are CoCa-Base (table 1), with CLIP's vocabulary for its unpublished one of 64,000.

    Attributes:
        image: its tokens are pooled, so a ViT has `pool="none"`.
        text: the unimodal half; [CLS] comes beside its `positions`.
        embed_dim: width of the features.
        experts: pictures go through the unimodal half's layers too, after the image tower: self-attention is
            shared, feed-forwards and their norms are a modality's own (VLMo). The tower is as wide then.
        contrastive_weight, caption_weight: lambda_con and lambda_cap of equation 4.
        prompt: what captions begin with.
        caption_length: least and most tokens of a caption, start, prompt and end included.
        compat: what open_clip does otherwise.
    """

    system: Literal["coca"] = "coca"
    image: ViTConfig | BackboneConfig = field(default_factory=coca_vit)
    text: CLIPTextConfig = field(default_factory=coca_text)
    multimodal: MultimodalConfig = field(default_factory=MultimodalConfig)
    pooler: PoolerConfig = field(default_factory=PoolerConfig)
    tokenizer: TokenizerConfig = field(default_factory=coca_tokenizer)
    embed_dim: int = 768
    experts: bool = False
    contrastive_weight: float = 1.0
    caption_weight: float = 2.0
    prompt: str = ""
    caption_length: tuple[int, int] = (5, 30)
    compat: tuple[Quirk, ...] = ()

    def __post_init__(self) -> None:
        width, pooler, named = self.text.width, self.pooler, "system.text.width"
        check_heads(self.multimodal.heads, width, of="system.multimodal.heads", width_of=named)
        if pooler.form != "none":
            check_heads(pooler.heads, width, of="system.pooler.heads", width_of=named)
            # With `single` the first query is the contrast's, and captions need one of their own.
            least = 2 if pooler.form == "single" else 1
            if pooler.queries < least:
                raise UserError(
                    f"system.pooler.queries is {pooler.queries}: give the form {pooler.form} at least {least}"
                )
        check_positions(self.text.positions, self.tokenizer.max_length)
        if self.tokenizer.kind != "clip_bpe" and not self.tokenizer.add_sep:
            raise UserError("CoCa's captions end with [SEP]: set system.tokenizer.add_sep true")
        if not self.contrastive_weight and not self.caption_weight:
            raise UserError(
                "system.contrastive_weight and system.caption_weight are both 0: nothing would be learned"
            )
