"""The model card, and the way to the hub with a stand-in for it."""

from __future__ import annotations

import json

import pytest
import tiny
from huggingface_hub.errors import LocalTokenNotFoundError

import multiway
from multiway.cli.main import main
from multiway.data.dataset import Dataset, Source
from multiway.data.licences import licences
from multiway.errors import UserError
from multiway.weights.card import add_metrics, set_licence


@pytest.fixture
def folder(tmp_path):
    model = multiway.create(
        "albef", image=tiny.vit(), text=tiny.bert(vocab_size=30522), embed_dim=12, queue_size=8
    )
    return multiway.save(model, tmp_path / "model")


def test_metrics_stand_once_a_command_and_the_rest_stays(folder):
    text = (folder / "README.md").read_text()
    for section in ("Training", "Data", "Metrics", "Limits", "Licence"):
        assert f"## {section}\n" in text
    add_metrics(folder, "90 samples", {"top1": "12.00"}, "multiway evaluate classify")
    add_metrics(folder, "90 samples", {"top1": "34.00"}, "multiway evaluate classify")
    add_metrics(folder, "other", {"tr_r1": "5.00"}, "multiway evaluate retrieval")
    found = (folder / "README.md").read_text()
    assert "None measured" not in found
    assert "12.00" not in found
    assert "- 90 samples: top1 34.00. `multiway evaluate classify`\n- other: tr_r1 5.00." in found
    assert found.split("## Limits")[1] == text.split("## Limits")[1]


def test_a_licence_is_named_in_head_and_text(folder):
    set_licence(folder, "cc-by-4.0")
    found = (folder / "README.md").read_text()
    assert found.startswith("---\nlibrary_name: multiway\nlicense: cc-by-4.0\n")
    assert found.endswith("## Licence\nOf these weights: cc-by-4.0.\n")
    (folder / "README.md").write_text("# mine\n")
    set_licence(folder, "mit")
    assert (folder / "README.md").read_text() == "---\nlibrary_name: multiway\nlicense: mit\n---\n# mine\n"


@pytest.mark.parametrize("licence", [r"a\qb", "mit\ntags: x", "a: b", ""])
def test_what_is_no_licence_is_refused(folder, licence):
    before = (folder / "README.md").read_text()
    with pytest.raises(UserError, match="give its identifier on the hub"):
        set_licence(folder, licence)
    assert (folder / "README.md").read_text() == before


def test_a_folder_that_is_not_there_is_not_pushed(tmp_path):
    with pytest.raises(UserError, match="nowhere is no folder"):
        multiway.push_to_hub(tmp_path / "nowhere", "me/model")


def test_licences_of_samples(tmp_path):
    assert licences(Dataset(Source(path="scenes:3")), "scenes:3") == "drawn by multiway, Apache-2.0"
    assert "CC-BY" in licences(Dataset(Source(path="emoji")), "emoji")


def test_a_hub_that_cannot_be_reached(folder, monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", "http://127.0.0.1:9")  # nobody listens there
    monkeypatch.setattr("time.sleep", lambda seconds: None)  # between the hub's own retries
    with pytest.raises(UserError, match=r"me/model was not uploaded \(.*\): check network"):
        multiway.push_to_hub(folder, "me/model")


def test_to_the_hub(folder, monkeypatch, capsys):
    calls = {}

    class Api:
        def create_repo(self, name, private, exist_ok):
            if name == "who/am-i":
                raise LocalTokenNotFoundError("no token")
            calls["made"] = (name, private)
            return f"https://hub/{name}"

        def upload_folder(self, repo_id, folder_path, ignore_patterns):
            calls["files"] = sorted(path.name for path in folder_path.iterdir())
            calls["card"] = (folder_path / "README.md").read_text()

    monkeypatch.setattr("huggingface_hub.HfApi", Api)
    assert main(["push", str(folder), "me/model", "--private", "--licence", "mit"]) == 0
    assert capsys.readouterr().out == "https://hub/me/model\n"
    assert calls["made"] == ("me/model", True)
    assert {"README.md", "config.json", "model.safetensors", "vocab.txt"} <= set(calls["files"])
    assert "license: mit" in calls["card"]
    assert "license: other" in (folder / "README.md").read_text()  # only the copy was changed
    with pytest.raises(UserError, match="hf auth login"):
        multiway.push_to_hub(multiway.load(folder), "who/am-i")
    (folder / "config.json").write_text(json.dumps({}))
    (folder / "model.safetensors").unlink()
    with pytest.raises(UserError, match="no model folder"):
        multiway.push_to_hub(folder, "me/model")
