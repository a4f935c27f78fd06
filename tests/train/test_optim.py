"""The official schedule and parameter groups, the others' ends and middles, and names that fit."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import nn

from multiway.errors import UserError
from multiway.systems.base import System
from multiway.train import optim
from multiway.train.run import TrainConfig

GOLDEN = Path(__file__).parents[3] / "shared" / "golden" / "albef"


def golden(test):
    """A test against the recorded official outputs; it skips where they are not."""
    absent = pytest.mark.skipif(not GOLDEN.exists(), reason="no recorded official outputs here")
    return pytest.mark.golden_shared(absent(test))


@golden
@pytest.mark.parametrize("name", ["lr_pretrain", "lr_finetune"])
def test_recorded_schedule(name):
    facts = json.loads((GOLDEN / "schedule" / "config.json").read_text())["schedule"]
    rates = load_file(GOLDEN / "schedule" / "outputs.safetensors")[name]
    config = TrainConfig(
        epochs=facts["epochs"],
        lr=facts["lr"],
        min_lr=facts["min_lr"],
        warmup_lr=facts["warmup_lr"],
        warmup_steps=facts["warmup_epochs"] * 100,
        schedule="albef",
    )
    ours = [optim.learning_rate(s, config, steps_per_epoch=facts["n"]) for s in range(rates.numel())]
    assert ours == pytest.approx(rates.flatten().tolist(), rel=1e-12)


@golden
def test_recorded_trajectory_schedule():
    facts = json.loads((GOLDEN / "trajectory" / "config.json").read_text())["schedule"]
    rates = load_file(GOLDEN / "trajectory" / "outputs.safetensors")["lr"].tolist()
    stride = facts["step_size"]
    config = TrainConfig(
        epochs=facts["epochs"],
        lr=facts["lr"],
        min_lr=facts["min_lr"],
        warmup_lr=facts["warmup_lr"],
        warmup_steps=facts["warmup_epochs"] * stride,
        warmup_stride=stride,
        schedule="albef",
    )
    epoch = len(rates) // facts["epochs"]
    ours = [optim.learning_rate(step, config, steps_per_epoch=epoch) for step in range(len(rates))]
    assert ours == pytest.approx(rates, rel=1e-12)


class Named(System):
    """A system whose parameters have the official names."""

    def __init__(self, tensors: dict[str, torch.Tensor]):
        super().__init__()
        for name, tensor in tensors.items():
            *path, leaf = name.split(".")
            module = self
            for part in path:
                if not hasattr(module, part):
                    module.add_module(part, nn.Module())
                module = getattr(module, part)
            module.register_parameter(leaf, nn.Parameter(tensor.clone()))


@golden
def test_recorded_parameter_groups_and_adamw():
    inputs = load_file(GOLDEN / "schedule" / "inputs.safetensors")
    facts = json.loads((GOLDEN / "schedule" / "config.json").read_text())
    start = {name[3:]: tensor for name, tensor in inputs.items() if name.startswith("p0.")}
    system = Named(start)
    optimizer = optim.build_optimizer(system, TrainConfig(steps=3, weight_decay=facts["schedule"]["wd"]))
    names = {parameter: name for name, parameter in system.named_parameters()}
    ours = {group["weight_decay"]: {names[p] for p in group["params"]} for group in optimizer.param_groups}
    assert ours == {group["weight_decay"]: set(group["names"]) for group in facts["param_groups"]}

    # three steps beside AdamW written out, with decay before the step
    first = {name: tensor.double().zero_() for name, tensor in start.items()}
    second = {name: tensor.clone() for name, tensor in first.items()}
    expected = {name: inputs[f"p0.{name}"].double() for name in start}
    decay = {name: group["weight_decay"] for group in facts["param_groups"] for name in group["names"]}
    for t, lr in enumerate(facts["opt_lr_per_step"]):
        optim.set_lr(optimizer, lr)
        for name, parameter in system.named_parameters():
            g = inputs[f"g{t}.{name}"]
            parameter.grad = g.clone()
            first[name] = 0.9 * first[name] + 0.1 * g.double()
            second[name] = 0.999 * second[name] + 0.001 * g.double() ** 2
            move = first[name] / (1 - 0.9 ** (t + 1))
            move /= (second[name] / (1 - 0.999 ** (t + 1))).sqrt() + 1e-8
            expected[name] = expected[name] * (1 - lr * decay[name]) - lr * move
        optimizer.step()
    for name, parameter in system.named_parameters():
        torch.testing.assert_close(parameter.detach().double(), expected[name], rtol=0, atol=1e-6)


def test_cosine_begins_and_ends_where_it_says():
    config = TrainConfig(steps=10, lr=1.0, min_lr=0.1, warmup_lr=0.0, warmup_steps=4)
    rates = [optim.learning_rate(step, config, steps_per_epoch=5) for step in range(10)]
    assert rates[:4] == pytest.approx([0.25, 0.5, 0.75, 1.0])
    assert rates[6] == pytest.approx(0.55)  # half way down
    assert rates[9] == pytest.approx(0.1)
    assert rates[3:] == sorted(rates[3:], reverse=True)
    flat = TrainConfig(steps=10, lr=1.0, warmup_lr=0.0, warmup_steps=2, schedule="constant")
    assert [optim.learning_rate(s, flat, steps_per_epoch=5) for s in range(4)] == [0.5, 1.0, 1.0, 1.0]


def test_official_staircase_without_warmup_and_with_one_longer_than_the_epoch():
    official = {"epochs": 4, "lr": 1.0, "min_lr": 0.0, "warmup_lr": 0.1}
    step = {"steps_per_epoch": 3, "stride": 1}
    rates = [optim.albef_schedule(s, warmup_steps=0, **step, **official) for s in range(6)]
    assert rates[:3] == [1.0, 1.0, 1.0]
    assert rates[3] == pytest.approx(0.5 + 0.5 * math.cos(math.pi / 4))
    rates = [optim.albef_schedule(s, warmup_steps=9, **step, **official) for s in range(4)]
    assert rates[:3] == pytest.approx([0.1, 0.1, 0.2])
    assert rates[3] == pytest.approx(0.5 + 0.5 * math.cos(math.pi / 4))


def test_learning_rate_scale_goes_by_the_longest_prefix(fake):
    system = fake.Fake(fake.FakeConfig())
    scale = {"encoders": 0.5, "encoders.tower": 0.1}
    optimizer = optim.build_optimizer(system, TrainConfig(steps=1, lr_scale=scale))
    optim.set_lr(optimizer, 2.0)
    names = {parameter: name for name, parameter in system.named_parameters()}
    rates = {names[p]: group["lr"] for group in optimizer.param_groups for p in group["params"]}
    assert rates["temperature"] == 2.0
    assert rates["encoders.proj.weight"] == 1.0
    assert rates["encoders.tower.0.bias"] == pytest.approx(0.2)
    assert len(rates) == len(names)


def test_prefixes_that_name_nothing_are_refused(fake):
    system = fake.Fake(fake.FakeConfig())
    with pytest.raises(UserError, match=r"train.freeze names 'encoder', but .*did you mean 'encoders'"):
        optim.freeze(system, ("encoder",))
    with pytest.raises(
        UserError, match=r"train.lr_scale names 'zzz', but .*outermost are temperature, encoders"
    ):
        optim.build_optimizer(system, TrainConfig(steps=1, lr_scale={"zzz": 0.1}))
    optim.freeze(system, ("encoders", "temperature"))
    with pytest.raises(UserError, match="leaves nothing to train"):
        optim.build_optimizer(system, TrainConfig(steps=1))


def test_a_prefix_is_whole_words():
    assert optim.fits("text.layers.1.weight", "text.layers.1")
    assert not optim.fits("text.layers.11.weight", "text.layers.1")
    assert optim.fits("temp", "temp")
    assert not optim.fits("temperature", "temp")


def test_gradient_norm_and_scale():
    a, b, idle = (nn.Parameter(torch.zeros(2)) for _ in range(3))
    a.grad, b.grad = torch.tensor([3.0, 0.0]), torch.tensor([0.0, 4.0])
    assert float(optim.gradient_norm([a, b, idle])) == 5.0
    optim.scale_gradients([a, b, idle], torch.tensor(0.5))
    assert float(optim.gradient_norm([a, b])) == 2.5
    assert float(optim.gradient_norm([idle])) == 0.0
