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

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn

from multiway.batch import Batch
from multiway.core.block import Block, Stack
from multiway.core.gather import Gradient, gather, rank
from multiway.core.pooling import AttentionPool
from multiway.objectives import contrastive
from multiway.systems.base import System
from multiway.systems.towers import BackboneConfig, build_image_tower
from multiway.systems.vit import ViTConfig
from multiway.text import TokenizerConfig

MAX_SCALE = math.log(100)


def clip_vit(**sizes) -> ViTConfig:
    """CLIP's ViT-B/32 at 224 pixels; `sizes` overrides."""
    base = {"image_size": 224, "patch_size": 32, "eps": 1e-5, "clip_stem": True}
    return ViTConfig(**(base | sizes))


@dataclass(frozen=True, kw_only=True)
class CLIPTextConfig:
    """CLIP's text layers; `positions` is the longest text in tokens, start and end included."""

    vocab_size: int = 49408
    width: int = 512
    layers: int = 12
    heads: int = 8
    hidden: int = 2048
    positions: int = 77
    quick_gelu: bool = False


@dataclass(frozen=True, kw_only=True)
class CLIPConfig:
    """CLIP; the defaults are ViT-B/32.

    Attributes:
        embed_dim: width of the features. logit_scale: initial value, a logarithm; clamped to 0..ln 100.
        positives: `pair`: only a picture's own text; `ids`: all rows with equal `batch.ids`.
        negatives: candidates from all ranks' batches, or from this rank's.
        local_loss: this rank's rows against all columns; else the whole matrix on every rank.
        gradient: what gathered rows carry: "sum" equals one process with the whole batch (`core.gather`).
    """

    system: Literal["clip"] = "clip"
    image: ViTConfig | BackboneConfig = field(default_factory=clip_vit)
    text: CLIPTextConfig = field(default_factory=CLIPTextConfig)
    tokenizer: TokenizerConfig = field(
        default_factory=lambda: TokenizerConfig(kind="clip_bpe", vocab="clip", cleaning="none", max_length=77)
    )
    embed_dim: int = 512
    logit_scale: float = math.log(1 / 0.07)
    positives: Literal["pair", "ids"] = "pair"
    negatives: Literal["local", "global"] = "global"
    local_loss: bool = True
    gradient: Gradient = "sum"


class TextTower(nn.Module):
    """Token and position embeddings, causal pre-norm layers, a last LayerNorm."""

    def __init__(self, config: CLIPTextConfig):
        super().__init__()
        self.words = nn.Embedding(config.vocab_size, config.width)
        self.positions = nn.Parameter(torch.empty(config.positions, config.width))
        self.blocks = Stack(
            Block(config.width, config.heads, config.hidden, eps=1e-5, quick_gelu=config.quick_gelu)
            for _ in range(config.layers)
        )
        self.norm = nn.LayerNorm(config.width, eps=1e-5)
        nn.init.normal_(self.words.weight, std=0.02)
        nn.init.normal_(self.positions, std=0.01)
        init_clip(self.blocks, config.width)

    def forward(self, input_ids: Int[Tensor, "B T"]) -> Float[Tensor, "B T D"]:
        """No padding mask: a token sees only what came before it, and nothing after the end is read."""
        x = self.words(input_ids) + self.positions[: input_ids.shape[1]]
        return self.norm(self.blocks(x, causal=True))


def init_clip(blocks: Stack, width: int) -> None:
    """OpenAI's `initialize_parameters`: smaller weights where a branch joins the residual stream."""
    residual = width**-0.5 * (2 * len(blocks)) ** -0.5
    for block in blocks:
        nn.init.normal_(block.attention.qkv.weight, std=width**-0.5)
        nn.init.normal_(block.attention.out.weight, std=residual)
        nn.init.normal_(block.ffn["all"].fc1.weight, std=(2 * width) ** -0.5)
        nn.init.normal_(block.ffn["all"].fc2.weight, std=residual)
        for part in (block.attention.qkv, block.attention.out, block.ffn["all"].fc1, block.ffn["all"].fc2):
            nn.init.zeros_(part.bias)


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

    def __init__(self, config: CLIPConfig, image_tower: nn.Module | None = None):
        super().__init__()
        self.config = config
        self.image_tower = build_image_tower(config.image, image_tower)
        width = self.image_tower.width
        if isinstance(config.image, ViTConfig):
            init_clip(self.image_tower.blocks, width)
        self.pool = AttentionPool(width, width) if self.image_tower.pooled_index is None else None
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
        pooled = (
            image_embeds[:, self.image_tower.pooled_index] if self.pool is None else self.pool(image_embeds)
        )
        return F.normalize(self.image_proj(pooled), dim=-1)

    def text_features(
        self, hidden: Float[Tensor, "B T D"], attention_mask: Int[Tensor, "B T"]
    ) -> Float[Tensor, "B E"]:
        """Normalised features of a text's last token, which has seen all of it."""
        last = hidden[torch.arange(len(hidden), device=hidden.device), attention_mask.sum(1) - 1]
        return F.normalize(self.text_proj(last), dim=-1)

    def losses(self, batch: Batch, state: nn.Module, draws=None, generator=None) -> dict[str, Tensor]:
        """`itc`: the symmetric cross-entropy; there is nothing to draw."""
        prefix = batch.image_prefix if batch.image is None else self.image_tower.prefix(batch.image)
        image = self.image_features(self.image_tower.rest(prefix))
        text = self.text_features(self.text(batch.input_ids), batch.attention_mask)
        wide, size = self.config.negatives == "global", len(image)
        images, texts = (gather(x, self.config.gradient) for x in (image, text)) if wide else (image, text)
        first, candidates = (rank() * size if wide else 0), batch.ids
        positive = None
        if self.config.positives == "ids":
            candidates = gather(batch.ids, "none") if wide else batch.ids
            positive = contrastive.positives(batch.ids if self.config.local_loss else candidates, candidates)
        if not self.config.local_loss:
            image, text, first = images, texts, 0
        loss = contrastive.clip_loss(
            image,
            text,
            self.logit_scale.exp(),
            all_images=images,
            all_texts=texts,
            first=first,
            positive=positive,
        )
        return {"loss": loss, "itc": loss}

    @torch.no_grad()
    def advance(self, state: nn.Module, outputs: Sequence[dict[str, Tensor]]) -> None:
        self.logit_scale.clamp_(0, MAX_SCALE)

    def decays(self, name: str, parameter: nn.Parameter) -> bool:
        """open_clip's rule: not to gains, biases, the class token and `logit_scale`."""
        return parameter.ndim >= 2 and not name.endswith("cls_token")

    def image_context(self, image: Float[Tensor, "B 3 H W"]) -> tuple[Float[Tensor, "B E"], None]:
        return self.image_features(self.image_tower(image)), None

    def text_context(self, input_ids, attention_mask) -> tuple[Float[Tensor, "B E"], Float[Tensor, "B T D"]]:
        hidden = self.text(input_ids)
        return self.text_features(hidden, attention_mask), hidden
