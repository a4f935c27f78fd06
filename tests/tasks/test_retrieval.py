"""Retrieval evaluation beside a slow reference that scores one pair at a time with the plain path."""

import json

import numpy as np
import pytest
import torch
from PIL import Image

from multiway.errors import UserError
from multiway.systems.base import System
from multiway.tasks import two_stage
from multiway.tasks.retrieval import evaluate, measure, score_matrices


def slow_ranks(itc, itm, positives, k):
    """Sort each row with the wrong item first at ties: ITC, then the k best again by ITM."""
    first, second = [], []
    for q, right in enumerate(positives):
        order = sorted(range(itc.shape[1]), key=lambda i: (-itc[q, i], i in right))
        first.append(1 + min(order.index(i) for i in right))
        order[:k] = sorted(order[:k], key=lambda i: (-itm[q, i], i in right))
        second.append(1 + min(order.index(i) for i in right))
    return np.array(first), np.array(second)


@pytest.fixture(scope="module")
def slow(albef, samples):
    """All texts; cosine and ITM logit of every pair, one picture and one text at a time, on padded texts."""
    return slow_scores(
        albef, samples, list(dict.fromkeys(text for texts in samples.captions for text in texts))
    )


@torch.no_grad()
def slow_scores(model, samples, texts):
    model.eval()
    images = [model.prepare([samples.sample(i).image]) for i in range(len(samples))]
    pad = model.tokenizer(texts, max_length=30, padding="max_length")
    image = torch.cat([model.image_context(x)[0] for x in images])
    text = torch.cat([model.text_context(i[None], m[None])[0] for i, m in zip(*pad, strict=True)])
    itm = np.empty((len(images), len(texts)), np.float32)
    for n, x in enumerate(images):
        for t, (ids, mask) in enumerate(zip(*pad, strict=True)):
            hidden = model.text_context(ids[None], mask[None])[1]
            itm[n, t] = model.match_pairs(model.image_context(x)[1], hidden, mask[None])[0, 1]
    model.train()
    return texts, (image @ text.T).numpy().round(5), itm.round(5)  # equal tokens tie in spite of float noise


def expected(slow, samples, mode, k):
    captions = [c[:1] if mode == "first" else c for c in samples.captions]
    texts = list(dict.fromkeys(line for lines in captions for line in lines))
    every, *scores = slow
    itc, itm = (matrix[:, [every.index(text) for text in texts]] for matrix in scores)
    tr = [{texts.index(line) for line in lines} for lines in captions]
    ir = [{i for i, lines in enumerate(captions) if text in lines} for text in texts]
    blocks = {}
    for side, ranks in (("tr", slow_ranks(itc, itm, tr, k)), ("ir", slow_ranks(itc.T, itm.T, ir, k))):
        for stage, r in zip(("itc", "itm"), ranks, strict=True):
            block = blocks.setdefault(stage, {})
            block |= {f"{side}_r{n}": 100 * np.mean(r <= n) for n in (1, 5, 10)}
            block[f"{side}_median_rank"] = np.median(r)
    return {"n_images": len(captions), "n_texts": len(texts), "k": k, **blocks}


def test_the_control_is_another_pictures_texts(listed):
    """A model that tells pictures apart by their colour finds every text, and none that was dealt out."""

    class Colours(System):
        def __init__(self):
            super().__init__()
            self.nothing = torch.nn.Parameter(torch.zeros(1))

        def prepare(self, images):
            grey = torch.tensor([image.getpixel((0, 0)) for image in images])
            return grey.float()[:, :, None, None]

        def image_context(self, image):
            return torch.nn.functional.one_hot(image[:, 0, 0, 0].long(), 16).float(), None

        def tokenize(self, texts):
            ids = torch.tensor([[int(text)] for text in texts])
            return ids, torch.ones_like(ids)

        def text_context(self, ids, mask):
            return torch.nn.functional.one_hot(ids[:, 0], 16).float(), ids

    samples = listed([[str(i)] for i in range(12)])
    samples.images = [Image.new("RGB", (4, 4), (i, i, i)) for i in range(12)]
    found = measure(Colours(), samples)
    assert found.result["itc"]["tr_r1"] == found.result["itc"]["ir_r1"] == 100.0
    assert found.shuffled["tr_r1"] == found.shuffled["ir_r1"] == 0.0


@pytest.mark.parametrize("mode", ["first", "all"])
@pytest.mark.parametrize("k", [1, 3, 50])
@pytest.mark.parametrize("batch_size", [2, 32])
def test_equals_the_slow_reference(albef, samples, slow, mode, k, batch_size):
    result = evaluate(albef, samples, texts=mode, k=k, batch_size=batch_size)
    want = expected(slow, samples, mode, k)
    assert list(result) == ["n_images", "n_texts", "k", "itc", "itm"]
    assert {key: result[key] for key in ("n_images", "n_texts", "k")} == {
        "n_images": 7, "n_texts": 7 if mode == "first" else 9, "k": k,
    }  # fmt: skip
    for stage in ("itc", "itm"):
        assert result[stage] == pytest.approx(want[stage])
        keys = [f"{side}_{what}" for side in ("tr", "ir") for what in ("r1", "r5", "r10", "median_rank")]
        assert list(result[stage]) == keys
    assert json.loads(json.dumps(result)) == result


def test_the_mode_of_the_model_is_put_back(albef, samples):
    albef.train()
    evaluate(albef, samples)
    assert albef.training


def test_contexts_that_do_not_fit_are_computed_again(albef, samples, monkeypatch):
    kept = evaluate(albef, samples, k=3, batch_size=2)
    monkeypatch.setattr(two_stage, "KEPT_BYTES", 0)
    monkeypatch.setattr(two_stage, "PASS_PAIRS", 1)  # one pair a pass
    assert evaluate(albef, samples, k=3, batch_size=2) == kept


def test_some_pairs_of_some_pictures_are_scored_as_all_are(albef):
    images = torch.randn(5, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    with two_stage.evaluating(albef):
        pictures = two_stage.Pictures(albef, lambda numbers: images[list(numbers)], row=list(range(5)))
        for numbers in ([0, 1, 2], [3, 4]):
            pictures.add(numbers, images[numbers])
        texts = two_stage.encode_texts(albef, *albef.tokenize(["a dog", "a red cat", "two"]), batch_size=2)
        picture, row = np.divmod(np.arange(15), 3)
        every = two_stage.match_pairs(albef, pictures, texts, picture, row)
        some = np.array([5, 6, 8, 13])  # nothing of the first picture of either batch
        found = two_stage.match_pairs(albef, pictures, texts, picture[some], row[some])
    np.testing.assert_allclose(found, every[some], rtol=1e-4, atol=1e-5)
    assert np.ptp(every) > 0.1


def test_a_pair_is_scored_once_and_equal_tokens_too(albef, samples):
    measured = measure(albef, samples, k=50)
    assert measured.pairs == 7 * 8  # nine texts, of which "a red dog" and "A red dog." are the same tokens
    assert "56 pairs re-ranked" in measured.sentence()


def test_equal_pictures_tie_in_any_batch(albef, listed):
    some = listed([[f"{word} dog"] for word in ("one", "two", "three", "four", "five")])
    some.images[1:] = [some.images[0].copy() for _ in some.images[1:]]
    for batch_size in (1, 2, 32):
        measured = measure(albef, some, k=2, batch_size=batch_size)
        assert measured.result["itc"]["ir_median_rank"] == measured.result["itm"]["ir_median_rank"] == 5
        assert measured.pairs == 5


def test_bad_pictures_are_left_out_and_named(albef, listed):
    some = listed([["a dog"], None, ["a cat"], None])
    stages = []
    measured = measure(
        albef, some, batch_size=2, progress=lambda stage, done, total: stages.append((stage, done, total))
    )
    assert (measured.result["n_images"], measured.skipped) == (2, {"undecodable": 2})
    assert "skipped undecodable 2" in measured.sentence()
    assert stages[-1] == ("pairs", 4, 4)
    assert {stage for stage, _, _ in stages} == {"pictures", "texts", "pairs"}
    with pytest.raises(UserError, match="undecodable 1"):
        evaluate(albef, listed([None]))


def test_without_an_itm_head(albef, samples, monkeypatch):
    monkeypatch.setattr(albef, "has_itm", False)
    assert evaluate(albef, samples)["itm"] is None


def test_wrong_k(albef, samples):
    with pytest.raises(UserError, match="k is 0"):
        evaluate(albef, samples, k=0)


def test_broken_weights_are_no_result(albef, samples, monkeypatch):
    monkeypatch.setattr(
        type(albef), "image_context", lambda self, image: (torch.full((len(image), 16), torch.nan), None)
    )
    with pytest.raises(FloatingPointError, match="pictures"):
        evaluate(albef, samples)


def test_official_matrices(albef, samples, slow):
    texts, _, itm = slow
    image = albef.prepare([samples.sample(i).image for i in range(len(samples))])
    i2t, t2i, itc = score_matrices(
        albef, image, *albef.tokenizer(texts, max_length=30, padding="max_length"), k=3
    )
    for matrix, all_scores, similarity in ((i2t, itm, itc), (t2i, itm.T, itc.T)):
        assert ((matrix != -100).sum(1) == 3).all()
        for q, row in enumerate(matrix):
            inside = row != -100
            assert row[inside] == pytest.approx(all_scores[q][inside], abs=2e-5)
            assert similarity[q][inside].min() >= similarity[q][~inside].max()
