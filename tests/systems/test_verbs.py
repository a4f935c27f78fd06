"""What a user asks a model: encode, match, and how it says no."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import tiny
import torch
from PIL import Image

from multiway.errors import UserError
from multiway.search.index import fingerprint
from multiway.systems.albef import ALBEF
from multiway.systems.pictures import transform_of
from multiway.text import Tokenizer


@pytest.fixture(scope="module")
def model() -> ALBEF:
    made = tiny.albef(tiny.albef_config(text=tiny.bert(vocab_size=30522)))[0].eval()
    made.tokenizer = Tokenizer.load(made.config.tokenizer)
    return made


@pytest.fixture(scope="module")
def pictures() -> list[Image.Image]:
    g = np.random.default_rng(0)
    return [Image.fromarray(g.integers(0, 256, (20, 30 + i, 3), dtype=np.uint8)) for i in range(3)]


def test_pictures_come_as_paths_images_or_tensors(model: ALBEF, pictures, tmp_path: Path) -> None:
    paths = []
    for i, picture in enumerate(pictures):
        picture.save(tmp_path / f"{i}.png")
        paths.append(tmp_path / f"{i}.png")
    features = model.encode_image(pictures)
    assert features.shape == (3, 12)
    torch.testing.assert_close(features.norm(dim=1), torch.ones(3))
    assert torch.equal(model.encode_image(paths), features)
    assert torch.equal(model.encode_image([str(p) for p in paths]), features)
    prepared = model.prepare(pictures)
    assert torch.equal(model.encode_image(prepared), features)
    assert torch.equal(model.encode_image(list(prepared)), features)
    torch.testing.assert_close(model.encode_image(paths[1]), features[1:2])
    torch.testing.assert_close(model.encode_image(pictures[2].convert("L")).shape, (1, 12))


def test_pictures_are_fitted_as_the_config_says(model: ALBEF, pictures) -> None:
    crops = tiny.albef(tiny.albef_config(image=tiny.vit(fit="crop")))[0]
    assert (model.image_fit, crops.image_fit) == ("squash", "crop")
    within = tiny.albef(tiny.albef_config(image=tiny.vit(fit="crop", crop_share=0.5)))[0]
    assert len({fingerprint(prepares) for prepares in (model, crops, within)}) == 3  # an index is of one
    with pytest.raises(UserError, match="crop_share is 0: give a share"):
        tiny.vit(crop_share=0)
    middle = pictures[0].resize((48, 32), Image.Resampling.BICUBIC).crop((8, 0, 40, 32))
    assert torch.equal(crops.prepare(pictures[0]), transform_of(model)(middle)[None])
    assert not torch.equal(crops.prepare(pictures), model.prepare(pictures))


def test_matching_one_with_many_equals_pair_by_pair(model: ALBEF, pictures) -> None:
    texts = ["a dog", "a man riding a red bike on the street", "birds"]
    paired = model.match(pictures, texts)
    assert ((paired > 0) & (paired < 1)).all()
    one_text = model.match(pictures, texts[0])
    one_picture = model.match(pictures[0], texts)
    for i in range(3):
        torch.testing.assert_close(model.match(pictures[i], texts[i])[0], paired[i])
        torch.testing.assert_close(model.match(pictures[i], texts[0])[0], one_text[i])
        torch.testing.assert_close(model.match(pictures[0], texts[i])[0], one_picture[i])


def test_what_cannot_be_done_is_said(model: ALBEF, pictures, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="3 pictures and 2 texts"):
        model.match(pictures, ["a", "b"])
    with pytest.raises(UserError, match=r"nothing\.png"):
        model.encode_image(tmp_path / "nothing.png")
    (tmp_path / "text.png").write_text("no picture")
    with pytest.raises(UserError, match=r"text\.png"):
        model.encode_image(tmp_path / "text.png")
    with pytest.raises(UserError, match="does not generate"):
        model.caption(pictures)
    with pytest.raises(UserError, match="VQA"):
        model.answer(pictures, "what?")
    bare = tiny.albef()[0]
    with pytest.raises(UserError, match="tokenizer"):
        bare.encode_text("a")


def test_a_text_means_the_same_alone_and_in_a_padded_batch(model: ALBEF) -> None:
    texts = ["a dog", "a man riding a red bike on the street"]
    together = model.encode_text(texts)
    for i, text in enumerate(texts):
        torch.testing.assert_close(model.encode_text(text)[0], together[i])
