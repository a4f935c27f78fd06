"""The block: routes, norms, layer scale, drop path, unpadded text, recomputation."""

from __future__ import annotations

import pytest
import torch

from multiway.core import masks
from multiway.core.block import Block, DropPath, FeedForward, Stack
from multiway.core.ragged import Ragged

WIDTH, HEADS, HIDDEN = 12, 3, 20


def block(**options) -> Block:
    torch.manual_seed(0)
    made = Block(WIDTH, HEADS, HIDDEN, **options)
    with torch.no_grad():  # norms that do something
        for name, parameter in made.named_parameters():
            if "norm" in name:
                parameter += 0.3 * torch.randn_like(parameter)
    return made


@pytest.mark.parametrize("pre_norm", [True, False])
@pytest.mark.parametrize("layer_scale", [None, 0.1])
def test_segments_equal_each_expert_on_its_own_tokens(pre_norm, layer_scale) -> None:
    made = block(experts=("text", "image"), pre_norm=pre_norm, layer_scale=layer_scale)
    x = torch.randn(2, 7, WIDTH)
    y = made(x, route=[("text", 3), ("image", 4)])
    assert torch.equal(y[:, :3], made(x, route="text")[:, :3])
    assert torch.equal(y[:, 3:], made(x, route="image")[:, 3:])
    assert not torch.allclose(made(x, route="text"), made(x, route="image"))


def test_a_route_that_does_not_cover_the_sequence_is_refused() -> None:
    with pytest.raises(RuntimeError):
        block(experts=("text", "image"))(torch.randn(2, 7, WIDTH), route=[("text", 3), ("image", 3)])


def test_pre_norm_and_post_norm_are_their_formulas() -> None:
    x, tokens = torch.randn(2, 5, WIDTH), torch.randn(2, 4, 8)
    for pre_norm in (True, False):
        made = block(context_width=8, pre_norm=pre_norm, layer_scale=0.5)
        context = made.cross.context(tokens)
        steps = [
            (made.norm1, made.attention, 0.5),
            (made.norm_cross, lambda y, m=made, c=context: m.cross(y, c), 1.0),
            (made.norm2["all"], made.ffn["all"], 0.5),
        ]
        expected = x
        for norm, branch, gain in steps:
            if pre_norm:
                expected = expected + gain * branch(norm(expected))
            else:
                expected = norm(expected + gain * branch(expected))
        torch.testing.assert_close(made(x, context=context), expected)


def test_cross_attention_is_skipped_without_context() -> None:
    made, x = block(context_width=8), torch.randn(2, 5, WIDTH)
    y = x + made.attention(made.norm1(x))
    torch.testing.assert_close(made(x), y + made.ffn["all"](made.norm2["all"](y)))


def test_drop_path_drops_whole_samples_and_keeps_the_mean() -> None:
    torch.manual_seed(0)
    drop, x = DropPath(0.25), torch.ones(4000, 2, 3)
    y = drop(x)
    assert y.unique().tolist() == [0.0, pytest.approx(4 / 3)]
    assert all(len(row.unique()) == 1 for row in y[:50])
    assert float((y == 0).float().mean()) == pytest.approx(0.25, abs=0.03)
    assert torch.equal(drop.eval()(x), x)


def test_quick_gelu_is_another_activation() -> None:
    x = torch.randn(3, WIDTH)
    quick = FeedForward(WIDTH, HIDDEN, quick_gelu=True)
    torch.testing.assert_close(quick.act(x), x * torch.sigmoid(1.702 * x))


@pytest.mark.parametrize("pre_norm", [True, False])
def test_packed_tokens_equal_padded_ones_in_value_and_gradient(pre_norm) -> None:
    torch.manual_seed(0)
    stack = Stack(block(context_width=8, pre_norm=pre_norm) for _ in range(2))
    real = (torch.arange(6) < torch.tensor([[6], [2], [4]])).long()
    ragged, found = Ragged.of(real), []
    inputs = {"x": torch.randn(3, 6, WIDTH), "tokens": torch.randn(3, 4, 8)}
    for packed in (True, False):
        stack.zero_grad()
        leaves = {name: value.clone().requires_grad_() for name, value in inputs.items()}
        x, tokens = leaves["x"], leaves["tokens"]
        options = {"mask": masks.padding(real), "context": stack.context(tokens)}
        y = ragged.pad(stack(ragged.pack(x), ragged=ragged, **options)) if packed else stack(x, **options)
        y = y * real[..., None]
        y.pow(3).sum().backward()
        found.append((y, {n: p.grad.clone() for n, p in [*stack.named_parameters(), *leaves.items()]}))
    torch.testing.assert_close(found[0][0], found[1][0])
    assert all(gradient.any() for gradient in found[0][1].values())
    for name, gradient in found[0][1].items():
        torch.testing.assert_close(gradient, found[1][1][name], rtol=1e-4, atol=1e-4, msg=name)


def test_recomputation_changes_no_gradient() -> None:
    torch.manual_seed(0)
    stack = Stack(block(context_width=8, drop_path=0.4, dropout=0.2) for _ in range(3)).train()
    x, tokens = torch.randn(2, 5, WIDTH), torch.randn(2, 4, 8)
    found = []
    for stack.checkpointing in (False, True):
        stack.zero_grad()
        torch.manual_seed(1)
        y = stack(x, context=stack.context(tokens))
        y.square().sum().backward()
        found.append((y.detach(), {n: p.grad.clone() for n, p in stack.named_parameters()}))
    assert torch.equal(found[0][0], found[1][0])
    for name, gradient in found[0][1].items():
        torch.testing.assert_close(gradient, found[1][1][name], msg=name)
