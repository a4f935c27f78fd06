"""AdamW in transformers' order, its schedule, and names with a `*`."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from multiway.train.adamw import TransformersAdamW
from multiway.train.optim import fits, learning_rate
from multiway.train.run import TrainConfig


def test_steps_beside_the_formula() -> None:
    """One parameter that has a gradient each time, one every other time, one never."""
    torch.manual_seed(0)
    parameters = [nn.Parameter(torch.randn(3, 2)) for _ in range(3)]
    plain = [p.detach().double() for p in parameters]
    lr, (b1, b2), eps, decay = 0.1, (0.9, 0.98), 0.05, 0.3  # eps is large, so that its place is seen
    groups = [{"params": parameters, "weight_decay": decay}]
    optimizer = TransformersAdamW(groups, lr=lr, betas=(b1, b2), eps=eps)
    first, second, count = [0.0] * 3, [0.0] * 3, [0] * 3
    for step in range(5):
        for i, parameter in enumerate(parameters):
            parameter.grad = torch.randn(3, 2) if i == 0 or (i == 1 and step % 2) else None
            if parameter.grad is None:
                continue
            g, count[i] = parameter.grad.double(), count[i] + 1
            first[i] = b1 * first[i] + (1 - b1) * g
            second[i] = b2 * second[i] + (1 - b2) * g**2
            size = lr * (1 - b2 ** count[i]) ** 0.5 / (1 - b1 ** count[i])
            plain[i] = plain[i] - size * first[i] / (second[i] ** 0.5 + eps)
            plain[i] = plain[i] - lr * decay * plain[i]
        optimizer.step()
    for ours, theirs in zip(parameters, plain, strict=True):
        torch.testing.assert_close(ours.detach().double(), theirs, rtol=1e-6, atol=1e-7)
    assert torch.equal(parameters[2].detach().double(), plain[2])


def test_a_zero_gradient_decays_and_no_gradient_does_not() -> None:
    parameters = [nn.Parameter(torch.ones(2)) for _ in range(2)]
    parameters[0].grad = torch.zeros(2)
    options = {"lr": 0.5, "betas": (0.9, 0.98), "eps": 1e-8, "weight_decay": 0.1}
    TransformersAdamW([{"params": parameters}], **options).step()
    assert parameters[0].tolist() == pytest.approx([0.95] * 2)
    assert parameters[1].tolist() == [1.0] * 2


def test_the_state_can_be_saved_and_loaded() -> None:
    torch.manual_seed(0)
    gradients = torch.randn(4, 3)

    def run(steps: range, start: torch.Tensor, state: dict | None) -> tuple[torch.Tensor, dict]:
        parameter = nn.Parameter(start.clone())
        optimizer = TransformersAdamW([{"params": [parameter]}], lr=0.1, betas=(0.9, 0.98), eps=1e-8)
        if state is not None:
            optimizer.load_state_dict(state)
        for step in steps:
            parameter.grad = gradients[step].clone()
            optimizer.step()
        return parameter.detach(), optimizer.state_dict()

    whole, _ = run(range(4), torch.ones(3), None)
    half, state = run(range(2), torch.ones(3), None)
    rest, _ = run(range(2, 4), half, state)
    assert torch.equal(rest, whole)


def test_linear_schedule() -> None:
    config = TrainConfig(steps=10, lr=2.0, min_lr=0.5, warmup_steps=4, schedule="linear")
    rates = [learning_rate(step, config, steps_per_epoch=10) for step in range(11)]
    assert rates[:5] == [0.0, 0.5, 1.0, 1.5, 2.0]
    assert rates[5:] == pytest.approx([1.75, 1.5, 1.25, 1.0, 0.75, 0.5])


def test_a_star_stands_for_one_part_of_a_name() -> None:
    assert fits("blocks.3.ffn.image.fc1.weight", "blocks.*.ffn.image")
    assert fits("blocks.3.gamma1", "blocks.*.gamma1")
    assert not fits("blocks.3.ffn.text.fc1.weight", "blocks.*.ffn.image")
    assert not fits("blocks.3", "blocks.*.ffn")
    assert not fits("blocks.3.gamma10", "blocks.*.gamma1")
