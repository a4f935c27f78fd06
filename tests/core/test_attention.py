"""Attention: the fast path equals the slow one, and cached decoding equals reading all at once."""

from __future__ import annotations

import pytest
import torch

from multiway.core import masks
from multiway.core.attention import Cache, CrossAttention, KeyValue, SelfAttention, attend
from multiway.core.block import Block, Context, Stack

BATCH, LENGTH, WIDTH, HEADS = 3, 7, 12, 4
REAL = (torch.arange(LENGTH) < torch.tensor([[7], [4], [1]])).long()
BIAS = torch.randn(HEADS, LENGTH, LENGTH, generator=torch.Generator().manual_seed(1))


def by_hand(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, allowed: torch.Tensor) -> torch.Tensor:
    """softmax(q k^T / sqrt(d)) v with the formula's own exponentials."""
    weights = torch.exp(q @ k.mT / q.shape[-1] ** 0.5) * allowed
    return weights / weights.sum(-1, keepdim=True) @ v


@pytest.mark.parametrize(
    ("mask", "causal"),
    [
        (None, False),
        (None, True),
        (masks.padding(REAL), False),
        (masks.padding(REAL) & masks.causal(LENGTH), False),
        (masks.prefix(torch.tensor([3, 1, 7]), LENGTH), False),
        (BIAS, False),
        (masks.combine(masks.padding(REAL), BIAS), False),
        (masks.combine(masks.semi_causal(torch.tensor([[1, 1, 0, 2, 2, 2, 0]])), BIAS), False),
    ],
    ids=["all", "causal", "padding", "padding+causal", "prefix", "bias", "padding+bias", "spans+bias"],
)
def test_fast_and_slow_paths_are_equal_in_value_and_gradient(mask, causal) -> None:
    torch.manual_seed(0)
    attention = SelfAttention(WIDTH, HEADS)
    x = torch.randn(BATCH, LENGTH, WIDTH)
    found = []
    for maps in (None, []):
        attention.zero_grad()
        y = attention(x, mask=mask, causal=causal, maps=maps)
        (y * torch.arange(WIDTH)).sum().backward()
        found.append((y, attention.qkv.weight.grad.clone(), maps))
    torch.testing.assert_close(found[0][0], found[1][0])
    torch.testing.assert_close(found[0][1], found[1][1], rtol=1e-4, atol=1e-5)
    (probabilities,) = found[1][2]
    assert probabilities.shape == (BATCH, HEADS, LENGTH, LENGTH)
    torch.testing.assert_close(probabilities.sum(-1), torch.ones(BATCH, HEADS, LENGTH))


def test_attend_is_its_formula() -> None:
    torch.manual_seed(0)
    q, k, v = torch.randn(3, 2, HEADS, 5, 6)
    allowed = torch.rand(2, 1, 5, 5) < 0.7
    allowed[..., 0] = True
    torch.testing.assert_close(attend(q, KeyValue(k, v), mask=allowed), by_hand(q, k, v, allowed))
    torch.testing.assert_close(
        attend(q, KeyValue(k, v), causal=True), by_hand(q, k, v, torch.ones(5, 5).tril())
    )


def test_cross_attention_with_selected_context_equals_projecting_again() -> None:
    torch.manual_seed(0)
    cross = CrossAttention(WIDTH, HEADS, context_width=10)
    tokens, x = torch.randn(4, 6, 10), torch.randn(5, LENGTH, WIDTH)
    index = torch.tensor([3, 0, 0, 2, 3])
    seen = torch.rand(5, 1, 1, 6) < 0.7
    seen[..., 0] = True
    found = []
    for context in (cross.context(tokens).select(index), cross.context(tokens[index])):
        cross.zero_grad()
        y = cross(x, context, mask=seen)
        y.square().sum().backward()
        found.append((y, cross.key_value.weight.grad.clone()))
    torch.testing.assert_close(found[0][0], found[1][0])
    torch.testing.assert_close(found[0][1], found[1][1], rtol=1e-4, atol=1e-5)
    slow = cross(x, cross.context(tokens[index]), mask=seen, maps=[])
    torch.testing.assert_close(found[0][0], slow)


@pytest.mark.parametrize("pre_norm", [True, False])
def test_cached_decoding_equals_reading_all_at_once(pre_norm) -> None:
    torch.manual_seed(0)
    stack = Stack(Block(WIDTH, HEADS, 20, context_width=10, pre_norm=pre_norm) for _ in range(3)).eval()
    x, tokens = torch.randn(BATCH, LENGTH, WIDTH), torch.randn(BATCH, 6, 10)
    context = stack.context(tokens)
    whole = stack(x, causal=True, context=context)
    cache = Cache(3)
    parts = [stack(x[:, :3], causal=True, context=context, cache=cache)]
    assert cache.length == 3
    parts += [stack(x[:, t : t + 1], causal=True, context=context, cache=cache) for t in range(3, LENGTH)]
    assert cache.length == LENGTH
    torch.testing.assert_close(torch.cat(parts, 1), whole)


def test_a_cache_is_reordered_as_beam_search_needs_it() -> None:
    torch.manual_seed(0)
    stack = Stack(Block(WIDTH, HEADS, 20) for _ in range(2)).eval()
    x, rows = torch.randn(BATCH, 4, WIDTH), torch.tensor([2, 2, 0])
    cache = Cache(2)
    stack(x[:, :3], causal=True, cache=cache)
    cache.select(rows)
    again = stack(x[rows, 3:], causal=True, cache=cache)
    torch.testing.assert_close(again, stack(x[rows], causal=True)[:, 3:])


def test_context_of_a_stack_is_selected_with_its_mask() -> None:
    stack = Stack([Block(WIDTH, HEADS, 20), Block(WIDTH, HEADS, 20, context_width=10)])
    seen = masks.padding(REAL)
    context = stack.context(torch.randn(BATCH, LENGTH, 10), seen)
    chosen = context.select(torch.tensor([2, 1]))
    assert isinstance(chosen, Context)
    assert chosen.layers[0] is None
    assert torch.equal(chosen.layers[1].key, context.layers[1].key[[2, 1]])
    assert torch.equal(chosen.mask, seen[[2, 1]])


def test_prefix_mask_lets_the_prefix_see_itself_and_the_rest_look_back() -> None:
    seen = masks.prefix(torch.tensor([2]), 4)[0, 0]
    assert seen.int().tolist() == [[1, 1, 0, 0], [1, 1, 0, 0], [1, 1, 1, 0], [1, 1, 1, 1]]


def test_attention_dropout_only_while_training() -> None:
    torch.manual_seed(0)
    attention = SelfAttention(WIDTH, HEADS, dropout=0.5)
    x = torch.randn(BATCH, LENGTH, WIDTH)
    assert not torch.equal(attention(x), attention(x))
    attention.eval()
    assert torch.equal(attention(x), attention(x))
