"""A packed twin gives what the module gives."""

from __future__ import annotations

import pytest
import torch
from tiny_decoder import EOS, PAD, Decoder, pictures, prompts

from multiway.core.block import Block, Stack
from multiway.core.cache import Cache
from multiway.core.packed import MANY, PackedBlock, PackedFeedForward, PackedLinear, packed
from multiway.core.ragged import Ragged
from multiway.generation import GenerationConfig, generate

COUNT = 4

#: Where PyTorch has it, a twin that is the module itself is a failure, not a skip.
pytestmark = pytest.mark.skipif(
    not torch.backends.mkldnn.is_available(), reason="PyTorch without oneDNN: `packed` gives the module back"
)


def test_a_twin_decodes_the_same_texts() -> None:
    decoder = Decoder()
    twin = packed(decoder)
    assert isinstance(twin.stack[0].attention.qkv, PackedLinear)
    assert not any(isinstance(part, PackedLinear) for part in decoder.modules())
    for kind, options in (("beam", {"beams": 3, "n_best": 3}), ("greedy", {}), ("sample", {"samples": 2})):
        config = GenerationConfig(method=kind, max_length=8, eos_id=EOS, pad_id=PAD, **options)
        expected = generate(decoder.decoding(pictures(COUNT)), prompts(COUNT), config=config)
        found = generate(twin.decoding(pictures(COUNT)), prompts(COUNT), config=config)
        assert found.sequences == expected.sequences
        torch.testing.assert_close(
            torch.tensor(found.scores), torch.tensor(expected.scores), rtol=1e-4, atol=1e-4
        )


def test_a_twin_shares_its_weights_and_stays_as_it_was_packed() -> None:
    decoder, x = Decoder(), torch.randn(2, 3, 24)
    twin = packed(decoder)
    ours = dict(decoder.named_parameters())
    assert all(any(value is own for own in ours.values()) for value in twin.parameters())
    with torch.no_grad():
        before = decoder.stack[0].attention.out(x)
        torch.testing.assert_close(twin.stack[0].attention.out(x), before, rtol=1e-5, atol=1e-5)
        decoder.stack[0].attention.out.weight.zero_()
        torch.testing.assert_close(twin.stack[0].attention.out(x), before, rtol=1e-5, atol=1e-5)


def test_what_two_share_is_packed_once_also_where_it_is_not_registered() -> None:
    inner = torch.nn.Linear(3, 3)
    module = torch.nn.Sequential(inner, torch.nn.ReLU())
    module[1].__dict__["borrowed"] = inner
    twin = packed(module)
    assert isinstance(twin[0], PackedLinear)
    assert twin[1].borrowed is twin[0]
    assert module[1].borrowed is inner


def stacks(**options) -> tuple[Stack, Stack]:
    """Two blocks whose norms do something, and their twin."""
    torch.manual_seed(0)
    plain = Stack(Block(12, 3, 20, **options) for _ in range(2)).eval()
    with torch.no_grad():
        for parameter in plain.parameters():
            parameter += 0.3 * torch.randn_like(parameter)
    return plain, packed(plain)


@pytest.mark.parametrize("pre_norm", [True, False])
@pytest.mark.parametrize("bare", [{}, {"key_bias": False}, {"quick_gelu": True}, {"layer_scale": 0.5}])
def test_blocks_give_the_same_however_they_are_called(pre_norm, bare) -> None:
    plain, twin = stacks(pre_norm=pre_norm, context_width=8, experts=("text", "image"), **bare)
    assert isinstance(twin[0], PackedBlock) is (not bare or "key_bias" in bare)
    x, looked = torch.randn(2, 5, 12), torch.randn(2, 4, 8)
    attention_mask = torch.tensor([[1, 1, 1, 1, 1], [1, 1, 1, 0, 0]])
    ragged, bias = Ragged.of(attention_mask), torch.randn(2, 1, 5, 5)
    unpadded = {"ragged": ragged, "mask": attention_mask.bool()[:, None, None]}
    first = torch.zeros(2, 5, dtype=torch.bool)
    first[:, 0] = True
    for tokens, options in [
        (x, {"route": "text"}),
        (x, {"route": "image", "causal": True}),
        (x, {"route": [("text", 2), ("image", 3)]}),
        (x, {"route": "text", "mask": bias}),
        (ragged.pack(x), {"route": "text", **unpadded}),
        (ragged.pack(x), {"route": "text", **unpadded, "reading": ragged.reading(first)}),
    ]:
        found, expected = (stack(tokens, **options) for stack in (twin, plain))
        torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)
        for rows in ([0, 1], [1, 1]):  # whose picture each text looks at
            found, expected = (
                stack(tokens, context=stack.context(looked).shared_by(torch.tensor(rows)), **options)
                for stack in (twin, plain)
            )
            torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)


def test_a_stack_takes_tokens_one_by_one() -> None:
    plain, twin = stacks(pre_norm=False, context_width=8)
    x, context = torch.randn(2, 5, 12), plain.context(torch.randn(2, 4, 8))
    cache = Cache(2)
    steps = [twin(part, causal=True, context=context, cache=cache) for part in x.split([2, 1, 2], dim=1)]
    expected = plain(x, causal=True, context=context)
    torch.testing.assert_close(torch.cat(steps, dim=1), expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("bias", [True, False])
def test_few_rows_and_many(bias) -> None:
    plain = torch.nn.Linear(6, 5, bias=bias)
    twin = packed(plain)
    with torch.inference_mode():
        for x in (torch.randn(2, MANY // 2 - 1, 6), torch.randn(2, MANY // 2, 6)):
            expected, other = plain(x), torch.randn(x.shape[1], 2, 5).transpose(0, 1)
            given = other.clone()
            torch.testing.assert_close(twin(x), expected, rtol=1e-5, atol=1e-5)
            torch.testing.assert_close(twin.plus(x, other), given + expected, rtol=1e-5, atol=1e-5)
            assert torch.equal(other, given)  # it is read, not written


def test_maps_are_still_given() -> None:
    plain, twin = stacks(context_width=8)
    maps, expected = [], []
    x, context = torch.randn(2, 5, 12), plain.context(torch.randn(2, 4, 8))
    twin(x, context=context, maps=maps)
    plain(x, context=context, maps=expected)
    assert len(maps) == 4
    torch.testing.assert_close(maps, expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("experts", [("all",), ("all", "more")])
def test_experts_and_sub_norms_in_attention_stay_blocks(experts) -> None:
    options = {"doubled": True} if len(experts) > 1 else {"sub_norm": True}
    plain, twin = stacks(experts=experts, **options)
    assert type(twin[0]) is Block
    x = torch.randn(2, 5, 12)
    torch.testing.assert_close(twin(x), plain(x), rtol=1e-4, atol=1e-5)


def test_quick_gelu_is_not_taken_for_gelu() -> None:
    _, twin = stacks(quick_gelu=True)
    assert not any(isinstance(part, PackedFeedForward) for part in twin.modules())


def test_another_precision_is_left_as_it_is() -> None:
    module = torch.nn.Linear(3, 3).double()
    assert packed(module) is module
