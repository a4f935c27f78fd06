"""A small VLMo, its fine-tuning networks, and beside it the official schedule of its work."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import tiny
import torch
import torch.nn.functional as F
from torch import Tensor

from multiway.batch import Batch
from multiway.core.relative import image_index, image_rows, joint_index, text_index
from multiway.objectives import contrastive
from multiway.systems.patches import ImageConfig
from multiway.systems.vlmo import Draws, VLMo
from multiway.systems.vlmo_config import (
    AnswerConfig,
    MultiwayConfig,
    ReasoningConfig,
    RetrievalConfig,
    TextConfig,
    VLMoConfig,
)
from multiway.text import TokenizerConfig

POSITIONS, LONGEST = 12, 17


def sizes(**changes: Any) -> dict[str, Any]:
    return {
        "image": ImageConfig(image_size=32, patch_size=8),
        "text": TextConfig(vocab_size=tiny.VOCAB, positions=POSITIONS, dropout=0.0),
        "tokenizer": TokenizerConfig(cleaning="none", add_sep=True, max_length=POSITIONS),
        "width": 24,
        "depth": 4,
        "heads": 3,
        "hidden": 40,
        "drop_path": 0.0,
        "relative_positions": LONGEST,
    } | changes


def config(**changes: Any) -> VLMoConfig:
    return VLMoConfig(**sizes(**changes))


def shaken(model: Any, seed: int = 0) -> Any:
    """With weights large enough to tell wrong from right; tables and gains too."""
    noise = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim:
                parameter += 0.1 * torch.randn(parameter.shape, generator=noise)
    return model


def vlmo(given: VLMoConfig | None = None, *, kind: type[VLMo] = VLMo, seed: int = 0) -> VLMo:
    torch.manual_seed(seed)
    return shaken(kind(given or config()), seed)


def draws(batch: Batch, *, seed: int = 0) -> Draws:
    """Negatives, and at least one masked token a text."""
    drawn = tiny.draws(batch, seed=seed)
    return Draws(
        negative_image=drawn.negative_image,
        negative_text=drawn.negative_text,
        mlm_input_ids=drawn.mlm_input_ids,
        mlm_labels=drawn.mlm_labels,
    )


class PlainVLMo(VLMo):
    """As the official code goes: texts padded to the longest there may be, three passes for ITM, one for MLM,
    every layer whole, every position through the head; attention spelled out.
    """

    def losses(
        self, batch: Batch, state: Any, draws: Draws | None = None, generator: Any = None
    ) -> dict[str, Tensor]:
        assert draws is not None
        ids, mask = (_to(x, POSITIONS) for x in batch.text())
        image, texts = batch.image, self.transformer.embed_text
        pictures = self.transformer.embed_image
        dual = self._contrast(
            self._alone(pictures(image), "image", None, ("image", "joint")),
            self._alone(texts(ids), "text", mask, ("text", "joint")),
        )
        rows, neg_image, neg_text = torch.arange(len(ids)), draws.negative_image, draws.negative_text
        passes = [(rows, rows), (rows, neg_image), (neg_text, rows)]
        pooled = [
            torch.tanh(self.pooler(self._pair(texts(ids[t]), mask[t], pictures(image[i]))[:, 0]))
            for t, i in passes
        ]
        logits = self.itm_head(torch.cat(pooled))
        itm = F.cross_entropy(logits, torch.tensor([1] * len(ids) + [0] * (2 * len(ids))))
        hidden = self._pair(texts(_to(draws.mlm_input_ids, POSITIONS)), mask, pictures(image))
        words = self.words(hidden[:, :POSITIONS])
        labels = _to(draws.mlm_labels, POSITIONS, -100)
        mlm = F.cross_entropy(words.flatten(0, 1), labels.flatten(), ignore_index=-100)
        itc = (dual[0] + dual[1]) / 2
        total = itc + self.config.itm_weight * itm + self.config.mlm_weight * mlm
        found = {"itc": itc, "itc_dual": dual[0], "itc_joint": dual[1], "itm": itm, "mlm": mlm}
        return found | {"loss": total}

    def _contrast(self, images: list[Tensor], texts: list[Tensor]) -> list[Tensor]:
        heads = (
            (self.image_proj, self.text_proj, self.logit_scale),
            (self.joint_image_proj, self.joint_text_proj, self.joint_logit_scale),
        )
        return [
            contrastive.clip_loss(
                F.normalize(to_image(i[:, 0]), dim=-1), F.normalize(to_text(t[:, 0]), dim=-1), scale.exp()
            )
            for i, t, (to_image, to_text, scale) in zip(images, texts, heads, strict=True)
        ]

    def _alone(self, x: Tensor, expert: str, mask: Tensor | None, tops: tuple[str, ...]) -> list[Tensor]:
        grid = self.config.image.grid
        if expert == "image":
            index = image_index(grid)
        else:
            index = text_index(x.shape[1], positions=LONGEST, first=image_rows(grid) + 2)
        below = self.config.depth - self.config.joint_layers
        for layer in range(below):
            x = self._layer(x, layer, index, mask, [(expert, x.shape[1])])
        out = []
        for top in tops:
            y = x
            for layer in range(below, self.config.depth):
                y = self._layer(y, layer, index, mask, [(top, y.shape[1])])
            out.append(self.transformer.norm(y))
        return out

    def _pair(self, text: Tensor, mask: Tensor, image: Tensor) -> Tensor:
        length, patches = text.shape[1], image.shape[1]
        index = joint_index(length, self.config.image.grid, positions=LONGEST)
        mask = torch.cat([mask, torch.ones(len(mask), patches, dtype=mask.dtype)], 1)
        x = torch.cat([text, image], 1)
        for layer in range(self.config.depth):
            joint = layer >= self.config.depth - self.config.joint_layers
            segments = [("joint", length + patches)] if joint else [("text", length), ("image", patches)]
            x = self._layer(x, layer, index, mask, segments)
        return self.transformer.norm(x)

    def _layer(
        self, x: Tensor, layer: int, index: Tensor, mask: Tensor | None, segments: list[tuple[str, int]]
    ) -> Tensor:
        block, heads = self.transformer.blocks[layer], self.config.heads
        qkv = block.attention.qkv
        bias = torch.cat([qkv.q_bias, torch.zeros_like(qkv.q_bias), qkv.v_bias])
        y = F.linear(block.norm1(x), qkv.weight, bias).unflatten(-1, (3, heads, -1))
        q, k, v = y.permute(2, 0, 3, 1, 4)
        scores = q @ k.transpose(-1, -2) / q.shape[-1] ** 0.5
        if self.transformer.relative is not None:
            columns = self.transformer.relative.table[:, layer * heads : (layer + 1) * heads]
            scores = scores + columns[index].permute(2, 0, 1)
        if mask is not None:
            scores = scores.masked_fill(mask[:, None, None] == 0, float("-inf"))
        y = block.attention.out((scores.softmax(-1) @ v).transpose(1, 2).flatten(2))
        gains = (1.0, 1.0) if block.gamma1 is None else (block.gamma1, block.gamma2)
        x, out = x + gains[0] * y, []
        for (expert, _), part in zip(segments, x.split([n for _, n in segments], 1), strict=True):
            out.append(part + gains[1] * block.ffn[expert](block.norm2[expert](part)))
        return torch.cat(out, 1)


def _to(x: Tensor, length: int, value: int = 0) -> Tensor:
    return F.pad(x, (0, length - x.shape[1]), value=value)


def networks() -> dict[str, MultiwayConfig]:
    """A config of each kind of network."""
    return {
        "vlmo": config(),
        "vlmo text": config(stage="text", joint_layers=0),
        "vlmo absolute": config(positions="absolute", layer_scale=None),
        "vlmo_retrieval": RetrievalConfig(**sizes()),
        "vlmo_vqa": AnswerConfig(**sizes(), labels=("yes", "no", "two", "red", "left")),
        "vlmo_nlvr2": ReasoningConfig(**sizes(types=3)),
    }


def batch_for(name: str, *, seed: int = 0) -> Batch:
    """A batch that a network's losses take."""
    batch = tiny.batch(seed=seed)
    g = torch.Generator().manual_seed(seed)
    if name == "vlmo_vqa":
        return replace(batch, targets=torch.rand(len(batch), 5, generator=g))
    if name == "vlmo_nlvr2":
        pictures = torch.randn(len(batch), 2, 3, 32, 32, generator=g)
        return replace(batch, image=pictures, labels=torch.tensor([0, 1, 1, 0, 1]))
    return batch
