"""Pictures alone, texts alone, and pairs in one batch."""

from __future__ import annotations

from collections import Counter

import pytest
import torch
from PIL import Image

from multiway.data.dataset import Dataset, Source
from multiway.data.loader import Loader
from multiway.data.sample import BadSample
from multiway.errors import UserError


def encode(texts: list[str]) -> tuple[torch.Tensor, torch.Tensor]:
    """A first token, and a token a word."""
    rows = [[1, *(2 + len(word) for word in text.split())] for text in texts]
    width = max(map(len, rows))
    ids = torch.tensor([row + [0] * (width - len(row)) for row in rows])
    return ids, (ids != 0).long()


def grey(image, caption, generator) -> torch.Tensor:
    return torch.full((3, 4, 4), 0.5)


def test_one_source_is_read_in_three_ways(make_tars) -> None:
    path = make_tars(20)
    uses = ("pairs", "images", "texts")
    dataset = Dataset([Source(path=path, use=use) for use in uses])
    loader = Loader(dataset, encode=encode, transform=grey, batch_size=15)
    seen: Counter[tuple[bool, bool]] = Counter()
    for batch in loader.iterate(steps=len(loader)):
        has_text = batch.attention_mask.bool().any(1)
        assert torch.equal(batch.image.flatten(1).any(1), batch.has_image)
        assert not batch.attention_mask[~has_text].any()
        for number, *has in zip(batch.ids.tolist(), batch.has_image.tolist(), has_text.tolist(), strict=True):
            use = uses[number // 20]
            assert has == [use != "texts", use != "images"]
            seen[tuple(has)] += 1
    assert seen == {(True, True): 20, (True, False): 20, (False, True): 20}


def test_rows_of_one_kind_are_a_batch_as_ever(make_tars) -> None:
    path = make_tars(6)
    for use, has in (("pairs", (True, True)), ("images", (True, False)), ("texts", (False, True))):
        loader = Loader(Dataset(Source(path=path, use=use)), encode=encode, transform=grey, batch_size=6)
        (batch,) = loader.iterate(steps=1)
        assert (batch.image is not None, batch.input_ids is not None) == has
        assert batch.has_image is None


def test_pictures_of_texts_alone_are_not_read(make_tars) -> None:
    path = make_tars(6, replace={i: {"jpg": b"no picture"} for i in range(6)})
    loader = Loader(Dataset(Source(path=path, use="texts")), encode=encode, transform=grey, batch_size=6)
    assert next(loader.iterate()).image is None
    assert loader.tally.reasons == {}


def test_texts_lie_one_a_line(tmp_path) -> None:
    file = tmp_path / "texts.txt"
    file.write_bytes("\ufeffA dog.\n\n\u00a0\n  zwei Bäume \r\n".encode() + b"\xff bad\nlast")
    dataset = Dataset(Source(path=str(file), use="texts"))
    assert len(dataset) == 4
    assert [dataset.texts(i)[0] for i in (0, 1, 3)] == ["A dog.", "zwei Bäume", "last"]
    with pytest.raises(BadSample, match="bad_text"):
        dataset.texts(2)
    with pytest.raises(BadSample, match="no_picture"):
        dataset.image(0)


def test_pictures_lie_in_a_folder_without_texts(tmp_path) -> None:
    for name in ("b", "a"):
        Image.new("RGB", (8, 6), "red").save(tmp_path / f"{name}.png")
    dataset = Dataset(Source(path=str(tmp_path), use="images"))
    assert [dataset.key(i) for i in range(2)] == ["a.png", "b.png"]
    assert dataset.image(1).size == (8, 6)
    assert dataset.texts(0) == []


def test_sources_that_hold_nothing_of_the_kind_are_refused(tmp_path) -> None:
    with pytest.raises(UserError, match=r"there is no .*nowhere\.txt"):
        Dataset(Source(path=str(tmp_path / "nowhere.txt"), use="texts"))
    (tmp_path / "blank.txt").write_text("\n \n")
    with pytest.raises(UserError, match="holds no text"):
        Dataset(Source(path=str(tmp_path / "blank.txt"), use="texts"))
    with pytest.raises(UserError, match="no picture"):
        Dataset(Source(path=str(tmp_path), use="images"))


def test_a_split_is_of_what_says_it(tmp_path) -> None:
    rows = ["file_name,text,split"]
    for i in range(4):
        Image.new("RGB", (8, 6), "red").save(tmp_path / f"{i}.png")
        rows.append(f"{i}.png,a dog,{'test' if i == 1 else 'train'}")
    (tmp_path / "metadata.csv").write_text("\n".join(rows))
    (tmp_path / "texts.txt").write_text("a dog")
    for use in ("pairs", "images", "texts"):
        assert len(Dataset(Source(path=str(tmp_path), use=use, split="test"))) == 1, use
    (tmp_path / "metadata.csv").unlink()
    for path, use in ((tmp_path, "images"), (tmp_path / "texts.txt", "texts"), ("scenes:4", "pairs")):
        with pytest.raises(UserError, match="has no splits"):
            Dataset(Source(path=str(path), use=use, split="test"))
    with pytest.raises(UserError, match="has no splits"):
        Dataset(Source(path="prompts:caption:4", split="test"))
