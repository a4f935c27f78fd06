"""Classes by their names: prompts averaged, any dual encoder; and CoCa's classifier, frozen and tuned."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import tiny_coca
import torch
from PIL import Image
from torch import nn

import multiway
from multiway.batch import Batch
from multiway.cli.main import main
from multiway.data.labelled import LabelledPictures, LabelledSource
from multiway.errors import UserError
from multiway.systems.base import System
from multiway.systems.coca_heads import Classifier
from multiway.tasks.zero_shot import ZeroShot, measure
from multiway.text import Tokenizer, TokenizerConfig
from multiway.train.optim import freeze

COLOURS = {"dark_red": (180, 0, 0), "green": (0, 200, 0), "blue": (0, 0, 220)}


class Colours(System):
    """A dual encoder that knows colours: features are red, green and blue."""

    image_size, image_mean, image_std, config = 8, (0.0,) * 3, (1.0,) * 3, None

    def __init__(self):
        super().__init__()
        self.nothing = nn.Parameter(torch.zeros(1))

    def image_context(self, image):
        return nn.functional.normalize(image.mean((2, 3)), dim=-1), None

    def encode_text(self, texts):
        rows = [[float(c in text) for c in ("dark red", "green", "blue")] for text in texts]
        return nn.functional.normalize(torch.tensor(rows) + 1e-3, dim=-1)


@pytest.fixture
def pictures(tmp_path):
    for name, colour in COLOURS.items():
        folder = tmp_path / "pictures" / name
        folder.mkdir(parents=True)
        for i in range(2):
            Image.new("RGB", (10 + i, 12), colour).save(folder / f"{i}.png")
    return tmp_path / "pictures"


def test_the_name_in_the_prompts_is_the_class(pictures) -> None:
    data = LabelledPictures((LabelledSource(path=str(pictures)),))
    found = measure(Colours(), data, templates=("a {} thing", "{}"))
    assert found.result["top1"] == 100
    assert found.result["n_classes"] == 3
    assert found.result["shuffled"]["top1"] < 100
    odd = measure(Colours(), data, templates=("a {} {x} in {0}",))  # other braces are text
    assert odd.result["top1"] == 100
    asked = ZeroShot(Colours(), ["dark_red", "blue"])
    torch.testing.assert_close(asked.features.norm(dim=1), torch.ones(2))
    assert asked.predict(Batch(image=torch.tensor([0.0, 0.0, 1.0])[None, :, None, None])).argmax() == 1


def test_a_learned_temperature_is_what_cosines_are_divided_by() -> None:
    model = Colours()
    assert ZeroShot(model, ["green"]).scale == 100
    model.temperature = nn.Parameter(torch.tensor(0.25))
    assert ZeroShot(model, ["green"]).scale == 4


def test_what_can_not_be_asked_is_said() -> None:
    for arguments, what in (
        (([],), "names of classes"),
        ((["a"], ["a photo"]), "no place for a name"),
        ((["a"], ["{} {}"]), "no place for a name"),
    ):
        with pytest.raises(UserError, match=what):
            ZeroShot(Colours(), *arguments)


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    """A tiny CoCa with a few words."""
    vocabulary = Path(__file__).parents[1] / "golden/cases/vocab_tiny.txt"
    words = TokenizerConfig(vocab=str(vocabulary), add_sep=True, max_length=11)
    given = tiny_coca.config(tokenizer=words)
    count = len(vocabulary.read_text().splitlines())
    model = tiny_coca.coca(replace(given, text=replace(given.text, vocab_size=count)))
    model.tokenizer = Tokenizer.load(model.config.tokenizer)
    return multiway.save(model.eval(), tmp_path_factory.mktemp("coca") / "model")


def test_the_commands_ask_a_coca(saved, pictures, capsys) -> None:
    data = ["--data", str(pictures), "--device", "cpu", "--json"]
    assert main(["evaluate", "zero_shot", "--model", str(saved), *data]) == 0
    assert json.loads(capsys.readouterr().out)["n"] == 6
    picture = str(pictures / "blue" / "0.png")
    assert main(["classify", picture, "--model", str(saved), "--classes", "red,blue", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert sum(row["probability"] for row in found["classes"]) == pytest.approx(1)
    assert main(["classify", picture, "--model", str(saved)]) == 2
    assert main(["classify", picture, "--model", str(saved), "--template", "a {}"]) == 2
    assert "--template without --classes would do nothing" in capsys.readouterr().err
    assert main(["caption", picture, "--model", str(saved), "--device", "cpu"]) == 0
    assert picture in capsys.readouterr().out


def test_a_new_pooler_learns_on_a_frozen_tower_and_on_a_tuned_one() -> None:
    base = tiny_coca.coca()
    image = torch.randn(6, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    batch = Batch(image=image, labels=torch.tensor([0, 1, 2, 0, 1, 2]))
    for frozen in (True, False):
        torch.manual_seed(0)
        config = base.fine_tuning("classify", ("a", "b", "c"))
        model = Classifier(config)
        taken = model.adopt(base.state_dict())
        assert {name.split(".")[0] for name in taken} == {"image_tower"}
        assert set(model.load_state_dict(taken, strict=False).missing_keys) == {
            name for name in model.state_dict() if not name.startswith("image_tower.")
        }
        freeze(model, ("image_tower",) if frozen else ())
        before = {n: p.clone() for n, p in model.image_tower.named_parameters()}
        parameters = [p for p in model.parameters() if p.requires_grad]
        optimizer, losses = torch.optim.AdamW(parameters, 1e-2), []
        for _ in range(25):
            optimizer.zero_grad()
            loss = model.losses(batch, model.init_state())["loss"]
            loss.backward()
            optimizer.step()
            losses.append(loss.item())
        assert np.mean(losses[-3:]) < 0.5 * losses[0]
        same = [torch.equal(p, before[n]) for n, p in model.image_tower.named_parameters()]
        assert all(same) == frozen
    with pytest.raises(UserError, match="a CoCa with experts has no classifier"):
        tiny_coca.coca(tiny_coca.experts()).fine_tuning("classify", ("a",))
