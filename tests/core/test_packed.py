"""A packed twin gives what the module gives."""

from __future__ import annotations

import pytest
import torch
from tiny_decoder import EOS, PAD, Decoder, pictures, prompts

from multiway.core.packed import PackedLinear, packed
from multiway.generation import GenerationConfig, generate

COUNT = 4

#: Where PyTorch has it, a twin that is the module itself is a failure, not a skip.
one_dnn = pytest.mark.skipif(
    not torch.backends.mkldnn.is_available(), reason="PyTorch without oneDNN: `packed` gives the module back"
)


@one_dnn
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


@one_dnn
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


@one_dnn
def test_what_two_share_is_packed_once_also_where_it_is_not_registered() -> None:
    inner = torch.nn.Linear(3, 3)
    module = torch.nn.Sequential(inner, torch.nn.ReLU())
    module[1].__dict__["borrowed"] = inner
    twin = packed(module)
    assert isinstance(twin[0], PackedLinear)
    assert twin[1].borrowed is twin[0]
    assert module[1].borrowed is inner


def test_another_precision_is_left_as_it_is() -> None:
    module = torch.nn.Linear(3, 3).double()
    assert packed(module) is module
