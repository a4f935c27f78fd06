"""The bundled sample: what it holds, its protocol, and its size in a wheel."""

import hashlib
import string
import zipfile

import pytest

from multiway.data import emoji
from multiway.data.dataset import Dataset, Source
from multiway.errors import UserError

MARKS = str.maketrans(dict.fromkeys(string.punctuation + "“”«»„‘’…¿¡、।–—・", " "))


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


def test_names_in_a_language():
    assert Dataset(Source(path="emoji", split="combination:de")).texts(0) == ["laufende Frau: nach rechts"]
    both = Dataset(Source(path="emoji", split="combination:ja+en"))
    assert len(both) == 150  # no skin-tone variants: they have no names in other languages
    names = emoji.read_names()[both.meta(0)["hexcode"]]
    assert both.texts(0) == [names["ja"], names["en"]]
    for wrong in ("style:xx", "transfer", "nowhere:de"):
        with pytest.raises(UserError, match="The emoji sample has no"):
            emoji.open_split(wrong)


@pytest.mark.parametrize("language", emoji.LANGUAGES[1:])
def test_held_back_names_are_never_trained_on(language):
    everything = "+".join(emoji.LANGUAGES)
    train = emoji.open_split(f"train:{everything}")
    asked = emoji.open_split(f"transfer:{language}")
    known = {text.lower() for i in range(len(train)) for text in train.texts(i)}
    names = {asked.texts(i)[0].lower() for i in range(len(asked))}
    assert len(names) >= 80
    assert not names & known
    assert {asked.key(i) for i in range(len(asked))} <= {train.key(i) for i in range(len(train))}
    assert {asked.meta(i)["hexcode"] for i in range(len(asked))} == emoji.held_back()[language]
    # Every word of theirs is trained on: in names of the same language.
    own = emoji.open_split(f"train:{language}")
    words = {w for i in range(len(own)) for w in own.texts(i)[0].lower().translate(MARKS).split()}
    if language not in ("zh", "ja"):  # they write no blanks
        assert {w for name in names for w in name.translate(MARKS).split()} <= words
    style = emoji.open_split(f"style:{language}")
    assert len(emoji.open_split("train:en")) == len(train)
    assert not names & {style.texts(i)[0].lower() for i in range(len(style))}


def test_most_names_of_a_held_back_concept_are_trained_on():
    held = emoji.held_back()
    for code in set().union(*held.values()):
        assert sum(code in codes for codes in held.values()) <= emoji.HELD_LANGUAGES
