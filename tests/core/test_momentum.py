"""The momentum model follows; the queue is a ring for any batch size and any number of ranks."""

from __future__ import annotations

from collections import deque

import ranks
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from multiway.core.momentum import FeatureQueue, ema_update, momentum_copy


def rows(start: int, size: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Rows that can be told apart: pictures count up, texts down, ids are 10 times the count."""
    count = torch.arange(start, start + size)
    return count[:, None].expand(size, 2).float(), -count[:, None].expand(size, 2).float(), 10 * count


@settings(max_examples=60, deadline=None)
@given(size=st.integers(1, 9), batches=st.lists(st.integers(1, 25), max_size=6), start=st.integers(0, 8))
def test_the_queue_is_a_ring_of_the_latest_rows(size: int, batches: list[int], start: int) -> None:
    queue = FeatureQueue(size, 2)
    queue.pointer.fill_(start % size)
    ring: list[int | None] = [None] * size
    latest: deque[int] = deque(maxlen=size)
    at, total = start % size, 0
    for batch in batches:
        queue.enqueue(*rows(total, batch))
        for value in range(total, total + batch):  # the model: one row after the other
            ring[at] = value
            latest.append(value)
            at = (at + 1) % size
        total += batch
    assert int(queue.pointer) == at
    for slot, value in enumerate(ring):
        if value is None:
            assert queue.ids[slot] == -100
            torch.testing.assert_close(queue.image[slot].norm(), torch.tensor(1.0))
        else:
            assert queue.image[slot, 0] == value
            assert queue.text[slot, 0] == -value
            assert queue.ids[slot] == 10 * value
    assert {v for v in ring if v is not None} == set(latest)


def enqueued(rank: int) -> dict[str, torch.Tensor]:
    queue = FeatureQueue(5, 2)
    queue.load_state_dict({name: torch.zeros_like(value) for name, value in queue.state_dict().items()})
    for step in range(3):
        queue.enqueue(*rows(100 * rank + 10 * step, 4))
    return dict(queue.state_dict())


def test_two_ranks_enqueue_all_rows_in_rank_order() -> None:
    both = ranks.run(enqueued, 2)
    expected = FeatureQueue(5, 2)
    for step in range(3):
        parts = [rows(100 * rank + 10 * step, 4) for rank in range(2)]
        expected.enqueue(*(torch.cat(x) for x in zip(*parts, strict=True)))
    for found in both:
        for name, value in expected.state_dict().items():
            assert torch.equal(found[name], value), name


def test_a_queue_of_no_rows_takes_anything() -> None:
    queue = FeatureQueue(0, 2)
    queue.enqueue(*rows(0, 3))
    assert len(queue.image) == 0


def test_the_average_moves_towards_what_is_trained_alone() -> None:
    torch.manual_seed(0)
    online = nn.Linear(3, 2)
    average = momentum_copy(online)
    assert not any(p.requires_grad for p in average.parameters())
    online.bias.requires_grad_(False)
    with torch.no_grad():
        online.weight += 1
        online.bias += 1
    before = average.weight.clone(), average.bias.clone()
    ema_update(online, average, 0.9)
    torch.testing.assert_close(average.weight, 0.9 * before[0] + 0.1 * online.weight)
    assert torch.equal(average.bias, before[1])


def test_the_average_of_half_precision_weights_is_kept_in_fp32() -> None:
    online = nn.Linear(3, 2).bfloat16()
    average = momentum_copy(online)
    ema_update(online, average, 0.5)
    assert average.weight.dtype == torch.float32
