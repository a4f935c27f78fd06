"""Linear probe: how much of a picture's class lies open in the frozen features of any system?

```
 training pictures -> frozen image tower -> one vector each -> standardised -> logistic regression
```
The regression is convex and solved to the end by L-BFGS from zero, so that nothing of it depends on a seed.
The strength of its L2 penalty is the one that does best on every fifth training sample, learned from the
others; then all are learned from (CLIP, appendix A.3, with a held-out part instead of a validation set).
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Sequence
from typing import Any, Literal, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor

from multiway.batch import Batch
from multiway.core.pooling import mean_pool
from multiway.data.labelled import LabelledPictures
from multiway.errors import UserError
from multiway.metrics import classification as metrics
from multiway.metrics.controls import other
from multiway.systems.base import System
from multiway.systems.beit3_system import MultiwaySystem
from multiway.systems.bert import unpadded
from multiway.systems.vilt_system import OneTower
from multiway.systems.vit import VisionTransformer
from multiway.tasks.classify import scores
from multiway.tasks.predictions import Measurement, Predictions, pick, predict
from multiway.tasks.two_stage import Progress, silent

Pool = Literal["own", "cls", "mean"]
#: Strengths of the L2 penalty that are tried: on standardised features, beside a mean cross-entropy.
PENALTIES = (1e-1, 1e-2, 1e-3, 1e-4)
HELD_OUT = 5  # every so many training samples


class Probe(NamedTuple):
    """A logistic regression of standardised features."""

    mean: Float[Tensor, " D"]
    scale: Float[Tensor, " D"]
    weight: Float[Tensor, "K D"]
    bias: Float[Tensor, " K"]

    def logits(self, features: Float[Tensor, "N D"]) -> Float[Tensor, "N K"]:
        """A column a class."""
        return F.linear((features - self.mean) / self.scale, self.weight, self.bias)


def pooled(model: System, image: Float[Tensor, "B 3 H W"], pool: Pool = "own") -> Float[Tensor, "B D"]:
    """One vector of the image tower a picture.

    Args:
        pool: the tower's class token; the mean of its patches; or what the tower itself takes: its class
            token, where it has one that stands for the picture.

    Raises:
        UserError: there is no tower, or it has no class token and that is asked for.
    """
    if isinstance(model, MultiwaySystem):  # BEiT-3 has no tower of its own: its picture part stands for one
        tokens = model.look(image)
        return tokens[:, 1:].mean(1) if pool == "mean" else tokens[:, 0]
    if isinstance(model, OneTower):  # a ViLT's pictures lie on a canvas, with positions of their own size
        tower, looked = model.image_tower, model.look(image)
        assert looked.mask is not None  # `look` gives one
        own = looked.mask.long()
        tokens = tower.norm(unpadded(tower.blocks, looked.tokens, own))
        return mean_pool(tokens[:, 1:], own[:, 1:]) if pool == "mean" else tokens[:, 0]
    if not hasattr(model, "image_tower"):
        raise UserError(f"{type(model).__name__} has no image tower whose features could be probed")
    tower: Any = model.image_tower
    tokens = tower(image)
    has_token = tower.pooled_index == 0 or getattr(tower, "cls_token", None) is not None
    if pool == "own" and isinstance(tower, VisionTransformer) and tower.config.pool != "none":
        return tower.pooled(tokens)
    if pool == "own":
        pool = "mean" if tower.pooled_index is None else "cls"
    if pool == "cls" and not has_token:
        raise UserError(f"the image tower of {type(model).__name__} has no class token: take --pool mean")
    return tokens[:, 0] if pool == "cls" else tokens[:, int(has_token) :].mean(1)


class _Looking(System):
    """A system whose features stand where another's logits do."""

    has_text = False

    def __init__(self, model: System, pool: Pool):
        super().__init__()
        self.model, self.pool, self.config = model, pool, model.config
        self.image_size, self.image_mean, self.image_std = model.image_size, model.image_mean, model.image_std
        self.kept_shape = model.kept_shape

    def predict(self, batch: Batch) -> Float[Tensor, "B D"]:
        return pooled(self.model, batch.need("image"), self.pool)


def fit(features: Float[Tensor, "N D"], labels: Int[Tensor, " N"], classes: int, penalty: float) -> Probe:
    """The regression with the least mean cross-entropy plus `penalty` / 2 times the weights' squares."""
    mean, scale = features.mean(0), features.std(0, correction=0).clamp_min(1e-6)
    x = (features - mean) / scale
    weight = torch.zeros(classes, x.shape[1], requires_grad=True)
    bias = torch.zeros(classes, requires_grad=True)
    solver = torch.optim.LBFGS(
        [weight, bias],
        max_iter=200,
        tolerance_grad=1e-6,
        tolerance_change=1e-9,
        line_search_fn="strong_wolfe",
    )

    def loss() -> Tensor:
        solver.zero_grad()
        value = F.cross_entropy(F.linear(x, weight, bias), labels) + penalty / 2 * weight.square().sum()
        value.backward()
        return value

    solver.step(loss)
    return Probe(mean, scale, weight.detach(), bias.detach())


def chosen(
    features: Float[Tensor, "N D"], labels: Int[Tensor, " N"], classes: int, penalties: Sequence[float]
) -> float:
    """The penalty whose regression is right most often on what it has not seen; of equals the first."""
    held = torch.arange(len(labels)) % HELD_OUT == HELD_OUT - 1

    def right(penalty: float) -> float:
        probe = fit(features[~held], labels[~held], classes, penalty)
        return float((probe.logits(features[held]).argmax(1) == labels[held]).float().mean())

    return max(penalties, key=right)


def measure(
    model: System,
    train: LabelledPictures,
    data: LabelledPictures,
    *,
    pool: Pool = "own",
    penalties: Sequence[float] = PENALTIES,
    batch_size: int = 32,
    progress: Progress = silent,
) -> Measurement:
    """A probe learned from `train` and measured on `data`, in percent.

    Args:
        data: opened with the labels of `train`.

    Returns:
        As `classify.measure`; and `n_train`, `width` of the features, and the `penalty` that was taken.

    Raises:
        UserError: no picture can be used, or fewer than five to learn from.
    """
    looking, began = _Looking(model, pool), time.perf_counter()
    given = predict(looking, train, batch_size=batch_size, progress=progress)
    asked = predict(looking, data, batch_size=batch_size, progress=progress)
    if len(given.labels) < HELD_OUT:
        raise UserError(f"a probe can't be learned from {len(given.labels)} pictures: give more")
    classes = len(train.labels)
    features, labels = torch.from_numpy(given.logits), torch.from_numpy(given.labels)
    penalty = chosen(features, labels, classes, penalties) if len(penalties) > 1 else penalties[0]
    probe = fit(features, labels, classes, penalty)

    def found(rows: np.ndarray) -> dict[str, Any]:
        logits = probe.logits(torch.from_numpy(rows)).numpy()
        return scores(Predictions(numbers=asked.numbers, logits=logits, labels=asked.labels))

    result = found(asked.logits)
    order = other(range(len(asked.labels)))
    result |= {
        "majority": 100 * metrics.majority(asked.labels),
        "shuffled": None if order is None else pick(found(asked.logits[order]), "top1"),
        "n_train": len(labels),
        "width": features.shape[1],
        "penalty": penalty,
    }
    bad = Counter(given.skipped) + Counter(train.problems)
    skipped = asked.skipped | {f"{reason} (training)": count for reason, count in bad.items()}
    return Measurement(result=result, seconds=time.perf_counter() - began, skipped=skipped)
