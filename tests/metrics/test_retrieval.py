"""Ranks one can check by eye, and random ones beside a slow reference."""

import numpy as np
import pytest

from multiway.errors import UserError
from multiway.metrics import retrieval as m


def positives_of(lists):
    pairs = [(q, i) for q, items in enumerate(lists) for i in items]
    return m.Positives.from_pairs([q for q, _ in pairs], [i for _, i in pairs], len(lists))


def slow_rank(scores, right):
    """Sort the whole gallery; at equal scores (and not-a-numbers) the wrong items come first."""
    best = max((s for i, s in enumerate(scores) if i in right), key=lambda s: np.inf if np.isnan(s) else s)
    return 1 + sum(not (s < best) for i, s in enumerate(scores) if i not in right)


SCORES = np.array([[0.9, 0.5, 0.1, 0.3], [0.2, 0.2, 0.2, 0.1], [0.4, 0.3, 0.2, 0.1]], np.float32)


def test_ranks_by_eye():
    positives = positives_of([[0], [1], [3, 2]])
    ranks = m.block_ranks(SCORES, *positives.rows(0, 3))
    assert ranks.tolist() == [1, 3, 3]  # first; two equal ones ahead; the better of two positives counts
    assert m.recall(ranks, 1) == pytest.approx(100 / 3)
    assert m.summary(ranks, "tr") == {
        "tr_r1": pytest.approx(100 / 3), "tr_r5": 100.0, "tr_r10": 100.0, "tr_median_rank": 3.0,
    }  # fmt: skip


def test_equal_positives_do_not_harm_each_other():
    assert m.block_ranks(np.full((1, 4), 0.5, np.float32), *positives_of([[1, 2]]).rows(0, 1)).tolist() == [3]


def test_not_a_number_counts_against_us():
    scores = np.array([[np.nan, 0.5, 0.1], [0.5, np.nan, 0.1]], np.float32)
    assert m.block_ranks(scores, *positives_of([[0], [0]]).rows(0, 2)).tolist() == [3, 2]


def test_median_of_an_even_number():
    assert m.summary(np.array([1, 2, 3, 10]), "ir")["ir_median_rank"] == 2.5


def test_every_query_needs_a_positive():
    with pytest.raises(ValueError, match="positive"):
        m.Positives.from_pairs([0, 2], [0, 0], 3)
    with pytest.raises(ValueError, match="query"):
        m.Positives.from_pairs([0, 1], [0, 0], 1)


def test_shortlist_ties_go_against_us():
    positives = positives_of([[0], [0, 3], [2]])
    assert m.shortlist(SCORES, 2, *positives.rows(0, 3)).tolist() == [[0, 1], [1, 2], [0, 1]]
    assert m.shortlist(SCORES, 9, *positives.rows(0, 3)).tolist() == [[0, 1, 2, 3]] * 3


def test_no_shortlist_of_what_is_not_a_number():
    nobody = np.empty(0, np.int64)
    for k in (1, 3):
        with pytest.raises(UserError, match="not numbers"):
            m.shortlist(np.array([[0.5, np.nan, 0.1]]), k, nobody, nobody)


def test_rerank_by_eye():
    positives = positives_of([[0], [3], [2]])
    candidates = np.array([[0, 1], [0, 1], [1, 2]])
    scores = np.array([[0.1, 0.9], [5.0, 6.0], [1.0, 1.0]], np.float32)
    # Beaten by one candidate; no candidate, so its old place; a tie with a wrong candidate.
    assert m.rerank(np.array([1, 4, 2]), candidates, scores, positives).tolist() == [2, 4, 2]


@pytest.mark.parametrize("seed", range(5))
def test_random_ranks_equal_the_slow_reference(seed):
    rng = np.random.default_rng(seed)
    # Few different values: many ties, within blocks and across their borders.
    queries = rng.integers(-1, 2, (37, 3)).astype(np.float32)
    gallery = rng.integers(-1, 2, (23, 3)).astype(np.float32)
    lists = [rng.choice(23, rng.integers(1, 5), replace=False).tolist() for _ in range(37)]
    positives = positives_of(lists)
    slow = [slow_rank(row, right) for row, right in zip(queries @ gallery.T, lists, strict=True)]
    for chunk_bytes in (1, 8 * 23 * 5, 1 << 26):
        ranks, candidates = m.rank_by_similarity(queries, gallery, positives, k=7, chunk_bytes=chunk_bytes)
        assert ranks.tolist() == slow
        hit = [bool(set(c) & set(right)) for c, right in zip(candidates.tolist(), lists, strict=True)]
        assert hit == (ranks <= 7).tolist()  # a positive is a candidate if and only if its rank allows

    scores = rng.integers(0, 3, candidates.shape).astype(np.float32)
    slow_again = []
    for q, right in enumerate(lists):
        row = -1e6 + (queries[q] @ gallery.T).astype(
            np.float64
        )  # others keep their order, below the candidates
        row[candidates[q]] = scores[q]
        slow_again.append(slow_rank(row, right))
    assert m.rerank(ranks, candidates, scores, positives).tolist() == slow_again


def test_equal_features_tie_wherever_the_chunks_begin():
    rng = np.random.default_rng(0)
    queries = rng.normal(size=(50, 256)).astype(np.float32)
    gallery = np.repeat(rng.normal(size=(1, 256)).astype(np.float32), 41, axis=0)
    positives = positives_of([[q % 41] for q in range(50)])
    for chunk_bytes in (1, 3 * 8 * 41, 1 << 26):
        assert set(
            m.rank_by_similarity(queries, gallery, positives, k=1, chunk_bytes=chunk_bytes)[0].tolist()
        ) == {41}
