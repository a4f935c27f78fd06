"""Outcomes of samples: figures, slices, comparisons and the sheet, on choices that one can count."""

from dataclasses import replace

import numpy as np
import pytest
from PIL import Image

from multiway.cli.decided import verdict
from multiway.data.sample import BadSample
from multiway.errors import UserError
from multiway.metrics.resample import wilson
from multiway.tasks.error_sheet import write_sheet
from multiway.tasks.outcomes import compare, metadata, of_choices, slices
from multiway.tasks.retrieval import measure
from multiway.tasks.retrieval_folds import Fold, measure_folds


def choices(right, numbers=None, margin=1.0, **options):
    """Samples of class 0; a wrong one says class 1 by a margin that grows with its place."""
    right = np.asarray(right, bool)
    logits = np.zeros((len(right), 2))
    logits[np.arange(len(right)), (~right).astype(int)] = margin + np.arange(len(right))
    numbers = np.arange(len(right)) if numbers is None else np.asarray(numbers)
    keys = [f"k{n}" for n in numbers]
    labels = np.zeros(len(right), int)
    columns = {"accuracy": right}
    return of_choices(
        logits, labels, ["yes", "no"], columns, numbers=numbers, keys=keys, main="accuracy", **options
    )


def test_figures_and_what_may_stand_on_the_sheet():
    found = choices([True, False, True, False])
    assert found.values() == {"accuracy": 50.0}
    assert found.wrong.tolist() == [False, True, False, True]
    assert np.argsort(found.score)[:2].tolist() == [3, 1]  # the surest error first
    assert [*found.said] == ["yes", "no", "yes", "no"]
    low, high = found.intervals()["accuracy"]
    assert low < 50 < high


def test_samples_of_a_group_are_drawn_together():
    right = np.repeat([True, False], 50)
    alone = choices(right).intervals()["accuracy"]
    together = choices(right, groups=["a"] * 50 + ["b"] * 50).intervals()["accuracy"]
    assert together == [0, 100]
    assert alone[0] > 35


def test_comparison_is_on_the_samples_that_both_have():
    a, b = choices([True, False, False], numbers=[0, 1, 2]), choices([True, True], numbers=[2, 0])
    found = compare(a, b)
    assert found["n"] == 2
    figure = found["figures"][found["main"]]
    assert (figure["first"], figure["second"], figure["difference"]) == (50, 100, 50)
    with pytest.raises(UserError, match="share no sample"):
        compare(a, choices([True], numbers=[9]))


def test_one_sample_gives_no_verdict():
    a, b = choices([False]), choices([True])
    found = compare(a, b)["figures"]["accuracy"]
    assert "can show: they differ on 1 alone" in verdict(found)
    found = compare(choices([False] * 6), choices([True] * 6))["figures"]["accuracy"]
    assert verdict(found) == "B is better"


def test_slices_by_words_and_by_quarters_of_numbers():
    found = choices([True, True, False, True])
    rows = slices(found, ["cat", "cat", "dog", None])
    assert [(r["value"], r["n"], r["figure"]) for r in rows] == [
        ("cat", 2, 100.0),
        ("(none)", 1, 100.0),
        ("dog", 1, 0.0),
    ]
    many = choices([True] * 40)
    rows = slices(many, [str(n) for n in range(40)])
    assert sum(r["n"] for r in rows) == 40
    assert len(rows) == 4
    rows = slices(many, [f"w{n % 25}" for n in range(40)])
    assert {r["value"] for r in rows} >= {"(other)", "w0"}
    assert sum(r["n"] for r in rows) == 40


def test_quarters_of_dates_keep_all_their_digits():
    rows = slices(choices([True] * 28), [20240101 + day for day in range(28)])
    assert sorted(row["value"] for row in rows)[0] == "20240101 to 20240107.75"
    assert [row["n"] for row in rows] == [7] * 4


def test_a_column_that_is_not_there_is_named():
    with pytest.raises(UserError, match=r"no column 'colour'.*it has animal"):
        metadata(lambda i: {"animal": "cat"}, choices([True]), "colour")


def test_the_sheet_needs_nothing_else(tmp_path):
    found = choices([True, False, False], asked=["is it <a>?"] * 3)

    def picture(number):
        if number == 1:
            raise BadSample("gone")
        return [Image.new("RGB", (300, 300), "red")] * 2

    write_sheet(tmp_path / "x.html", "a model", found, picture, sliced=slices(found, ["a", "a", "b"]))
    page = (tmp_path / "x.html").read_text()
    assert page.count("data:image/png;base64,") == 2  # two pictures of one sample
    assert "is it &lt;a&gt;?" in page
    assert "The worst 2 of 2 wrong, of 3" in page
    assert "http" not in page.replace("http-equiv", "")


def test_retrieval_s_outcomes_give_its_recalls(albef, samples):
    for texts in ("all", "first"):
        found = measure(albef, samples, texts=texts, k=3, batch_size=4)
        assert found.outcomes is not None
        for name, value in found.outcomes.values().items():
            assert value == pytest.approx(found.result["itm"][name]), (texts, name)
        assert len(found.outcomes) == len(samples)
        rows = found.outcomes.pick([2, 0])
        assert [*rows.keys] == ["2", "0"]


@pytest.mark.filterwarnings("error")
def test_pictures_that_share_one_text_have_an_interval(albef, samples):
    class OneText(Fold):
        def sample(self, i):
            return replace(super().sample(i), texts=["a drawing"])

    five = OneText(samples=samples, first=0, size=5)
    found = measure(albef, five, k=2, batch_size=4).outcomes
    assert found is not None
    low, high = wilson(5, 5)
    assert found.intervals()["ir_r1"] == [100 * low, 100 * high]


def test_folds_are_measured_apart_and_averaged(albef, samples):
    parts = [measure(albef, Fold(samples, first, size), k=2) for first, size in ((0, 3), (3, 4))]
    found = measure_folds(albef, samples, 2, k=2)
    for stage in ("itc", "itm"):
        for name, value in found.result[stage].items():
            assert value == pytest.approx(np.mean([part.result[stage][name] for part in parts]))
    for name, value in found.outcomes.values().items():  # what the card and the intervals are of
        assert value == pytest.approx(found.result["itm"][name]), name
    assert found.result["n_images"] == len(samples)
    assert found.pairs == sum(part.pairs for part in parts)
    assert [*found.outcomes.keys] == [str(i) for i in range(7)]
    assert found.outcomes.numbers.tolist() == list(range(7))
    assert measure_folds(albef, samples, 1, k=2).result == measure(albef, samples, k=2).result
    with pytest.raises(UserError, match="8 folds of 7"):
        measure_folds(albef, samples, 8)
