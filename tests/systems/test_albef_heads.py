"""ALBEF's answer decoder and its text assignment."""

from __future__ import annotations

import tiny
import torch

from multiway.systems.albef_heads import AnswerModel, TextAssignment


def test_answers_are_read_causally_and_padding_of_the_question_is_not_seen() -> None:
    torch.manual_seed(0)
    model = AnswerModel(tiny.albef_config()).eval()
    batch = tiny.batch(3)
    ids, mask = batch.input_ids, batch.attention_mask
    question = model.question(batch.image, ids, mask)
    answer = torch.randint(5, tiny.VOCAB, (3, 6))
    real = torch.ones_like(answer)
    logits = model.answer_logits(question, mask, answer, real)
    assert logits.shape == (3, 6, tiny.VOCAB)
    changed = answer.clone()
    changed[:, 4] = 7
    again = model.answer_logits(question, mask, changed, real)
    torch.testing.assert_close(again[:, :4], logits[:, :4])
    assert not torch.allclose(again[:, 4:], logits[:, 4:])
    noise = question + (1 - mask)[..., None] * 5.0
    torch.testing.assert_close(model.answer_logits(noise, mask, answer, real), logits)


def test_text_assignment_looks_at_one_picture_after_the_other() -> None:
    torch.manual_seed(0)
    model = TextAssignment(tiny.albef_config()).eval()
    batch = tiny.batch(3)
    ids, mask, other = batch.input_ids, batch.attention_mask, torch.randn(3, 3, 32, 32)
    hidden, logits = model(batch.image, other, ids, mask)
    assert logits.shape == (3, 3)
    assert not torch.allclose(model(other, batch.image, ids, mask)[1], logits)
    context = model.text.fusion.context(model.image_tower(batch.image))
    same = model.text.fuse(model.text(ids, mask), mask, context)
    torch.testing.assert_close(model(batch.image, batch.image, ids, mask)[0], same)
