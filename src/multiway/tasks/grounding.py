"""Where is what a text says? Heat by Grad-CAM, the proposal that is hottest, and the hottest point.

shuffled   the same with another sample's text: what knows of no text scores so
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float
from PIL import Image

from multiway.data.referring import Box, Referred, Referring
from multiway.data.sample import BadSample
from multiway.errors import UserError
from multiway.explain import By, gradcam, resize_heat
from multiway.metrics import grounding as metrics
from multiway.metrics.classification import bootstrap, rounded
from multiway.metrics.controls import other
from multiway.systems.base import System
from multiway.tasks.outcomes import Outcomes
from multiway.tasks.predictions import Measurement
from multiway.tasks.two_stage import Progress, silent
from multiway.tasks.upload import write_json


def heat_of(
    model: System,
    pictures: Sequence[Image.Image],
    texts: Sequence[str],
    *,
    by: By = "itm",
    layer: int | None = None,
) -> list[Float[np.ndarray, "H W"]]:
    """Heat of each picture's pixels for its text.

    Raises:
        UserError: the model has no cross-attention, or no such layer.
    """
    before = model.training
    model.eval()
    try:
        pairs = model.prepare(list(pictures)), *model.tokenize(list(texts))
        found = gradcam(model, *pairs, by=by, layer=layer)
    finally:
        model.train(before)
    sizes = [(picture.height, picture.width) for picture in pictures]
    return [resize_heat(heat, size) for heat, size in zip(found.heat, sizes, strict=True)]


@dataclass(frozen=True)
class Grounded:
    """What became of the texts: which these are, and of each whether it was pointed at and chosen.

    `chosen` and its chance are NaN where there are no proposals; chances are those of a blind guess.
    `boxes` [N, 4] are what the model points to, see `box_of`.
    """

    numbers: list[int]
    pointed: Float[np.ndarray, " N"]
    chosen: Float[np.ndarray, " N"]
    pointed_chance: Float[np.ndarray, " N"]
    chosen_chance: Float[np.ndarray, " N"]
    boxes: Float[np.ndarray, "N 4"]


def ground(
    model: System,
    data: Referring,
    *,
    skipped: Counter[str],
    numbers: Sequence[int] | None = None,
    texts: Sequence[int] | None = None,
    by: By = "itm",
    layer: int | None = None,
    batch_size: int = 16,
    progress: Progress = silent,
) -> Grounded:
    """Heat of every text that can be used, held against its box.

    Args:
        skipped: counts what can't be used, by reason.
        numbers: the samples to take; None: all. texts: for each of them the sample whose text is asked for.

    Raises:
        UserError: no sample can be used, or the model has no cross-attention.
    """
    wanted = list(range(len(data)) if numbers is None else numbers)
    asked = wanted if texts is None else texts
    used, rows, found = list[int](), list[tuple[float, float, float, float]](), list[Box]()
    for start in range(0, len(wanted), batch_size):
        batch: list[tuple[int, Image.Image, str]] = []
        for i, text in zip(
            wanted[start : start + batch_size], asked[start : start + batch_size], strict=True
        ):
            try:
                batch.append((i, data.image(i), data.texts(text)[0]))
            except BadSample as bad:
                skipped[bad.reason] += 1
        if batch:
            own, pictures, said = zip(*batch, strict=True)
            heats = heat_of(model, pictures, said, by=by, layer=layer)
            rows += [_judged(heat, data.referred(i)) for i, heat in zip(own, heats, strict=True)]
            found += [box_of(heat, data.referred(i).proposals) for i, heat in zip(own, heats, strict=True)]
            used += own
        progress("texts", min(start + batch_size, len(wanted)), len(wanted))
    if not used:
        why = ", ".join(f"{reason} {n:,}" for reason, n in skipped.items()) or "it is empty"
        raise UserError(f"no sample of the data can be used ({why}): give pictures with texts and boxes")
    return Grounded(used, *np.array(rows).T, boxes=np.array(found, np.float64))


def box_of(heat: Float[np.ndarray, "H W"], proposals: Sequence[Box]) -> Box:
    """The hottest proposal; where there is none with heat, the box around what is at least half as hot as
    the hottest pixel. (left, top, width, height) in pixels.
    """
    best = metrics.best_box(heat, proposals)
    if best is not None:
        left, top, width, height = best
        return left, top, width, height
    rows, columns = np.nonzero(heat >= heat.max() / 2)
    left, top = int(columns.min()), int(rows.min())
    return left, top, int(columns.max()) + 1 - left, int(rows.max()) + 1 - top


def upload(own: Grounded, data: Referring, path: str | Path) -> None:
    """Write a list of `bbox` [left, top, width, height] in pixels, with RefCOCO's `ref_id` and `sent_id`
    where the data has them, else with the `key`.
    """
    rows = []
    for i, box in zip(own.numbers, own.boxes.tolist(), strict=True):
        ids = {name: data.meta(i)[name] for name in ("ref_id", "sent_id") if name in data.meta(i)}
        rows.append({**(ids or {"key": data.key(i)}), "bbox": box})
    write_json(path, rows)


def _judged(heat: Float[np.ndarray, "H W"], truth: Referred) -> tuple[float, float, float, float]:
    area = truth.box[2] * truth.box[3] / heat.size
    pointed = float(metrics.points_into(heat, truth.box))
    if not truth.proposals:
        return pointed, np.nan, area, np.nan
    best = metrics.best_box(heat, truth.proposals)
    right = [metrics.iou(box, truth.box) >= 0.5 for box in truth.proposals]
    chosen = float(best is not None and metrics.iou(best, truth.box) >= 0.5)
    return pointed, chosen, area, float(np.mean(right))


def measure(
    model: System,
    data: Referring,
    *,
    by: By = "itm",
    layer: int | None = None,
    predictions: str | Path | None = None,
    batch_size: int = 16,
    progress: Progress = silent,
) -> Measurement:
    """Shares in percent of texts that are grounded rightly, beside the controls.

    Args:
        by, layer: as in `explain.gradcam`.
        predictions: the file of boxes to write (`upload`).

    Returns:
        `n`; `pointing`, the share whose hottest pixel lies in the box, with its `interval` (bootstrap over
        pictures); `accuracy`, the share whose hottest proposal and box overlap by half (None without
        proposals); and both under `chance`, of a blind guess, and `shuffled`, with other samples' texts.

    Raises:
        UserError: no sample can be used, or the model has no cross-attention.
    """
    began, skipped = time.perf_counter(), Counter[str]()
    options: dict[str, Any] = {"by": by, "layer": layer, "batch_size": batch_size, "progress": progress}
    own = ground(model, data, skipped=skipped, **options)
    seconds = time.perf_counter() - began
    if predictions is not None:
        upload(own, data, predictions)
    rows = [data.referred(i) for i in own.numbers]
    order, blind = other((row.picture for row in rows), (row.text for row in rows)), None
    if order is not None:
        dealt = [own.numbers[i] for i in order.tolist()]
        blind = ground(model, data, skipped=Counter(), numbers=own.numbers, texts=dealt, **options)
    result: dict[str, Any] = {
        "n": len(rows),
        **_percent(own.pointed, own.chosen),
        "interval": rounded(bootstrap(own.pointed, [row.picture for row in rows])),
        "chance": _percent(own.pointed_chance, own.chosen_chance),
        "shuffled": None if blind is None else _percent(blind.pointed, blind.chosen),
    }
    columns = {"pointing": own.pointed, "n": np.ones(len(rows))}
    if all(row.proposals for row in rows):
        columns["accuracy"] = own.chosen
    outcomes = Outcomes(
        numbers=np.array(own.numbers),
        keys=[data.key(i) for i in own.numbers],
        columns=columns,
        main="pointing",
        groups=[row.picture for row in rows],
        score=own.pointed,
        wrong=own.pointed < 1,
        asked=[row.text for row in rows],
    )
    return Measurement(result=result, seconds=seconds, skipped=dict(skipped), outcomes=outcomes)


def _percent(pointed: Float[np.ndarray, " N"], chosen: Float[np.ndarray, " N"]) -> dict[str, float | None]:
    known = chosen[~np.isnan(chosen)]
    return {
        "pointing": 100 * float(pointed.mean()),
        "accuracy": 100 * float(known.mean()) if len(known) else None,
    }
