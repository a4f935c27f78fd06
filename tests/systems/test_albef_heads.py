"""ALBEF's question answering and visual entailment: what is seen, what they start from, the teacher."""

from __future__ import annotations

from dataclasses import replace

import pytest
import tiny
import torch

from multiway.batch import Batch
from multiway.errors import UserError
from multiway.systems.albef_heads import LABELS, EntailmentConfig, EntailmentModel
from multiway.systems.albef_vqa import AnswerModel, VQAConfig
from multiway.systems.distilled import Distilled


def asked(size: int = 4) -> Batch:
    """Questions with one to three weighted answers each."""
    g = torch.Generator().manual_seed(3)
    mask = (torch.arange(5) < torch.randint(3, 6, (size, 3, 1), generator=g)).long()
    mask[0, 1:] = mask[2, 2] = 0
    ids = torch.randint(5, tiny.VOCAB, mask.shape, generator=g) * mask
    weights = torch.rand(size, 3, generator=g)
    labels = torch.arange(size) % 3
    return replace(tiny.batch(size), answer_ids=ids, answer_mask=mask, answer_weights=weights, labels=labels)


def build(task: str, **changes) -> Distilled:
    """A network that starts from a tiny ALBEF, its weights large enough to tell wrong from right."""
    base, _ = tiny.albef(tiny.albef_config(image=tiny.vit(width=16, heads=2), **changes))
    config = base.fine_tuning(task)
    model = AnswerModel(config) if isinstance(config, VQAConfig) else EntailmentModel(config)
    own = model.state_dict()
    taken = {n: t for n, t in model.adopt(base.state_dict()).items() if n in own}
    fresh = set(own) - set(taken)
    heads = {f"network.head.{i}.{p}" for i in (0, 2) for p in ("weight", "bias")}
    assert fresh == (heads if task == "entailment" else set())
    model.load_state_dict(own | taken)
    return model


def test_the_decoder_starts_as_a_copy_of_the_fusion_layers() -> None:
    network = build("vqa").network
    own, text = network.decoder.state_dict(), network.text.state_dict()
    same = {name for name in own if name.startswith(("embed.", "fusion."))}
    assert len(same) > 20
    assert all(torch.equal(own[name], text[name]) for name in same)


def test_answers_are_read_causally_and_padding_of_the_question_is_not_seen() -> None:
    model, batch = build("vqa").eval(), tiny.batch(3)
    ids, mask = batch.text()
    question = model.question(batch.image, ids, mask)
    answer = torch.randint(5, tiny.VOCAB, (3, 6))
    real, own = torch.ones_like(answer), torch.arange(3)

    def logits(question, answer):
        return model.writer.logits(model.network.hidden(question, mask, answer, real, own))

    found = logits(question, answer)
    changed = answer.clone()
    changed[:, 4] = 7
    torch.testing.assert_close(logits(question, changed)[:, :4], found[:, :4])
    assert not torch.allclose(logits(question, changed)[:, 4:], found[:, 4:])
    torch.testing.assert_close(logits(question + (1 - mask)[..., None] * 5.0, answer), found)


def test_the_loss_adds_up_answer_by_answer() -> None:
    model, batch = build("vqa", momentum=None).eval(), asked()
    total = 0.0
    for b in range(len(batch)):
        question = model.question(
            batch.image[b : b + 1], batch.input_ids[b : b + 1], batch.attention_mask[b : b + 1]
        )
        for ids, mask, weight in zip(
            batch.answer_ids[b], batch.answer_mask[b], batch.answer_weights[b], strict=True
        ):
            if mask.any():
                ids, real = ids[None, : mask.sum()], torch.ones(1, int(mask.sum()), dtype=torch.long)
                hidden = model.network.hidden(
                    question, batch.attention_mask[b : b + 1], ids, real, torch.zeros(1, dtype=torch.long)
                )
                logits = model.writer.logits(hidden)[0, :-1].log_softmax(-1)
                total += -weight * logits.gather(1, ids[0, 1:, None]).sum()
    torch.testing.assert_close(model.losses(batch)["loss"], total / len(batch))


@pytest.mark.parametrize("task", ["vqa", "entailment"])
def test_the_teacher_is_a_target_follows_and_is_saved_with_the_run(task: str) -> None:
    model = build(task, momentum=0.5, alpha=0.4)
    model.config = replace(model.config, alpha_ramp_epochs=1)  # entailment has no ramp officially
    batch, state = asked(), model.init_state(steps_per_epoch=2)
    plain = model.losses(batch)["loss"]
    torch.testing.assert_close(model.losses(batch, state)["loss"], plain)  # the ramp begins at 0
    with torch.no_grad():
        for parameter in model.parameters():
            parameter += 0.3 * torch.randn_like(parameter)
    before = state.network.text.embed.words.weight.clone()
    model.advance(state, [])
    mean = (before + model.network.text.embed.words.weight) / 2
    torch.testing.assert_close(state.network.text.embed.words.weight, mean)
    assert float(state.alpha) == pytest.approx(0.2)
    assert not torch.allclose(model.losses(batch, state)["loss"], model.losses(batch)["loss"])
    assert build(task, momentum=None).init_state().network is None


def test_entailment_has_three_classes_and_goes_on() -> None:
    model = build("entailment").eval()
    assert model.predict(asked()).shape == (4, len(LABELS))
    assert model.fine_tuning("entailment") is model.config
    assert EntailmentConfig().labels[2] == "entailment"
    with pytest.raises(UserError, match="no network for the task"):
        model.fine_tuning("vqa")
    assert build("vqa").fine_tuning("vqa", ("red",)).labels == ("red",)
