"""Pairs scored by `match` equal the system's own verbs."""

import pytest
import torch

from multiway.errors import UserError
from multiway.tasks.match import match

TEXTS = ["a dog", "two cats on a mat", "a horse", "grass", "a car"]


@pytest.fixture
def pictures(samples):
    return [samples.sample(i).image for i in range(5)]


@pytest.mark.parametrize(("images", "texts"), [(5, 5), (1, 5), (5, 1), (1, 1)])
@pytest.mark.parametrize("batch_size", [2, 32])
def test_equals_one_by_one(albef, pictures, images, texts, batch_size):
    found = match(albef, pictures[:images], TEXTS[:texts], batch_size=batch_size)
    assert len(found) == max(images, texts)
    albef.eval()
    for n, pair in enumerate(found):
        picture, text = pictures[min(n, images - 1)], TEXTS[min(n, texts - 1)]
        assert pair.probability == pytest.approx(albef.match(picture, text).item(), abs=1e-5)
        assert pair.cosine == pytest.approx(
            (albef.encode_image(picture) @ albef.encode_text(text).T).item(), abs=1e-5
        )
        assert 0 <= pair.probability <= 1
        assert -1.001 <= pair.cosine <= 1.001
    albef.train()


def test_logit_is_what_retrieval_ranks_by(albef, pictures):
    [pair] = match(albef, pictures[:1], TEXTS[:1])
    albef.eval()
    with torch.no_grad():
        _, context = albef.image_context(albef.prepare(pictures[:1]))
        ids, mask = albef.tokenize(TEXTS[:1])
        logits = albef.match_pairs(context, albef.text_context(ids, mask)[1], mask)
    albef.train()
    assert pair.logit == pytest.approx(logits[0, 1].item(), abs=1e-5)


def test_without_an_itm_head(albef, pictures, monkeypatch):
    monkeypatch.setattr(
        type(albef), "image_context", lambda self, image: (torch.ones(len(image), 16) / 4, None)
    )
    assert [pair.probability for pair in match(albef, pictures, TEXTS)] == [None] * 5


@pytest.mark.parametrize(("images", "texts"), [(2, 3), (0, 3), (3, 0), (0, 0)])
def test_wrong_numbers(albef, pictures, images, texts):
    with pytest.raises(UserError, match=f"{images} pictures and {texts} texts"):
        match(albef, pictures[:images], TEXTS[:texts])
