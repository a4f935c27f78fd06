"""Prompts and answers: every task of drawn scenes, boxes as tokens, the tokenizer that reads both."""

from __future__ import annotations

import pytest

from multiway.data.dataset import Dataset, Source
from multiway.data.locations import overlap, read, written
from multiway.data.prompts import BINS, TASKS, parse, scene_texts
from multiway.data.scenes import make_scene
from multiway.errors import UserError
from multiway.text import TokenizerConfig, train_vocabulary


@pytest.mark.parametrize("task", TASKS)
def test_every_sample_of_a_task_has_a_prompt_and_an_answer(task) -> None:
    data = Dataset(Source(path=f"prompts:{task}:40:3"))
    assert len(data) == 40
    for i in range(40):
        for text in data.texts(i):
            prompt, answer = text.split("\t")
            assert prompt
            assert bool(answer) == (task != "draw")
    assert data.image(7).size == (96, 96)
    assert data.texts(7) == Dataset(Source(path=f"prompts:{task}:40:3")).texts(7)
    assert data.sample(7).meta["scene"] is not None


def test_pairs_become_tasks_by_a_prompt(make_tars) -> None:
    tars = make_tars(2, replace={1: {"txt": b"a dog\tand  a cat"}})

    def texts(prompt: str) -> list[list[str]]:
        data = Dataset(Source(path=tars, prompt=prompt))
        return [data.texts(i) for i in range(2)]

    plain = Dataset(Source(path=tars)).texts(0)[0]
    assert texts("what is it?") == [[f"what is it?\t{plain}"], ["what is it?\ta dog and a cat"]]
    assert texts("draw {} now") == [[f"draw {plain} now\t"], ["draw a dog and a cat now\t"]]
    assert Dataset(Source(path=tars, use="images", prompt="draw {}")).texts(0) == []


@pytest.mark.parametrize("prompt", ["", "  ", "what\tis it?"])
def test_a_prompt_that_is_none_is_one_sentence(prompt) -> None:
    with pytest.raises(UserError, match=r"the prompt of tars is .* without a tab"):
        Source(path="tars", prompt=prompt)


def test_boxes_are_those_of_the_scene() -> None:
    store = parse("prompts:ground:20:5")
    for i in range(20):
        scene = store.scene(i)
        for text in store.texts(i):
            prompt, answer = text.split("\t")
            things = [t for t in scene.things if f"the {t.size} {t.colour} {t.shape}?" in prompt]
            assert any(overlap(read(answer, BINS), thing.box) > 0.5 for thing in things)
    assert scene_texts("classify", make_scene(0, 1)) == [] or len(make_scene(0, 1).groups) == 1


@pytest.mark.parametrize("box", [(0.0, 0.1, 0.52, 1.0), (0.3, 0.31, 0.33, 0.36)])
def test_boxes_survive_their_tokens_to_half_a_bin(box) -> None:
    again = read(f"it is {written(box, 100)} there", 100)
    assert again is not None
    assert max(abs(a - b) for a, b in zip(again, box, strict=True)) <= 0.005 + 1e-9
    assert read("<1><2><3>", 100) is None


def test_overlap() -> None:
    assert overlap((0, 0, 1, 1), (0, 0, 1, 1)) == pytest.approx(1)
    assert overlap((0, 0, 0.5, 1), (0.25, 0, 0.75, 1)) == pytest.approx(1 / 3)
    assert overlap((0, 0, 0.5, 1), (0.6, 0, 0.75, 1)) == 0
    assert overlap((0.5, 0.5, 0.1, 0.1), (0, 0, 1, 1)) == 0


def test_drawings_have_prompts_too() -> None:
    for task, start in (("caption", "what does"), ("classify", "which group"), ("draw", "draw ")):
        data = Dataset(Source(path=f"prompts:{task}:emoji", split="style"))
        assert data.texts(0)[0].startswith(start)
        assert data.image(0).size[0] > 10
    for wrong in ("prompts:ground:emoji", "prompts:dance:20", "prompts:caption:0", "prompts:caption"):
        with pytest.raises(UserError, match="names no prompts"):
            parse(wrong)


def test_the_tokenizer_reads_turns_and_locations_and_writes_them_again(tmp_path) -> None:
    options = {"cleaning": "none", "add_sep": True, "locations": 8, "turns": True, "max_length": 20}
    texts = ["where is the dog\t<1><2><5><7>", "what is at <1><2><5><7>\tthe dog"]
    tokenizer = train_vocabulary(texts * 2, size=80, config=TokenizerConfig(**options))
    assert tokenizer.vocab_size == tokenizer.words + 8 <= 80
    ids = tokenizer.encode(texts[0])
    assert ids[0] == tokenizer.cls_id
    assert ids[-5:] == [*(tokenizer.words + k for k in (1, 2, 5, 7)), tokenizer.sep_id]
    assert ids.count(tokenizer.sep_id) == 2
    assert tokenizer.decode([ids]) == ["where is the dog <1><2><5><7>"]
    assert tokenizer.decode([tokenizer.encode(texts[1])]) == ["what is at <1><2><5><7> the dog"]
    tokenizer.save(tmp_path)
    again = type(tokenizer).load(tokenizer.config, tmp_path)
    assert [again.encode(text) for text in texts] == [tokenizer.encode(text) for text in texts]
    assert bool(again.word_starts(again(texts)[0])[0, -2])
    with pytest.raises(UserError, match="no location <8>"):
        tokenizer.encode("at <8>")
    plain = train_vocabulary(["a < b\tc > d 1"] * 2, size=40)
    assert plain.encode("a\tb") == plain.encode("a b")
