"""Patches, words, position tables."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from multiway.core.embed import PatchEmbed, WordEmbed, resize_positions
from multiway.core.pooling import AttentionPool, mean_pool


def test_patches_are_a_linear_map_of_each_square_in_reading_order() -> None:
    torch.manual_seed(0)
    embed, image = PatchEmbed(4, 6), torch.randn(2, 3, 8, 12)
    patches = [image[:, :, y : y + 4, x : x + 4].flatten(1) for y in (0, 4) for x in (0, 4, 8)]
    expected = torch.stack(patches, 1) @ embed.proj.weight.flatten(1).T + embed.proj.bias
    torch.testing.assert_close(embed(image), expected)


def test_a_picture_that_patches_do_not_fill_is_refused() -> None:
    with pytest.raises(ValueError, match="8 x 10"):
        PatchEmbed(4, 6)(torch.randn(1, 3, 8, 10))


@pytest.mark.parametrize(("old", "new"), [((4, 4), (6, 6)), ((4, 4), (3, 5)), ((3, 5), (6, 2))])
def test_positions_are_resized_to_any_grid_and_keep_the_class_token(old, new) -> None:
    torch.manual_seed(0)
    table = torch.randn(1, 1 + old[0] * old[1], 5)
    resized = resize_positions(table, new, old_grid=old)
    assert resized.shape == (1, 1 + new[0] * new[1], 5)
    assert torch.equal(resized[:, 0], table[:, 0])
    picture = table[0, 1:].T.reshape(1, 5, *old)
    expected = F.interpolate(picture, size=new, mode="bicubic", align_corners=False)
    torch.testing.assert_close(resized[0, 1:].T.reshape(1, 5, *new), expected)


def test_a_table_that_fits_is_given_back_and_one_that_is_no_grid_is_refused() -> None:
    table = torch.randn(1, 17, 5)
    assert resize_positions(table, (4, 4)) is table
    with pytest.raises(ValueError, match="15 patches"):
        resize_positions(torch.randn(1, 16, 5), (4, 4))


def test_words_are_words_and_positions_and_the_first_type() -> None:
    torch.manual_seed(0)
    embed = WordEmbed(30, 6, positions=9, types=2, eps=1e-12)
    ids = torch.randint(30, (2, 5))
    expected = embed.norm(embed.words(ids) + embed.positions.weight[:5] + embed.types.weight[0])
    torch.testing.assert_close(embed(ids), expected)
    torch.testing.assert_close(embed(ids[:, 3:], start=3), expected[:, 3:])
    assert WordEmbed(30, 6, positions=9, types=0, eps=1e-12).types is None


def test_pooling_over_real_tokens() -> None:
    torch.manual_seed(0)
    x, mask = torch.randn(2, 4, 3), torch.tensor([[1, 1, 1, 0], [1, 0, 0, 0]])
    torch.testing.assert_close(mean_pool(x, mask), torch.stack([x[0, :3].mean(0), x[1, 0]]))
    pool = AttentionPool(3, 8, heads=2)
    assert pool(x).shape == (2, 8)
    torch.testing.assert_close(pool(x[:, [2, 0, 3, 1]]), pool(x))  # a set: the order of tokens does not count
