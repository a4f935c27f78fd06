"""Captions of many pictures, and their scores: on a stand-in that says a picture's colour."""

from __future__ import annotations

import numpy as np
import pytest
import tiny_coca
import tiny_simvlm
from fake_captioner import WORDS, FakeCaptioner
from PIL import Image

from multiway.data.sample import BadSample, Sample
from multiway.errors import UserError
from multiway.systems.coca_config import OFFICIAL
from multiway.systems.simvlm_config import VQAConfig
from multiway.systems.simvlm_heads import AnswerModel
from multiway.tasks import caption as task
from multiway.tasks.caption_many import Options, caption_pictures, captioning
from multiway.tasks.caption_scorers import load_scorer
from multiway.text import Tokenizer

COLOURS = ("red", "green", "blue")


class Coloured:
    """Plain pictures by colour; None can't be decoded. The second reference of each is nonsense."""

    def __init__(self, colours):
        self.colours = colours

    def __len__(self):
        return len(self.colours)

    def image(self, i):
        if self.colours[i] is None:
            raise BadSample("undecodable")
        return Image.new("RGB", (20, 20), (0, 255, 0) if self.colours[i] == "green" else self.colours[i])

    def sample(self, i):
        image = self.image(i)
        return Sample(
            key=f"k{i}", image=image, texts=[f"A {self.colours[i]} picture.", "some words"], source="x"
        )


def run(colours, options=None, **settings):
    model, pictures = FakeCaptioner(), Coloured(colours)
    keys = [f"k{i}" for i in range(len(colours))]
    rows = [
        row
        for rows in caption_pictures(model, keys, pictures.image, options=options or Options(), **settings)
        for row in rows
    ]
    return model, rows


def test_captions_in_order_with_bad_pictures_in_their_places():
    model, rows = run(["red", None, "blue", "green", None], batch_size=2)
    assert [row.key for row in rows] == ["k0", "k1", "k2", "k3", "k4"]
    assert [row.captions for row in rows] == [
        ["a red picture"],
        [],
        ["a blue picture"],
        ["a green picture"],
        [],
    ]
    assert [row.error for row in rows] == [None, "undecodable", None, None, "undecodable"]
    assert model.calls == [["k0"], ["k2", "k3"]]  # batches of their own pictures; an empty one is not asked


def test_batches_lie_where_they_lay_when_going_on():
    model, rows = run(["red"] * 7, batch_size=3, start=1)
    assert model.calls == [["k3", "k4", "k5"], ["k6"]]
    assert len(rows) == 4
    assert run(["red"] * 7, batch_size=3, start=3)[1] == []


def test_several_captions_come_with_their_logprobs():
    _, (row,) = run(["red"], Options(number=3))
    assert row.captions == [f"a {word} picture" for word in WORDS]
    assert row.logprobs == [-1.0, -2.0, -3.0]


def test_options_go_over_the_model_s_own():
    model = FakeCaptioner()
    config = Options(prompt="a picture of").config(model)
    assert (config.method, config.beams, config.min_length, config.max_length) == ("beam", 3, 1, 16)
    config = Options(method="sample", number=4, seed=7).config(model)
    assert (config.method, config.samples, config.top_p, config.seed) == ("sample", 4, 0.9, 7)
    assert Options(method="sample", top_p=0.5).config(model).top_p == 0.5
    assert Options(number=5).config(model).beams == 5
    assert Options(max_length=2).config(model).min_length == 0
    with pytest.raises(UserError, match="beams"):
        Options(number=5, beams=2).config(model)
    with pytest.raises(UserError, match="greedy"):
        Options(method="greedy", number=2).config(model)


def test_the_mode_of_the_model_is_put_back():
    model = FakeCaptioner()
    model.train()
    list(caption_pictures(model, ["k"], Coloured(["red"]).image))
    assert model.training


def test_a_model_without_text_is_refused(albef):
    with pytest.raises(UserError, match="ALBEF does not generate text"):
        captioning(albef)
    classifier = tiny_simvlm.build(tiny_simvlm.config(VQAConfig, labels=("red",)), AnswerModel)
    with pytest.raises(UserError, match="AnswerModel does not generate text"):
        captioning(classifier)


def test_measure_compares_with_the_texts_and_with_other_pictures_texts():
    colours = ["red", "green", "blue"] * 4
    found = task.measure(FakeCaptioner(), Coloured(colours), batch_size=5)
    assert (found.result["n_images"], found.result["n_references"]) == (12, 24)
    assert found.result["exact"] == 100
    assert found.result["bleu_1"] == pytest.approx(100, abs=1e-4)
    assert found.result["cider"] == pytest.approx(1000 * 3 / 4 / 2)  # no four words; one reference of two
    assert found.result["shuffled"]["cider"] < found.result["cider"]
    assert found.result["shuffled"]["exact"] < 100
    assert found.captions[1] == "a green picture"
    assert "12 pictures captioned" in found.sentence()


def test_measure_by_the_first_text_and_with_bad_pictures():
    found = task.measure(FakeCaptioner(), Coloured(["red", None, "blue"]), texts="first")
    assert (found.result["n_images"], found.result["n_references"]) == (2, 2)
    assert found.skipped == {"undecodable": 1}
    assert sorted(found.captions) == [0, 2]
    with pytest.raises(UserError, match="undecodable 2"):
        task.measure(FakeCaptioner(), Coloured([None, None]))


def test_evaluate_is_the_result_of_measure():
    assert task.evaluate(FakeCaptioner(), Coloured(["red", "blue"]))["exact"] == 100


@pytest.mark.parametrize("count", [2, 3, 10, 101])
def test_no_picture_keeps_its_caption_when_they_are_dealt(count):
    dealt = task.other(range(count))
    assert dealt is not None
    assert sorted(dealt) == list(range(count))
    assert not (dealt == np.arange(count)).any()


def test_one_picture_has_no_control():
    found = task.measure(FakeCaptioner(), Coloured(["red"]))
    assert found.result["shuffled"] is None
    assert found.result["exact"] == 100


def test_nearest_beside_the_whole_matrix():
    draw = np.random.default_rng(0)
    known, features = draw.normal(size=(50, 8)), draw.normal(size=(23, 8))
    assert (task.nearest(features, known, block=5) == (features @ known.T).argmax(1)).all()


def test_a_scorer_of_the_user_s_counts_beside_ours():
    class Lengths:
        def compute_score(self, gts, res):
            each = [len(res[i][0].split()) / 10 for i in gts]
            return max(each), [{"All": {"f": one}} for one in each]

    found = task.measure(FakeCaptioner(), Coloured(["red", "green"]), scorers={"lengths": Lengths()})
    assert found.result["lengths"] == pytest.approx(30)
    assert found.outcomes is not None
    assert found.outcomes.values()["lengths"] == pytest.approx(30)
    assert found.outcomes.intervals()["lengths"] == pytest.approx([30, 30])
    assert found.outcomes.intervals()["cider"] is None  # both are alike
    with pytest.raises(UserError, match="no compute_score"):
        load_scorer("collections:Counter")
    with pytest.raises(UserError, match="nowhere"):
        load_scorer("nowhere.meteor:Meteor")


def test_what_is_not_said_is_the_models_own():
    model = tiny_coca.coca(tiny_coca.config(compat=OFFICIAL))
    model.tokenizer = Tokenizer.load(model.config.tokenizer)
    assert Options().config(model).beams == 2  # open_clip's
    assert Options(number=3).config(model).beams == 3
    assert Options(beams=5).config(model).beams == 5
    assert Options().config(FakeCaptioner()).beams == 3
