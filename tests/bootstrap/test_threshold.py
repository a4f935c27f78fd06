"""The threshold from a labelled sample: by hand, by brute force, and its intervals by simulation."""

from __future__ import annotations

import json
import math

import fakes
import numpy as np
import pytest

from multiway.bootstrap.run import bootstrap
from multiway.bootstrap.threshold import choose, score_labelled, share
from multiway.data.shards import Shards, expand
from multiway.errors import UserError


def test_a_share_has_wilson_s_interval():
    some = share(8, 10)  # at z = 1.96, as any table has it
    assert (some.value, some.of) == (0.8, 10)
    assert (some.low, some.high) == pytest.approx((0.4902, 0.9433), abs=1e-4)
    nothing = share(0, 0)
    assert math.isnan(nothing.value)
    assert (nothing.low, nothing.high) == (0.0, 1.0)


def sample(n: int, seed: int, gap: float = 1.5) -> tuple[np.ndarray, np.ndarray]:
    draw = np.random.default_rng(seed)
    labels = draw.random(n) < 0.6
    return draw.normal(size=n).round(1) + gap * labels, labels


def measured(scores, labels, threshold) -> tuple[float, float]:
    kept = scores >= threshold
    return labels[kept].mean(), (kept & labels).sum() / labels.sum()


@pytest.mark.parametrize("seed", range(5))
def test_the_lowest_threshold_of_a_precision(seed):
    scores, labels = sample(300, seed)
    found = choose(scores, labels, precision=0.85)
    assert measured(scores, labels, found.value)[0] >= 0.85
    lower = [t for t in np.unique(scores) if t < found.value and measured(scores, labels, t)[0] >= 0.85]
    assert not lower


@pytest.mark.parametrize("seed", range(5))
def test_the_best_f1(seed):
    scores, labels = sample(300, seed)

    def f1(threshold):
        precision, recall = measured(scores, labels, threshold)
        return 2 * precision * recall / (precision + recall)

    found = choose(scores, labels)
    assert f1(found.value) == pytest.approx(max(f1(t) for t in np.unique(scores)))


def test_the_intervals_hold_what_new_pairs_show():
    """Precision and recall of the rule "choose on 200 pairs" on fresh pairs: most intervals hold them."""
    fresh, truth = sample(20000, 99)
    inside = 0
    for seed in range(60):
        found = choose(*sample(200, seed), precision=0.85)
        precision, recall = measured(fresh, truth, found.value)
        inside += found.precision.low <= precision <= found.precision.high
        inside += found.recall.low <= recall <= found.recall.high
    assert inside >= 0.85 * 120


def test_too_little_or_too_much_is_refused():
    scores, labels = sample(100, 0, gap=0.0)
    with pytest.raises(UserError, match="at least 10"):
        choose([0.1] * 30, [True] * 25 + [False] * 5)
    with pytest.raises(UserError, match="no threshold reaches a precision of 1.00"):
        choose(np.append(scores, 9.0), np.append(labels, False), precision=1.0)


def labelled(web, tmp_path, kind: str) -> str:
    shards = Shards(expand(web(40, name="judged", shard_size=40)))
    rows = []
    for i in range(40):
        (tmp_path / f"{i}.jpg").write_bytes(shards.image(i))
        rows.append({"image": f"{i}.jpg", "text": shards.texts(i)[0], "label": int(i % 3 > 0)})
    if kind == "csv":
        lines = ["image,text,label", *(f"{r['image']},{r['text']},{r['label']}" for r in rows)]
    else:
        lines = [json.dumps(row) for row in rows]
    path = tmp_path / f"labelled.{kind}"
    path.write_text("\n".join(lines) + "\n")
    return str(path)


@pytest.mark.parametrize("kind", ["csv", "jsonl"])
def test_a_labelled_file_sets_the_threshold(web, config, tmp_path, kind):
    path = labelled(web, tmp_path, kind)
    scores, labels = score_labelled(path, fakes.score)
    assert [score >= 0.5 for score in scores] == labels
    report = bootstrap(config(web(20)), tmp_path / "out", workers=1, labelled=path)
    chosen = report["threshold"]
    true, false = ([s for s, label in zip(scores, labels, strict=True) if label == x] for x in (True, False))
    assert max(false) < chosen["value"] <= min(true)
    assert (chosen["precision"]["value"], chosen["recall"]["value"], chosen["pairs"]) == (1.0, 1.0, 40)
    assert "40 labelled pairs" in chosen["from"]
    again = bootstrap(config(web(20)), tmp_path / "out", workers=1, labelled=path)
    assert again["threshold"] == chosen


def test_a_bad_labelled_file_is_one_sentence(web, tmp_path):
    path = tmp_path / "labelled.csv"
    labelled(web, tmp_path, "jsonl")  # its pictures
    path.write_text("image,text\n0.jpg,a cat\n")
    with pytest.raises(UserError, match="no column label"):
        score_labelled(str(path), fakes.score)
    with pytest.raises(UserError, match=r"none\.csv"):
        score_labelled(str(tmp_path / "none.csv"), fakes.score)
    path.write_text("image,text,label\n0.jpg,a cat,perhaps\n")
    with pytest.raises(UserError, match="perhaps"):
        score_labelled(str(path), fakes.score)
