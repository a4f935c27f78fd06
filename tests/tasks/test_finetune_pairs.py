"""Retrieval and captions from a pre-trained model, tiny: each system's network, best model, resuming."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import tiny_beit3
import tiny_mae
import tiny_simvlm
import tiny_vlmo
import torch
from PIL import Image

import multiway
from multiway.cli.main import main
from multiway.data.augment import Augment
from multiway.data.dataset import DataConfig, Source
from multiway.data.labelled import LabelledSource, TaskData
from multiway.errors import UserError
from multiway.systems import beit3_config
from multiway.systems.blip_config import med_config
from multiway.systems.clip import CLIPTextConfig, clip_vit
from multiway.systems.coca_config import MultimodalConfig, PoolerConfig, coca_vit
from multiway.systems.flip import flip_text, flip_vit
from multiway.systems.vilt_config import vilt_vit
from multiway.systems.vit import ViTConfig
from multiway.systems.vlmo_config import TextConfig
from multiway.tasks.finetune import TRAIN, finetune, plan
from multiway.text import TokenizerConfig

VIT: dict[str, Any] = {"image_size": 32, "patch_size": 16, "width": 24, "depth": 1, "heads": 2, "hidden": 40}
TEXT: dict[str, Any] = {"width": 24, "layers": 1, "heads": 2, "hidden": 40}
WORDS = TokenizerConfig(cleaning="none", add_sep=True, max_length=16)
SIZES: dict[str, dict[str, Any]] = {
    "blip": {
        "image": ViTConfig(**VIT),
        "text": med_config(width=24, fusion_layers=1, heads=2, hidden=40),
        "embed_dim": 12,
        "queue_size": 8,
    },
    "clip": {"image": clip_vit(**VIT), "text": CLIPTextConfig(**TEXT), "embed_dim": 12},
    "coca": {
        "image": coca_vit(**VIT),
        "text": CLIPTextConfig(**TEXT, positions=76),
        "multimodal": MultimodalConfig(layers=1, heads=2, hidden=40),
        "pooler": PoolerConfig(queries=3, heads=2),
        "embed_dim": 12,
    },
    "flip": {"image": flip_vit(**VIT), "text": flip_text(**TEXT), "embed_dim": 12},
    "simvlm": {
        "image": tiny_simvlm.stem(image_size=32),
        "text": tiny_simvlm.text(vocab_size=30522),
        "tokenizer": WORDS,
        "caption_length": (1, 6),
    },
    "vilt": {
        "image": vilt_vit(**VIT),
        "text": TextConfig(positions=16),
        "tokenizer": WORDS,
        "longest_side": 64,
    },
    "vlmo": tiny_vlmo.sizes(text=TextConfig(positions=16), tokenizer=WORDS),
}
DATA = DataConfig(
    train=(Source(path="scenes:8"),),
    val=(Source(path="scenes:4:3"),),
    augment=Augment(crop_scale=None, rand_n=0),
)
SHORT = replace(TRAIN, epochs=None, steps=2, batch_size=4, warmup_steps=0, validate_every=1, save_every=1)


def saved(name: str, folder: Path) -> Path:
    """A pre-trained model's folder."""
    torch.manual_seed(0)
    if name == "beit3":  # its few pieces of words make long texts
        words = replace(tiny_beit3.config().tokenizer, max_length=100)
        text = beit3_config.TextConfig(vocab_size=tiny_beit3.VOCAB, positions=102)
        model, _ = tiny_beit3.beit3(text=text, tokenizer=words)
    else:
        model = multiway.create(name, **SIZES[name])
    multiway.save(model, folder / "base")
    return folder / "base"


def learned(task: str, base: Path, out: Path, **changes: Any) -> tuple[Any, dict[str, float]]:
    """The config of a network that took its steps and was loaded again, and its last validation."""
    run = plan(task, base, DATA, train=replace(SHORT, **changes))
    validation = finetune(task, run, out).validation
    assert validation is not None
    assert multiway.load(out / "model").config == run.system
    assert multiway.load(out / "best").config == run.system
    return run.system, validation


@pytest.mark.parametrize(
    ("name", "network", "changed"),
    [
        ("blip", "blip", {"lm_weight": 0.0, "positives": "ids", "negatives_by": "batch"}),
        ("clip", "clip", {}),
        ("coca", "coca", {"contrastive_weight": 1.0, "caption_weight": 2.0}),
        ("flip", "flip", {"drop": 0.0}),
        ("vilt", "vilt_retrieval", {}),
        ("vlmo", "vlmo_retrieval", {"positives": "pair"}),
        ("beit3", "beit3_retrieval", {}),
    ],
)
def test_retrieval_is_learned_by_each_systems_own_losses(name, network, changed, tmp_path):
    config, found = learned("retrieval", saved(name, tmp_path), tmp_path / "out")
    assert config.system == network
    assert {field: getattr(config, field) for field in changed} == changed
    stage = "itm" if "itm.tr_r1" in found else "itc"
    assert found["r1"] == (found[f"{stage}.tr_r1"] + found[f"{stage}.ir_r1"]) / 2


@pytest.mark.parametrize(
    ("name", "network", "changed"),
    [
        ("blip", "blip_captioner", {"prompt": "a picture of "}),
        ("coca", "coca", {"contrastive_weight": 0.0, "caption_weight": 1.0}),
        ("simvlm", "simvlm", {"caption_length": (1, 6), "prompt": ""}),
        ("beit3", "beit3_captioner", {}),
    ],
)
def test_captions_are_learned_by_each_system_that_writes(name, network, changed, tmp_path):
    config, found = learned("caption", saved(name, tmp_path), tmp_path / "out")
    assert config.system == network
    assert {field: getattr(config, field) for field in changed} == changed
    assert {"cider", "bleu_4", "shuffled.cider"} <= set(found)
    again = plan("caption", tmp_path / "out/model", DATA, train=SHORT)  # a captioner goes on as it is
    assert again.system == config
    assert again.train.best_metric == "cider"


def test_a_run_goes_on_where_it_was_with_its_best_model(albef, tmp_path):
    multiway.save(albef, tmp_path / "base")
    options = {"schedule": "constant", "warmup_lr": TRAIN.lr}
    config, _ = learned("retrieval", tmp_path / "base", tmp_path / "whole", **options)
    assert (config.mlm_weight, config.positives, config.temperature_range) == (0.0, "ids", None)
    learned("retrieval", tmp_path / "base", tmp_path / "again", steps=1, **options)
    learned("retrieval", tmp_path / "base", tmp_path / "again", **options)
    whole, again = (multiway.load(tmp_path / out / "model").state_dict() for out in ("whole", "again"))
    assert whole.keys() == again.keys()
    assert all(torch.equal(tensor, again[name]) for name, tensor in whole.items())
    card = (tmp_path / "again/model/README.md").read_text()
    assert "multiway evaluate retrieval" in card
    assert "scenes:8" in card


def karpathy(folder: Path) -> Path:
    """Six pictures to learn from and two held back, in one file."""
    images = []
    for i in range(8):
        name = f"{i}.png"
        Image.new("RGB", (40, 30), (30 * i, 90, 200)).save(folder / name)
        sentences = [{"raw": f"a picture {i}"}, {"raw": "some colour"}]
        images.append({"filename": name, "split": "train" if i < 6 else "val", "sentences": sentences})
    (folder / "karpathy.json").write_text(json.dumps({"images": images}))
    return folder / "karpathy.json"


def test_the_command(tmp_path, monkeypatch, capsys):
    saved("blip", tmp_path)
    data = str(karpathy(tmp_path))
    monkeypatch.chdir(tmp_path)
    of = ["--data", data, "--split", "train", "--val", data, "--val-split", "val", "--images", str(tmp_path)]
    flags = ["--model", "base", *of, "--steps", "2", "--batch-size", "2", "--out", "out"]
    larger = ["--system.image.image-size", "48", "--lora.rank", "2", "--find-batch-size"]
    assert main(["finetune", "caption", *flags, *larger, "--dry-run"]) == 0
    said = capsys.readouterr().out
    assert '"image_size": 32' not in said
    assert "blip_captioner" in said
    assert "6 samples an epoch" in said
    assert "2 samples at a time fit" in said
    assert main(["finetune", "caption", *flags]) == 0
    run = json.loads((tmp_path / "out/run.json").read_text())["run"]
    assert run["data"]["val"][0]["split"] == "val"
    assert run["train"]["best_metric"] == "cider"
    assert (tmp_path / "out/best/model.safetensors").is_file()


def test_labelled_data_and_what_is_held_back_of_it(tmp_path, monkeypatch):
    saved("blip", tmp_path)
    monkeypatch.chdir(tmp_path)
    Image.new("RGB", (32, 32)).save("a.png")
    rows = "".join(f"a.png,{'red' if i else 'blue'},{'val' if i < 2 else 'train'}\n" for i in range(6))
    (tmp_path / "t.csv").write_text("picture,kind,split\n" + rows + "a.png,blue,train\n")
    of = ["--data", "t.csv", "--split", "train", "--val", "t.csv", "--val-split", "val", "--label", "kind"]
    argv = ["finetune", "classify", "--model", "base", *of, "--out", "out", "--steps", "1"]
    assert main([*argv, "--batch-size", "4"]) == 0
    data = json.loads((tmp_path / "out/run.json").read_text())["run"]["data"]
    assert [[source["split"] for source in data[part]] for part in ("train", "val")] == [["train"], ["val"]]


@pytest.mark.parametrize(
    ("argv", "said"),
    [
        (["caption", "--data", "scenes:8"], "MAE has no network for the task caption"),
        (["retrieval", "--data", "scenes:8"], "MAE has no network for the task retrieval"),
        (["caption", "--data", "emoji", "--val", "emoji", "--split", "train"], "a --val-split apart"),
        (["caption", "--data", "emoji", "--val", "emoji", "--split", "all", "--val-split", "all"], "apart"),
        (["classify", "--data", "emoji", "--val", "emoji", "--split", "train"], "a --val-split apart"),
        (["caption", "--data", "emoji", "--val", "emoji", "--split", "all", "--val-split", "style"], "apart"),
        (["caption", "--data", "emoji", "--val-split", "style"], "is of --val: name that too"),
        (["classify", "--data", "emoji", "--label", "group", "--steps", "9", "--epochs", "3"], "exactly one"),
        (["vqa", "--data", "x", "--val", "x", "--split", "train+val", "--val-split", "val"], "apart"),
    ],
)
def test_wrong_input_is_answered_with_a_sentence(tmp_path, monkeypatch, capsys, argv, said):
    multiway.save(tiny_mae.mae(), tmp_path / "base")
    monkeypatch.chdir(tmp_path)
    assert main(["finetune", *argv, "--model", "base", "--out", "out"]) == 2
    error = capsys.readouterr().err
    assert said in error
    assert error.count("\n") == 1


def test_data_that_a_task_can_not_learn_from(tmp_path):
    base = saved("blip", tmp_path)
    with pytest.raises(UserError, match=r"nowhere\.csv"):
        plan("retrieval", base, replace(DATA, train=(Source(path="nowhere.csv"),)))
    with pytest.raises(UserError, match="retrieval learns from a DataConfig"):
        plan("retrieval", base, TaskData(train=(LabelledSource(path="scenes:8"),)))
    with pytest.raises(UserError, match="nlvr2 learns from a TaskData"):
        plan("nlvr2", base, DATA)
