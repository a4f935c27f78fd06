"""Who is dealt whose picture: never one's own, nor one of the same picture or text."""

import numpy as np
import pytest

from multiway.metrics.controls import other


@pytest.mark.parametrize("pictures", ["aabbcc", "aaabbc", "abcdef", "ab", "abcabcabcabc"])
def test_samples_of_a_picture_are_dealt_others_each_once(pictures):
    found = other(pictures)
    assert found is not None
    assert sorted(found) == list(range(len(pictures)))
    assert all(pictures[i] != own for i, own in zip(found, pictures, strict=True))


def test_where_one_picture_has_most_samples_others_are_taken_again():
    found = other("aaaab")
    assert found is not None
    assert found[:4].tolist() == [4] * 4
    assert found[4] < 4


def test_neither_picture_nor_text_is_one_s_own():
    pictures, texts = "aabbccddeeff", "xyxyxyzwzwzw"
    found = other(pictures, texts)
    assert found is not None
    for i, row in enumerate(found):
        assert pictures[i] != pictures[row]
        assert texts[i] != texts[row]


@pytest.mark.parametrize("keys", [["a"], ["aaa"], ["ab", "xx"]])
def test_where_there_is_no_other_nothing_is_dealt(keys):
    assert other(*keys) is None


def test_a_seed_deals_again():
    assert np.array_equal(other(range(50)), other(range(50)))
    assert not np.array_equal(other(range(50)), other(range(50), seed=1))
