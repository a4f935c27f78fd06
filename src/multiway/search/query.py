"""Ask an index: the nearest pictures by ITC, the first k of them put in order by the ITM head."""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int
from PIL import Image

from multiway.data.images import decode
from multiway.data.pictures import open_pictures
from multiway.data.sample import BadSample
from multiway.errors import UserError
from multiway.search.index import Index, fingerprint
from multiway.systems.base import Picture, System
from multiway.tasks.two_stage import as_array, evaluating

KEPT_CONTEXTS = 64  # pictures whose tokens stay in memory between queries


@dataclass(frozen=True, kw_only=True)
class Hit:
    """One picture found.

    Attributes:
        key: its path below the indexed folder, or its key in a tar.
        cosine: ITC similarity with the query, -1..1.
        logit: the model's `rerank_score`, by which re-ranked hits are ordered; None for all others.
        probability: 0..1 by `System.match_probability`; None where there is no logit.
    """

    key: str
    cosine: float
    logit: float | None = None
    probability: float | None = None


class Searcher:
    """A model and an index that it made.

    Raises:
        UserError: there is no index, it is damaged, or another model made it.
    """

    def __init__(self, model: System, folder: str | Path):
        self.model = model
        self.index = Index.load(Path(folder))
        if self.index.fingerprint != fingerprint(model):
            raise UserError(f"the index in {folder} was made by another model: index again with this one")
        self._features = np.ascontiguousarray(self.index.features)
        self._pictures = open_pictures(self.index.source)
        self._places = {key: i for i, key in enumerate(self._pictures.keys)}
        self._contexts: OrderedDict[str, Any] = OrderedDict()
        self._faiss = _faiss_index(self._features)

    def text(self, query: str, *, top: int = 10, k: int = 16) -> list[Hit]:
        """The pictures that fit a text: the k nearest in the ITM head's order, then the rest by ITC.

        A picture that has gone since it was indexed is not re-ranked and comes after those that were.

        Raises:
            UserError: the text is blank, or `top` or `k` is below 1.
        """
        if not query.strip():
            raise UserError("the query is blank: say what the picture shows")
        _check(top=top, k=k)
        with evaluating(self.model):
            ids, mask = self.model.tokenize(query)
            features, hidden = self.model.text_context(ids, mask)
            hits = self._hits(as_array(features, "texts")[0], max(top, k))
            if self.model.has_itm:
                matched = [self._matched(hit, hidden, mask) for hit in hits[:k]]
                # sorted() is stable: equal logits, and pictures that have gone, keep their ITC order
                order = sorted(
                    matched, key=lambda hit: -np.inf if hit.logit is None else hit.logit, reverse=True
                )
                hits = order + hits[k:]
        return hits[:top]

    def picture(self, query: Picture, *, top: int = 10) -> list[Hit]:
        """The pictures most like a picture, by their ITC features alone.

        Raises:
            UserError: the picture can't be read, or `top` is below 1.
        """
        _check(top=top)
        with evaluating(self.model):
            features, _ = self.model.image_context(self.model.prepare(query))
        return self._hits(as_array(features, "pictures")[0], top)

    def image(self, hit: Hit) -> Image.Image:
        """The picture of a hit.

        Raises:
            BadSample: it has gone, or can't be decoded any more.
        """
        if hit.key not in self._places:
            raise BadSample("gone", hit.key)
        return decode(self._pictures.read(self._places[hit.key]))

    def _hits(self, query: Float[np.ndarray, " E"], number: int) -> list[Hit]:
        places, cosines = self._nearest(query, number)
        pairs = zip(places.tolist(), cosines.tolist(), strict=True)
        return [Hit(key=self.index.entries[place].key, cosine=cosine) for place, cosine in pairs]

    def _matched(self, hit: Hit, hidden: torch.Tensor, mask: torch.Tensor) -> Hit:
        """The hit with its ITM scores, or as it was when its picture has gone."""
        try:
            context = self._context(hit)
        except BadSample:
            return hit
        logits = self.model.match_pairs(context, hidden, mask).float()
        probability = float(self.model.match_probability(logits)[0])
        cosine = torch.tensor([hit.cosine], device=logits.device)
        score = float(self.model.rerank_score(logits, cosine)[0])
        return Hit(key=hit.key, cosine=hit.cosine, logit=score, probability=probability)

    def _context(self, hit: Hit) -> Any:
        if hit.key not in self._contexts:
            self._contexts[hit.key] = self.model.image_context(self.model.prepare(self.image(hit)))[1]
        self._contexts.move_to_end(hit.key)
        while len(self._contexts) > KEPT_CONTEXTS:
            self._contexts.popitem(last=False)
        return self._contexts[hit.key]

    def _nearest(
        self, query: Float[np.ndarray, " E"], number: int
    ) -> tuple[Int[np.ndarray, " K"], Float[np.ndarray, " K"]]:
        """Places and similarities of the nearest pictures, best first; at ties the earlier entry first."""
        number = min(number, len(self._features))
        if self._faiss is None:
            places = np.arange(len(self._features))
        else:  # a few more than asked for: its sums differ from ours in the last bit
            places = np.sort(self._faiss.search(query[None], min(number + 32, len(self._features)))[1][0])
        cosines = (self._features[places].astype(np.float64) @ query.astype(np.float64)).astype(np.float32)
        best = np.lexsort((places, -cosines))[:number]
        return places[best], cosines[best]


def _faiss_index(features: Float[np.ndarray, "N E"]) -> Any:
    """An exact faiss index, or None without faiss: numpy then gives the same answers, more slowly."""
    try:
        import faiss
    except ImportError:
        return None
    index = faiss.IndexFlatIP(features.shape[1])
    index.add(features)
    return index


def _check(**numbers: int) -> None:
    for name, number in numbers.items():
        if number < 1:
            raise UserError(f"{name} is {number}: ask for at least one picture")
