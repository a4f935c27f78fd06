"""Teacher, tokenizer, masked image modelling, classifier: each starts from the folder of the one before."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import tiny_beit
import torch
from safetensors.torch import load_file

import multiway
from multiway.data.augment import Augment
from multiway.data.dataset import DataConfig, Source
from multiway.errors import UserError
from multiway.systems.beit import BEiT
from multiway.systems.clip import CLIP, CLIPConfig, CLIPTextConfig, clip_tokenizer, clip_vit
from multiway.systems.vqkd import VQKD
from multiway.tasks.pretrain import pretrain
from multiway.text import Tokenizer
from multiway.train.log import read_metrics
from multiway.train.run import Init, Run, TrainConfig

SIDE = {"image_size": 32}
DATA = DataConfig(
    train=(Source(path="scenes:24"),), image_size=32, augment=Augment(crop_scale=None, rand_n=0)
)
TRAIN = TrainConfig(steps=4, batch_size=8, accumulate=2, lr=1e-3, schedule="constant", save_every=2)


@pytest.fixture(scope="module")
def teacher(tmp_path_factory) -> Path:
    text = CLIPTextConfig(vocab_size=49408, width=8, layers=1, heads=1, hidden=8, positions=12)
    image = clip_vit(image_size=24, patch_size=8, width=24, depth=1, heads=3, hidden=40)
    torch.manual_seed(0)
    model = CLIP(CLIPConfig(image=image, text=text, tokenizer=clip_tokenizer(12), embed_dim=7))
    model.tokenizer = Tokenizer.load(model.config.tokenizer)
    return multiway.save(model, tmp_path_factory.mktemp("clip") / "model")


def tokenizer_run(teacher: Path, **changes) -> Run:
    config = tiny_beit.vqkd_config(teacher_size=24, start_after=1)
    config = replace(config, image=replace(config.image, **SIDE))
    train = replace(TRAIN, **changes)
    return Run(name="vqkd", system=config, data=DATA, train=train, init=Init(teacher=str(teacher)))


@pytest.fixture(scope="module")
def tokenizer(teacher: Path, tmp_path_factory) -> Path:
    """The folder of a finished run."""
    out = tmp_path_factory.mktemp("vqkd") / "run"
    pretrain(tokenizer_run(teacher), out)
    return out


def test_a_tokenizer_is_trained_without_its_teacher_in_the_folder(tokenizer: Path) -> None:
    steps = read_metrics(tokenizer / "metrics.jsonl")
    assert "usage" not in steps[0]  # the codebook starts after one step
    assert steps[-1]["usage"] > 0
    model = multiway.load(tokenizer / "model")
    assert isinstance(model, VQKD)
    assert model.quantizer.started
    torch.testing.assert_close(model.quantizer.codebook.norm(dim=1), torch.ones(tiny_beit.CODES))
    assert not any("teacher" in name for name in load_file(tokenizer / "model" / "model.safetensors"))
    *_, checkpoint = sorted((tokenizer / "checkpoints").glob("step-*"))
    assert set(load_file(checkpoint / "state.safetensors")) == {"step"}


def test_the_teacher_moves_with_the_state(teacher: Path) -> None:
    model = tiny_beit.vqkd()
    model.learn_from(multiway.load(teacher))
    state = model.init_state().to(torch.float64)
    assert all(p.dtype == torch.float64 for p in state.model.parameters())
    assert not list(state.parameters())


def test_a_resumed_tokenizer_is_the_same(tokenizer: Path, teacher: Path, tmp_path: Path) -> None:
    pretrain(tokenizer_run(teacher, steps=2), tmp_path / "run")
    pretrain(tokenizer_run(teacher), tmp_path / "run")
    ours, whole = (load_file(f / "model" / "model.safetensors") for f in (tmp_path / "run", tokenizer))
    assert all(torch.equal(ours[name], tensor) for name, tensor in whole.items())


def test_masked_image_modelling_takes_its_tokens_and_a_classifier_its_tower(
    tokenizer: Path, tmp_path: Path
) -> None:
    system = tiny_beit.beit_config(image=tiny_beit.vit(**SIDE), early_layer=1)
    init = Init(visual_tokenizer=str(tokenizer / "model"))
    run = Run(name="beit", system=system, data=DATA, train=replace(TRAIN, clip_grad=3.0), init=init)
    pretrain(run, tmp_path / "beit")
    step = read_metrics(tmp_path / "beit" / "metrics.jsonl")[-1]
    assert step["loss"] == pytest.approx(step["mim"] + step["mim_cls"], rel=1e-5)
    model = multiway.load(tmp_path / "beit" / "model")
    assert isinstance(model, BEiT)
    assert not any("tokenizer" in name for name in model.state_dict())

    from multiway.train.build import build_system

    config = model.fine_tuning("classify", ("square", "circle"))
    init = Init(checkpoint=str(tmp_path / "beit" / "model"))
    said: list[str] = []
    head = build_system(Run(name="classify", system=config, data=DATA, train=TRAIN, init=init), said.append)
    assert "4 left fresh" in said[0]  # head and fc_norm
    for i in range(3):
        ours, shared = head.image_tower.relative[i].table, model.image_tower.relative[0].table
        torch.testing.assert_close(ours, shared, rtol=0, atol=0)


def test_a_run_without_its_targets_says_what_is_missing(teacher: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="--init.teacher"):
        pretrain(replace(tokenizer_run(teacher), init=Init()), tmp_path / "vqkd")
    wrong = replace(tokenizer_run(teacher).system, target_width=9)
    with pytest.raises(UserError, match="make it 7"):
        pretrain(replace(tokenizer_run(teacher), system=wrong), tmp_path / "wide")
    run = Run(
        name="beit",
        system=tiny_beit.beit_config(image=tiny_beit.vit(**SIDE)),
        data=DATA,
        train=TRAIN,
        init=Init(visual_tokenizer=str(teacher)),
    )
    with pytest.raises(UserError, match="CLIP gives no visual tokens"):
        pretrain(run, tmp_path / "beit")
