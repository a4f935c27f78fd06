"""MLM: which tokens are masked, with what, and a loss on masked positions only."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from multiway.core.heads import WordHead
from multiway.objectives import language

MASK, VOCAB = 4, 1000
ROWS, LENGTH = 400, 50


def texts() -> tuple[torch.Tensor, torch.Tensor]:
    g = torch.Generator().manual_seed(0)
    ids = torch.randint(5, VOCAB, (ROWS, LENGTH), generator=g)
    maskable = torch.rand(ROWS, LENGTH, generator=g) < 0.8
    maskable[:, 0] = False
    return ids, maskable


def masked(ids: torch.Tensor, maskable: torch.Tensor, **options) -> tuple[torch.Tensor, torch.Tensor]:
    g = torch.Generator().manual_seed(1)
    options = {"mask_id": MASK} | options
    return language.mask_tokens(ids, maskable, vocab_size=VOCAB, generator=g, **options)


def test_shares_of_masking() -> None:
    ids, maskable = texts()
    before = ids.clone()
    read, labels = masked(ids, maskable)
    chosen = labels != -100
    assert torch.equal(ids, before)
    assert not (chosen & ~maskable).any()
    assert torch.equal(labels[chosen], ids[chosen])
    assert torch.equal(read[~chosen], ids[~chosen])
    n = int(chosen.sum())
    assert n / int(maskable.sum()) == pytest.approx(0.15, abs=0.01)
    assert int((read[chosen] == MASK).sum()) / n == pytest.approx(0.8, abs=0.025)
    assert int((read[chosen] == ids[chosen]).sum()) / n == pytest.approx(0.1, abs=0.02)
    other = read[chosen & (read != MASK) & (read != ids)]
    assert len(other) / n == pytest.approx(0.1, abs=0.02)
    assert float(other.float().mean()) == pytest.approx(VOCAB / 2, rel=0.15)  # from the whole vocabulary


def test_whole_words_are_chosen_and_their_tokens_replaced_one_by_one() -> None:
    ids, maskable = texts()
    starts = torch.rand(ROWS, LENGTH, generator=torch.Generator().manual_seed(2)) < 0.6
    starts[:, :2] = True
    maskable[:, 1:] = True
    read, labels = masked(ids, maskable, word_starts=starts, mask_id=VOCAB)  # an id that is never drawn
    word = starts.long().cumsum(1) + 1000 * torch.arange(ROWS)[:, None]
    chosen = labels != -100

    def counted(kind: torch.Tensor) -> torch.Tensor:
        """Of each word, how many tokens are so."""
        rows = torch.zeros(int(word.max()) + 1)
        return rows.index_add_(0, word[:, 1:].flatten(), kind[:, 1:].flatten().float())

    whole, length, replaced = counted(chosen), counted(torch.ones_like(chosen)), counted(read == VOCAB)
    assert ((whole == 0) | (whole == length)).all()
    assert ((replaced > 0) & (replaced < length)).any()
    assert float(replaced.sum() / whole.sum()) == pytest.approx(0.8, abs=0.05)
    assert float(chosen[:, 1:].float().mean()) == pytest.approx(0.15, abs=0.015)


def test_masking_comes_from_the_generator_alone() -> None:
    ids, maskable = texts()
    assert all(torch.equal(a, b) for a, b in zip(masked(ids, maskable), masked(ids, maskable), strict=True))


@pytest.mark.parametrize("alpha", [0.0, 0.4])
def test_the_head_on_masked_positions_equals_the_head_on_all(alpha: float) -> None:
    torch.manual_seed(0)
    head, words = WordHead(8, 30, eps=1e-12), torch.randn(30, 8).requires_grad_()
    hidden = torch.randn(3, 6, 8).requires_grad_()
    teacher = torch.randn(3, 6, 30)
    labels = torch.randint(30, (3, 6)).masked_fill(torch.rand(3, 6) < 0.6, -100)
    chosen, found = labels != -100, []

    def full() -> torch.Tensor:
        logits = head(hidden, words)
        hard = F.cross_entropy(logits.flatten(0, 1), labels.flatten(), ignore_index=-100)
        soft = -(logits.log_softmax(-1) * teacher.softmax(-1)).sum(-1)[chosen].mean()
        return (1 - alpha) * hard + alpha * soft

    def masked_only() -> torch.Tensor:
        given = teacher[chosen] if alpha else None
        return language.mlm(head(hidden[chosen], words), labels[chosen], teacher_logits=given, alpha=alpha)

    for loss in (full(), masked_only()):
        found.append((loss, torch.autograd.grad(loss, [hidden, words, *head.parameters()])))
    torch.testing.assert_close(found[0][0], found[1][0])
    for a, b in zip(found[0][1], found[1][1], strict=True):
        torch.testing.assert_close(a, b)


def test_nothing_masked_is_no_loss_and_an_all_rank_count_normalises() -> None:
    none = torch.zeros(0, 5, requires_grad=True)
    loss = language.mlm(none, torch.zeros(0, dtype=torch.long))
    loss.backward()
    assert loss == 0
    logits, targets = torch.randn(3, 5), torch.tensor([0, 1, 2])
    whole = language.mlm(logits, targets, count=torch.tensor(6.0))
    torch.testing.assert_close(whole, F.cross_entropy(logits, targets, reduction="sum") / 6)


def test_mlm_teacher_carries_no_gradient() -> None:
    logits, teacher = torch.randn(2, 3, 7).unbind()
    logits.requires_grad_(), teacher.requires_grad_()
    language.mlm(logits, torch.tensor([1, 0, 6]), teacher_logits=teacher, alpha=0.4).backward()
    assert logits.grad.any()
    assert teacher.grad is None
