"""Packed tokens, laid out anew for each attention: the same values and gradients as padded ones."""

from __future__ import annotations

import pytest
import torch
from torch.autograd import gradcheck, gradgradcheck

from multiway.core import masks
from multiway.core.attention import SelfAttention
from multiway.core.block import Block, Stack
from multiway.core.ragged import Ragged

WIDTH, LENGTH = 12, 6
REAL = (torch.arange(LENGTH) < torch.tensor([[6], [2], [4], [1], [5]])).long()
ROWS = torch.tensor([2, 0, 2, 3, 2])  # nobody looks at picture 1
SEEN = torch.tensor([[1, 1, 1, 1], [1, 0, 0, 0], [1, 1, 0, 1], [0, 1, 1, 0]]).bool()[:, None, None]


def stack(*, pre_norm: bool, layers: int = 2) -> Stack:
    torch.manual_seed(0)
    return Stack(Block(WIDTH, 3, 20, context_width=8, pre_norm=pre_norm) for _ in range(layers))


def test_tokens_are_grouped_by_their_row_in_order() -> None:
    layout = Ragged.grouped(torch.tensor([2, 0, 2, 2, 0]), 4)
    assert (layout.batch, layout.length) == (4, 3)
    x = torch.arange(1.0, 6.0)[None, :, None]
    padded = layout.pad(x)[..., 0]
    assert padded.tolist() == [[2, 5, 0], [0, 0, 0], [1, 3, 4], [0, 0, 0]]
    assert torch.equal(layout.pack(padded[..., None]), x)


def test_packing_and_padding_have_exact_gradients() -> None:
    layout = Ragged.grouped(torch.tensor([1, 0, 1, 1]), 3)
    packed = torch.randn(1, 4, 2, dtype=torch.double, requires_grad=True)
    padded = torch.randn(3, 3, 2, dtype=torch.double, requires_grad=True)
    for function, x in ((layout.pad, packed), (layout.pack, padded)):
        assert gradcheck(function, x)
        assert gradgradcheck(function, x)


@pytest.mark.parametrize("pre_norm", [True, False])
@pytest.mark.parametrize("read", ["all", "first", "some"])
def test_shared_contexts_and_a_last_layer_for_what_is_read_change_nothing(pre_norm, read) -> None:
    blocks, ragged = stack(pre_norm=pre_norm), Ragged.of(REAL)
    wanted = {
        "all": REAL.bool(),
        "first": torch.arange(LENGTH).eq(0).expand(5, -1),
        # nothing of text 1; all of text 2
        "some": torch.tensor(
            [[0, 1, 0, 0, 1, 1], [0] * 6, [1, 1, 1, 1, 0, 0], [1] + [0] * 5, [0, 0, 1] + [0] * 3]
        ),
    }[read].bool()
    inputs = {"x": torch.randn(5, LENGTH, WIDTH), "tokens": torch.randn(4, 4, 8)}
    found = []
    for fast in (True, False):
        blocks.zero_grad()
        leaves = {name: value.clone().requires_grad_() for name, value in inputs.items()}
        context, mask = blocks.context(leaves["tokens"], SEEN), masks.padding(REAL)
        if fast:
            reading = None if read == "all" else ragged.reading(wanted)
            options = {"mask": mask, "context": context.shared_by(ROWS), "ragged": ragged, "reading": reading}
            y = blocks(ragged.pack(leaves["x"]), **options)
            y = (ragged if reading is None else reading.tokens).pad(y)
            assert not y[~wanted].any()
        else:
            y = blocks(leaves["x"], mask=mask, context=context.select(ROWS)) * wanted[..., None]
        y.pow(3).sum().backward()
        found.append((y, {n: p.grad.clone() for n, p in [*blocks.named_parameters(), *leaves.items()]}))
    torch.testing.assert_close(found[0][0], found[1][0])
    assert all(gradient.any() for gradient in found[0][1].values())
    for name, gradient in found[0][1].items():
        torch.testing.assert_close(gradient, found[1][1][name], rtol=1e-4, atol=1e-4, msg=name)


def test_attention_of_what_is_read_drops_out_only_while_training() -> None:
    torch.manual_seed(0)
    attention, ragged = SelfAttention(WIDTH, 3, dropout=0.5), Ragged.of(REAL)
    x, options = torch.randn(1, len(ragged.index), WIDTH), {"mask": masks.padding(REAL), "ragged": ragged}
    options["reading"] = ragged.reading(REAL.bool())
    assert not torch.equal(attention(x, **options), attention(x, **options))
    attention.eval()
    assert torch.equal(attention(x, **options), attention(x, **options))


def test_shared_contexts_are_copied_where_maps_or_padded_texts_need_them() -> None:
    blocks = stack(pre_norm=True).eval()
    x, context = torch.randn(5, LENGTH, WIDTH), blocks.context(torch.randn(4, 4, 8), SEEN)
    want, maps = blocks(x, context=context.select(ROWS)), []
    shared = context.shared_by(torch.tensor([1, 2, 0, 3])).shared_by(torch.tensor([1, 2, 1, 3, 1]))
    assert torch.equal(shared.rows, ROWS)
    torch.testing.assert_close(blocks(x, context=shared), want)
    torch.testing.assert_close(blocks(x, context=shared, maps=maps), want)
    assert maps[1].shape == (5, 3, LENGTH, 4)
    assert torch.equal(shared.select(torch.tensor([3, 0])).copied().mask, SEEN[ROWS[[3, 0]]])
