"""Experts in every projection, sub-norms, keys without bias, one bias a layer."""

from __future__ import annotations

from itertools import pairwise

import pytest
import torch
import torch.nn.functional as F

from multiway.core import masks
from multiway.core.attention import NoKeyBias, SelfAttention
from multiway.core.block import Block, DropPath, Stack
from multiway.core.cache import Cache
from multiway.core.ragged import Ragged

WIDTH, HEADS, HIDDEN, EPS = 12, 3, 20, 1e-5
ROUTE = [("image", 4), ("text", 3)]


def stack(depth: int = 1, **options) -> Stack:
    torch.manual_seed(0)
    made = Stack(Block(WIDTH, HEADS, HIDDEN, eps=EPS, **options) for _ in range(depth))
    with torch.no_grad():  # norms and biases that do something
        for parameter in made.parameters():
            parameter += 0.3 * torch.randn_like(parameter)
    return made


def plain_doubled(block: Block, x: torch.Tensor) -> torch.Tensor:
    """The formulas of a released BEiT-3 layer, token by token."""

    def own(modules, y):
        return torch.cat([modules["image"](y[:, :4]), modules["text"](y[:, 4:])], dim=1)

    attention, d = block.attention, WIDTH // HEADS
    q, k, v = own(attention.qkv, own(block.norm1, x)).chunk(3, dim=-1)
    heads = []
    for h in range(HEADS):
        at = slice(h * d, (h + 1) * d)
        scores = q[..., at] @ k[..., at].transpose(1, 2) / d**0.5
        heads.append(scores.softmax(-1) @ v[..., at])
    x = x + own(attention.out, own(attention.norm, torch.cat(heads, dim=-1)))
    y = own(block.norm2, x)
    parts = []
    for expert, part in (("image", y[:, :4]), ("text", y[:, 4:])):
        ffn = block.ffn[expert]
        parts.append(ffn.fc2(ffn.norm(F.gelu(ffn.fc1(part)))))
    return x + torch.cat(parts, dim=1)


def test_doubled_projections_and_sub_norms_are_their_formulas() -> None:
    block = stack(experts=("image", "text"), doubled=True, sub_norm=True)[0]
    x = torch.randn(2, 7, WIDTH)
    torch.testing.assert_close(block(x, route=ROUTE), plain_doubled(block, x))
    assert not torch.allclose(block(x, route="image"), block(x, route="text"))


def test_names_of_a_shared_block_are_what_they_were() -> None:
    names = {n for n, _ in Block(WIDTH, HEADS, HIDDEN, experts=("image", "text")).named_parameters()}
    assert {n for n in names if "norm1" in n or "attention" in n} == {
        f"{module}.{part}"
        for module in ("norm1", "attention.qkv", "attention.out")
        for part in ("weight", "bias")
    }


@pytest.mark.parametrize("doubled", [True, False])
@pytest.mark.parametrize("read", [True, False])
def test_packed_segments_equal_padded_ones_in_value_and_gradient(doubled, read) -> None:
    """Pictures first, then the real words alone: `[1, B * 4 + words, D]` through every linear map."""
    made = stack(2, experts=("image", "text"), doubled=doubled, sub_norm=True)
    torch.manual_seed(1)
    words = (torch.arange(3) < torch.tensor([[3], [1], [2]])).long()
    mask = torch.cat([torch.ones(3, 4, dtype=torch.long), words], dim=1)
    position = torch.arange(21).view(3, 7)
    index = torch.cat([position[:, :4].flatten(), position[:, 4:][words.bool()]])
    ragged = Ragged(index, 3, 7)
    wanted = torch.rand(3, 7) < 0.5
    wanted &= mask.bool()
    found = []
    for packed in (True, False):
        made.zero_grad()
        x = torch.randn(3, 7, WIDTH, generator=torch.Generator().manual_seed(2)).requires_grad_()
        if packed:
            route = [("image", 12), ("text", len(index) - 12)]
            reading = ragged.reading(wanted) if read else None
            y = made(ragged.pack(x), route=route, ragged=ragged, mask=masks.padding(mask), reading=reading)
            y = (ragged if reading is None else reading.tokens).pad(y)
        else:
            y = made(x, route=ROUTE, mask=masks.padding(mask))
        y = y * (wanted if read else mask)[..., None]
        y.pow(3).sum().backward()
        found.append((y, {n: p.grad.clone() for n, p in [*made.named_parameters(), ("x", x)]}))
    torch.testing.assert_close(found[0][0], found[1][0])
    for name, gradient in found[0][1].items():
        torch.testing.assert_close(gradient, found[1][1][name], rtol=1e-4, atol=1e-4, msg=name)


def test_keys_without_bias_are_a_key_bias_of_zero() -> None:
    torch.manual_seed(0)
    ours, full = SelfAttention(WIDTH, HEADS, key_bias=False), SelfAttention(WIDTH, HEADS)
    with torch.no_grad():
        ours.qkv.q_bias.normal_()
        ours.qkv.v_bias.normal_()
    assert isinstance(ours.qkv, NoKeyBias)
    assert {n for n, _ in ours.named_parameters()} == {
        *("qkv.weight", "qkv.q_bias", "qkv.v_bias", "out.weight", "out.bias")
    }
    state = {n: t for n, t in ours.state_dict().items() if n not in ("qkv.q_bias", "qkv.v_bias")}
    zeros = torch.zeros(WIDTH)
    full.load_state_dict(state | {"qkv.bias": torch.cat([ours.qkv.q_bias, zeros, ours.qkv.v_bias])})
    x = torch.randn(2, 5, WIDTH)
    torch.testing.assert_close(ours(x), full(x))


def test_each_layer_has_its_own_bias() -> None:
    made, x = stack(3, experts=("all",)), torch.randn(2, 5, WIDTH)
    biases = torch.randn(3, 1, HEADS, 5, 5).unbind()
    by_hand = x
    for block, bias in zip(made, biases, strict=True):
        by_hand = block(by_hand, mask=bias)
    assert torch.equal(made(x, mask=biases), by_hand)
    assert all(not torch.allclose(made(x, mask=one), by_hand) for one in biases)


def test_packed_tokens_of_a_sample_are_dropped_together() -> None:
    torch.manual_seed(0)
    drop = DropPath(0.5)
    index = torch.tensor([0, 1, 2, 8, 9, 4, 12])
    samples = {0: [0, 1, 2], 1: [5], 2: [3, 4], 3: [6]}  # rows of the packed tokens
    seen = set()
    for _ in range(64):
        y = drop(torch.ones(1, 7, 2), Ragged(index, 4, 4))[0, :, 0]
        assert set(y.tolist()) <= {0.0, 2.0}
        for rows in samples.values():
            assert all(y[a] == y[b] for a, b in pairwise(rows))
        seen.add(tuple(y[[rows[0] for rows in samples.values()]].tolist()))
    assert len(seen) > 8  # samples are dropped independently of each other


def test_a_route_may_be_a_function_of_the_layer() -> None:
    made, x = stack(3, experts=("image", "text")), torch.randn(2, 7, WIDTH)
    routes = ["image", ROUTE, "text"]
    by_hand = x
    for block, route in zip(made, routes, strict=True):
        by_hand = block(by_hand, route=route)
    assert torch.equal(made(x, route=lambda layer: routes[layer]), by_hand)


def test_forgotten_tokens_are_written_over() -> None:
    """Two tokens are read, the second is forgotten, another comes in its place."""
    made = stack(2, experts=("all",))
    x, other = torch.randn(1, 4, WIDTH), torch.randn(1, 1, WIDTH)
    cache = Cache(2)
    made(x, cache=cache, causal=True)
    cache.forget(1)
    assert cache.length == 3
    assert cache.of(1).key.shape == (1, HEADS, 3, WIDTH // HEADS)
    y = made(other, cache=cache, causal=True)
    expected = made(torch.cat([x[:, :3], other], dim=1), causal=True)[:, -1:]
    torch.testing.assert_close(y, expected)
    assert Cache(2).of(0) is None
