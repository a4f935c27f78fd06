"""Replay of lucidrains' CoCa: our losses, pooling and masks around blocks that the paper does not have.

Its layers are PaLM's: attention and a gated feed-forward side by side, rotary positions, one head of keys and
values, norms without a bias. They live here alone; CoCa as published by open_clip, and in the paper, has none
of that. Its pooler is the single form, its words make its logits, and its text is cut before [CLS] is added.
"""

from __future__ import annotations

from typing import Any

import clip
import torch
import torch.nn.functional as F
from case import Case, at_tokens
from torch import Tensor, nn

from multiway.batch import Batch
from multiway.core.block import Context, Stack
from multiway.core.cache import KeyValue
from multiway.core.ragged import Ragged
from multiway.objectives import language
from multiway.systems.bert import unpadded
from multiway.systems.coca import CoCa
from multiway.systems.coca_config import CoCaConfig
from multiway.systems.coca_network import Pooled
from multiway.systems.contrast import contrast


class Norm(nn.Module):
    """LayerNorm without a bias."""

    def __init__(self, width: int):
        super().__init__()
        self.gamma = nn.Parameter(torch.ones(width))

    def forward(self, x: Tensor) -> Tensor:
        return F.layer_norm(x, x.shape[-1:], self.gamma)


def gated(x: Tensor) -> Tensor:
    """SwiGLU."""
    value, gate = x.chunk(2, dim=-1)
    return F.silu(gate) * value


def turned(x: Tensor) -> Tensor:
    """Rotary positions: feature i and i + d / 2 of token t turned by t * 10000^(-2 i / d)."""
    half = x.shape[-1] // 2
    angle = torch.arange(x.shape[-2])[:, None] * 10000 ** -(torch.arange(half) / half)
    one, two = x.split(half, dim=-1)
    return torch.cat([one * angle.cos() - two * angle.sin(), two * angle.cos() + one * angle.sin()], dim=-1)


class Parallel(nn.Module):
    """Causal self-attention and feed-forward side by side, after one norm."""

    def __init__(self, width: int, heads: int, head: int, ratio: int):
        super().__init__()
        self.parts = (heads * head, head, head, 2 * ratio * width)
        self.heads, self.norm = heads, Norm(width)
        self.fused_attn_ff_proj = nn.Linear(width, sum(self.parts), bias=False)
        self.attn_out = nn.Linear(heads * head, width, bias=False)
        self.ff_out = nn.ModuleList([nn.Identity(), nn.Linear(ratio * width, width, bias=False)])

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        query, key, value, wide = self.fused_attn_ff_proj(self.norm(x)).split(self.parts, dim=-1)
        query = turned(query.unflatten(-1, (self.heads, -1)).transpose(1, 2))
        key, value = (t[:, None].expand_as(query) for t in (turned(key), value))
        found = F.scaled_dot_product_attention(query, key, value, attn_mask=mask)
        return x + self.attn_out(found.transpose(1, 2).flatten(2)) + self.ff_out[1](gated(wide))


class Crossing(nn.Module):
    """Cross-attention with one head of keys and values; the norm of the context, or a feed-forward beside."""

    def __init__(self, width: int, heads: int, head: int, *, seen: int, ratio: int | None):
        super().__init__()
        self.heads, self.norm = heads, Norm(width)
        self.context_norm = Norm(seen) if ratio is None else nn.Identity()
        self.to_q = nn.Linear(width, heads * head, bias=False)
        self.to_kv = nn.Linear(seen, 2 * head, bias=False)
        self.to_out = nn.Linear(heads * head, width, bias=False)
        self.ff = None
        if ratio is not None:
            wide = ratio * width
            self.ff = nn.ModuleList(
                [
                    nn.Linear(width, 2 * wide, bias=False),
                    nn.Identity(),
                    nn.Linear(wide, width, bias=False),
                ]
            )

    def context(self, tokens: Tensor) -> KeyValue:
        """Keys and values, one head."""
        key, value = self.to_kv(self.context_norm(tokens))[:, None].chunk(2, dim=-1)
        return KeyValue(key, value)

    def forward(self, x: Tensor, context: KeyValue) -> Tensor:
        x = self.norm(x)
        query = self.to_q(x).unflatten(-1, (self.heads, -1)).transpose(1, 2)
        query = query.expand(len(context.key), -1, -1, -1)
        key, value = (t.expand(-1, self.heads, -1, -1) for t in (context.key, context.value))
        out = self.to_out(F.scaled_dot_product_attention(query, key, value).transpose(1, 2).flatten(2))
        return out if self.ff is None else out + self.ff[2](gated(self.ff[0](x)))


class Layers(Stack):
    """In the place of a `core.block.Stack`: layers of self-attention, or of that and cross-attention."""

    def context(self, tokens: Tensor) -> Context:
        return Context(tuple(layer[1].context(tokens) for layer in self))

    def forward(
        self, x: Tensor, *, mask: Tensor, context: Context | None, ragged: Ragged | None = None, route: Any
    ) -> Tensor:
        if ragged is not None:
            return ragged.pack(self(ragged.pad(x), mask=mask, context=context, route=route))
        for i, layer in enumerate(self):
            if context is None:
                x = layer(x, mask)
            else:
                x = layer[0](x, mask)
                x = x + layer[1](x, context.layers[i])
        return x


class Pooling(nn.Module):
    """One attention of Q + 1 queries, the first for the contrast: the single form."""

    def __init__(self, sizes: dict[str, int]):
        super().__init__()
        self.queries = nn.Parameter(torch.empty(sizes["nq"] + 1, sizes["dim"]))
        self.attention = Crossing(
            sizes["dim"], sizes["heads"], sizes["dh"], seen=sizes["img_dim"], ratio=None
        )
        self.norm = Norm(sizes["dim"])

    def forward(self, tokens: Tensor) -> Pooled:
        found = self.norm(self.attention(self.queries[None], self.attention.context(tokens)))
        return Pooled(found[:, 0], found[:, 1:])


class Vectors(nn.Module):
    """Words without positions."""

    def __init__(self, vocabulary: int, width: int):
        super().__init__()
        self.words, self.cls_token = nn.Embedding(vocabulary, width), nn.Parameter(torch.empty(width))

    def ended(self, input_ids: Tensor) -> Tensor:
        """[CLS] after them."""
        return torch.cat([self.words(input_ids), self.cls_token.expand(len(input_ids), 1, -1)], dim=1)


class Palm(CoCa):
    """Our CoCa with those parts."""

    def __init__(self, config: CoCaConfig, sizes: dict[str, int]):
        nn.Module.__init__(self)
        width, shape = sizes["dim"], (sizes["dim"], sizes["heads"], sizes["dh"])
        self.config, self.image_tower = config, clip.Rows()
        self.pooler, self.words = Pooling(sizes), Vectors(sizes["V"], width)
        self.text = Layers(Parallel(*shape, sizes["ff"]) for _ in range(sizes["ud"]))
        self.multimodal = Layers(
            nn.ModuleList([Parallel(*shape, sizes["ff"]), Crossing(*shape, seen=width, ratio=sizes["ff"])])
            for _ in range(sizes["md"])
        )
        self.text_norm, self.norm = Norm(width), Norm(width)
        self.image_proj, self.text_proj = (nn.Linear(width, sizes["lat"], bias=False) for _ in range(2))
        self.word_head = nn.Linear(width, sizes["V"], bias=False)
        self.word_head.weight = self.words.words.weight
        self.logit_scale = nn.Parameter(torch.empty(1))


#: Beginnings of our names, and of theirs.
NAMES = {
    "pooler.queries": "img_queries",
    "pooler.attention": "img_attn_pool",
    "pooler.norm": "img_attn_pool_norm",
    "image_proj": "img_to_latents.to_latents",
    "text_proj": "text_to_latents.to_latents",
    "logit_scale": "temperature",
    "text_norm": "text_cls_norm",
    "norm": "to_logits.0",
    "words.words": "token_emb",
    "words.cls_token": "text_cls_token",
}


def official_name(ours: str) -> str:
    """Their name of one of our parameters."""
    for one, theirs in NAMES.items():
        if ours == one or ours.startswith(f"{one}."):
            return theirs + ours[len(one) :]
    stack, layer, rest = ours.split(".", 2)
    if stack == "text":
        return f"unimodal_layers.{layer}.fn.{rest}"
    part, rest = rest.split(".", 1)
    return f"multimodal_layers.{layer}.{part}.fn.{rest}"


def lucidrains(case: Case) -> dict[str, Any]:
    """Both losses of given picture tokens, with the gradients."""
    sizes, weights = case.config["model"], case.config["loss_weights"]
    config = CoCaConfig(contrastive_weight=weights["contrastive"], caption_weight=weights["caption"])
    model = Palm(config, sizes)
    ours = {name: official_name(name) for name, _ in model.named_parameters()}
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            parameter.copy_(case.weights[ours[name]])
    ids = case.inputs["text"]
    real = (ids != case.config["special_ids"]["pad"]).long()
    pooled = model.pool(case.inputs["image_tokens"])
    embeds = model.read(ids[:, :-1], real[:, :-1])  # cut first: [CLS] does not see the last token
    image, text = model.image_features(pooled), model.text_features(embeds)
    context, labels = model.context(pooled), model.labels(ids, real)
    hidden = unpadded(model.multimodal, embeds[:, :-1], real[:, 1:], causal=True, context=context)
    itc = contrast(config, Batch(), image, text, model.logit_scale.squeeze())
    lm = language.lm(model.logits(hidden[labels != -100]), labels[labels != -100])
    total = config.contrastive_weight * itc + config.caption_weight * lm
    total.backward()
    grads = {ours[name]: p.grad for name, p in model.named_parameters() if p.grad is not None}
    assert model.word_head.weight is model.words.words.weight
    return {
        "config.tied": "to_logits.1.weight is token_emb.weight (removed from weights.safetensors)",
        "image_embeds": pooled.vector,
        "image_tokens": pooled.tokens,
        "image_latents": image,
        "text_embeds": model.text_norm(embeds[:, -1]),
        "text_latents": text,
        "text_tokens": at_tokens(embeds[:, :-1], real[:, :-1]),
        "logits": at_tokens(model.logits(hidden), real[:, 1:]),
        "loss/caption_unweighted": lm,
        "loss/caption": config.caption_weight * lm,
        "loss/contrastive": itc,
        "loss/total": total,
        **{f"grad.{n}": g for n, g in grads.items()},
        **{f"grad_norm.{n}": g.norm() for n, g in grads.items()},
        "grad_norm_total": torch.stack([g.norm() for g in grads.values()]).norm(),
        "config.params_without_grad": [n for n, p in model.named_parameters() if p.grad is None],
    }
