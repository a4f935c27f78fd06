"""Adapters: they start as nothing, compute as the merged map, and alone are trained."""

import torch
from torch import nn

from multiway.core.attention import NoKeyBias
from multiway.core.block import Block, Stack
from multiway.core.lora import LoRALinear, adapt, is_adapter, merged
from multiway.core.packed import packed

NAMES = ("attention.qkv", "attention.out", "ffn.all.fc1", "ffn.all.fc2", "cross.query", "cross.key_value")


def moved(module):
    for name, parameter in module.named_parameters():
        if is_adapter(name):
            nn.init.normal_(parameter, std=0.2)
    return module


def stack(seed=0):
    torch.manual_seed(seed)
    return Stack(Block(16, 2, 32, context_width=16) for _ in range(2)).eval()


def adapted():
    module = stack().requires_grad_(False)
    adapt(module, [f"{i}.{name}" for i in range(2) for name in NAMES], rank=3, alpha=6.0)
    return module


def run(module, x, context):
    return module(x, context=module.context(context))


def test_starts_where_the_plain_module_is():
    x, context = torch.randn(2, 5, 16), torch.randn(2, 7, 16)
    torch.testing.assert_close(run(adapted(), x, context), run(stack(), x, context), atol=0, rtol=0)


def test_merged_equals_unmerged():
    x, context = torch.randn(2, 5, 16), torch.randn(2, 7, 16)
    module, plain = moved(adapted()), stack(seed=1)
    tensors = merged(module)
    assert tensors.keys() == plain.state_dict().keys()
    plain.load_state_dict(tensors)
    expected = run(plain, x, context)
    torch.testing.assert_close(run(module, x, context), expected, atol=1e-5, rtol=1e-5)
    assert not torch.allclose(run(stack(), x, context), expected, atol=1e-2)
    with torch.inference_mode():  # the twin for inference reads merged weights
        torch.testing.assert_close(run(packed(module), x, context), expected, atol=1e-5, rtol=1e-5)


def test_only_adapters_are_trained_and_a_shared_map_once():
    module = adapted()
    assert {n for n, p in module.named_parameters() if p.requires_grad} == {
        f"{i}.{name}.lora_{x}" for i in range(2) for name in NAMES for x in "ab"
    }
    run(module, torch.randn(1, 3, 16), torch.randn(1, 3, 16)).sum().backward()
    assert all(p.grad is None for p in module.parameters() if not p.requires_grad)
    both = nn.ModuleDict({"a": nn.Linear(4, 4), "b": nn.Linear(4, 4)})
    both["b"] = both["a"]
    adapt(both, ["a"], rank=1, alpha=1.0)
    assert both["a"] is both["b"]
    assert isinstance(both["b"], LoRALinear)
    assert sorted(merged(moved(both))) == ["a.bias", "a.weight", "b.bias", "b.weight"]


def test_a_map_without_key_bias_keeps_its_two_biases():
    torch.manual_seed(0)
    module = nn.ModuleDict({"qkv": NoKeyBias(8)})
    nn.init.normal_(module["qkv"].q_bias)
    adapt(module, ["qkv"], rank=2, alpha=2.0)
    x = torch.randn(3, 8)
    got = moved(module)["qkv"](x)
    plain = NoKeyBias(8)
    plain.load_state_dict({name.removeprefix("qkv."): t for name, t in merged(module).items()})
    torch.testing.assert_close(got, plain(x), atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(module["qkv"].bias, plain.bias)
