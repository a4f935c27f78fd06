"""Image-text retrieval: TR asks with a picture for its texts, IR with a text for its pictures.

Two numbers each: `itc`, the dual encoder alone, and `itm`, after the k best of each query were put in the
order of the ITM head (official: ALBEF Retrieval.py; k is 128 on Flickr30K, 256 on COCO). Texts that are equal
byte for byte are one text with several positive pictures. Items outside a shortlist keep their ITC order
below it; the official matrices hold -100 there, which differs in ranks beyond k alone.

A model without contrastive features (ViLT) has one number: the ITM head scores every picture with every text.
With a prefilter, another model with such features, it scores the k best by that one: an approximation.
"""

from __future__ import annotations

import hashlib
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal, Protocol, runtime_checkable

import numpy as np
from jaxtyping import Float, Int
from torch import Tensor

from multiway.data.sample import BadSample, Sample
from multiway.errors import UserError
from multiway.metrics import retrieval as metrics
from multiway.metrics.controls import other
from multiway.systems.base import System
from multiway.tasks.outcomes import Outcomes
from multiway.tasks.two_stage import (
    NOTHING_TO_COMPARE,
    Pictures,
    Progress,
    Texts,
    encode_texts,
    evaluating,
    match_pairs,
    silent,
)


@runtime_checkable
class Samples(Protocol):
    """What is evaluated on: `data.Dataset`, or anything with its two methods."""

    def __len__(self) -> int: ...
    def sample(self, i: int) -> Sample: ...


@dataclass(frozen=True, kw_only=True)
class Measurement:
    """The numbers, and what it took to get them.

    Attributes:
        result: what `evaluate` returns.
        shuffled: ITC's figures (ITM's, where every pair is scored) when each picture's texts are given to
            another picture: what knows of no picture scores so. Empty where there is one picture.
        pairs: pairs that the ITM head scored, each once.
        seconds: that this took.
        skipped: reason -> number of samples that could not be used.
        outcomes: what became of each picture and its texts, in the last stage that there is.
    """

    result: dict
    shuffled: dict = field(default_factory=dict)
    pairs: int = 0
    seconds: float = 0.0
    skipped: dict[str, int] = field(default_factory=dict)
    outcomes: Outcomes | None = None

    def sentence(self) -> str:
        """Sizes, speed and losses in one line."""
        line = f"{self.result['n_images']:,} pictures, {self.result['n_texts']:,} texts"
        if self.pairs:
            speed = self.pairs / max(self.seconds, 1e-9)
            line += f"; {self.pairs:,} pairs re-ranked in {self.seconds:.1f} s ({speed:,.0f} pairs/s)"
        if self.skipped:
            line += "; skipped " + ", ".join(f"{reason} {count:,}" for reason, count in self.skipped.items())
        return line


def evaluate(
    model: System,
    samples: Samples,
    *,
    texts: Literal["first", "all"] = "all",
    k: int = 16,
    batch_size: int = 32,
    prefilter: System | None = None,
    progress: Progress = silent,
) -> dict:
    """Recalls in percent and median ranks, from 1, in both directions.

    Args:
        texts: of each picture the first text alone, or all.
        k: how many of each query's best the ITM head re-ranks.
        prefilter: whose contrastive features choose the candidates instead of the model's own.
        progress: called as progress(stage, done, total).

    Returns:
        `n_images`, `n_texts`, `k`, `itc` and `itm`; the latter two hold `tr_r1 tr_r5 tr_r10 tr_median_rank`
        and `ir_*` likewise. `itm` is None without an ITM head; `itc` and `k` without contrastive features.

    Raises:
        UserError: no sample can be used, k is below 1, or the model can't compare pictures with texts.
        FloatingPointError: the model's features are not finite.
    """
    return measure(
        model, samples, texts=texts, k=k, batch_size=batch_size, prefilter=prefilter, progress=progress
    ).result


def measure(
    model: System,
    samples: Samples,
    *,
    texts: Literal["first", "all"] = "all",
    k: int = 16,
    batch_size: int = 32,
    prefilter: System | None = None,
    progress: Progress = silent,
) -> Measurement:
    """`evaluate`, with speed and tally."""
    if k < 1:
        raise UserError(f"k is {k}: re-rank at least one candidate a query")
    finds = model if prefilter is None else prefilter
    if not (model.has_itm or model.has_itc):
        raise UserError(NOTHING_TO_COMPARE.format(type(model).__name__))
    if prefilter is not None and not (prefilter.has_itc and model.has_itm):
        lacks, what = (model, "matching head") if prefilter.has_itc else (prefilter, "features")
        raise UserError(
            f"a prefilter's contrastive features choose what a matching head re-ranks, and "
            f"{type(lacks).__name__} has no {what}: take another model, or leave the prefilter out"
        )
    with evaluating(model), evaluating(finds):
        pictures, captions, used, skipped = _read(model, samples, batch_size, progress)
        if texts == "first":
            captions = [lines[:1] for lines in captions]
        number: dict[str, int] = {}
        pairs = [
            (i, number.setdefault(line, len(number))) for i, lines in enumerate(captions) for line in lines
        ]
        image, text = np.array(pairs, np.int64).T
        encoded = encode_texts(model, *model.tokenize(list(number)), batch_size=batch_size, progress=progress)
        positives = _positives(image, text)
        order = other(range(len(captions)))
        elsewhere = None if order is None else _positives(order[image], text)
        found = pictures, encoded
        if prefilter is not None:
            words = prefilter.tokenize(list(number))
            found = (
                _read(prefilter, samples, batch_size, progress)[0],
                encode_texts(prefilter, *words, batch_size=batch_size, progress=progress),
            )
        few = k if finds.has_itc else max(len(captions), len(number))  # without features: every pair
        ranks, candidates = _shortlist(*found, positives, few)
        dealt = None if elsewhere is None else _shortlist(*found, elsewhere, few)[0]
        result = {"n_images": len(captions), "n_texts": len(number), "k": k if finds.has_itc else None}
        result |= {"itc": _summary(*ranks) if finds.has_itc else None, "itm": None}
        asked = _Asked(used, captions, list(number), image, text)
        if not model.has_itm:
            first = metrics.first_of(candidates[0], pictures.features, encoded.features)
            outcomes = asked.outcomes(ranks[0], ranks[1], first)
            return Measurement(result=result, shuffled=_control(dealt), skipped=skipped, outcomes=outcomes)
        start = time.perf_counter()
        tr_scores, ir_scores, scored = score_candidates(
            model, pictures, encoded, *candidates, progress=progress
        )
        seconds = time.perf_counter() - start
    scored_ways = candidates, (tr_scores, ir_scores)
    reranked = [metrics.rerank(*way) for way in zip(ranks, *scored_ways, positives, strict=True)]
    if not finds.has_itc and elsewhere is not None and dealt is not None:
        dealt = [metrics.rerank(*way) for way in zip(dealt, *scored_ways, elsewhere, strict=True)]
    result["itm"] = _summary(*reranked)
    best = np.take_along_axis(candidates[0], tr_scores.argmax(1)[:, None], axis=1)[:, 0]
    return Measurement(
        result=result,
        shuffled=_control(dealt),
        pairs=scored,
        seconds=seconds,
        skipped=skipped,
        outcomes=asked.outcomes(reranked[0], reranked[1], best),
    )


@dataclass(frozen=True)
class _Asked:
    """The pictures with their names and texts, the different texts, and the pairs that belong together."""

    used: list[tuple[int, str]]
    captions: list[list[str]]
    texts: list[str]
    image: Int[np.ndarray, " P"]
    text: Int[np.ndarray, " P"]

    def outcomes(
        self, tr_ranks: Int[np.ndarray, " N"], ir_ranks: Int[np.ndarray, " M"], first: Int[np.ndarray, " N"]
    ) -> Outcomes:
        """A picture and its texts hang together; a text of several pictures counts with its first one.

        Args:
            first: of each picture the text that came first.
        """
        _, place = np.unique(self.text, return_index=True)
        owner, count = self.image[place], len(self.captions)
        columns = {"n": np.ones(count), "texts": np.bincount(owner, minlength=count).astype(float)}
        for k in (1, 5, 10):
            columns[f"tr_r{k}"] = (tr_ranks <= k).astype(float)
            columns[f"ir_r{k}"] = np.bincount(owner, weights=ir_ranks <= k, minlength=count)
        return Outcomes(
            numbers=np.array([number for number, _ in self.used]),
            keys=[key for _, key in self.used],
            columns=columns,
            figures=_recalls,
            main="tr_r1",
            score=-tr_ranks.astype(float),
            wrong=tr_ranks > 1,
            expected=[f"{' | '.join(c)} (rank {r})" for c, r in zip(self.captions, tr_ranks, strict=True)],
            said=[self.texts[text] for text in first],
        )


def _recalls(sums: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    over = {"tr": sums["n"], "ir": sums["texts"]}
    with np.errstate(invalid="ignore"):  # drawn pictures may own no text: that draw has no figure for texts
        return {name: 100 * sums[name] / over[name[:2]] for name in sums if name[:2] in over}


def _positives(
    image: Int[np.ndarray, " P"], text: Int[np.ndarray, " P"]
) -> tuple[metrics.Positives, metrics.Positives]:
    """Of pictures and of texts, from the pairs that belong together."""
    images, texts = int(image.max()) + 1, int(text.max()) + 1
    return (
        metrics.Positives.from_pairs(image, text, images),
        metrics.Positives.from_pairs(text, image, texts),
    )


def _shortlist(
    pictures: Pictures, texts: Texts, positives: tuple[metrics.Positives, metrics.Positives], k: int
) -> tuple[list[np.ndarray], list[np.ndarray]]:
    """Ranks of the best positives by ITC, and the k best candidates: of pictures, of texts."""
    sides = (pictures.features, texts.features), (texts.features, pictures.features)
    found = [
        metrics.rank_by_similarity(*features, own, k=k)
        for features, own in zip(sides, positives, strict=True)
    ]
    return [ranks for ranks, _ in found], [candidates for _, candidates in found]


def _control(ranks: Sequence[np.ndarray] | None) -> dict[str, float]:
    return {} if ranks is None else _summary(*ranks)


def _summary(tr_ranks: np.ndarray, ir_ranks: np.ndarray) -> dict[str, float]:
    return metrics.summary(tr_ranks, "tr") | metrics.summary(ir_ranks, "ir")


def score_candidates(
    model: System,
    pictures: Pictures,
    texts: Texts,
    tr_candidates: Int[np.ndarray, "N K"],
    ir_candidates: Int[np.ndarray, "M L"],
    *,
    progress: Progress = silent,
) -> tuple[Float[np.ndarray, "N K"], Float[np.ndarray, "M L"], int]:
    """ITM scores of both directions' candidates, and how many different pairs that took.

    The pairs of both directions are united, sorted by picture, and scored once.
    """
    size, picture_row = len(texts.hidden), np.array(pictures.row)
    tr_codes = picture_row[:, None] * size + texts.row[tr_candidates]
    ir_codes = picture_row[ir_candidates] * size + texts.row[:, None]
    codes = np.unique(np.concatenate([tr_codes.ravel(), ir_codes.ravel()]))
    scores = match_pairs(model, pictures, texts, codes // size, codes % size, progress=progress)
    return scores[np.searchsorted(codes, tr_codes)], scores[np.searchsorted(codes, ir_codes)], len(codes)


def score_matrices(
    model: System,
    image: Float[Tensor, "N 3 H W"],
    input_ids: Int[Tensor, "M T"],
    attention_mask: Int[Tensor, "M T"],
    *,
    k: int,
    batch_size: int = 32,
    fill: float = -100.0,
) -> tuple[Float[np.ndarray, "N M"], Float[np.ndarray, "M N"], Float[np.ndarray, "N M"]]:
    """The official evaluation's matrices: ITM scores of pictures to texts, of texts to pictures, and ITC.

    Entries outside a query's k best are `fill` (ALBEF Retrieval.py, `evaluation`).
    """
    with evaluating(model):
        pictures = Pictures(
            model, lambda numbers: image[list(numbers)].to(model.device), row=list(range(len(image)))
        )
        for start in range(0, len(image), batch_size):
            numbers = list(range(start, min(start + batch_size, len(image))))
            pictures.add(numbers, pictures.load(numbers))
        texts = encode_texts(model, input_ids, attention_mask, batch_size=batch_size)
        itc = np.concatenate([s for _, s in metrics.similarity_blocks(pictures.features, texts.features)])
        nobody = np.empty(0, np.int64)
        tr, ir = metrics.shortlist(itc, k, nobody, nobody), metrics.shortlist(itc.T, k, nobody, nobody)
        tr_scores, ir_scores, _ = score_candidates(model, pictures, texts, tr, ir)
    i2t, t2i = np.full(itc.shape, fill, np.float32), np.full(itc.T.shape, fill, np.float32)
    np.put_along_axis(i2t, tr, tr_scores, axis=1)
    np.put_along_axis(t2i, ir, ir_scores, axis=1)
    return i2t, t2i, itc


def _read(
    model: System, samples: Samples, batch_size: int, progress: Progress
) -> tuple[Pictures, list[list[str]], list[tuple[int, str]], dict[str, int]]:
    """Encode the usable pictures; their texts; their numbers and names; why others are not usable."""

    def load(numbers: Sequence[int]) -> Tensor:
        return model.prepare([samples.sample(i).image for i in numbers])

    pictures, captions, skipped = Pictures(model, load), [], Counter()
    known: dict[bytes, int] = {}
    used: list[tuple[int, str]] = []
    numbers, images = [], []
    for i in range(len(samples)):
        try:
            sample = samples.sample(i)
        except BadSample as bad:
            skipped[bad.reason] += 1
        else:
            captions.append(sample.texts)
            used.append((i, sample.key))
            # Equal pictures must tie, and features from different batches differ in the last bit.
            content = hashlib.sha256(repr(sample.image.size).encode() + sample.image.tobytes()).digest()
            if content not in known:
                known[content] = len(known)
                numbers.append(i)
                images.append(sample.image)
            pictures.row.append(known[content])
        if numbers and (len(numbers) == batch_size or i == len(samples) - 1):
            pictures.add(numbers, model.prepare(images))
            numbers, images = [], []
            progress("pictures", i + 1, len(samples))
    if not captions:
        why = ", ".join(f"{reason} {count:,}" for reason, count in skipped.items()) or "the data is empty"
        raise UserError(f"no pair to evaluate on ({why}): give pictures with texts")
    return pictures, captions, used, dict(skipped)
