"""Visual entailment: files, drawn claims that pictures alone decide, and the commands."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path

import pytest
from PIL import Image

import multiway
from multiway.cli.main import main
from multiway.data.labelled import LabelledSource
from multiway.data.scene_claims import make_claim
from multiway.data.scene_text import count
from multiway.data.sentences import Sentences
from multiway.errors import UserError


def test_snli_ve_and_albef_files(tmp_path: Path) -> None:
    Image.new("RGB", (8, 8), "red").save(tmp_path / "12.jpg")
    rows = [
        {"Flickr30K_ID": "12", "sentence1": "x", "sentence2": "A dog.", "gold_label": "entailment"},
        {"Flickr30K_ID": "12", "sentence2": "A cat.", "gold_label": "-"},
    ]
    (tmp_path / "snli_ve_dev.jsonl").write_text("\n".join(map(json.dumps, rows)))
    data = Sentences(LabelledSource(path=str(tmp_path / "snli_ve_dev.jsonl")))
    assert (len(data), data.label(0), data.texts(0), data.image(0).size) == (1, 2, ["A dog."], (8, 8))
    assert data.problems == {"no_label": 1}
    (tmp_path / "ve.json").write_text(json.dumps([{"image": "12.jpg", "sentence": "?", "label": "neutral"}]))
    assert Sentences(LabelledSource(path=str(tmp_path / "ve.json"))).label(0) == 1
    rows = [{"image": "12.jpg", "sentence": s, "label": "neutral", "split": s} for s in ("train", "dev")]
    (tmp_path / "t.json").write_text(json.dumps(rows))
    data = Sentences(LabelledSource(path=str(tmp_path / "t.json"), split="dev"))
    assert [data.texts(i) for i in range(len(data))] == [["dev"]]
    with pytest.raises(UserError, match="no splits"):
        Sentences(LabelledSource(path="scenes:3", split="train"))


def test_drawn_claims_are_as_they_say() -> None:
    truths = Counter()
    for i in range(300):
        scene, covered, sentence, truth = make_claim(5, i)
        colour, shape = sentence.split()[-2:]
        seen = any(
            (group.colour, group.shape) == (colour, shape)
            for n, group in enumerate(scene.groups)
            if n != covered
        )
        expected = "entailment" if seen else "contradiction" if covered is None else "neutral"
        assert truth == expected
        assert covered is None or len(scene.groups) == 2
        if truth == "contradiction":
            assert not count(scene, colour=colour, shape=shape)
        truths[truth] += 1
    assert min(truths.values()) > 70


def test_the_commands(albef, tmp_path: Path, monkeypatch, capsys) -> None:
    multiway.save(albef, tmp_path / "base")
    monkeypatch.chdir(tmp_path)
    flags = ["--model", "base", "--data", "scenes:24", "--val", "scenes:8:1", "--out", "out"]
    assert main(["finetune", "entailment", *flags, "--steps", "2", "--batch-size", "4"]) == 0
    assert multiway.load("out/model").config.system == "albef_ve"
    capsys.readouterr()
    evaluate = ["evaluate", "entailment", "--model", "out/best", "--data", "scenes:12:3"]
    assert main([*evaluate, "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["n"] == 12
    assert set(found["by_label"]) <= {"contradiction", "neutral", "entailment"}
    assert main(evaluate) == 0
    assert f"{found['shuffled']['accuracy']:.1f}" in capsys.readouterr().out
