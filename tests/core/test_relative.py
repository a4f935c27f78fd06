"""Relative positions beside slow plain ones, and the spline that resizes their table."""

from __future__ import annotations

import pytest
import torch

from multiway.core.relative import (
    RelativeBias,
    _spline,
    _spread,
    image_index,
    image_rows,
    joint_index,
    joint_rows,
    resize_table,
    text_index,
)
from multiway.errors import UserError


@pytest.mark.parametrize("grid", [(3, 3), (2, 4)])
def test_patches_are_indexed_by_their_offset(grid: tuple[int, int]) -> None:
    height, width = grid
    index = image_index(grid)
    places = [(y, x) for y in range(height) for x in range(width)]
    for i, (y, x) in enumerate(places, 1):
        for j, (v, u) in enumerate(places, 1):
            assert index[i, j] == (y - v + height - 1) * (2 * width - 1) + x - u + width - 1
    last = image_rows(grid) - 1
    assert index[0, 0] == last
    assert (index[0, 1:] == last - 2).all()
    assert (index[1:, 0] == last - 1).all()


def test_words_count_the_other_way_and_a_shorter_text_is_a_corner_of_a_longer_one() -> None:
    index = text_index(6, positions=9, first=100)
    assert index[1, 2] - index[1, 1] == 1
    assert index[2, 1] - index[1, 1] == -1
    assert index.max() == 100 + 2 * 9 - 1
    assert torch.equal(index[:4, :4], text_index(4, positions=9, first=100))
    longest = text_index(9, positions=9)
    assert longest[1:, 1:].min() == 0
    assert longest[1:, 1:].max() == 2 * 9 - 4
    with pytest.raises(ValueError, match="10 tokens"):
        text_index(10, positions=9)


def test_a_pair_has_both_and_two_rows_between_them() -> None:
    grid, length, positions = (2, 3), 4, 6
    index = joint_index(length, grid, positions=positions)
    assert torch.equal(index[length:, length:], image_index(grid))
    between = image_rows(grid)
    assert torch.equal(index[:length, :length], text_index(length, positions=positions, first=between + 2))
    assert (index[:length, length:] == between).all()
    assert (index[length:, :length] == between + 1).all()
    assert index.max() == joint_rows(grid, positions) - 1


def test_layers_have_columns_of_their_own() -> None:
    index = image_index((2, 2))
    bias = RelativeBias(image_rows((2, 2)), heads=3, layers=2)
    torch.nn.init.normal_(bias.table)
    found = bias(index)
    assert found.shape == (2, 3, 5, 5)
    for layer in range(2):
        for head in range(3):
            assert torch.equal(found[layer, head], bias.table[:, 3 * layer + head][index])


def test_a_spline_goes_through_its_points_and_is_exact_for_cubics() -> None:
    known = torch.tensor([-5.0, -2.0, -1.0, 0.0, 1.5, 2.0, 6.0], dtype=torch.float64)
    wanted = torch.linspace(-5, 6, 23, dtype=torch.float64)

    def cubic(x: torch.Tensor) -> torch.Tensor:
        return 1 - 2 * x + 0.5 * x**2 + 0.3 * x**3

    torch.testing.assert_close(_spline(known, known), torch.eye(7, dtype=torch.float64))
    torch.testing.assert_close(_spline(known, wanted) @ cubic(known), cubic(wanted))
    beyond = torch.tensor([-9.0, 9.0], dtype=torch.float64)
    torch.testing.assert_close(_spline(known, beyond), torch.eye(7, dtype=torch.float64)[[0, 6]])


def test_the_old_offsets_end_where_the_new_ones_end() -> None:
    # 7 patches to 12: the far offset 6 of the old grid lies at 11 of the new one
    assert _spread(7, 12)[-1, -1] == pytest.approx(1.0, abs=1e-3)
    assert _spread(7, 12)[11].argmax() == 6


def test_a_resized_table_keeps_its_other_rows_and_its_symmetry() -> None:
    table = torch.randn(joint_rows((4, 4), 5), 6)
    same = table.clone()
    offsets = same[:49].view(7, 7, 6)
    offsets.copy_((offsets + offsets.flip(0, 1)) / 2)
    resized = resize_table(same, (4, 4), (6, 5))
    assert len(resized) == joint_rows((6, 5), 5)
    assert torch.equal(resized[11 * 9 :], table[49:])
    torch.testing.assert_close(resized[:99].view(11, 9, 6), resized[:99].view(11, 9, 6).flip(0, 1))
    assert resize_table(table, (4, 4), (4, 4)) is table
    wider = resize_table(table, (4, 4), (4, 6))  # straight up and down nothing has moved
    torch.testing.assert_close(wider[:77].view(7, 11, 6)[:, 5], table[:49].view(7, 7, 6)[:, 3])
    flat = resize_table(torch.ones_like(table), (4, 4), (9, 9))
    torch.testing.assert_close(flat, torch.ones_like(flat))
    with pytest.raises(UserError, match="2 x 2 patches .* to 4 x 4: .* 3 patches"):
        resize_table(torch.zeros(image_rows((2, 2)), 1), (2, 2), (4, 4))
