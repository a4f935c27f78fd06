"""The bundled sample: what it holds, its protocol, and its size in a wheel."""

import hashlib
import zipfile

from multiway.data import emoji
from multiway.data.dataset import Dataset, Source


def test_the_sample_is_whole():
    dataset = Dataset(Source(path="emoji"))
    assert len(dataset) == 5054
    assert sum(len(dataset.texts(i)) for i in range(len(dataset))) == 9554
    assert not dataset.problems
    sample = dataset.sample(0)
    assert (sample.key, sample.texts, sample.image.size) == (
        "fluent_1f315",
        ["full moon", "full, moon, space"],
        (80, 80),
    )
    assert sample.meta["licence"].startswith("MIT")
    assert len(emoji.read_concepts()) == 1514
    assert set(emoji.read_concepts()[0]["labels"]) == {"de", "fr", "es", "pt", "ru", "zh", "ja", "hi", "ko"}


def test_every_drawing_is_the_one_that_the_script_builds():
    """The digest of all tars; scripts/build_emoji.py compares them byte for byte with what it draws."""
    digest = hashlib.sha256()
    for tar in sorted(emoji.FOLDER.glob("*.tar")):
        digest.update(tar.read_bytes())
    assert digest.hexdigest() == "6bb337dcdb44c5cc0a90b5b486b636c41d5079ca16a68bf663b666768b916923"


def test_the_protocol():
    splits = {name: Dataset(Source(path="emoji", split=name)) for name in ("train", "combination", "style")}
    assert {split: len(dataset) for split, dataset in splits.items()} == {
        "train": 3288,
        "combination": 294,
        "style": 1401,
    }
    keys = {split: {dataset.key(i) for i in range(len(dataset))} for split, dataset in splits.items()}
    names = {split: {dataset.texts(i)[0] for i in range(len(dataset))} for split, dataset in splits.items()}
    assert not keys["train"] & keys["combination"]
    assert not any(key.startswith("fluent") for key in keys["train"] | keys["combination"])
    assert all(key.startswith("fluent") for key in keys["style"])
    assert not names["train"] & names["combination"]
    assert names["style"] <= names["train"]
    assert Dataset(Source(path="emoji", split="style", texts="first")).texts(0) == ["full moon"]


def test_it_fits_the_wheel(tmp_path):
    with zipfile.ZipFile(tmp_path / "wheel", "w", zipfile.ZIP_DEFLATED) as wheel:
        for path in emoji.FOLDER.iterdir():
            wheel.write(path, path.name)
    assert (tmp_path / "wheel").stat().st_size < 12e6
