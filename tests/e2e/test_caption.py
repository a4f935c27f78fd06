"""`multiway caption` and `multiway evaluate caption` as a user meets them."""

from __future__ import annotations

import json

import pytest
from fake_captioner import FakeCaptioner
from PIL import Image


@pytest.fixture
def captioner(monkeypatch):
    """Whatever --model says, it is a stand-in that names colours."""
    model = FakeCaptioner()
    monkeypatch.setattr("multiway.load", lambda path, **options: model)
    return model


@pytest.fixture
def photos(tmp_path):
    """Three pictures and one that is none."""
    folder = tmp_path / "photos"
    folder.mkdir()
    for name, colour in (("a", (255, 0, 0)), ("b", (0, 255, 0)), ("c", (0, 0, 255))):
        Image.new("RGB", (30, 20), colour).save(folder / f"{name}.jpg")
    (folder / "d.jpg").write_text("no picture")
    return folder


def test_captions_are_printed(cli, captioner, photos):
    code, out, err = cli("caption", photos, "--model", "m")
    assert code == 0, err
    assert out.splitlines() == ["a.jpg\ta red picture", "b.jpg\ta green picture", "c.jpg\ta blue picture"]
    assert "d.jpg: skipped (not_an_image)" in err
    assert "3 pictures captioned in" in err
    assert "pictures/s" in err
    code, out, err = cli("caption", photos / "c.jpg", photos / "a.jpg", "--model", "m", "--n", "2")
    assert code == 0, err
    assert [line.split("\t")[1] for line in out.splitlines()] == [
        "a blue picture", "a red picture", "a red picture", "a green picture",
    ]  # fmt: skip


def test_captions_are_written_and_bad_pictures_named(cli, captioner, photos, tmp_path):
    code, out, err = cli(
        "caption", photos, "--model", "m", "--out", tmp_path / "c.jsonl", "--batch-size", "2"
    )
    assert code == 0, err
    assert "3 pictures captioned" in out
    assert "not_an_image 1" in out
    assert "skipped: d.jpg" in err
    assert len((tmp_path / "c.jsonl").read_text().splitlines()) == 3
    code, out, err = cli("caption", photos, "--model", "m", "--format", "txt")
    assert code == 0, err
    assert (photos / "b.txt").read_text() == "a green picture\n"
    code, out, err = cli("caption", photos, "--model", "m", "--format", "imagefolder")
    assert code == 0, err
    assert json.loads((photos / "metadata.jsonl").read_text().splitlines()[0])["file_name"] == "a.jpg"
    code, out, err = cli("caption", photos, "--model", "m", "--format", "tar", "--out", tmp_path / "tars")
    assert code == 0, err
    assert (tmp_path / "tars" / "00000.tar").is_file()


def test_all_pictures_have_their_texts(cli, captioner, photos):
    (photos / "d.jpg").unlink()
    assert cli("caption", photos, "--model", "m", "--format", "txt")[0] == 0
    code, out, _ = cli("caption", photos, "--model", "m", "--format", "txt")
    assert code == 0
    assert "nothing to do" in out


def test_generation_flags_reach_the_model(cli, captioner, photos):
    flags = ["--method", "sample", "--top-p", "0.8", "--top-k", "50", "--seed", "3", "--n", "2"]
    flags += ["--min-length", "2", "--max-length", "9", "--temperature", "0.5", "--repetition-penalty", "1.1"]
    assert cli("caption", photos, "--model", "m", "--prompt", "a picture of", *flags)[0] == 0
    config = captioner.configs[0]
    given = (config.method, config.top_p, config.top_k, config.seed, config.samples)
    assert given == ("sample", 0.8, 50, 3, 2)
    lengths = (config.min_length, config.max_length, config.temperature, config.repetition_penalty)
    assert lengths == (2, 9, 0.5, 1.1)


def test_evaluate_caption_prints_one_object(cli, captioner, photos, tmp_path):
    (photos / "captions.csv").write_text(
        "image,caption\na.jpg,a red picture\nb.jpg,a green one\nc.jpg,blue\n"
    )
    argv = ["evaluate", "caption", "--model", "m", "--data", photos]
    code, out, err = cli(*argv, "--json")
    assert code == 0, err
    found = json.loads(out)
    scores = {"bleu_1", "bleu_2", "bleu_3", "bleu_4", "rouge_l", "cider", "exact"}
    assert set(found) == {"n_images", "n_references", "shuffled", "intervals", *scores}
    assert set(found["shuffled"]) == scores
    assert found["exact"] == pytest.approx(100 / 3)
    code, out, err = cli(*argv)
    assert code == 0, err
    assert [line.split()[0] for line in out.splitlines()[1:]] == ["model", "shuffled", "bootstrap,"]


WRONG = {
    "no model": (["caption", "PHOTOS"], ["--model"]),
    "no pictures named": (["caption", "--model", "m"], ["pictures"]),
    "missing pictures": (["caption", "MISSING", "--model", "m"], ["there is no", "missing"]),
    "an empty folder": (["caption", "EMPTY", "--model", "m"], ["no picture", "jpg"]),
    "unknown format": (["caption", "PHOTOS", "--model", "m", "--format", "cvs"], ["cvs", "jsonl"]),
    "an output that says no format": (["caption", "PHOTOS", "--model", "m", "--out", "x"], ["--format"]),
    "a format without its output": (["caption", "PHOTOS", "--model", "m", "--format", "tar"], ["--out"]),
    "no caption a picture": (["caption", "PHOTOS", "--model", "m", "--n", "0"], ["--n", "at least 1"]),
    "no picture a batch": (
        ["caption", "PHOTOS", "--model", "m", "--batch-size", "0"],
        ["--batch-size", "at least 1"],
    ),
    "several by greedy search": (
        ["caption", "PHOTOS", "--model", "m", "--n", "2", "--method", "greedy"],
        ["greedy"],
    ),
    "mass above one": (
        ["caption", "PHOTOS", "--model", "m", "--method", "sample", "--top-p", "2"],
        ["top_p"],
    ),
    "misspelt flag": (["caption", "PHOTOS", "--modle", "m"], ["--modle", "--model"]),
    "misspelt task": (["evaluate", "captoin"], ["did you mean caption?"]),
    "no data": (["evaluate", "caption", "--model", "m", "--data", "MISSING"], ["missing"]),
}


@pytest.mark.parametrize("case", WRONG)
def test_wrong_input(case, cli, captioner, photos, tmp_path):
    argv, words = WRONG[case]
    (tmp_path / "empty").mkdir()
    names = {"PHOTOS": photos, "MISSING": tmp_path / "missing", "EMPTY": tmp_path / "empty"}
    code, _, err = cli(*(names.get(word, word) for word in argv))
    assert code == 2
    assert err.startswith("error: ")
    assert err.count("\n") == 1
    assert all(word in err for word in words), err


def test_a_missing_model(cli, photos, tmp_path):
    code, _, err = cli("caption", photos, "--model", tmp_path / "none")
    assert code == 2
    assert "does not exist" in err


def test_a_model_that_does_not_write(cli, photos, model_folder):
    code, _, err = cli("caption", photos, "--model", model_folder)
    assert code == 2
    assert "ALBEF does not generate text" in err
