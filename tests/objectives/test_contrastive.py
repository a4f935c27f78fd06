"""ITC against dense one-hot targets, as the papers write it."""

from __future__ import annotations

import pytest
import torch

from multiway.objectives import contrastive

B, N = 4, 11
IDS = torch.tensor([7, 3, 7, 5])
CANDIDATES = torch.cat([IDS, torch.tensor([-100, 5, 7, -100, 2, 3, -100])])


def logits(seed: int) -> torch.Tensor:
    return 3 * torch.randn(B, N, generator=torch.Generator().manual_seed(seed))


def dense(
    sim: torch.Tensor, positive: torch.Tensor, teacher: torch.Tensor | None, alpha: float
) -> torch.Tensor:
    """-(y * log softmax(sim)).sum(1).mean() over the whole row, y formed in full (ALBEF, eq. 1 and 6)."""
    target = positive.float() / positive.sum(1, keepdim=True)
    if teacher is not None:
        target = alpha * teacher.softmax(1) + (1 - alpha) * target
    return -(sim.log_softmax(1) * target).sum(1).mean()


@pytest.mark.parametrize("alpha", [0.0, 0.4, 1.0])
@pytest.mark.parametrize("several", [False, True])
def test_itc_equals_dense_targets_in_value_and_gradient(alpha: float, several: bool) -> None:
    sims = [logits(0).requires_grad_(), logits(1).requires_grad_()]
    teacher = (logits(2), logits(3)) if alpha else None
    positive = contrastive.positives(IDS, CANDIDATES) if several else torch.eye(B, N).bool()
    given = positive if several else None
    ours = contrastive.itc(*sims, positive=given, teacher=teacher, alpha=alpha)
    theirs = [
        dense(sim, positive, None if teacher is None else teacher[i], alpha) for i, sim in enumerate(sims)
    ]
    for a, b, sim in zip(ours, theirs, sims, strict=True):
        torch.testing.assert_close(a, b)
        (grad_a,) = torch.autograd.grad(a, sim)
        (grad_b,) = torch.autograd.grad(b, sim)
        torch.testing.assert_close(grad_a, grad_b)


def test_positives_are_equal_ids() -> None:
    found = contrastive.positives(IDS, CANDIDATES)
    assert found.int().sum(1).tolist() == [3, 2, 3, 2]
    assert found[:, :B].equal(found[:, :B].T)
    assert not found[:, CANDIDATES == -100].any()


def test_the_teacher_carries_no_gradient() -> None:
    teacher = logits(1).requires_grad_()
    contrastive.distillation(logits(0).requires_grad_(), teacher).sum().backward()
    assert teacher.grad is None


def test_a_teacher_that_agrees_leaves_its_entropy() -> None:
    sim = logits(0)
    p = sim.softmax(1)
    torch.testing.assert_close(contrastive.distillation(sim, sim), -(p * p.log()).sum(1))


@pytest.mark.parametrize("several", [False, True])
def test_clip_loss_is_the_mean_of_rows_and_columns(several: bool) -> None:
    g = torch.Generator().manual_seed(0)
    image, text = (torch.nn.functional.normalize(torch.randn(B, 6, generator=g), dim=1) for _ in range(2))
    scale = torch.tensor(10.0)
    positive = contrastive.positives(IDS, IDS) if several else None
    target = torch.eye(B).bool() if positive is None else positive
    sim = scale * image @ text.T
    expected = (dense(sim, target, None, 0.0) + dense(sim.T, target, None, 0.0)) / 2
    torch.testing.assert_close(contrastive.clip_loss(image, text, scale, positive=positive), expected)


def test_clip_loss_of_a_slice_against_all_candidates() -> None:
    g = torch.Generator().manual_seed(0)
    image, text = (torch.nn.functional.normalize(torch.randn(6, 5, generator=g), dim=1) for _ in range(2))
    scale = torch.tensor(5.0)
    parts = [
        contrastive.clip_loss(
            image[i : i + 2], text[i : i + 2], scale, all_images=image, all_texts=text, first=i
        )
        for i in (0, 2, 4)
    ]
    torch.testing.assert_close(torch.stack(parts).mean(), contrastive.clip_loss(image, text, scale))


@pytest.mark.parametrize("momentum", [False, True])
def test_similarities_keep_full_precision_under_autocast(momentum: bool) -> None:
    random = torch.Generator().manual_seed(0)
    image, text = (
        torch.nn.functional.normalize(torch.randn(8, 32, generator=random), dim=-1) for _ in range(2)
    )
    scale = torch.tensor(100.0)

    def loss() -> torch.Tensor:
        if momentum:
            sims = contrastive.similarity(image, text), contrastive.similarity(text, image)
            return sum(contrastive.itc(*(scale * s for s in sims)))
        return contrastive.clip_loss(image, text, scale)

    plain = loss()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(loss(), plain)
