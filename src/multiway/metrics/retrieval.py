"""Retrieval: exact ranks in chunks, shortlists, re-ranking, recalls.

    rank(q) = 1 + #{ items that are no positive of q : score >= best score among q's positives }

A query is right at k if rank <= k, that is if any of its positives is among the first k. Ties count against
us, and so does a score that is not a number. Similarities are summed in float64 and rounded to float32, so
that equal features give equal scores wherever a chunk begins; the whole matrix is never held.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Int

from multiway.errors import UserError

CHUNK_BYTES = 1 << 26
Integers = Sequence[int] | np.ndarray


@dataclass(frozen=True)
class Positives:
    """The right answers: query q's are `items[starts[q]:starts[q + 1]]`.

    Attributes:
        items: `[P]` numbers in the gallery, ascending within a query.
        starts: `[Q + 1]`.
    """

    items: np.ndarray
    starts: np.ndarray

    @classmethod
    def from_pairs(cls, query: Integers, item: Integers, queries: int) -> Positives:
        """From aligned pairs in any order; a pair may come twice.

        Raises:
            ValueError: one of the `queries` has no positive.
        """
        pairs = np.unique(np.stack([np.asarray(query, np.int64), np.asarray(item, np.int64)], axis=1), axis=0)
        counts = np.bincount(pairs[:, 0], minlength=queries)
        if len(counts) > queries or (counts == 0).any():
            raise ValueError("every query needs a positive, and every pair a query")
        return cls(pairs[:, 1], np.concatenate([[0], np.cumsum(counts)]))

    def __len__(self) -> int:
        return len(self.starts) - 1

    def rows(self, first: int, last: int) -> tuple[np.ndarray, np.ndarray]:
        """Aligned (query - first, item) of the queries first..last-1."""
        counts = np.diff(self.starts[first : last + 1])
        return np.repeat(np.arange(len(counts)), counts), self.items[self.starts[first] : self.starts[last]]


def block_ranks(
    scores: Float[np.ndarray, "B G"], row: Int[np.ndarray, " P"], item: Int[np.ndarray, " P"]
) -> Int[np.ndarray, " B"]:
    """Ranks, from 1, of a block of queries whose positives are the aligned (row, item)."""
    right = scores[row, item]
    best = np.full(len(scores), -np.inf, scores.dtype)
    with np.errstate(invalid="ignore"):  # a NaN stays a NaN, and then nothing is below it: the last rank
        np.maximum.at(best, row, right)
    ahead = (~(scores < best[:, None])).sum(1)
    np.subtract.at(ahead, row, ~(right < best[row]))
    return ahead + 1


def shortlist(
    scores: Float[np.ndarray, "B G"], k: int, row: Int[np.ndarray, " P"], item: Int[np.ndarray, " P"]
) -> Int[np.ndarray, "B K"]:
    """The k best items of each query, in the order of the gallery.

    Ties at the border go to items that are no positive, so that a positive is in just if its rank is <= k.

    Raises:
        UserError: a score is not a number, so that there is no order.
    """
    if np.isnan(scores).any():
        raise UserError(
            "the model gives similarities that are not numbers (NaN): its training has diverged, so take "
            "weights from before that"
        )
    size = scores.shape[1]
    if k >= size:
        return np.tile(np.arange(size), (len(scores), 1))
    border = np.partition(scores, size - k, axis=1)[:, size - k, None]
    chosen = scores >= border
    for b in np.flatnonzero(chosen.sum(1) > k):
        tied = np.flatnonzero(scores[b] == border[b])
        wrong_first = tied[np.argsort(np.isin(tied, item[row == b]), kind="stable")]
        chosen[b, wrong_first[k - int((scores[b] > border[b]).sum()) :]] = False
    return np.nonzero(chosen)[1].reshape(len(scores), k)


def similarity_blocks(
    queries: Float[np.ndarray, "Q E"], gallery: Float[np.ndarray, "G E"], chunk_bytes: int = CHUNK_BYTES
) -> Iterator[tuple[int, Float[np.ndarray, "B G"]]]:
    """(first query, its block of float32 dot products), block by block."""
    columns = gallery.astype(np.float64).T
    rows = max(1, chunk_bytes // (8 * max(len(gallery), 1)))
    for first in range(0, len(queries), rows):
        yield first, (queries[first : first + rows].astype(np.float64) @ columns).astype(np.float32)


def rank_by_similarity(
    queries: Float[np.ndarray, "Q E"],
    gallery: Float[np.ndarray, "G E"],
    positives: Positives,
    *,
    k: int,
    chunk_bytes: int = CHUNK_BYTES,
) -> tuple[Int[np.ndarray, " Q"], Int[np.ndarray, "Q K"]]:
    """Every query's rank by dot product, and its shortlist of the K = min(k, G) best."""
    ranks, lists = [], []
    for first, scores in similarity_blocks(queries, gallery, chunk_bytes):
        row, item = positives.rows(first, first + len(scores))
        ranks.append(block_ranks(scores, row, item))
        lists.append(shortlist(scores, k, row, item))
    return np.concatenate(ranks), np.concatenate(lists)


def first_of(
    candidates: Int[np.ndarray, "Q K"], queries: Float[np.ndarray, "Q E"], gallery: Float[np.ndarray, "G E"]
) -> Int[np.ndarray, " Q"]:
    """Each query's best candidate by dot product."""
    return np.array(
        [row[(gallery[row] @ query).argmax()] for row, query in zip(candidates, queries, strict=True)],
        np.int64,
    )


def rerank(
    ranks: Int[np.ndarray, " Q"],
    candidates: Int[np.ndarray, "Q K"],
    scores: Float[np.ndarray, "Q K"],
    positives: Positives,
) -> Int[np.ndarray, " Q"]:
    """Ranks after the candidates were put in the order of `scores`; all others keep their order below them.

    Where no positive is a candidate, the candidates are wrong items that were ahead before: the rank stays.
    """
    row, item = positives.rows(0, len(positives))
    size = 1 + max(int(candidates.max(initial=0)), int(item.max(initial=0)))
    right = np.isin(np.arange(len(candidates))[:, None] * size + candidates, row * size + item)
    with np.errstate(invalid="ignore"):
        best = np.where(right, scores, -np.inf).max(1, keepdims=True)
    ahead = (~right & ~(scores < best)).sum(1)
    return np.where(right.any(1), ahead + 1, ranks)


def recall(ranks: Int[np.ndarray, " Q"], k: int) -> float:
    """Recall at k, in percent."""
    return 100.0 * float((ranks <= k).mean())


def summary(ranks: Int[np.ndarray, " Q"], prefix: str) -> dict[str, float]:
    """`{prefix}_r1`, `_r5`, `_r10` in percent, and `_median_rank` from 1."""
    recalls = {f"{prefix}_r{k}": recall(ranks, k) for k in (1, 5, 10)}
    return {**recalls, f"{prefix}_median_rank": float(np.median(ranks))}
