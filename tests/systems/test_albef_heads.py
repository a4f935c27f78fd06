"""ALBEF's answer decoder."""

from __future__ import annotations

import tiny
import torch

from multiway.systems.albef_heads import AnswerModel


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
