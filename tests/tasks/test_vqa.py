"""Questions from end to end, tiny: learned, listed, answered in three ways, written and controlled."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
import tiny_simvlm
import torch
from PIL import Image

import multiway
from multiway.batch import Batch
from multiway.cli.main import main
from multiway.data.labelled import LabelledSource
from multiway.data.questions import Questions
from multiway.errors import UserError
from multiway.systems.answering import AnswerChoice, Asking, Reply
from multiway.systems.blip_config import med_config
from multiway.systems.vit import ViTConfig
from multiway.tasks import vqa

SIZES = {
    "image": ViTConfig(image_size=32, patch_size=16, width=32, depth=1, heads=2, hidden=64),
    "text": med_config(width=32, fusion_layers=1, heads=2, hidden=64),
}


def questions(count: int = 12) -> Questions:
    return Questions(LabelledSource(path=f"scenes:{count}"))


class Bright(AnswerChoice):
    """Says yes where the picture is bright."""

    image_size, image_mean, image_std = 16, (0.0,) * 3, (1.0,) * 3

    def __init__(self):
        super().__init__()
        self.nothing = torch.nn.Parameter(torch.zeros(1))

    def tokenize(self, texts, *, clean=True):
        ids = torch.ones(len(texts), 1, dtype=torch.long)
        return ids, ids

    def reply(self, image, input_ids, attention_mask, asking=None):
        return [[Reply("yes" if light > 0.5 else "no", 1.0)] for light in image.mean((1, 2, 3)).tolist()]


def test_controls_see_other_pictures_and_answers_are_written(tmp_path: Path) -> None:
    from PIL import Image

    for name, value in (("dark", 10), ("light", 250)):
        Image.new("RGB", (8, 8), (value,) * 3).save(tmp_path / f"{name}.png")
    rows = [
        {
            "image": f"{('dark', 'light')[i % 2]}.png",
            "question": "bright?",
            "id": 100 + i,
            "answer": ["no", "yes"][i % 2],
        }
        for i in range(8)
    ]
    rows.append({"image": "gone.png", "question": "?", "id": 7, "answer": "yes"})
    (tmp_path / "q.json").write_text(json.dumps(rows))
    data = Questions(LabelledSource(path=str(tmp_path / "q.json")))
    found = vqa.measure(Bright(), data, batch_size=3, predictions=tmp_path / "out.json")
    assert found.result["accuracy"] == 100.0
    assert found.result["by_kind"] == {"yes/no": 100.0}
    assert found.result["n"] == 8
    assert sum(found.skipped.values()) == 1
    assert found.result["majority"] == 50.0
    assert found.result["shuffled"]["accuracy"] < 100
    assert json.loads((tmp_path / "out.json").read_text())[1] == {"question_id": 101, "answer": "yes"}


@pytest.mark.parametrize("answer", ["two", "the dog"])
def test_the_answer_that_everybody_gives_is_all_right(answer: str, tmp_path: Path) -> None:
    Image.new("RGB", (8, 8)).save(tmp_path / "x.png")
    rows = [{"image": "x.png", "question": "?", "answer": [answer] * 10}] * 4
    (tmp_path / "q.json").write_text(json.dumps(rows))
    data = Questions(LabelledSource(path=str(tmp_path / "q.json")))
    assert vqa._majority(data, range(4)) == 100.0


def test_answers_become_texts_with_weights_or_shares_of_classes(albef, tmp_path: Path) -> None:
    rows = [
        {"image": "x.png", "question": "?", "answer": ["Two", "two", "2", "red"]},
        {"image": "x.png", "question": "?", "answer": "a dog", "dataset": "vg"},
    ]
    (tmp_path / "q.json").write_text(json.dumps(rows))
    (tmp_path / "x.png").write_bytes(b"")
    data = Questions(LabelledSource(path=str(tmp_path / "q.json")))
    writer = multiway.create("albef_vqa", **{n: getattr(albef.config, n) for n in ("image", "text")})
    assert set(vqa.labels(data, type(writer))) == {"Two", "two", "2", "red", "a dog"}
    assert vqa.labels(data, AnswerChoice) == ("2", "dog", "red")
    assert vqa.labels(data, AnswerChoice, min_count=2) == ("2",)
    with pytest.raises(UserError, match="given 9 times"):
        vqa.labels(data, AnswerChoice, min_count=9)
    batch = vqa.complete(writer, data)(Batch(ids=torch.tensor([1, 0])))
    assert batch.answer_weights.tolist() == [[0.5, 0, 0, 0], [0.25, 0.25, 0.25, 0.25]]
    ids, mask, owner, weights = batch.answers()
    assert owner.tolist() == [0, 1, 1, 1, 1]
    assert weights.tolist() == [0.5, 0.25, 0.25, 0.25, 0.25]
    assert ids[0].tolist() == [101, 1037, 3899, 102]
    assert mask[1].tolist() == [1, 1, 1, 0]
    chooser = Bright()
    chooser.config = type("Config", (), {"labels": ("2", "red")})
    assert vqa.complete(chooser, data)(Batch(ids=torch.tensor([0, 1]))).targets.tolist() == [
        [pytest.approx(0.9), pytest.approx(0.3)],
        [0, 0],
    ]


def test_training_draws_no_question_without_an_answer(albef, tmp_path: Path, monkeypatch, capsys) -> None:
    multiway.save(albef, tmp_path / "base")
    monkeypatch.chdir(tmp_path)
    questions(1).image(0).save("a.png")
    rows = "".join(f"a.png,what {i}?,{'red' if i else ''}\n" for i in range(5))
    Path("t.csv").write_text("image,question,answer\n" + rows)
    given = ["finetune", "vqa", "--model", "base", "--data", "t.csv", "--out", "out", "--steps", "1"]
    given += ["--batch-size", "4"]
    assert main(given) == 2
    assert "no_answer 1" in capsys.readouterr().err
    assert main([*given, "--data.max-bad-share", "0.5"]) == 0
    assert "4 samples read, 1 skipped (no_answer 1)" in capsys.readouterr().out
    Path("t.csv").write_text("Question_ID,image,question,answer\n42000,a.png,what?,\n,a.png,and?,\n")
    assert main([*given, "--out", "other"]) == 2
    assert (
        "No row in t.csv can be used: give rows of a picture, a question and its" in capsys.readouterr().err
    )
    base = ["evaluate", "vqa", "--model", "out/model", "--data", "t.csv"]
    assert main(base) == 2
    assert "--predictions FILE" in capsys.readouterr().err
    assert main([*base, "--predictions", "p.json"]) == 0
    assert json.loads(Path("p.json").read_text()) == [
        {"question_id": 42000, "answer": "red"},
        {"question_id": 1, "answer": "red"},
    ]
    assert main(["data", "inspect", "t.csv", "--task", "vqa"]) == 0
    assert "what?" in capsys.readouterr().out


def test_what_an_annotator_left_blank_is_no_text(albef, tmp_path: Path) -> None:
    (tmp_path / "x.png").write_bytes(b"")
    (tmp_path / "q.json").write_text(json.dumps([["x?", "a", "x"]]))
    asked = vqa.Asked("x.png", "?", ("cat", "", "cat", " "), 0)
    assert vqa._weights(asked, 0.5) == {"cat": 0.5}


def test_the_commands(albef, tmp_path: Path, monkeypatch, capsys) -> None:
    multiway.save(albef, tmp_path / "base")
    monkeypatch.chdir(tmp_path)
    short = ["--steps", "2", "--batch-size", "4", "--data.augment.flip", "0"]
    assert (
        main(
            [
                "finetune",
                "vqa",
                "--model",
                "base",
                "--data",
                "scenes:40",
                "--val",
                "scenes:8:3",
                "--out",
                "out",
                *short,
            ]
        )
        == 0
    )
    model = multiway.load("out/model")
    assert model.config.system == "albef_vqa"
    assert {"yes", "no", "red"} <= set(model.config.labels)
    capsys.readouterr()
    assert (
        main(
            [
                "evaluate",
                "vqa",
                "--model",
                "out/best",
                "--data",
                "scenes:9:5",
                "--json",
                "--predictions",
                "p.json",
            ]
        )
        == 0
    )
    found = json.loads(capsys.readouterr().out)
    assert found["n"] == 9
    assert 0 <= found["shuffled"]["accuracy"] <= 100
    said = json.loads(Path("p.json").read_text())
    assert {row["answer"] for row in said} <= set(model.config.labels)
    Path("two.txt").write_text("yes\nno\n")
    questions(3).image(0).save("a.png")
    ask = ["answer", "a.png", "is it red?", "--model", "out/model"]
    assert main([*ask, "--answers", "two.txt", "--top", "2"]) == 0
    lines = capsys.readouterr().out.split()
    assert {lines[1], lines[3]} == {"yes", "no"}
    assert float(lines[0]) + float(lines[2]) == pytest.approx(1, abs=0.002)
    assert main([*ask, "--inference", "generate", "--json"]) == 0
    assert len(json.loads(capsys.readouterr().out)["answers"]) == 1
    assert main([*ask, "--inference", "classify"]) == 2
    assert "choose rank or generate" in capsys.readouterr().err
    assert main(["answer", "a.png", "what?", "--model", "base"]) == 2
    assert "does not answer questions" in capsys.readouterr().err
    # it goes on from itself, and keeps its answers where none are given
    assert model.fine_tuning("vqa").labels == model.config.labels


def test_blip_answers_and_learns() -> None:
    torch.manual_seed(0)
    model = multiway.create("blip_vqa", **SIZES, labels=("red", "two dogs"))
    data = questions()
    batch = vqa.complete(model, data)(Batch(ids=torch.arange(3)))
    ids, mask = model.tokenize([data.texts(i)[0] for i in range(3)])
    image = model.prepare([data.image(i) for i in range(3)])
    loss = model.losses(replace(batch, image=image, input_ids=ids, attention_mask=mask))["loss"]
    loss.backward()
    assert all(p.grad is not None for p in model.parameters())
    found = vqa.say(model.eval(), data)
    assert set(found.answers) <= {"red", "two dogs"}
    assert vqa.say(model, data, asking=Asking(inference="generate")).numbers == list(range(12))
    replies = model.replies([data.image(0)], ["what?"], Asking(n=2))[0]
    assert sum(reply.probability for reply in replies) == pytest.approx(1)


def test_simvlm_learns_to_choose_an_answer_or_to_write_it(tmp_path: Path, monkeypatch, capsys) -> None:
    multiway.save(tiny_simvlm.build(), tmp_path / "base")
    monkeypatch.chdir(tmp_path)
    questions(1).image(0).save("a.png")
    asked = "a.png,what colour is it ?,red\na.png,is it a dog ?,a dog\n"
    for name in ("q.csv", "held.csv"):
        Path(name).write_text(f"image,question,answer\n{2 * asked}")
    learn = ["finetune", "vqa", "--model", "base", "--data", "q.csv", "--steps", "2", "--batch-size", "4"]
    for way, system in (("classify", "simvlm_vqa"), ("generate", "simvlm")):
        assert main([*learn, "--val", "held.csv", "--out", way, "--inference", way]) == 0
        assert multiway.load(f"{way}/best").config.system == system
        capsys.readouterr()
        told = ["--model", f"{way}/best", "--inference", way, "--json"]
        assert main(["evaluate", "vqa", "--data", "q.csv", *told]) == 0
        assert json.loads(capsys.readouterr().out)["n"] == 4
        assert main(["answer", "a.png", "is it red ?", *told]) == 0
        assert len(json.loads(capsys.readouterr().out)["answers"]) == 1
    assert main([*learn, "--out", "other", "--inference", "rank"]) == 2
    assert "SimVLM does not learn to answer by rank: choose classify or generate" in capsys.readouterr().err
    Path("two.txt").write_text("yes\nno\n")
    for more in (["--answers", "two.txt"], ["--min-count", "2"]):
        assert main([*learn, "--out", "other", "--inference", "generate", *more]) == 2
        assert "leave the list of answers and --min-count out" in capsys.readouterr().err


def test_a_guess_that_knows_no_picture(tmp_path: Path) -> None:
    def opened(name: str, *rows: tuple[str, str]) -> Questions:
        path = tmp_path / f"{name}.json"
        path.write_text(json.dumps([{"image": "x.png", "question": q, "answer": a} for q, a in rows]))
        return Questions(LabelledSource(path=str(path)))

    Image.new("RGB", (8, 8)).save(tmp_path / "x.png")
    train = opened("train", ("what?", "cat"), ("what?", "cat"), ("what?", "dog"), *[("is it?", "yes")] * 3)
    test = opened("test", ("what?", "cat"), ("what?", "dog"), ("why?", "yes"), ("is it?", "no"))
    assert vqa.by_question(train, test) == 50.0
