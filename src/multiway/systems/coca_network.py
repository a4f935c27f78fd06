"""The parts of CoCa: its attentional poolers, its words, and how fresh weights are drawn."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from multiway.core.attention import CrossAttention
from multiway.core.block import Block, Stack
from multiway.core.init import zero_biases
from multiway.core.pooling import AttentionPool
from multiway.generation import GenerationConfig
from multiway.systems.clip import CLIPTextConfig
from multiway.systems.coca_config import CoCaConfig, PoolerConfig
from multiway.systems.vit import VisionTransformer
from multiway.text import Tokenizer

EPS = 1e-5


class Pooled(NamedTuple):
    """A picture for the contrast, and for captions."""

    vector: Float[Tensor, "B D"]
    tokens: Float[Tensor, "B Q D"]


class Pooler(nn.Module):
    """Task-specific attentional pooling: see `PoolerConfig`.

    Source: the paper's section 3.2 and figure 2; for the norms open_clip's transformer.py, `_pool`.

    Args:
        context_width: width C of the picture's tokens. width: D of what is pooled; C without a pooler.
    """

    def __init__(self, config: PoolerConfig, context_width: int, width: int):
        super().__init__()
        self.form = config.form
        self.norm = nn.LayerNorm(width if self.form == "single" else context_width, eps=EPS)
        self.captions = self.contrast = None
        if self.form != "none":
            self.captions = AttentionPool(context_width, width, heads=config.heads, queries=config.queries)
            init_cross(self.captions.attention)
        if self.form in ("cascade", "parallel"):
            seen = width if self.form == "cascade" else context_width
            self.contrast = AttentionPool(seen, width, heads=config.heads, queries=1)
            init_cross(self.contrast.attention)

    def forward(self, tokens: Float[Tensor, "B N C"]) -> Pooled:
        if self.captions is None:
            found = self.norm(tokens)
            return Pooled(found[:, 0], found[:, 1:])
        if self.contrast is None:
            found = self.norm(self.captions.vectors(tokens))
            return Pooled(found[:, 0], found[:, 1:])
        tokens = self.norm(tokens)
        found = self.captions.vectors(tokens)
        return Pooled(self.contrast(found if self.form == "cascade" else tokens), found)


class Words(nn.Module):
    """Word and position embeddings, and [CLS], which has a position of its own however long a text is."""

    def __init__(self, config: CLIPTextConfig):
        super().__init__()
        self.words = nn.Embedding(config.vocab_size, config.width)
        self.positions = nn.Parameter(torch.empty(config.positions, config.width))
        self.cls_position = nn.Parameter(torch.empty(1, config.width))
        self.cls_token = nn.Parameter(torch.empty(config.width))
        nn.init.normal_(self.words.weight, std=0.02)
        for parameter in (self.positions, self.cls_position, self.cls_token):
            nn.init.normal_(parameter, std=0.01)

    def forward(
        self, input_ids: Int[Tensor, "B T"], *, start: int | Int[Tensor, " B"] = 0
    ) -> Float[Tensor, "B T D"]:
        """`start` is the position of the first token, for all rows or each."""
        if isinstance(start, int):
            return self.words(input_ids) + self.positions[start : start + input_ids.shape[1]]
        places = start[:, None] + torch.arange(input_ids.shape[1], device=start.device)
        return self.words(input_ids) + self.positions[places]

    def ended(self, input_ids: Int[Tensor, "B T"]) -> Float[Tensor, "B S D"]:
        """The texts with [CLS] after them, at position T, after their padding."""
        cls = (self.cls_token + self.cls_position).expand(input_ids.shape[0], 1, -1)
        return torch.cat([self(input_ids), cls], dim=1)


def projection(width: int, out: int, *, std: float) -> nn.Linear:
    """A linear map without a bias."""
    linear = nn.Linear(width, out, bias=False)
    nn.init.normal_(linear.weight, std=std)
    return linear


def unimodal(config: CoCaConfig) -> Stack:
    """The layers that read texts alone; with experts, pictures too."""
    text, experts = config.text, ("image", "text") if config.experts else ("all",)
    blocks = Stack(
        Block(text.width, text.heads, text.hidden, experts=experts, eps=EPS, quick_gelu=text.quick_gelu)
        for _ in range(text.layers)
    )
    init_text(blocks, text.width)
    return blocks


def multimodal(config: CoCaConfig) -> Stack:
    """The layers that cross-attend to pictures."""
    text, own = config.text, config.multimodal
    blocks = Stack(
        Block(
            text.width,
            own.heads,
            own.hidden,
            context_width=text.width,
            context_norm=own.context_norm,
            middle=own.feed_forwards == 2,
            eps=EPS,
            quick_gelu=text.quick_gelu,
        )
        for _ in range(own.layers)
    )
    init_default(blocks)
    return blocks


def init_text(blocks: Stack, width: int) -> None:
    """CLIP's normal weights; biases of feed-forwards stay as torch draws them (recorded case coca/init)."""
    residual = width**-0.5 * (2 * len(blocks)) ** -0.5
    for block in blocks:
        for part in ("qkv", "out"):
            std = width**-0.5 if part == "qkv" else residual
            nn.init.normal_(block.get_parameter(f"attention.{part}.weight"), std=std)
        zero_biases(block.attention)
        for expert in block.ffn:
            nn.init.normal_(block.get_parameter(f"ffn.{expert}.fc1.weight"), std=(2 * width) ** -0.5)
            nn.init.normal_(block.get_parameter(f"ffn.{expert}.fc2.weight"), std=residual)


def init_default(blocks: Stack) -> None:
    """torch's own of `nn.MultiheadAttention` and `nn.Linear`, as open_clip leaves them."""
    for block in blocks:
        for part in block.modules():
            if isinstance(part, nn.Linear):
                part.reset_parameters()
        nn.init.xavier_uniform_(block.get_parameter("attention.qkv.weight"))
        zero_biases(block.attention)
        if block.cross is not None:
            init_cross(block.cross)


def init_cross(attention: CrossAttention) -> None:
    """The same of cross-attention: one matrix where the context is as wide as the queries, else three."""
    width, context_width = attention.query.in_features, attention.key_value.in_features
    joint = (6 / (4 * width)) ** 0.5
    for weight in (attention.query.weight, *attention.key_value.weight.chunk(2)):
        if context_width == width:
            nn.init.uniform_(weight, -joint, joint)
        else:
            nn.init.xavier_uniform_(weight)
    for linear in (attention.query, attention.key_value, attention.out):
        nn.init.zeros_(linear.bias)


def init_tower(tower: VisionTransformer) -> None:
    """open_clip's tower: normal tokens and positions, torch's own of the rest."""
    std = tower.width**-0.5
    nn.init.normal_(tower.cls_token, std=std)
    if tower.positions is not None and not tower.config.sincos:
        nn.init.normal_(tower.positions, std=std)
    init_default(tower.blocks)


def search(config: CoCaConfig, tokenizer: Tokenizer, prompt_length: int) -> GenerationConfig:
    """How captions are searched: beam 3 and `config.caption_length`.

    With "beams_sum_logits" it is open_clip's search of 6 in 3 groups; its groups do not differ, so that it is
    one search of 2 beams.
    """
    longest = config.text.positions + 1  # the last token is read by nobody
    least, most = (min(length, longest) for length in config.caption_length)
    options: dict[str, Any] = {}
    if "beams_sum_logits" in config.compat:
        options = {"beams": 2, "beam_scores": "logits", "length_rule": "open_clip"}
    return GenerationConfig(
        min_length=max(least - prompt_length, 0),
        max_length=max(most - prompt_length, 1),
        eos_id=tokenizer.sep_id,
        pad_id=tokenizer.pad_id,
        pad_ends="zero_is_padding" in config.compat,
        **options,
    )
