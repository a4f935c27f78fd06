"""The generalist: what is predicted, both forms against a plain path, candidates, pictures, what is saved."""

from __future__ import annotations

from dataclasses import asdict, replace

import pytest
import tiny
import tiny_generalist
import torch
import torch.nn.functional as F
from torch import Tensor

import multiway
from multiway.core import masks
from multiway.errors import UserError
from multiway.generation import GenerationConfig, generate
from multiway.systems.generalist import Draws, Generalist
from multiway.systems.prefix_network import PrefixConfig
from multiway.systems.vqvae import VQVAE
from multiway.text import train_vocabulary
from multiway.train.build import start_from_model

FORMS = pytest.mark.parametrize("form", ["prefix", "semi_causal"])
SEP, FIRST = 3, tiny_generalist.tokenizer().vocab_size  # the first picture token


def logprobs(model: Generalist, image: Tensor | None, prompt: Tensor, answer: Tensor) -> Tensor:
    """Log-probabilities of what follows the prompt and each token of an answer; one row, nothing packed."""
    network, prefix = model.network, model.config.form == "prefix"
    x = network.embed(prompt[None] if prefix else prompt[None, :1])
    if image is not None:
        x = torch.cat([model.image_proj(model.image_tower(image[None])), x], dim=1)
    context = network.decoder.context(network.encoder_norm(network.encoder(x)))
    told = torch.cat([prompt[:1], answer] if prefix else [prompt, answer])
    length = len(told)
    seen = masks.causal(length) if prefix else masks.prefix(torch.tensor([len(prompt)]), length)
    y = network.decoder(network.embed(told[None]), mask=seen, context=context)
    return network.logits(y)[0, length - len(answer) - 1 :].log_softmax(-1)


def rows(model: Generalist, batch) -> list[tuple[Tensor | None, Tensor, Tensor]]:
    """Picture, prompt and answer of each row, by plain code."""
    found = []
    for image, ids, mask in zip(batch.image, batch.input_ids, batch.attention_mask, strict=True):
        tokens = ids[: int(mask.sum())]
        end = tokens.tolist().index(SEP) + 1
        answer = tokens[end:]
        if len(answer) == 1:
            mean, std = (torch.tensor(x)[:, None, None] for x in (model.image_mean, model.image_std))
            answer = model.pictures.visual_tokens((image * std + mean).clamp(0, 1)[None])[0] + FIRST
            image = None
        found.append((image, tokens[:end], answer))
    return found


@FORMS
def test_losses_are_the_plain_ones_row_by_row(form) -> None:
    model, batch = tiny_generalist.build(form=form).eval(), tiny_generalist.batch()
    out = model.losses(batch, None)
    each: dict[str, list[Tensor]] = {"say": [], "draw": []}
    for image, prompt, answer in rows(model, batch):
        lost = -logprobs(model, image, prompt, answer)[:-1].gather(1, answer[:, None])
        each["draw" if answer[0] >= FIRST else "say"].append(lost)
    for name, lost in each.items():
        torch.testing.assert_close(out[name], torch.cat(lost).mean())
    torch.testing.assert_close(out["loss"], out["say"] + out["draw"])
    doubled = replace(model.config, draw_weight=2.0)
    model.config = doubled
    torch.testing.assert_close(model.losses(batch, None)["loss"], out["say"] + 2 * out["draw"])


def test_spans_of_answers_are_seen_whole_and_not_predicted() -> None:
    model, batch = tiny_generalist.build(form="semi_causal", span=0.5).eval(), tiny_generalist.batch()
    span = torch.tensor([[2, 5], [0, 2], [3, 9], [1, 2], [0, 0]])
    turns = model.turns(batch)
    number, labels = turns.semi_causal(span)
    for b in range(len(span)):
        first, last = (span[b] + turns.prompt[b] + 1).tolist()
        assert set(number[b, : turns.prompt[b] + 1].tolist()) == {1}
        assert set(number[b, first:last].tolist()) <= {2}
        unsaid = [*range(turns.prompt[b] + 1), *range(first, last)]
        assert (labels[b, unsaid] == -100).all()
        kept = [t for t in range(int(turns.attention_mask[b].sum())) if t not in unsaid]
        assert labels[b, kept].equal(turns.input_ids[b, kept])
    # What is predicted never sees what comes after it: the other tokens' loss depends on it alone.
    figure = model.figure(batch, Draws(span=span))
    assert len(figure.labels) == int((labels[:, 1:] != -100).sum())
    drawn = turns.spans(0.5, torch.Generator().manual_seed(0))
    length = turns.attention_mask.sum(1) - 1 - turns.prompt
    assert (drawn[:, 1] - drawn[:, 0]).tolist() == (length // 2).tolist()
    assert (drawn[:, 1] <= length).all()


def test_semi_causal_masks_by_a_plain_rule() -> None:
    span = torch.tensor([[1, 1, 0, 2, 2, 2, 0, 3], [0, 0, 0, 1, 1, 0, 2, 2]])
    found = masks.semi_causal(span)[:, 0]
    for b in range(2):
        for i in range(8):
            for j in range(8):
                same = span[b, i] == span[b, j] and span[b, i] > 0
                assert bool(found[b, i, j]) == (j <= i or bool(same))


@FORMS
def test_every_weight_learns_but_the_pictures(form) -> None:
    model, batch = tiny_generalist.build(form=form, cosine_weight=0.5), tiny_generalist.batch()
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    first = model.losses(batch, None)
    tiny.assert_same(model.state_dict(), before, tolerance=0)
    first["loss"].backward()
    idle = {n for n, p in model.named_parameters() if p.grad is None or not p.grad.abs().sum()}
    assert {name.split(".")[0] for name in idle} == {"pictures"}


@FORMS
@pytest.mark.slow
def test_a_batch_can_be_learned(form) -> None:
    model, batch = tiny_generalist.build(form=form, cosine_weight=0.5), tiny_generalist.batch()
    first = model.losses(batch, None)
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=3e-3)
    for _ in range(50):
        optimizer.zero_grad()
        losses = model.losses(batch, None)
        losses["loss"].backward()
        optimizer.step()
    for name in ("say", "draw", "cosine"):
        assert losses[name] < 0.5 * first[name]


@FORMS
@torch.inference_mode()
def test_answers_with_caches_equal_those_without(form) -> None:
    model, batch = tiny_generalist.build(form=form).eval(), tiny_generalist.batch()
    asked = [row for row in rows(model, batch) if row[0] is not None]
    width = max(len(prompt) for _, prompt, _ in asked)
    ids = torch.stack([F.pad(prompt, (0, width - len(prompt))) for _, prompt, _ in asked])
    image, config = torch.stack([row[0] for row in asked]), GenerationConfig(method="greedy", max_length=6)
    config = replace(config, eos_id=SEP)
    found = generate(model.decoding(image, len(ids)), ids, (ids > 0).long(), config)
    for g, (_, prompt, _) in enumerate(asked):
        said: list[int] = []
        while len(said) < 6 and SEP not in said:
            plain = logprobs(model, image[g], prompt, torch.tensor(said, dtype=torch.long))[-1]
            said.append(int(plain.argmax()))
        assert found.sequences[g][0] == said


@FORMS
def test_candidates_are_ordered_by_their_likelihood(form) -> None:
    model, candidates = tiny_generalist.build(form=form, cosine_weight=1.0).eval(), ["red", "a cat", "dog"]
    image, prompt = torch.randn(2, 3, 32, 32), "what colour is it ?"
    found = model.likelihoods(image, [prompt] * 2, candidates)
    ids = torch.tensor(model.words.encode(prompt))
    for g in range(2):
        for c, candidate in enumerate(candidates):
            answer = torch.tensor(model.words.encode(candidate)[1:])
            plain = logprobs(model, image[g], ids, answer)[:-1].gather(1, answer[:, None]).sum()
            torch.testing.assert_close(found[g, c], plain, rtol=1e-4, atol=1e-4)
    chosen = model.answer(image, [prompt] * 2, answers=candidates)
    assert set(chosen) <= set(candidates)
    cosine = model.likelihoods(image, [prompt] * 2, candidates, by="cosine")
    torch.testing.assert_close(cosine.exp().sum(1), torch.ones(2))
    # In training the answer of a row is among the batch's: the same features, the same cosines.
    with pytest.raises(UserError, match="cosine_weight"):
        tiny_generalist.build().likelihoods(image, [prompt] * 2, candidates, by="cosine")


def test_boxes_words_and_pictures_as_a_user_asks_for_them() -> None:
    model, image = tiny_generalist.build().eval(), torch.randn(2, 3, 32, 32)
    boxes = model.locate(image, ["where is the dog ?"] * 2)
    assert all(len(box) == 4 and 0 < min(box) < max(box) < 1 for box in boxes)
    drawn = model.draw(["draw a red dog", "draw a cat"])
    assert drawn.shape == (2, 3, 32, 32)
    assert drawn.min() >= 0
    assert drawn.max() <= 1
    torch.testing.assert_close(model.draw(["draw a red dog", "draw a cat"]), drawn)
    other = GenerationConfig(method="sample", seed=5)
    assert not torch.equal(model.draw(["draw a red dog"], config=other), drawn[:1])
    assert len(model.answer(None, "what does the picture show ?")) == 1
    with pytest.raises(UserError, match="2 pictures, 1 prompts"):
        model.answer(image, "where is the dog ?")


def test_a_model_without_location_tokens_finds_no_boxes():
    model = tiny_generalist.build()
    config = replace(model.config.tokenizer, locations=0)
    model.tokenizer = train_vocabulary([tiny_generalist.WORDS] * 2, size=100, config=config)
    with pytest.raises(UserError, match="no location tokens"):
        model.locate(torch.zeros(1, 3, 32, 32), "where is the dog ?")


def test_saved_and_loaded_it_draws_the_same(tmp_path) -> None:
    model = tiny_generalist.build().eval()
    again = multiway.load(multiway.save(model, tmp_path / "model"))
    tiny.assert_same(again.state_dict(), model.state_dict(), tolerance=0)
    assert again.config == model.config
    torch.testing.assert_close(again.draw("draw a cat"), model.draw("draw a cat"))
    fresh = Generalist(model.config)
    assert " 0 left fresh" in start_from_model(fresh, model, "it")


@pytest.mark.parametrize(
    ("text", "has_image"),
    [("a red dog", True), ("a red dog", False), ("draw a cat\t", False)],
    ids=["no tab", "no tab and no picture", "nothing to draw"],
)
def test_a_text_without_an_answer_is_refused(text: str, has_image: bool) -> None:
    model = tiny_generalist.build()
    batch = tiny_generalist.batch(("what colour is it ?\tred", text))
    batch = replace(batch, has_image=torch.tensor([True, has_image]))
    with pytest.raises(UserError, match=f"the text '{text.strip()}' has no answer"):
        model.losses(batch, None)


def test_only_its_own_pictures_are_taken() -> None:
    model = tiny_generalist.build()
    with pytest.raises(UserError, match="VQ-VAE of that config"):
        model.learn_from(tiny_generalist.vqvae(beta=0.5))
    with pytest.raises(UserError, match="semi_causal"):
        tiny_generalist.build(span=0.5)
    with pytest.raises(UserError, match="may have 24 tokens"):
        replace(model.config, text=replace(model.config.text, positions=20))
    assert not any(p.requires_grad for p in model.pictures.parameters())
    assert isinstance(model.pictures, VQVAE)


def test_cached_features_are_no_pictures_to_draw():
    model, batch = tiny_generalist.build(), tiny_generalist.batch()
    cached = replace(batch, image=None, image_prefix=batch.image)
    with pytest.raises(UserError, match="leave data.cache_views at 0"):
        model.losses(cached, model.init_state())


def test_an_answer_that_is_cut_off_is_no_drawing():
    model = tiny_generalist.build()
    words = " ".join(["red"] * 21)  # with [CLS] and the tab's [SEP], the 24 tokens end before the answer
    with pytest.warns(UserWarning, match="cut to 24"):
        ids, mask = model.tokenize([f"{words}\tblue dog"])
    assert ids.tolist()[0].count(model.tokenizer.sep_id) == 1
    batch = replace(tiny_generalist.batch(), input_ids=ids, attention_mask=mask)
    batch = replace(
        batch, image=batch.image[:1], has_image=None, ids=batch.ids[:1] if batch.ids is not None else None
    )
    with pytest.raises(UserError, match="has no answer"):
        model.losses(batch, model.init_state())


def test_who_never_saw_a_picture_draws_none():
    model = Generalist(tiny_generalist.build().config)
    model.tokenizer = tiny_generalist.tokenizer()
    with pytest.raises(UserError, match="has learned no pictures"):
        model.draw(["draw a dog"])


@FORMS
def test_a_batch_that_only_draws_has_no_answers_to_compare(form) -> None:
    model = tiny_generalist.build(form=form, cosine_weight=0.5)
    losses = model.losses(tiny_generalist.batch(("draw a blue cat\t", "draw a dog\t")), None)
    losses["loss"].backward()
    assert losses["cosine"] == 0
    assert all(p.grad is not None for p in model.parameters() if p.requires_grad)


def test_a_listed_answer_comes_as_the_list_writes_it() -> None:
    model, image = tiny_generalist.build().eval(), torch.randn(2, 3, 32, 32)
    assert model.answer(image, ["what colour is it ?"] * 2, answers=["RED"]) == ["RED"] * 2


def test_a_prompt_that_leaves_no_place_for_an_answer() -> None:
    """In the semi-causal form both stand in one row of positions."""
    text = PrefixConfig(**(asdict(tiny_generalist.build().config.text) | {"positions": 40}))
    model, image = tiny_generalist.build(form="semi_causal", text=text).eval(), torch.randn(1, 3, 32, 32)
    prompt, answer = " ".join(["what is it ?"] * 5), " ".join(["red dog"] * 10)
    for asked in (
        lambda: model.likelihoods(image, prompt, ["red", answer]),
        lambda: model.answer(image, prompt, answers=["red", answer]),
    ):
        with pytest.raises(
            UserError, match="an answer has 21 tokens, and after the prompt 19 places are left"
        ):
            asked()


def test_places_are_of_whole_pictures() -> None:
    with pytest.raises(UserError, match="places in a whole picture: set system.image.fit to squash"):
        tiny_generalist.build(image=tiny.vit(fit="crop"))
