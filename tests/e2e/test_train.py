"""`multiway train` from the recipe to the model folder."""

from __future__ import annotations

import importlib.util
import json
import sys
from pathlib import Path

import pytest

import multiway
from multiway import recipes


@pytest.fixture(autouse=True)
def tiny_recipe(monkeypatch):
    """`multiway train tiny`."""
    spec = importlib.util.spec_from_file_location("tiny_recipe", Path(__file__).with_name("tiny_recipe.py"))
    module = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, "tiny_recipe", module)
    spec.loader.exec_module(module)
    monkeypatch.setitem(recipes.RECIPES, "tiny", "tiny_recipe:tiny")


def saved(out: Path) -> dict:
    return json.loads((out / "run.json").read_text())["run"]


def test_a_run_leaves_a_model_that_can_be_used(cli, tmp_path):
    out = tmp_path / "run"
    code, stdout, err = cli("train", "tiny", "--out", out, "--device", "cpu")
    assert code == 0, err
    assert f"model in {out / 'model'}" in stdout.replace("\n", "")
    rows = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    assert [row["step"] for row in rows if "loss" in row] == [1, 2, 3, 4]
    assert any(name.startswith("val/") for row in rows for name in row)
    card = (out / "model" / "README.md").read_text()
    assert "4 steps of 8 samples" in card
    assert "scenes:32" in card
    model = multiway.load(out / "model")
    assert model.encode_text("a red circle").shape == (1, model.config.embed_dim)


def test_recipe_then_run_json_then_flags(cli, tmp_path):
    first, second = tmp_path / "first", tmp_path / "second"
    assert cli("train", "tiny", "--out", first, "--steps", "1", "--train.lr", "5e-4", "--seed", "7")[0] == 0
    code, _, err = cli("train", "tiny", "--from", first / "run.json", "--out", second, "--train.lr", "1e-4")
    assert code == 0, err
    before, after = saved(first)["train"], saved(second)["train"]
    assert (before["steps"], before["lr"], before["seed"]) == (1, 5e-4, 7)
    assert (after["steps"], after["lr"], after["seed"]) == (1, 1e-4, 7)
    assert after["batch_size"] == 8  # the recipe's


def test_a_dry_run_says_all_and_writes_nothing(cli, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    freeze = ("--train.freeze", "encoders.image_tower")
    code, out, err = cli("train", "tiny", "--dry-run", "--system.queue-size", "24", *freeze)
    assert code == 0, err
    assert '"queue_size": 24' in out
    assert "frozen" in out
    assert "encoders.image_tower" in out
    assert "32 pictures; 32 samples read, none skipped" in out
    assert not list(tmp_path.iterdir())


def test_help_of_a_recipe_lists_every_field_with_its_value(cli):
    code, out, _ = cli("train", "tiny", "--help")
    assert code == 0
    for flag in ("--train.lr", "--system.queue-size", "--data.train.0.path", "--resume"):
        assert flag in out
    assert "0.001" in out


@pytest.mark.parametrize(
    "wrong", [{"train": {"lr": "high"}}, {"train": {"learning_rate": 1}}, {"system": {}}]
)
def test_a_run_json_is_read_strictly(cli, tmp_path, wrong):
    out = tmp_path / "run"
    assert cli("train", "tiny", "--out", out, "--steps", "1")[0] == 0
    content = json.loads((out / "run.json").read_text())
    for part, values in wrong.items():
        content["run"][part] = {**content["run"][part], **values} if values else {}
    (tmp_path / "run.json").write_text(json.dumps(content))
    code, _, err = cli("train", "--from", tmp_path / "run.json", "--out", tmp_path / "other")
    assert code == 2
    assert err.startswith("error: ")
    assert str(tmp_path / "run.json") in err
    assert err.count("\n") == 1


def test_another_run_in_the_same_folder_is_refused(cli, tmp_path):
    assert cli("train", "tiny", "--out", tmp_path / "run")[0] == 0
    code, _, err = cli("train", "tiny", "--out", tmp_path / "run", "--train.lr", "0.5")
    assert code == 2
    assert "train.lr" in err
    assert cli("train", "tiny", "--out", tmp_path / "run", "--resume", "never")[0] == 2
