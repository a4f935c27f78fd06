"""CLIP: contrastive language-image pre-training (Radford et al. 2021, arXiv:2103.00020), figure 3.

```
      image features  I [B, E]  ---+
            |                      |   scale * I @ T^t over all ranks' batches:
     +-------------+               +-- the right text for each picture (rows)
     | image tower |               |   and the right picture for each text (columns)
     +-------------+               |
            |                      |
         picture     text features T [B, E]
                           |
                  +------------------+
                  | text layers x12  |  causal; the feature is the last token's
                  +------------------+
                           |
                <start> a dog ... <end>
```
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn

from multiway.batch import Batch
from multiway.core.block import Block, Stack
from multiway.core.init import zero_biases
from multiway.core.pooling import AttentionPool, MeanPool
from multiway.systems.base import System
from multiway.systems.bert import unpadded
from multiway.systems.contrast import MAX_SCALE, ContrastConfig, contrast
from multiway.systems.image_tower import ImageTower, image_feature
from multiway.systems.mae_heads import tower_classifier
from multiway.systems.sizes import check_heads, check_positions
from multiway.systems.towers import BackboneConfig, build_image_tower
from multiway.systems.vit import VisionTransformer, ViTConfig
from multiway.text import TokenizerConfig


def clip_vit(**sizes: Any) -> ViTConfig:
    """CLIP's ViT-B/32 at 224 pixels; `sizes` overrides."""
    return replace(ViTConfig(image_size=224, patch_size=32, eps=1e-5, clip_stem=True), **sizes)


@dataclass(frozen=True, kw_only=True)
class CLIPTextConfig:
    """CLIP's text layers.

    Attributes:
        positions: the longest text in tokens, start and end included.
        sees: a token sees those before it, or all, padding too (FLIP): texts are then padded to `positions`
            with 0, so that a text does not depend on the others of its batch.
        reads: the feature is the last real token's, or the first one's (FLIP).
        quick_gelu, tanh_gelu: approximations of GELU (OpenAI's weights; FLIP's).
        eos_id: ends a text where no tokenizer here has the model's vocabulary; kept for transformers.
    """

    vocab_size: int = 49408
    width: int = 512
    layers: int = 12
    heads: int = 8
    hidden: int = 2048
    positions: int = 77
    quick_gelu: bool = False
    tanh_gelu: bool = False
    eps: float = 1e-5
    sees: Literal["before", "all"] = "before"
    reads: Literal["last", "first"] = "last"
    eos_id: int | None = None

    def __post_init__(self) -> None:
        check_heads(self.heads, self.width, of="system.text.heads")


def clip_tokenizer(max_length: int = 77) -> TokenizerConfig:
    """CLIP's words."""
    return TokenizerConfig(kind="clip_bpe", vocab="clip", cleaning="none", max_length=max_length)


@dataclass(frozen=True, kw_only=True)
class CLIPConfig(ContrastConfig):
    """CLIP; the defaults are ViT-B/32.

    Attributes:
        embed_dim: width of the features.
        image_pool: what pools the tokens of a tower without a class token; `mean` learns nothing.
    """

    system: Literal["clip"] = "clip"
    image: ViTConfig | BackboneConfig = field(default_factory=clip_vit)
    text: CLIPTextConfig = field(default_factory=CLIPTextConfig)
    tokenizer: TokenizerConfig = field(default_factory=clip_tokenizer)
    embed_dim: int = 512
    image_pool: Literal["attention", "mean"] = "attention"

    def __post_init__(self) -> None:
        check_positions(self.text.positions, self.tokenizer.max_length)


class TextTower(nn.Module):
    """Token and position embeddings, pre-norm layers, a last LayerNorm."""

    def __init__(self, config: CLIPTextConfig):
        super().__init__()
        self.config, gelu = config, {"quick_gelu": config.quick_gelu, "tanh_gelu": config.tanh_gelu}
        self.words = nn.Embedding(config.vocab_size, config.width)
        self.positions = nn.Parameter(torch.empty(config.positions, config.width))
        self.blocks = Stack(
            Block(config.width, config.heads, config.hidden, eps=config.eps, **gelu)
            for _ in range(config.layers)
        )
        self.norm = nn.LayerNorm(config.width, eps=config.eps)
        nn.init.normal_(self.words.weight, std=0.02)
        nn.init.normal_(self.positions, std=0.01)
        init_clip(self.blocks, config.width)

    def forward(
        self, input_ids: Int[Tensor, "B T"], attention_mask: Int[Tensor, "B T"] | None = None
    ) -> Float[Tensor, "B S D"]:
        """S is T where a token sees what came before it: nothing after a text's end is read. Or all are seen.

        Args:
            attention_mask: where given, padding that nobody sees is left out of the computation.
        """
        if self.config.sees == "all":
            if attention_mask is not None:  # one padding, whatever the tokenizer's is: it is read
                input_ids = input_ids.masked_fill(attention_mask == 0, 0)
            input_ids = F.pad(input_ids, (0, self.config.positions - input_ids.shape[1]))
        x = self.words(input_ids) + self.positions[: input_ids.shape[1]]
        if self.config.sees == "all" or attention_mask is None:
            return self.norm(self.blocks(x, causal=self.config.sees == "before"))
        return self.norm(unpadded(self.blocks, x, attention_mask, causal=True))


def init_clip(blocks: Stack, width: int) -> None:
    """OpenAI's `initialize_parameters`: smaller weights where a branch joins the residual stream."""
    residual = width**-0.5 * (2 * len(blocks)) ** -0.5
    stds = {
        "attention.qkv": width**-0.5,
        "attention.out": residual,
        "ffn.all.fc1": (2 * width) ** -0.5,
        "ffn.all.fc2": residual,
    }
    for block in blocks:
        for name, std in stds.items():
            part = block.get_submodule(name)
            nn.init.normal_(part.get_parameter("weight"), std=std)
            zero_biases(part)


class CLIP(System):
    """CLIP's two towers and its loss.

    Args:
        image_tower: the module, when `config.image.name` is "user".
    """

    parts = {
        "vision": ("image_tower.", "pool.", "image_proj."),
        "text": ("text.", "text_proj."),
        "interaction": (),
    }

    image_tower: ImageTower

    def __init__(self, config: CLIPConfig, image_tower: nn.Module | None = None):
        super().__init__()
        self.config = config
        self.image_tower = build_image_tower(config.image, image_tower)
        width = self.image_tower.width
        if isinstance(self.image_tower, VisionTransformer):
            init_clip(self.image_tower.blocks, width)
        self.pool = None
        if isinstance(config.image, ViTConfig) and config.image.pool == "all":
            self.pool = MeanPool()
        elif self.image_tower.pooled_index is None:
            self.pool = MeanPool() if config.image_pool == "mean" else AttentionPool(width, width)
        self.text = TextTower(config.text)
        self.image_proj = nn.Linear(width, config.embed_dim, bias=False)
        self.text_proj = nn.Linear(config.text.width, config.embed_dim, bias=False)
        nn.init.normal_(self.image_proj.weight, std=width**-0.5)
        nn.init.normal_(self.text_proj.weight, std=config.text.width**-0.5)
        self.logit_scale = nn.Parameter(torch.tensor(config.logit_scale))
        tower = self.image_tower
        self.image_size, self.image_mean, self.image_std = tower.image_size, tower.image_mean, tower.image_std

    def image_features(self, image_embeds: Float[Tensor, "B N C"]) -> Float[Tensor, "B E"]:
        """Normalised features of a tower's tokens."""
        return image_feature(image_embeds, self.image_tower, self.pool, self.image_proj)

    def text_features(
        self, hidden: Float[Tensor, "B S D"], attention_mask: Int[Tensor, "B T"]
    ) -> Float[Tensor, "B E"]:
        """Normalised features of a text's last token, which has seen all of it; FLIP's: of its first."""
        if self.config.text.reads == "first":
            return F.normalize(self.text_proj(hidden[:, 0]), dim=-1)
        last = hidden[torch.arange(hidden.shape[0], device=hidden.device), attention_mask.sum(1) - 1]
        return F.normalize(self.text_proj(last), dim=-1)

    def image_tokens(
        self, batch: Batch, draws: Any, generator: torch.Generator | None
    ) -> Float[Tensor, "B N C"]:
        """The image tower's tokens of a training batch."""
        return self.image_tower.rest(self.image_tower.batch_prefix(batch))

    def losses(
        self,
        batch: Batch,
        state: nn.Module,
        draws: Any = None,
        generator: torch.Generator | None = None,
    ) -> dict[str, Tensor]:
        """`itc`: the symmetric cross-entropy; CLIP has nothing to draw, FLIP its patches."""
        input_ids, attention_mask = batch.text()
        image = self.image_features(self.image_tokens(batch, draws, generator))
        text = self.text_features(self.text(input_ids, attention_mask), attention_mask)
        loss = contrast(self.config, batch, image, text, self.logit_scale)
        return {"loss": loss, "itc": loss}

    def fine_tuning(self, task: str, labels: tuple[str, ...] = ()) -> Any:
        """Retrieval by the same loss; of classes the image tower alone learns."""
        if task == "classify":
            return tower_classifier(self.config.image, labels)
        return self.config if task == "retrieval" else super().fine_tuning(task, labels)

    @torch.no_grad()
    def advance(self, state: nn.Module, outputs: Sequence[dict[str, Tensor]]) -> None:
        self.logit_scale.clamp_(0, MAX_SCALE)

    def decays(self, name: str, parameter: nn.Parameter) -> bool:
        """open_clip's rule: not to gains, biases, the class token and `logit_scale`."""
        return parameter.ndim >= 2 and not name.endswith("cls_token")

    def image_context(self, image: Float[Tensor, "B 3 H W"]) -> tuple[Float[Tensor, "B E"], None]:
        return self.image_features(self.image_tower(image)), None

    def text_context(
        self, input_ids: Int[Tensor, "B T"], attention_mask: Int[Tensor, "B T"]
    ) -> tuple[Float[Tensor, "B E"], Float[Tensor, "B S D"]]:
        hidden = self.text(input_ids, attention_mask)
        return self.text_features(hidden, attention_mask), hidden
