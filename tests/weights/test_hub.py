"""Hub ids: the cache is enough, and without it one sentence says what to bring."""

import pytest
from huggingface_hub import constants
from huggingface_hub.errors import LocalEntryNotFoundError

from multiway.errors import UserError
from multiway.weights.hub import fetch

NAME = "owner/model"


@pytest.fixture
def cache(tmp_path, monkeypatch):
    """An empty cache, and no network."""
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    return tmp_path


def fill(cache, *names):
    """The files of one revision, as the hub's tools lay them down."""
    snapshot = cache / "models--owner--model" / "snapshots" / ("0" * 40)
    snapshot.mkdir(parents=True)
    (snapshot.parents[1] / "refs").mkdir()
    (snapshot.parents[1] / "refs" / "main").write_text("0" * 40)
    for name in names:
        (snapshot / name).write_text("{}")
    return snapshot


@pytest.mark.parametrize("weights", ["model.safetensors", "pytorch_model.bin"])
def test_the_cache_is_enough(cache, weights):
    snapshot = fill(cache, "config.json", "vocab.txt", weights)
    assert fetch(NAME) == snapshot


@pytest.mark.parametrize("config", ["open_clip_config.json", "adapter.json"])
def test_folders_of_open_clip_and_of_adapters_are_whole(cache, config):
    snapshot = fill(cache, config, "model.safetensors")
    assert fetch(NAME) == snapshot


def test_without_network_and_cache_it_says_what_to_bring(cache):
    with pytest.raises(UserError) as error:
        fetch(NAME)
    said = str(error.value)
    assert f"hf download {NAME} --local-dir model" in said
    assert str(cache) in said
    assert all(name in said for name in ("config.json", "model.safetensors", "vocab.txt"))
    assert "\n" not in said


def test_half_a_model_in_the_cache(cache):
    fill(cache, "config.json")
    with pytest.raises(UserError, match="only in part"):
        fetch(NAME)


@pytest.mark.parametrize("name", ["model", "a/b/c", "/a/b", "./b", "../b", "~/b", "", "runs/x.pth"])
def test_a_path_is_no_hub_id(cache, name):
    with pytest.raises(UserError, match="does not exist"):
        fetch(name)


def test_an_impossible_id(cache):
    with pytest.raises(UserError, match="no hub id"):
        fetch("owner/mo del")


def test_weights_in_the_older_format_are_asked_for_second(monkeypatch, tmp_path):
    asked = []

    def download(name, allow_patterns):
        asked.append(allow_patterns[-1])
        (tmp_path / "config.json").touch()
        if allow_patterns[-1] == "*.bin":
            (tmp_path / "pytorch_model.bin").touch()
        return str(tmp_path)

    monkeypatch.setattr("huggingface_hub.snapshot_download", download)
    assert fetch(NAME) == tmp_path
    assert asked == ["*.safetensors", "*.bin"]


def test_the_hub_is_asked_without_a_network(monkeypatch):
    def download(name, allow_patterns):
        raise LocalEntryNotFoundError("no network")

    monkeypatch.setattr("huggingface_hub.snapshot_download", download)
    with pytest.raises(UserError, match="can't be reached"):
        fetch(NAME)
