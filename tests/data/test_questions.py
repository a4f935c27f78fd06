"""Questions in every layout that they are published in, and drawn ones that no wording answers."""

from __future__ import annotations

import csv
import json
import re
from collections import Counter, defaultdict
from pathlib import Path

import pytest
from PIL import Image

from multiway.data.labelled import LabelledSource
from multiway.data.questions import Questions, read_answers
from multiway.data.scene_questions import ask
from multiway.errors import UserError


def picture(path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (12, 8), "red").save(path)


def opened(path: Path, **options) -> Questions:
    return Questions(LabelledSource(path=str(path), **options))


def test_vqa_v2_finds_its_answers_and_pictures(tmp_path: Path) -> None:
    picture(tmp_path / "images/val2014/COCO_val2014_000000000042.jpg")
    asked = {"image_id": 42, "question": "What is it?", "question_id": 42000}
    questions = tmp_path / "v2_OpenEnded_mscoco_val2014_questions.json"
    questions.write_text(json.dumps({"data_subtype": "val2014", "questions": [asked]}))
    alone = opened(questions, images=str(tmp_path / "images"))
    assert alone.asked(0).answers == ()
    rows = [{"question_id": 42000, "answers": [{"answer": "cat"}] * 7 + [{"answer": "dog"}] * 3}]
    (tmp_path / "v2_mscoco_val2014_annotations.json").write_text(json.dumps({"annotations": rows}))
    data = opened(questions, images=str(tmp_path / "images"))
    assert data.asked(0).answers == ("cat",) * 7 + ("dog",) * 3
    assert data.asked(0).number == 42000
    assert data.texts(0) == ["What is it?"]
    assert data.image(0).size == (12, 8)


def test_visual_genome_albef_and_easy_vqa(tmp_path: Path) -> None:
    picture(tmp_path / "VG_100K_2/7.jpg")
    qas = [{"image_id": 7, "qa_id": 70, "question": "Where?", "answer": "Outside."}]
    (tmp_path / "question_answers.json").write_text(json.dumps([{"id": 7, "qas": qas}]))
    data = opened(tmp_path / "question_answers.json")
    assert (data.asked(0).answers, data.asked(0).genome, data.asked(0).number) == (("Outside",), True, 70)
    assert data.image(0).width == 12

    rows = [
        {"image": "VG_100K_2/7.jpg", "question": "Who?", "answer": ["he", "he", "she"], "question_id": 3},
        {"image": "VG_100K_2/7.jpg", "question": "Why?", "answer": "rain", "dataset": "vg"},
        {"image": "VG_100K_2/7.jpg", "question": " "},
    ]
    (tmp_path / "vqa_train.json").write_text(json.dumps(rows))
    data = opened(tmp_path / "vqa_train.json")
    assert data.asked(0).answers == ("he", "he", "she")
    assert [data.asked(i).genome for i in range(2)] == [False, True]
    assert data.problems == {"no_question": 1}

    picture(tmp_path / "easy/images/5.png")
    (tmp_path / "easy/questions.json").write_text(json.dumps([["is it red?", "yes", 5]]))
    data = opened(tmp_path / "easy")
    assert data.asked(0).answers == ("yes",)
    assert data.image(0).height == 8


def test_damaged_files_are_one_sentence(tmp_path: Path) -> None:
    picture(tmp_path / "COCO_val2014_000000000042.jpg")
    questions = tmp_path / "v2_OpenEnded_mscoco_val2014_questions.json"
    answers = tmp_path / "v2_mscoco_val2014_annotations.json"
    asked = {"image_id": 42, "question": "What is it?", "question_id": 1}
    whole = json.dumps({"data_subtype": "val2014", "questions": [asked]})
    for content, beside, said in (
        (whole, '{"annotations": [{"question_id": 1, "ans', f"{answers.name} can't be read as json"),
        (whole, '{"info": {}}', f"{answers.name} lacks what its layout promises (KeyError: 'annotations')"),
        (whole.replace("image_id", "picture"), '{"annotations": []}', f"{questions.name} lacks what"),
    ):
        questions.write_text(content)
        answers.write_text(beside)
        with pytest.raises(UserError, match=re.escape(said)):
            opened(questions)
    genome = [{"id": 42, "qas": [{"image_id": 42, "qa_id": 1, "question": "Where?"}]}]
    (tmp_path / "qa.json").write_text(json.dumps(genome))
    with pytest.raises(UserError, match="lacks what its layout promises .*'answer'"):
        opened(tmp_path / "qa.json")


def test_a_column_of_splits(tmp_path: Path) -> None:
    picture(tmp_path / "a.png")
    rows = [{"image": "a.png", "question": f"{s}?", "split": s} for s in ("train", "val", "test")]
    (tmp_path / "t.json").write_text(json.dumps(rows))
    data = opened(tmp_path / "t.json", split="train+val")
    assert [data.texts(i) for i in range(len(data))] == [["train?"], ["val?"]]
    for path in ("scenes:4", str(tmp_path / "t.jsonl")):
        (tmp_path / "t.jsonl").write_text('{"image": "a.png", "question": "what?"}\n')
        with pytest.raises(UserError, match="has no splits"):
            Questions(LabelledSource(path=path, split="train"))


def test_tables_and_lists_of_answers(tmp_path: Path) -> None:
    picture(tmp_path / "a.png")
    with (tmp_path / "t.csv").open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerows(
            [["image", "question", "answers"], ["a.png", "what?", '["one", "two"]'], ["a.png", "who?", "me"]]
        )
    data = opened(tmp_path / "t.csv")
    assert [data.asked(i).answers for i in range(2)] == [("one", "two"), ("me",)]
    assert data.asked(1).number == 1
    (tmp_path / "t.jsonl").write_text('{"image": "a.png", "question": "what?", "said": "it"}\n')
    assert opened(tmp_path / "t.jsonl").asked(0).answers == ()
    assert opened(tmp_path / "t.jsonl", label="said").asked(0).answers == ("it",)
    (tmp_path / "a.txt").write_text("red\n\nblue\nred\n")
    assert read_answers(tmp_path / "a.txt") == ("red", "blue")
    (tmp_path / "a.json").write_text('{"red": 0, "blue": 1}')
    assert read_answers(tmp_path / "a.json") == ("red", "blue")
    for wrong, said in ((tmp_path / "no.txt", "can't be read"), (tmp_path, "questions.json")):
        with pytest.raises(UserError, match=said):
            (read_answers if wrong.suffix else opened)(wrong)


def test_wording_gives_no_drawn_answer_away() -> None:
    found = [ask(3, i) for i in range(1000)]
    assert found[:5] == [ask(3, i) for i in range(5)]
    answers = Counter(answer for _, answer in found)
    assert 0.8 < answers["yes"] / answers["no"] < 1.25
    by_question = defaultdict(Counter)
    for question, answer in found:
        by_question[question][answer] += 1
    known = sum(max(counts.values()) for counts in by_question.values() if counts.total() > 9)
    asked = sum(counts.total() for counts in by_question.values() if counts.total() > 9)
    assert known < 0.55 * asked
