"""How good captions are: BLEU, ROUGE-L, CIDEr and exact match against a picture's texts, beside two controls.

shuffled   the same captions, each given to another picture: what knows of no picture scores so
nearest    for each picture the text of the most similar training picture
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np
from jaxtyping import Float, Int
from PIL import Image

from multiway.errors import UserError
from multiway.metrics import captions as metrics
from multiway.metrics.controls import other
from multiway.systems.base import System
from multiway.tasks.caption_many import DEFAULTS, Captioned, Options, caption_pictures
from multiway.tasks.caption_scorers import Scorer, score
from multiway.tasks.outcomes import Outcomes
from multiway.tasks.retrieval import Samples
from multiway.tasks.two_stage import Progress, silent
from multiway.tasks.upload import name_of, write_json

#: Where a picture's id is said: in COCO's captions, by Karpathy, and in BLIP's NoCaps.
IDS = ("image_id", "cocoid", "img_id")


@dataclass(frozen=True, kw_only=True)
class Measurement:
    """How good captions are.

    Attributes:
        result: what `evaluate` returns.
        captions: of each picture, by its number. seconds: that captioning took.
        skipped: reason -> pictures that could not be used.
        outcomes: what became of each picture.
    """

    result: dict[str, Any]
    captions: dict[int, str]
    seconds: float = 0.0
    skipped: dict[str, int] = field(default_factory=dict)
    outcomes: Outcomes | None = None

    def sentence(self) -> str:
        """Size, speed and losses in one line."""
        count, rate = self.result["n_images"], self.result["n_images"] / max(self.seconds, 1e-9)
        line = f"{count:,} pictures captioned in {self.seconds:.1f} s ({rate:.1f} pictures/s)"
        if self.skipped:
            line += "; skipped " + ", ".join(f"{reason} {n:,}" for reason, n in self.skipped.items())
        return line


def evaluate(model: System, samples: Samples, **options: Any) -> dict[str, Any]:
    """The scores of a model's captions on pictures with reference texts: see `measure` for the options.

    Returns:
        `n_images`, `n_references`, the scores of `metrics.captions.summary` in percent, and under `shuffled`
        the same scores when each caption is given to another picture: what knows of no picture scores so.
    """
    return measure(model, samples, **options).result


def measure(
    model: System,
    samples: Samples,
    *,
    options: Options = DEFAULTS,
    texts: Literal["first", "all"] = "all",
    cut: metrics.Cut = "ptb",
    scorers: Mapping[str, Scorer] | None = None,
    predictions: str | Path | None = None,
    batch_size: int = 8,
    progress: Progress = silent,
) -> Measurement:
    """Caption every picture and compare with its texts.

    Args:
        texts: a picture's references are all its texts, or the first alone (a name, for exact match).
        cut: how captions are cut into words, see `metrics.captions.summary`.
        scorers: further ones, by name; the result has their score of the corpus, `outcomes` the mean over
            pictures (METEOR's differ a little).
        predictions: the file to write, as COCO's and NoCaps' servers take it (`upload`); then pictures may
            have no texts. Only those with texts are compared; where none has any, `result` has `n_images`
            alone, and there are no outcomes.
        progress: called as progress("captions", done, total).

    Raises:
        UserError: the model does not generate text, no picture can be used, or none has a text and no
            predictions are to be written.
    """
    references: dict[int, list[str]] = {}
    names: dict[int, str] = {}
    ids: dict[int, int | str] = {}

    def load(number: int) -> Image.Image:
        sample = samples.sample(number)
        references[number] = sample.texts[:1] if texts == "first" else sample.texts
        names[number], ids[number] = sample.key, name_of(sample.meta, IDS, sample.key)
        return sample.image

    found: list[Captioned] = []
    keys, began = [str(number) for number in range(len(samples))], time.perf_counter()
    for rows in caption_pictures(model, keys, load, options=options, batch_size=batch_size):
        found += rows
        progress("captions", len(found), len(keys))
    seconds = time.perf_counter() - began
    skipped = Counter(row.error for row in found if row.error is not None)
    good = [row for row in found if row.error is None]
    if not good:
        why = ", ".join(f"{reason} {count:,}" for reason, count in skipped.items()) or "it is empty"
        raise UserError(
            f"no picture of the data can be used ({why}): look at it with `multiway data inspect`"
        )
    said = {int(row.key): row.captions[0] for row in good}
    if predictions is not None:
        upload({ids[number]: caption for number, caption in said.items()}, predictions)
    good = [row for row in good if references[int(row.key)]]
    if not good:
        if predictions is None:
            raise UserError(
                "the data has no captions to compare with: write the model's predictions with --predictions"
            )
        result = {"n_images": len(said)}
        return Measurement(result=result, captions=said, seconds=seconds, skipped=dict(skipped))
    captions = [row.captions[0] for row in good]
    given = [references[int(row.key)] for row in good]
    columns, whole = metrics.columns(captions, given, cut=cut), {}
    for name, scorer in (scorers or {}).items():
        total, columns[name] = score(scorer, *metrics.tokenize(captions, given, cut=cut))
        whole[name] = 100 * total
    numbers = np.array([int(row.key) for row in good])
    outcomes = Outcomes(
        numbers=numbers,
        keys=[names[number] for number in numbers.tolist()],
        columns=columns,
        figures=metrics.figures,
        means=frozenset({"cider"}),
        main="cider",
        score=columns["cider"],
        wrong=columns["exact"] < 1,
        expected=[" | ".join(lines) for lines in given],
        said=captions,
    )
    return Measurement(
        result=_beside_control(captions, given, outcomes.values() | whole, cut),
        captions=said,
        seconds=seconds,
        skipped=dict(skipped),
        outcomes=outcomes,
    )


def upload(captions: Mapping[int | str, str], path: str | Path) -> None:
    """Write captions by `image_id` as COCO's and NoCaps' servers take them: a list of objects with both."""
    write_json(path, [{"image_id": number, "caption": caption} for number, caption in captions.items()])


def compare(
    captions: Sequence[str], references: Sequence[Sequence[str]], *, cut: metrics.Cut = "ptb"
) -> dict[str, Any]:
    """Scores of captions, and of the same captions dealt to other pictures."""
    return _beside_control(captions, references, metrics.summary(captions, references, cut=cut), cut)


def _beside_control(
    captions: Sequence[str], references: Sequence[Sequence[str]], scores: dict[str, float], cut: metrics.Cut
) -> dict[str, Any]:
    dealt = other(range(len(captions)))
    return {
        "n_images": len(captions),
        "n_references": sum(map(len, references)),
        **scores,
        "shuffled": None
        if dealt is None
        else metrics.summary([captions[i] for i in dealt], references, cut=cut),
    }


def nearest(
    features: Float[np.ndarray, "N E"], known: Float[np.ndarray, "M E"], *, block: int = 1024
) -> Int[np.ndarray, " N"]:
    """The baseline of captioning: for each picture the known one with the most similar (normalised) feature.

    What it is called there is its caption here.
    """
    blocks = [features[i : i + block] for i in range(0, len(features), block)]
    return np.concatenate([(part @ known.T).argmax(1) for part in blocks])
