"""Queries beside a slow reference; faiss and numpy give the same answers."""

import sys

import numpy as np
import pytest
import torch

from multiway.data.sample import BadSample
from multiway.errors import UserError
from multiway.search.index import build
from multiway.search.query import Searcher


@pytest.fixture
def searcher(albef, folder, tmp_path):
    build(albef, folder, tmp_path / "index")
    return Searcher(albef, tmp_path / "index")


def expected(albef, folder, keys, text, k):
    """Keys by ITC, the k best again by the ITM logit; one pair at a time."""
    albef.eval()
    with torch.no_grad():
        ids, mask = albef.tokenize(text)
        feature, hidden = albef.text_context(ids, mask)
        rows = []
        for key in keys:
            image_feature, context = albef.image_context(albef.prepare(folder / key))
            logit = albef.match_pairs(context, hidden, mask)[0, 1].item()
            rows.append(((image_feature @ feature.T).item(), logit, key))
    albef.train()
    rows.sort(reverse=True)
    return sorted(rows[:k], key=lambda row: -row[1]) + rows[k:]


@pytest.mark.parametrize("k", [1, 3, 50])
@pytest.mark.parametrize("top", [2, 50])
def test_two_stages(albef, folder, searcher, k, top):
    keys = [entry.key for entry in searcher.index.entries]
    for text in ("a red dog", "two cats on a mat"):
        want = expected(albef, folder, keys, text, k)
        hits = searcher.text(text, top=top, k=k)
        assert [hit.key for hit in hits] == [row[2] for row in want[:top]]
        for n, (hit, row) in enumerate(zip(hits, want, strict=False)):
            assert hit.cosine == pytest.approx(row[0], abs=1e-5)
            if n < k:
                assert hit.logit == pytest.approx(row[1], abs=1e-5)
                assert hit.probability == pytest.approx(
                    albef_probability(albef, folder / hit.key, text), abs=1e-5
                )
            else:
                assert hit.logit is None
                assert hit.probability is None


def albef_probability(albef, path, text):
    albef.eval()
    value = albef.match(path, text).item()
    albef.train()
    return value


def test_without_faiss_the_same(searcher, albef, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "faiss", None)
    plain = Searcher(albef, tmp_path / "index")
    assert plain._faiss is None
    assert plain.text("a dog", k=3) == searcher.text("a dog", k=3)


def test_nearest_is_exact_with_faiss(searcher):
    pytest.importorskip("faiss")
    from multiway.search.query import _faiss_index

    rng = np.random.default_rng(0)
    features = rng.normal(size=(500, 16)).astype(np.float32)
    features[300:] = features[100:300]  # ties: the earlier entry first
    searcher._features = features
    query = rng.normal(size=16).astype(np.float32)
    searcher._faiss = None
    plain = searcher._nearest(query, 20)
    searcher._faiss = _faiss_index(features)
    fast = searcher._nearest(query, 20)
    assert plain[0].tolist() == fast[0].tolist()
    assert (np.diff(plain[1]) <= 0).all()


def test_by_picture(searcher, folder):
    hits = searcher.picture(folder / "g.png", top=3)
    assert hits[0].key == "g.png"
    assert hits[0].cosine == pytest.approx(1, abs=1e-5)
    assert len(hits) == 3
    assert hits[0].logit is None
    assert searcher.image(hits[0]).size == (30, 36)


def test_pictures_that_have_gone_come_after_the_reranked(searcher, folder):
    first = searcher.text("a dog", k=7)[0]
    searcher._contexts.clear()
    (folder / first.key).unlink()
    hits = searcher.text("a dog", k=7)
    assert hits[-1].key == first.key
    assert hits[-1].logit is None
    with pytest.raises(BadSample):
        searcher.image(first)


def test_contexts_are_kept_between_queries(searcher, encoded):
    searcher.text("a dog", k=7)
    assert len(encoded) == 7
    searcher.text("a cat", k=7)
    assert len(encoded) == 7


def test_wrong_requests(searcher, albef, tmp_path, folder):
    with pytest.raises(UserError, match="blank"):
        searcher.text("  ")
    with pytest.raises(UserError, match="top is 0"):
        searcher.text("a dog", top=0)
    with pytest.raises(UserError, match="k is 0"):
        searcher.text("a dog", k=0)
    with pytest.raises(UserError, match="no index"):
        Searcher(albef, folder)
    with torch.no_grad():
        albef.itm_head.bias[0] += 1
        try:
            with pytest.raises(UserError, match="another model"):
                Searcher(albef, tmp_path / "index")
        finally:
            albef.itm_head.bias[0] -= 1
