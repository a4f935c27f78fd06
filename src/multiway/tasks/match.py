"""How well pictures and texts fit, pair by pair."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from multiway.errors import UserError
from multiway.systems.base import Picture, System
from multiway.systems.pictures import pair_count
from multiway.tasks.two_stage import NOTHING_TO_COMPARE, encode_pictures, encode_words, evaluating


@dataclass(frozen=True, kw_only=True)
class Match:
    """One pair's scores.

    Attributes:
        cosine: ITC similarity, -1..1: comparable among pairs of one model, no probability; None where the
            model has no such features (ViLT).
        logit: the model's `rerank_score`, what retrieval re-ranks by; None without an ITM head.
        margin: the head's log-odds of "matched", before any calibration; None without such a head.
        probability: 0..1 by `System.match_probability`; without a head by the calibrated cosine, or None.
    """

    cosine: float | None
    logit: float | None = None
    margin: float | None = None
    probability: float | None = None


def match(
    model: System, images: Sequence[Picture], texts: Sequence[str], *, batch_size: int = 32
) -> list[Match]:
    """Scores of aligned pairs; one picture may be given for several texts, or one text for several pictures.

    Raises:
        UserError: the numbers of pictures and texts do not fit, or a picture can't be read.
    """
    pairs = pair_count(len(images), len(texts))
    found: list[Match] = []
    with evaluating(model):
        lone = encode_pictures(model, model.prepare(images)) if len(images) == 1 else None
        for start in range(0, pairs, batch_size):
            part = slice(start, start + batch_size)
            features, context = lone or encode_pictures(model, model.prepare(images[part]))
            ids, mask = model.tokenize(texts if len(texts) == 1 else texts[part])
            text_features, hidden = encode_words(model, ids, mask)
            rows = torch.arange(max(len(features), len(ids)), device=model.device)
            of_picture, of_text = rows % len(features), rows % len(ids)
            similar = (features[of_picture] * text_features[of_text]).sum(-1)
            cosine = similar.tolist()
            if context is None and not model.has_itc:
                raise UserError(NOTHING_TO_COMPARE.format(type(model).__name__))
            if context is None:
                fitted = model.calibration
                sure = [None] * len(cosine) if fitted is None else fitted.probability(cosine).tolist()
                found += [Match(cosine=c, probability=p) for c, p in zip(cosine, sure, strict=True)]
                continue
            shared = context.shared_by(of_picture)
            logits = model.match_pairs(shared, hidden[of_text], mask[of_text]).float()
            columns = (
                model.rerank_score(logits, similar).tolist(),
                (logits[:, 1] - logits[:, 0]).tolist(),
                model.match_probability(logits).tolist(),
            )
            found += [
                Match(cosine=c if model.has_itc else None, logit=score, margin=margin, probability=p)
                for c, score, margin, p in zip(cosine, *columns, strict=True)
            ]
    return found
