"""Model folders and official files: what is written is read back; what is wrong is said in one sentence."""

from __future__ import annotations

import json
import os
from dataclasses import replace
from pathlib import Path

import pytest
import tiny
import torch
from safetensors.torch import save_file

import multiway
from multiway.core.embed import resize_positions
from multiway.errors import UserError
from multiway.systems.albef import ALBEF
from multiway.systems.clip import CLIP, CLIPConfig, CLIPTextConfig, clip_vit
from multiway.text import Tokenizer
from multiway.weights import albef, aside, clip
from multiway.weights.keymap import to_theirs


@pytest.fixture
def model() -> ALBEF:
    made = tiny.albef(tiny.albef_config(text=tiny.bert(vocab_size=30522)))[0].eval()
    made.tokenizer = Tokenizer.load(made.config.tokenizer)
    return made


def test_a_saved_model_is_the_same_model(model: ALBEF, tmp_path: Path) -> None:
    folder = multiway.save(model, tmp_path / "model")
    again = multiway.load(folder)
    assert again.config == model.config
    tiny.assert_same(again.state_dict(), model.state_dict(), tolerance=0)
    texts = ["a dog", "two red balls on the street"]
    assert torch.equal(again.encode_text(texts), model.encode_text(texts))
    assert not again.training
    assert {p.name for p in folder.iterdir()} >= {
        "config.json",
        "model.safetensors",
        "README.md",
        "vocab.txt",
    }
    assert list(tmp_path.iterdir()) == [folder]  # nothing aside is left


def test_saving_replaces_what_was_there(model: ALBEF, tmp_path: Path) -> None:
    multiway.save(model, tmp_path / "model")
    (tmp_path / "model" / "old").touch()
    with torch.no_grad():
        model.temperature.fill_(0.3)
    multiway.save(model, tmp_path / "model", card="# Mine\n")
    assert float(multiway.load(tmp_path / "model").temperature.detach()) == pytest.approx(0.3)
    assert (tmp_path / "model" / "README.md").read_text() == "# Mine\n"
    assert not (tmp_path / "model" / "old").exists()


def test_saving_deletes_nothing_of_the_users(
    model: ALBEF, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    thesis = tmp_path / "work" / "thesis.txt"
    thesis.parent.mkdir()
    thesis.write_text("ten years")
    monkeypatch.chdir(thesis.parent)
    for place in (thesis.parent, thesis, ".", "../work"):
        with pytest.raises(UserError, match="is no model folder, and saving would delete it"):
            multiway.save(model, place)
    assert thesis.read_text() == "ten years"
    (tmp_path / "empty").mkdir()
    monkeypatch.chdir(tmp_path / "empty")
    assert (multiway.save(model, ".") / "config.json").is_file()


class Killed(BaseException):
    """A kill, as far as one process can play it: nothing that follows runs."""


@pytest.mark.parametrize("renames", [0, 1, 2])
def test_a_kill_while_saving_leaves_the_old_or_the_new_model(
    model: ALBEF, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, renames: int
) -> None:
    folder, rename, left = multiway.save(model, tmp_path / "model"), os.rename, [renames]

    def until_killed(source: Path, target: Path) -> None:
        if not left[0]:
            raise Killed
        left[0] -= 1
        rename(source, target)

    new = ALBEF(model.config)
    new.tokenizer = model.tokenizer
    with monkeypatch.context() as patch:
        patch.setattr(aside.os, "rename", until_killed)
        patch.setattr(aside.shutil, "rmtree", lambda *_, **__: None)  # the dead clean nothing up
        if renames < 2:
            with pytest.raises(Killed):
                multiway.save(new, folder)
        else:
            multiway.save(new, folder)
    kept = multiway.load(folder)
    tiny.assert_same(kept.state_dict(), (new if renames == 2 else model).state_dict(), tolerance=0)
    multiway.save(new, folder)  # the next one goes through and cleans up
    tiny.assert_same(multiway.load(folder).state_dict(), new.state_dict(), tolerance=0)
    assert list(tmp_path.iterdir()) == [folder]


def test_a_folder_serves_other_picture_sizes(model: ALBEF, tmp_path: Path) -> None:
    folder = multiway.save(model, tmp_path / "model")
    larger = multiway.load(folder, image_size=(48, 32))
    assert isinstance(larger, ALBEF)
    assert larger.image_size == larger.config.image.image_size == (48, 32)
    assert torch.equal(larger.image_tower.positions, resize_positions(model.image_tower.positions, (6, 4)))
    assert larger.image_context(torch.randn(1, 3, 48, 32))[0].shape == (1, 12)
    texts = ["a dog"]
    assert torch.equal(larger.encode_text(texts), model.encode_text(texts))


def test_what_is_wrong_with_a_folder_is_said(model: ALBEF, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="does not exist"):
        multiway.load(tmp_path / "nothing")
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match=r"no config\.json"):
        multiway.load(tmp_path / "empty")
    folder = multiway.save(model, tmp_path / "model")
    with pytest.raises(UserError, match="image_size 44"):
        multiway.load(folder, image_size=44)
    config = json.loads((folder / "config.json").read_text())
    for wrong, said in (
        (config | {"embed_dim": "x"}, "embed_dim"),
        (config | {"unheard_of": 1}, "unheard_of"),
        (config | {"system": "blob"}, "blob"),
        (config | {"embed_dim": 13}, "image_proj"),
    ):
        (folder / "config.json").write_text(json.dumps(wrong))
        with pytest.raises(UserError, match=said):
            multiway.load(folder)
    (folder / "config.json").write_text("{")
    with pytest.raises(UserError, match="not JSON"):
        multiway.load(folder)
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "model.safetensors").write_bytes(b"\x00" * 40)
    with pytest.raises(UserError, match="can't be read"):
        multiway.load(folder)


def official(tmp_path: Path, *, wrapped: bool) -> tuple[Path, dict[str, torch.Tensor]]:
    """A checkpoint in ALBEF's layout; heads are 64 wide, as whoever reads it must assume."""
    image = tiny.vit(width=64, heads=1, hidden=256)
    config = tiny.albef_config(image=image, text=tiny.bert(vocab_size=30522, width=64, heads=1, hidden=256))
    made, state = tiny.albef(config)
    tensors = made.state_dict() | {f"state.{n}": t for n, t in state.state_dict().items()}
    theirs = to_theirs(albef.layout(config), tensors)
    path = tmp_path / ("ALBEF.pth" if wrapped else "ALBEF.safetensors")
    if wrapped:
        torch.save({"model": theirs, "epoch": 29}, path)
    else:
        save_file({name: t.clone().contiguous() for name, t in theirs.items()}, path)
    return path, theirs


@pytest.mark.parametrize("wrapped", [True, False])
def test_an_official_albef_checkpoint_is_recognised(tmp_path: Path, wrapped: bool) -> None:
    path, theirs = official(tmp_path, wrapped=wrapped)
    found = multiway.load(path)
    assert isinstance(found, ALBEF)
    assert found.tokenizer is not None
    ours = to_theirs(albef.layout(found.config), found.state_dict())
    for name, tensor in ours.items():
        assert torch.equal(tensor, theirs[name]), name
    larger = multiway.load(path, image_size=(48, 32))
    expected = resize_positions(theirs["visual_encoder.pos_embed"], (6, 4))
    assert torch.equal(larger.image_tower.positions, expected)
    assert larger.image_context(torch.randn(1, 3, 48, 32))[0].shape == (1, 12)


def test_an_official_clip_checkpoint_is_recognised(tmp_path: Path) -> None:
    image = clip_vit(image_size=32, patch_size=8, width=64, depth=2, heads=1, hidden=256)
    text = CLIPTextConfig(width=64, layers=2, heads=1, hidden=256)
    made = CLIP(CLIPConfig(image=image, text=text, embed_dim=12)).eval()
    theirs = to_theirs(clip.open_clip_layout(made.config), made.state_dict())
    save_file({k: v.clone().contiguous() for k, v in theirs.items()}, tmp_path / "clip.safetensors")
    found = multiway.load(tmp_path / "clip.safetensors")
    assert isinstance(found, CLIP)
    pictures, texts = torch.randn(2, 3, 32, 32), ["a dog", "a very small cat"]
    found.tokenizer = made.tokenizer = Tokenizer.load(made.config.tokenizer)
    assert torch.equal(found.encode_image(pictures), made.encode_image(pictures))
    assert torch.equal(found.encode_text(texts), made.encode_text(texts))
    assert (found.image_fit, made.image_fit) == ("crop", "squash")


def test_a_folder_from_before_there_was_a_fit_squashes(model: ALBEF, tmp_path: Path) -> None:
    folder = multiway.save(model, tmp_path / "model")
    values = json.loads((folder / "config.json").read_text())
    assert values["image"].pop("fit") == "squash"
    (folder / "config.json").write_text(json.dumps(values))
    assert multiway.load(folder).config == model.config


class Evil:
    def __reduce__(self):
        return (print, ("executed",))


def test_files_that_are_no_checkpoint_are_refused(tmp_path: Path, capsys: pytest.CaptureFixture) -> None:
    torch.save({"model": Evil()}, tmp_path / "evil.pth")
    with pytest.raises(UserError, match="was not opened"):
        multiway.load(tmp_path / "evil.pth")
    assert "executed" not in capsys.readouterr().out
    save_file({"x": torch.zeros(2)}, tmp_path / "other.safetensors")
    with pytest.raises(UserError, match="no layout known"):
        multiway.load(tmp_path / "other.safetensors")
    path, theirs = official(tmp_path, wrapped=True)
    del theirs["itm_head.bias"]
    torch.save(theirs, path)
    with pytest.raises(UserError, match=r"itm_head\.bias"):
        multiway.load(path)


def test_create_builds_what_the_config_says() -> None:
    sizes = {"image": tiny.vit(), "text": tiny.bert(vocab_size=30522), "embed_dim": 12, "queue_size": 8}
    made = multiway.create("albef", **sizes)
    assert isinstance(made, ALBEF)
    assert made.tokenizer is not None
    assert set(multiway.list_systems()) >= {"albef", "clip"}
    with pytest.raises(UserError, match="albef"):
        multiway.create("albeff")
    with pytest.raises(UserError, match="unheard_of"):
        multiway.create("albef", unheard_of=1)
    assert replace(made.config, embed_dim=13).embed_dim == 13
