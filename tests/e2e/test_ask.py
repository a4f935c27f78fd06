"""`multiway ask`: words, candidates, boxes and pictures from one model folder."""

from __future__ import annotations

import json

import pytest
import tiny
import tiny_generalist
from PIL import Image

import multiway


@pytest.fixture
def asked(tmp_path):
    """A picture, and --model with a small generalist."""
    model = multiway.save(tiny_generalist.build(cosine_weight=1.0), tmp_path / "model")
    Image.new("RGB", (40, 20), "red").save(tmp_path / "red.png")
    return str(tmp_path / "red.png"), ("--model", str(model))


def test_every_kind_of_answer(cli, asked, tmp_path):
    image, model = asked
    code, out, err = cli("ask", image, "what colour is it ?", *model)
    assert (code, err) == (0, "")
    assert out.endswith("\n")
    code, out, _ = cli("ask", image, "what colour is it ?", *model, "--candidates", "red", "a cat", "--json")
    said = json.loads(out)
    assert code == 0
    assert said["answer"] == max(said["candidates"], key=said["candidates"].get)
    assert sum(said["candidates"].values()) == pytest.approx(1)
    code, out, _ = cli("ask", image, "what is it ?", *model, "--candidates", "red", "dog", "--by", "cosine")
    assert code == 0
    assert {line.split("  ")[1] for line in out.splitlines()} == {"red", "dog"}
    code, out, _ = cli("ask", image, "where is the dog ?", *model, "--box", "--json")
    left, top, right, bottom = json.loads(out)["box"]
    assert code == 0
    assert max(left, right) <= 40
    assert max(top, bottom) <= 20
    code, out, _ = cli("ask", "-", "draw a red dog", *model, "--out", tmp_path / "dog.png")
    assert code == 0
    assert "dog.png" in out
    with Image.open(tmp_path / "dog.png") as drawn:
        assert drawn.size == (32, 32)


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (("IMAGE", "draw a dog", "--out", "dog.png"), "give - for IMAGE"),
        (("-", "draw a dog", "--out", "dog.png", "--box"), "give one of them"),
        (("-", "draw a dog", "--out", "dog.unheard"), "can't be written"),
        (("IMAGE", "what is it ?", "--by", "cosine"), "give --candidates"),
        (("nowhere.png", "what is it ?"), "nowhere.png can't be read"),
        (("IMAGE", "what is at <99> ?"), "no location <99>"),
        (("IMAGE", "what is it ?", "--seed", "3"), "give --out"),
    ],
)
def test_a_mistake_is_one_sentence(cli, asked, arguments, says):
    image, model = asked
    code, _, err = cli("ask", *(image if word == "IMAGE" else word for word in arguments), *model)
    assert code == 2
    assert says in err


def test_answer_names_the_command_for_prompts(cli, asked):
    image, model = asked
    code, _, err = cli("answer", image, "what is it ?", *model)
    assert code == 2
    assert "use `multiway ask`" in err


def test_other_models_answer_no_prompts(cli, tmp_path):
    folder = multiway.save(tiny.albef()[0].eval(), tmp_path / "albef")
    code, _, err = cli("ask", "-", "what is it?", "--model", folder)
    assert code == 2
    assert "give a generalist" in err or "tokenizer" in err


def test_a_candidate_that_comes_twice_counts_once(cli, asked):
    image, model = asked
    once, twice = (
        json.loads(cli("ask", image, "what is it ?", *model, "--json", "--candidates", *given)[1])
        for given in (("red", "dog"), ("red", "dog", "red"))
    )
    assert twice["candidates"] == once["candidates"]
