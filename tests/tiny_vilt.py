"""A small ViLT, its fine-tuning networks, and beside it a plain one: pair by pair, without any padding."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import tiny
import torch
import torch.nn.functional as F
from tiny_vlmo import shaken
from torch import Tensor

from multiway.batch import Batch
from multiway.systems.vilt import Draws, ViLT
from multiway.systems.vilt_config import (
    AnswerConfig,
    OneTowerConfig,
    ReasoningConfig,
    RetrievalConfig,
    ViLTConfig,
    vilt_vit,
)
from multiway.systems.vlmo_config import TextConfig
from multiway.text import TokenizerConfig

POSITIONS = 12
#: Pictures in patches (down, across), on a canvas of 4 x 5.
GRIDS = ((4, 5), (3, 2), (1, 4), (4, 4), (2, 5))


def sizes(**changes: Any) -> dict[str, Any]:
    return {
        "image": vilt_vit(image_size=32, patch_size=8, width=24, depth=3, heads=3, hidden=40, dropout=0.0),
        "text": TextConfig(vocab_size=tiny.VOCAB, positions=POSITIONS, dropout=0.0),
        "tokenizer": TokenizerConfig(cleaning="none", add_sep=True, max_length=POSITIONS),
        "longest_side": 56,
    } | changes


def config(**changes: Any) -> ViLTConfig:
    return ViLTConfig(**sizes(**changes))


def networks() -> dict[str, OneTowerConfig]:
    """A config of each kind of network."""
    return {
        "vilt": config(),
        "vilt itm": config(mlm_weight=0.0, wpa_weight=0.0),
        "vilt mlm": config(itm_weight=0.0, wpa_weight=0.0),
        "vilt_retrieval": RetrievalConfig(**sizes(), false_texts=3),
        "vilt_vqa": AnswerConfig(**sizes(), labels=("yes", "no", "two", "red", "left")),
        "vilt_nlvr2": ReasoningConfig(**sizes(types=3)),
    }


def vilt(given: ViLTConfig | None = None, *, kind: type[ViLT] = ViLT, seed: int = 0) -> ViLT:
    torch.manual_seed(seed)
    return shaken(kind(given or config()), seed)


def pictures(size: int, *, seed: int = 0, canvas: tuple[int, int] = (4, 5)) -> Tensor:
    """Pictures of different sizes in the corners of their canvases."""
    g = torch.Generator().manual_seed(seed)
    image = torch.zeros(size, 3, 8 * canvas[0], 8 * canvas[1])
    for row in range(size):
        height, width = GRIDS[row % len(GRIDS)]
        image[row, :, : 8 * height, : 8 * width] = torch.randn(3, 8 * height, 8 * width, generator=g)
    return image


def batch(size: int = 5, *, seed: int = 0) -> Batch:
    return replace(tiny.batch(size, seed=seed), image=pictures(size, seed=seed))


def draws(batch: Batch, *, seed: int = 0) -> Draws:
    """At least one masked token a text; a true and a false picture at least."""
    drawn, size = tiny.draws(batch, seed=seed), len(batch)
    return Draws(
        mlm_input_ids=drawn.mlm_input_ids,
        mlm_labels=drawn.mlm_labels,
        itm_labels=(torch.arange(size) % 2 == 0).long(),
        false_rows=(torch.arange(size) + 1) % size,
    )


def batch_for(name: str, *, seed: int = 0) -> Batch:
    """A batch that a network's losses take."""
    given = batch(seed=seed)
    g = torch.Generator().manual_seed(seed)
    if name == "vilt_vqa":
        return replace(given, targets=torch.rand(len(given), 5, generator=g))
    if name == "vilt_nlvr2":
        two = torch.stack([given.image, given.image.flip(0)], 1)
        return replace(given, image=two, labels=torch.tensor([0, 1, 1, 0, 1]))
    return given


class PlainViLT(ViLT):
    """The paper, pair by pair: every picture in its own size, every text without padding, no fast attention,
    every position through the head, transport solved for one pair at a time.
    """

    def losses(
        self, batch: Batch, state: Any, draws: Draws | None = None, generator: Any = None
    ) -> dict[str, Tensor]:
        assert draws is not None
        ids, mask = batch.text()
        mlm, itm, wpa = [], [], []
        for row in range(len(ids)):
            length = int(mask[row].sum())
            taken = None if draws.mlm_patches is None else draws.mlm_patches[row]
            masked = draws.mlm_input_ids[row, :length]
            hidden = self.one(masked, batch.image[row], taken)
            words, labels = self.words(hidden[:length]), draws.mlm_labels[row, :length]
            mlm.append(F.cross_entropy(words, labels, ignore_index=-100, reduction="sum"))
            own = bool(draws.itm_labels[row])
            seen = row if own else int(draws.false_rows[row])
            taken = None if draws.itm_patches is None else draws.itm_patches[row]
            hidden = self.one(ids[row, :length], batch.image[seen], taken)
            logits = self.itm_head(torch.tanh(self.pooler(hidden[0])))
            itm.append(F.cross_entropy(logits[None], torch.tensor([int(own)])))
            cost = transport_cost(hidden[1 : length - 1], hidden[length + 1 :])
            wpa.append(cost if own else -cost)
        found = {
            "mlm": torch.stack(mlm).sum() / (draws.mlm_labels != -100).sum(),
            "itm": torch.stack(itm).mean(),
            "wpa": torch.stack(wpa).mean(),
        }
        c = self.config
        weighted = c.mlm_weight * found["mlm"] + c.itm_weight * found["itm"] + c.wpa_weight * found["wpa"]
        return found | {"loss": weighted}

    def one(self, ids: Tensor, image: Tensor, taken: Tensor | None) -> Tensor:
        """Hidden states of one text and one picture."""
        tower, text, canvas = self.image_tower, self.text_embed, image.shape[-1] // 8
        height, width = (int((image.abs().sum(0).sum(axis) != 0).sum()) // 8 for axis in (1, 0))
        image = image[:, : 8 * height, : 8 * width]
        patches = F.conv2d(image[None], tower.patches.proj.weight, tower.patches.proj.bias, stride=8)[0]
        table = tower.positions[0, 1:].T.unflatten(1, self.config.image.grid)[None]
        table = F.interpolate(table, size=(height, width), mode="bilinear", align_corners=True)[0]
        patches = (patches + table).flatten(1).T
        if taken is not None:
            inside = [(int(i) // canvas, int(i) % canvas) for i in taken]
            patches = patches[[r * width + c for r, c in inside if r < height and c < width]]
        patches = torch.cat([tower.cls_token[0] + tower.positions[0, :1], patches])
        words = text.words.weight[ids] + text.positions.weight[: len(ids)] + text.types.weight[0]
        x = torch.cat([text.norm(words) + self.types.weight[0], patches + self.types.weight[1]])
        for block in tower.blocks:
            heads = self.config.image.heads
            q, k, v = block.attention.qkv(block.norm1(x)).unflatten(1, (3, heads, -1)).permute(1, 2, 0, 3)
            scores = q @ k.transpose(1, 2) / q.shape[-1] ** 0.5
            x = x + block.attention.out((scores.softmax(-1) @ v).transpose(0, 1).flatten(1))
            x = x + block.ffn["all"](block.norm2["all"](x)[None])[0]
        return tower.norm(x)


def transport_cost(words: Tensor, patches: Tensor, *, beta: float = 0.5, iterations: int = 50) -> Tensor:
    """Distance of the words and patches of one pair, word by word and patch by patch."""
    cost = 1 - F.normalize(words, dim=1, eps=1e-5) @ F.normalize(patches, dim=1, eps=1e-5).T
    return (cost * plan(cost.detach(), beta=beta, iterations=iterations)).sum()


def plan(cost: Tensor, *, beta: float, iterations: int) -> Tensor:
    """IPOT of one pair; zeros where there is nothing to carry."""
    words, patches = cost.shape
    if not words or not patches:
        return torch.zeros_like(cost)
    kernel, found, scale = torch.exp(-cost / beta), torch.ones_like(cost), torch.full((words,), 1 / words)
    for _ in range(iterations):
        mixed = kernel * found
        other = torch.stack([1 / (patches * (mixed[:, n] * scale).sum()) for n in range(patches)])
        scale = torch.stack([1 / (words * (mixed[t] * other).sum()) for t in range(words)])
        found = scale[:, None] * mixed * other
    return found
