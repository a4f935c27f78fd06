"""SimVLM: what sees what, what is predicted, texts alone, and writing with caches against writing without."""

from __future__ import annotations

from dataclasses import replace

import pytest
import tiny
import tiny_simvlm
import torch
import torch.nn.functional as F
from torch import Tensor

import multiway
from multiway.batch import Batch
from multiway.core import masks
from multiway.errors import UserError
from multiway.generation import GenerationConfig, generate
from multiway.systems.prefix_network import part
from multiway.systems.simvlm import Draws, SimVLM
from multiway.systems.simvlm_config import VQAConfig
from multiway.systems.simvlm_heads import AnswerModel
from multiway.train.build import start_from_model
from multiway.weights.positions import resized


def logprobs(model: SimVLM, image: Tensor | None, prefix: Tensor, suffix: Tensor) -> Tensor:
    """Of the token after each of `suffix`, one row alone and without padding, by the plain path."""
    network, words = model.network, len(prefix)
    x, bias = network.embed(prefix[None]), None
    if image is not None:
        tower = model.image_tower
        x = torch.cat([tower(image[None]), x], dim=1)
        bias = list(F.pad(tower.bias(), (0, words, 0, words))[:, None])
    encoded = network.encoder_norm(network.encoder(x, mask=bias))
    context = network.decoder.context(encoded)
    y = network.decoder(network.embed(suffix[None]), mask=masks.causal(len(suffix)), context=context)
    return network.logits(y)[0].log_softmax(-1)


def test_a_text_is_cut_where_the_draw_says() -> None:
    ids = torch.tensor([[2, 7, 8, 9, 3], [2, 5, 3, 0, 0]])
    mask = torch.tensor([[1, 1, 1, 1, 1], [1, 1, 1, 0, 0]])
    found = part(ids, mask, torch.tensor([2, 0]))
    assert found.prefix.tolist() == [[1, 1, 1, 0, 0], [1, 0, 0, 0, 0]]
    assert found.input_ids.tolist() == [[2, 9], [2, 5]]
    assert found.labels.tolist() == [[9, 3], [5, 3]]
    whole = part(ids, mask, torch.tensor([0, 1]))
    assert whole.labels.tolist() == [[7, 8, 9, 3], [3, -100, -100, -100]]
    assert whole.attention_mask.tolist() == [[1, 1, 1, 1], [1, 0, 0, 0]]


@pytest.mark.parametrize("batch", [tiny_simvlm.pairs(), tiny_simvlm.mixed()], ids=["pairs", "mixed"])
def test_the_loss_is_the_plain_one_row_by_row(batch: Batch) -> None:
    model = tiny_simvlm.build().eval()
    prefix = (batch.attention_mask.sum(1) - 1) // 2
    found = model.losses(batch, None, Draws(prefix=prefix))["loss"]
    each = []
    for b, length in enumerate(batch.attention_mask.sum(1).tolist()):
        image = None if batch.has_image is not None and not batch.has_image[b] else batch.image[b]
        ids, cut = batch.input_ids[b, :length], int(prefix[b]) + 1
        read = torch.cat([ids[:1], ids[cut:-1]])
        each.append(-logprobs(model, image, ids[:cut], read).gather(1, ids[cut:, None]))
    torch.testing.assert_close(found, torch.cat(each).mean())


def test_prefixes_are_drawn_for_pairs_and_half_for_texts() -> None:
    model, batch = tiny_simvlm.build(), tiny_simvlm.mixed()
    many = replace(
        batch,
        input_ids=batch.input_ids.repeat(200, 1),
        attention_mask=batch.attention_mask.repeat(200, 1),
        has_image=batch.has_image.repeat(200),
    )
    found = model.prefixes(many, torch.Generator().manual_seed(0)).view(200, 5)
    length = batch.attention_mask.sum(1) - 1
    for row, has in enumerate(batch.has_image.tolist()):
        wanted = set(range(int(length[row]))) if has else {int(length[row]) // 2}
        assert set(found[:, row].tolist()) == wanted
    alone = replace(batch, image=None, has_image=None)
    assert model.prefixes(alone).tolist() == (length // 2).tolist()
    assert model.losses(alone, None)["loss"].isfinite()


def test_every_weight_learns_and_losses_change_nothing() -> None:
    model, batch = tiny_simvlm.build(), tiny_simvlm.mixed()
    given, before = Draws(prefix=torch.tensor([1, 1, 0, 1, 3])), dict(model.state_dict())
    before = {name: tensor.clone() for name, tensor in before.items()}
    first = model.losses(batch, None, given)["loss"]
    tiny.assert_same(model.state_dict(), before, tolerance=0)
    first.backward()
    assert [n for n, p in model.named_parameters() if p.grad is None or not p.grad.abs().sum()] == []


@torch.inference_mode()
def test_writing_with_caches_equals_writing_without_token_for_token() -> None:
    model = tiny_simvlm.build().eval()
    image = torch.randn(3, 3, *tiny_simvlm.SIZE, generator=torch.Generator().manual_seed(1))
    prompts = [[2, 9, 11, 12], [2, 8], [2, 7, 14]]
    ids, mask = torch.zeros(3, 4, dtype=torch.long), torch.zeros(3, 4, dtype=torch.long)
    for row, prompt in enumerate(prompts):
        ids[row, : len(prompt)], mask[row, : len(prompt)] = torch.tensor(prompt), 1
    asked = GenerationConfig(method="greedy", max_length=6, eos_id=tiny_simvlm.SEP)
    found = generate(model.decoding(image), ids, mask, asked)
    for g in range(3):
        said: list[int] = []
        while len(said) < 6 and tiny_simvlm.SEP not in said:
            suffix = torch.tensor([tiny_simvlm.CLS, *said])
            plain = logprobs(model, image[g], torch.tensor(prompts[g]), suffix)[-1]
            said.append(int(plain.argmax()))
            told = torch.tensor(found.token_logprobs[g][0][len(said) - 1])
            torch.testing.assert_close(told, plain.max(), rtol=1e-4, atol=1e-4)
        assert found.sequences[g][0] == said
    # Beams share what the encoder made; groups are left out on the way.
    beams = GenerationConfig(beams=3, n_best=2, max_length=6, eos_id=tiny_simvlm.SEP)
    whole = generate(model.decoding(image), ids, mask, beams)
    for g in range(3):
        row = torch.tensor([prompts[g]])
        alone = generate(model.decoding(image[g : g + 1]), row, torch.ones_like(row), beams)
        assert whole.sequences[g] == alone.sequences[0]


def test_captions_by_prompt_and_answers_by_generation() -> None:
    model, image = tiny_simvlm.build().eval(), torch.rand(2, 3, *tiny_simvlm.SIZE)
    assert model.prompt_ids()[0].tolist() == model.tokenizer.encode("a picture of")[:-1]
    assert model.prompt_ids("")[0].tolist() == [tiny_simvlm.CLS]
    captions = model.caption(image)
    assert len(captions) == 2
    assert captions == [texts[0] for texts in model.texts(model.generate(image))]
    questions = ["what colour is it ?", "what runs ?"]
    assert set(model.answer(image, questions, answers=["red", "blue", "the green dog"])) <= {
        "red",
        "blue",
        "the green dog",
    }
    assert len(model.answer(image, questions)) == 2
    with pytest.raises(UserError, match="2 pictures, 1 questions"):
        model.answer(image, "what runs ?")


@torch.no_grad()
def test_answers_are_learned_as_suffixes_of_their_questions() -> None:
    model = tiny_simvlm.build().eval()
    batch, answers = tiny_simvlm.pairs(3), ("red", "the green dog", "blue")
    ids, mask = (x[:, None] for x in model.answer_ids(answers))
    weights = torch.tensor([[0.25, 0.0], [0.5, 0.0], [1.0, 0.25]])
    twice = torch.cat([ids, ids], dim=1), torch.cat([mask, mask], dim=1) * (weights > 0)[..., None]
    given = replace(batch, answer_ids=twice[0], answer_mask=twice[1], answer_weights=weights)
    found = model.losses(given, None)
    total = count = 0.0
    for row, share in ((0, 0.25), (1, 0.5), (2, 1.25)):
        length = int(batch.attention_mask[row].sum())
        answer = torch.tensor(model.tokenizer.encode(answers[row]))
        said = logprobs(model, batch.image[row], batch.input_ids[row, : length - 1], answer[:-1])
        total -= share * float(said.gather(1, answer[1:, None]).sum())
        count += share * (len(answer) - 1)
    assert float(found["loss"]) == pytest.approx(total / count, rel=1e-5)
    assert found["vqa"] is found["loss"]


def test_saved_and_loaded_it_says_the_same(tmp_path) -> None:
    model, image = tiny_simvlm.build().eval(), torch.rand(2, 3, *tiny_simvlm.SIZE)
    again = multiway.load(multiway.save(model, tmp_path / "model"))
    tiny.assert_same(again.state_dict(), model.state_dict(), tolerance=0)
    assert again.caption(image) == model.caption(image)


def test_pictures_of_another_size_have_resized_positions() -> None:
    settings = tiny_simvlm.config(image=tiny_simvlm.stem(image_size=(64, 80)))
    model = tiny_simvlm.build(settings).eval()
    larger = resized(model, (80, 96))
    assert larger.image_tower.positions.shape == (1, 30, 24)
    assert larger.caption(torch.rand(1, 3, 80, 96))


def test_the_classifier_starts_from_the_pre_trained_model_and_learns() -> None:
    model, labels = tiny_simvlm.build(), ("red", "blue", "two")
    settings = model.fine_tuning("vqa", labels)
    assert settings == tiny_simvlm.config(VQAConfig, labels=labels)
    head = tiny_simvlm.build(settings, AnswerModel)
    assert "2 left fresh" in start_from_model(head, model, "it")
    batch = tiny_simvlm.pairs(labels=torch.tensor([0, 1, 2, 1, 0]))
    # The decoder's last token chooses: padding, and what is in the other rows, changes nothing.
    head.eval()
    length = int(batch.attention_mask[0].sum())
    row = Batch(
        image=batch.image[:1],
        input_ids=batch.input_ids[:1, :length],
        attention_mask=batch.attention_mask[:1, :length],
    )
    torch.testing.assert_close(head.predict(row), head.predict(batch)[:1])
    optimizer, first = torch.optim.AdamW(head.parameters(), lr=3e-3), None
    for _ in range(40):
        optimizer.zero_grad()
        loss = head.losses(batch, None)["loss"]
        first = loss.item() if first is None else first
        loss.backward()
        optimizer.step()
    assert loss < 0.3 * first
    assert len(head.answer(batch.image[:2], ["what colour is it ?"] * 2)) == 2
    assert head.fine_tuning("vqa", ("a", "b")) == replace(settings, labels=("a", "b"))  # goes on
    with pytest.raises(UserError, match="no network for the task nlvr2"):
        model.fine_tuning("nlvr2")


def test_a_listed_answer_comes_as_the_list_writes_it() -> None:
    model, image = tiny_simvlm.build().eval(), torch.rand(2, 3, *tiny_simvlm.SIZE)
    assert model.answer(image, ["what colour is it ?"] * 2, answers=["Red dog!"]) == ["Red dog!"] * 2


def test_questions_that_nobody_answered_teach_nothing() -> None:
    model, batch = tiny_simvlm.build(), tiny_simvlm.pairs(2)
    none = torch.zeros(2, 1, 3, dtype=torch.long)
    given = replace(batch, answer_ids=none, answer_mask=none, answer_weights=torch.zeros(2, 1))
    loss = model.losses(given, None)["loss"]
    loss.backward()
    assert loss == 0


def test_rows_of_the_table_that_no_word_has_are_not_written() -> None:
    words = tiny_simvlm.tokenizer()
    assert words.decode([[*words.encode("red dog")[1:-1], words.vocab_size + 3]]) == ["red dog"]
