"""Fine-tuning by adapters from end to end: what is trained, what is written, what loads again."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

import multiway
from multiway.cli.main import main
from multiway.core.lora import merged
from multiway.data.augment import Augment
from multiway.data.labelled import LabelledSource, TaskData
from multiway.data.two_pictures import PicturePairs
from multiway.errors import UserError
from multiway.systems.albef_nlvr import PairModel
from multiway.tasks.finetune import TRAIN, build, finetune, plan
from multiway.tasks.predictions import predict
from multiway.train import memory
from multiway.train.run import LoRAConfig

PAIRS = LabelledSource(path="scenes:8")
CPU = memory.Ranks(0, 1, torch.device("cpu"))
PLAIN = Augment(crop_scale=None, flip=0.0, rand_n=0)


def planned(folder, **changes):
    train = replace(TRAIN, epochs=None, steps=2, batch_size=4, save_every=1, warmup_steps=0, **changes)
    return plan("nlvr2", folder, TaskData(train=(PAIRS,), augment=PLAIN), train=train)


@pytest.fixture
def folder(albef, tmp_path):
    multiway.save(albef, tmp_path / "base")
    return tmp_path / "base"


def test_adapters_alone_are_trained_and_written(folder, tmp_path):
    out = tmp_path / "out"
    run = planned(folder, lora=LoRAConfig(rank=2), lr=0.01)
    finetune("nlvr2", run, out)
    tuned = load_file(out / "model" / "model.safetensors")
    start, _ = build("nlvr2", run, CPU)
    frozen = {name: p for name, p in start.named_parameters() if not p.requires_grad}
    for name, parameter in frozen.items():
        assert torch.equal(parameter, tuned[name.replace(".plain.", ".")]) != name.endswith(
            ".plain.weight"
        ), name
    assert not [name for name in tuned if "lora" in name or ".plain." in name]
    small, whole = (load_file(p) for p in (
        out / "checkpoints" / "step-00000002" / "model.safetensors", out / "model" / "model.safetensors",
    ))  # fmt: skip
    assert not [name for name in small if name.endswith(".plain.weight")]
    sizes = [sum(t.numel() for t in tensors.values()) for tensors in (small, whole)]
    assert sizes[0] < 0.2 * sizes[1]
    assert (out / "model-adapter" / "adapter.safetensors").stat().st_size < 0.2 * (
        out / "model" / "model.safetensors"
    ).stat().st_size
    again, model = multiway.load(out / "model-adapter"), multiway.load(out / "model")
    logits = [predict(m, PicturePairs(PAIRS)).logits for m in (again, model)]
    torch.testing.assert_close(*map(torch.from_numpy, logits), atol=1e-5, rtol=1e-5)
    longer = replace(run, train=replace(run.train, steps=3))
    assert finetune("nlvr2", longer, out).progress.step == 3  # goes on from the small checkpoint
    with pytest.raises(UserError, match=r"no linear map.*qkv"):
        build(
            "nlvr2",
            planned(folder, lora=LoRAConfig(rank=2, targets=("nothing",))),
            CPU,
        )


def test_a_damaged_adapter_is_one_sentence(folder, tmp_path):
    out = tmp_path / "out"
    finetune("nlvr2", planned(folder, lora=LoRAConfig(rank=2)), out)
    file = out / "model-adapter" / "adapter.safetensors"
    tensors = load_file(file)
    name = min(tensors)
    save_file(tensors | {name: tensors[name][:1].clone()}, file)
    with pytest.raises(UserError, match=f"does not fit .* \\({name}\\)"):
        multiway.load(file.parent)
    file.write_bytes(file.read_bytes()[:100])
    with pytest.raises(UserError, match="no whole adapter"):
        multiway.load(file.parent)
    save_file(tensors, file)
    facts = json.loads((file.parent / "adapter.json").read_text())
    (file.parent / "adapter.json").write_text(json.dumps(facts | {"base": str(file.parent)}))
    with pytest.raises(UserError, match="names itself as its base"):
        multiway.load(file.parent)


def test_a_network_is_trained_by_the_rules_that_it_is_saved_with(folder, tmp_path):
    out, run = tmp_path / "out", planned(folder, lora=LoRAConfig(rank=2))
    words = replace(run.system.tokenizer, max_length=9, cleaning="blip_question", max_words=50)
    run = replace(run, system=replace(run.system, tokenizer=words))
    trained, loader = build("nlvr2", run, CPU)
    assert trained.tokenizer.config == words
    assert loader.encode.config == words
    finetune("nlvr2", run, out)
    text = "is the U.S. flag left?"
    for saved in (out / "model", out / "model-adapter"):
        model = multiway.load(saved)
        assert model.tokenizer.config == words
        assert model.tokenizer.encode(text) == trained.tokenizer.encode(text)


def test_a_run_goes_on_as_if_it_had_not_stopped(folder, tmp_path):
    """Bit for bit, though the checkpoint holds no frozen weight."""
    run = planned(folder, lora=LoRAConfig(rank=2), lr=0.01)
    finetune("nlvr2", replace(run, train=replace(run.train, steps=1, schedule="constant")), tmp_path / "a")
    constant = replace(run, train=replace(run.train, schedule="constant"))
    finetune("nlvr2", constant, tmp_path / "a")
    finetune("nlvr2", constant, tmp_path / "b")
    one, other = (load_file(tmp_path / x / "model" / "model.safetensors") for x in "ab")
    assert all(torch.equal(one[name], other[name]) for name in other)


def test_no_memory_is_said_with_what_to_change(folder, tmp_path, monkeypatch, capsys):
    from multiway.systems.albef_nlvr import PairModel as Network

    plain = Network.losses

    def losses(self, batch, *rest, **options):
        if len(batch) > 2:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return plain(self, batch, *rest, **options)

    monkeypatch.setattr(Network, "losses", losses)
    run = planned(folder)
    with pytest.raises(memory.OutOfMemory, match=r"4 samples at a time.*--accumulate 2.*--lora.rank 8"):
        finetune("nlvr2", run, tmp_path / "out")
    found = memory.find(run, lambda run, ranks: build("nlvr2", run, ranks))
    assert found.train.accumulate == 2
    assert found.train.batch_size == 4
    code = main([
        "finetune", "nlvr2", "--model", str(folder), "--data", "scenes:8", "--out", str(tmp_path / "x"),
        "--find-batch-size", "--batch-size", "4", "--lora.rank", "2", "--dry-run",
    ])  # fmt: skip
    assert code == 0
    said = capsys.readouterr().out
    assert "2 samples at a time fit: --accumulate 2" in said
    assert '"rank": 2' in said


def test_a_map_that_two_pictures_share_is_adapted_for_both(folder):
    """ALBEF's second cross-attention of a pair holds the first one's keys and values."""
    system, _ = build("nlvr2", planned(folder, lora=LoRAConfig(rank=2)), CPU)
    with torch.no_grad():
        for name, parameter in system.named_parameters():
            if "lora_" in name:
                parameter.normal_()
    plain = PairModel(system.config)
    plain.load_state_dict(merged(system))
    plain.tokenizer = system.tokenizer
    logits = [predict(model.eval(), PicturePairs(PAIRS)).logits for model in (system, plain)]
    np.testing.assert_allclose(*logits, atol=1e-4, rtol=1e-4)
