"""Answers ranked in a tree: the same losses as each answer by itself."""

from __future__ import annotations

import pytest
import tiny
import tiny_blip
import torch
from torch import Tensor

from multiway.systems.albef_vqa import AnswerModel, VQAConfig
from multiway.systems.answer_tree import Candidates
from multiway.systems.blip_config import VQAConfig as BLIPVQAConfig
from multiway.systems.blip_heads import AnswerModel as BLIPAnswerModel
from multiway.systems.writing import Writing


def answers(count: int = 23) -> tuple[Tensor, Tensor]:
    """Answers of one to four words of few, so that many begin alike; some are the start of others."""
    g = torch.Generator().manual_seed(1)
    lengths = torch.randint(1, 5, (count, 1), generator=g) + 2
    mask = (torch.arange(6) < lengths).long()
    ids = torch.randint(10, 13, mask.shape, generator=g) * mask
    ids[:, 0] = tiny.CLS
    return ids.scatter(1, lengths - 1, 3), mask


def models() -> list[Writing]:
    torch.manual_seed(0)
    albef = AnswerModel(
        VQAConfig(image=tiny.vit(), text=tiny.bert(vocab_size=120), decoder_layers=2, momentum=None)
    )
    blip = BLIPAnswerModel(BLIPVQAConfig(image=tiny.vit(), text=tiny_blip.med()))
    for model in (albef, blip):
        for parameter in model.parameters():
            parameter.data += 0.1 * torch.randn_like(parameter)
    return [albef.eval(), blip.eval()]


def test_a_tree_has_every_beginning_once() -> None:
    ids = torch.tensor([[2, 10, 3, 0], [2, 10, 11, 3], [2, 12, 3, 0]])
    tree = Candidates.of(ids, (ids > 0).long(), ("a", "a b", "c"))
    assert tree.tokens.tolist() == [2, 10, 11, 12]
    assert tree.depth.tolist() == [0, 1, 2, 1]
    assert tree.path.tolist() == [[0, 1, -1], [0, 1, 2], [0, 3, -1]]
    assert tree.following.tolist() == [[10, 3, 0], [10, 11, 3], [12, 3, 0]]
    assert tree.ancestors.tolist() == [[0, -1, -1], [0, 1, -1], [0, 1, 2], [0, 3, -1]]


@pytest.mark.parametrize("k", [5, 23])
@torch.no_grad()
def test_ranking_equals_every_answer_by_itself(k: int) -> None:
    ids, mask = answers()
    batch = tiny.batch(4)
    for model in models():
        question = model.question(batch.image, *batch.text())
        context = model.answer_context(question, batch.attention_mask)
        found = model.rank(context, Candidates.of(ids, mask), k=k)
        assert found.kept.shape == (4, k)
        owner = torch.arange(4).repeat_interleave(k)
        rows = found.kept.flatten()
        _, each = model.answer_losses(context.select(owner), ids[rows], mask[rows])
        torch.testing.assert_close(found.loss, each.view(4, k))
        assert torch.equal(found.best, found.kept.gather(1, each.view(4, k).argmin(1, keepdim=True))[:, 0])


@torch.no_grad()
def test_the_official_score_counts_the_first_token_twice() -> None:
    ids, mask = answers()
    batch, (plain, _) = tiny.batch(4), models()
    official = AnswerModel(VQAConfig(**(vars(plain.config) | {"compat": ("first_token_twice",)}))).eval()
    official.load_state_dict(plain.state_dict())
    question = plain.question(batch.image, *batch.text())
    context = plain.answer_context(question, batch.attention_mask)
    ours, theirs = (m.rank(context, Candidates.of(ids, mask), k=9) for m in (plain, official))
    torch.testing.assert_close(ours.loss, theirs.loss)
    first = theirs.first_probability.gather(1, theirs.kept).log()
    torch.testing.assert_close(theirs.score, ours.score + first)
