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
    unlabelled = options.pop("unlabelled", False)
    return Questions(LabelledSource(path=str(path), **options), unlabelled=unlabelled)


def test_vqa_v2_finds_its_answers_and_pictures(tmp_path: Path) -> None:
    picture(tmp_path / "images/val2014/COCO_val2014_000000000042.jpg")
    asked = {"image_id": 42, "question": "What is it?", "question_id": 42000}
    questions = tmp_path / "v2_OpenEnded_mscoco_val2014_questions.json"
    questions.write_text(json.dumps({"data_subtype": "val2014", "questions": [asked]}))
    alone = opened(questions, images=str(tmp_path / "images"), unlabelled=True)
    assert alone.asked(0).answers == ()
    rows = [{"question_id": 42000, "answers": [{"answer": "cat"}] * 7 + [{"answer": "dog"}] * 3}]
    (tmp_path / "v2_mscoco_val2014_annotations.json").write_text(json.dumps({"annotations": rows}))
    data = opened(questions, images=str(tmp_path / "images"))
    assert data.asked(0).answers == ("cat",) * 7 + ("dog",) * 3
    assert data.asked(0).number == 42000
    assert data.texts(0) == ["What is it?"]
    assert data.image(0).size == (12, 8)


def test_vqa_v2_test_dev_asks_about_pictures_of_test(tmp_path: Path) -> None:
    picture(tmp_path / "test2015/COCO_test2015_000000000042.jpg")
    asked = {"image_id": 42, "question": "What is it?", "question_id": 42000}
    questions = tmp_path / "v2_OpenEnded_mscoco_test-dev2015_questions.json"
    questions.write_text(json.dumps({"data_subtype": "test-dev2015", "questions": [asked]}))
    assert opened(questions, images=str(tmp_path), unlabelled=True).image(0).size == (12, 8)


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
    data = opened(tmp_path / "t.json", split="train+val", unlabelled=True)
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
    assert opened(tmp_path / "t.jsonl", unlabelled=True).asked(0).answers == ()
    with pytest.raises(UserError, match="has no column answer or answers or label .*--predictions FILE"):
        opened(tmp_path / "t.jsonl")
    assert opened(tmp_path / "t.jsonl", label="said").asked(0).answers == ("it",)
    (tmp_path / "a.txt").write_text("red\n\nblue\nred\n")
    assert read_answers(tmp_path / "a.txt") == ("red", "blue")
    (tmp_path / "a.json").write_text('{"red": 0, "blue": 1}')
    assert read_answers(tmp_path / "a.json") == ("red", "blue")
    with pytest.raises(UserError, match="holds no questions.json"):
        opened(tmp_path)


def test_lists_of_answers_as_they_are_found(tmp_path: Path) -> None:
    lists = {
        "bom.txt": "\ufeffred\r\nice\u2028cream\r\n",
        "lines.json": '["red", " ice\u2028cream", null, ""]',
        "keys.json": '{"red": 0, "ice\u2028cream": 1}',
        "answer2label.txt": '{"answer": "red", "label": 0}\n{"answer": "ice\u2028cream", "label": 1}\n',
        "table.csv": '\ufeffanswer,count\nred,3\n"ice\u2028cream",2\n',
        "table.jsonl": '{"answer": "red"}\n{"answer": "ice\u2028cream"}\n',
    }
    for name, content in lists.items():
        (tmp_path / name).write_bytes(content.encode())
        assert read_answers(tmp_path / name) == ("red", "ice\u2028cream"), name
    damaged = {
        "no.txt": (None, "can't be read"),
        "latin.txt": (b"caf\xe9\n", "can't be read"),
        "blank.txt": (b"\n \n", "holds no answer"),
        "cut.json": (b'["red", ', "can't be read as json"),
        "number.json": (b"3", "lacks what its layout promises"),
        "empty.json": (b"[]", "lists no answers"),
        "other.csv": (b"said\nred\n", "has no column answer"),
        "rows.json": (b'[{"answer": "red"}, {"said": "blue"}]', "lacks what its layout promises"),
        "cut.txt": (b'{"answer": "red"}\n{"ans\n', "lacks what its layout promises"),
    }
    for name, (content, said) in damaged.items():
        if content is not None:
            (tmp_path / name).write_bytes(content)
        with pytest.raises(UserError, match=said):
            read_answers(tmp_path / name)


def test_questions_without_an_answer_are_left_out_and_counted(tmp_path: Path) -> None:
    picture(tmp_path / "a.png")
    (tmp_path / "t.csv").write_text(
        "image,question,answer\na.png,who?,me\na.png,what?,\na.png,where?,  \na.png,when?,[]\n"
    )
    data = opened(tmp_path / "t.csv")
    assert [data.texts(i) for i in range(len(data))] == [["who?"]]
    assert data.problems == {"no_answer": 3}
    every = opened(tmp_path / "t.csv", unlabelled=True)
    assert [every.asked(i).answers for i in range(4)] == [("me",), (), (), ()]
    (tmp_path / "t.csv").write_text("image,question,answer\na.png,what?,\n")
    with pytest.raises(UserError, match="No row in .* can be used: give rows of a picture, a question and"):
        opened(tmp_path / "t.csv")
    # Visual Genome's full stop alone, and VQA v2's annotators who all said nothing
    qas = [{"image_id": "a", "qa_id": n, "question": "Where?", "answer": a} for n, a in enumerate(".x")]
    (tmp_path / "qa.json").write_text(json.dumps([{"id": "a", "qas": qas}]))
    picture(tmp_path / "a.jpg")
    assert opened(tmp_path / "qa.json").problems == {"no_answer": 1}
    picture(tmp_path / "COCO__000000000042.jpg")
    asked = [{"image_id": 42, "question": "What?", "question_id": n} for n in range(3)]
    said = [{"question_id": n, "answers": [{"answer": a}, {"answer": ""}]} for n, a in enumerate(["", "cat"])]
    (tmp_path / "v2_questions.json").write_text(json.dumps({"questions": asked}))
    (tmp_path / "v2_annotations.json").write_text(json.dumps({"annotations": said}))
    data = opened(tmp_path / "v2_questions.json")
    assert data.problems == {"no_answer": 2}
    assert data.asked(0).answers == ("cat", "")  # as given: the official accuracy counts annotators


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
