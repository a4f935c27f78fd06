"""One dataset over several sources."""

import pytest

from multiway.data.dataset import Dataset, Source
from multiway.data.sample import BadSample
from multiway.errors import UserError


def test_sources_follow_each_other(make_tars):
    dataset = Dataset(
        [Source(path=make_tars(3, name="a")), Source(path="scenes:2"), Source(path="emoji", split="style")]
    )
    assert dataset.sizes == (3, 2, 1401)
    assert [dataset.key(i) for i in (2, 3, 5)] == ["00002", "scene_0_00000000", "fluent_1f315"]
    assert [dataset.source(i).split("/")[-1] for i in (0, 4, 5)] == ["a", "scenes:2", "emoji"]
    assert list(dataset.following(4)) == [4, 3]
    with pytest.raises(IndexError):
        dataset.key(1406)


def test_min_side_reaches_the_decoder(make_tars, make_picture):
    folder = make_tars(1, replace={0: {"jpg": make_picture(size=(800, 600))}})
    assert Dataset(Source(path=folder), min_side=100).image(0).size == (200, 150)
    assert Dataset(Source(path=folder)).image(0).size == (800, 600)


def test_a_picture_that_is_a_text_file(make_tars):
    dataset = Dataset(Source(path=make_tars(1, replace={0: {"jpg": b"I am a text"}})))
    with pytest.raises(BadSample) as caught:
        dataset.sample(0)
    assert caught.value.reason == "not_an_image"


@pytest.mark.parametrize(
    ("source", "says"),
    [
        (Source(path="nowhere"), "No tar at"),
        (Source(path="nowhere.csv"), "no file or folder"),
        (Source(path="emoji", split="test"), "no split test: choose from train"),
        (Source(path="emoji", weight=0.0), "above 0"),
        (Source(path="TARS", split="val"), "have no splits"),
    ],
)
def test_wrong_sources_are_one_sentence(make_tars, source, says):
    if source.path == "TARS":
        source = Source(path=make_tars(2), split=source.split)
    with pytest.raises(UserError, match=says):
        Dataset(source)


def test_nothing_usable_says_why(make_tars, tmp_path):
    folder = make_tars(2, name="empty", replace={i: {"jpg": None} for i in range(0)})
    for tar in (tmp_path / "empty").glob("*.tar"):
        tar.write_bytes(b"no tar at all, only text")
    with pytest.raises(UserError, match="truncated_tar 1"):
        Dataset(Source(path=folder))
    with pytest.raises(UserError, match="name at least one"):
        Dataset([])
