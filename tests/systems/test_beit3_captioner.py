"""BEiT-3's captions: what sees what, the loss, and writing with a cache against writing without one."""

from __future__ import annotations

from dataclasses import replace

import pytest
import tiny_beit3 as tiny
import torch

from multiway.core.packed import packed
from multiway.errors import UserError
from multiway.generation import GenerationConfig, generate
from multiway.systems.beit3_captioner import Captioner, Draws
from multiway.systems.beit3_config import CaptionerConfig
from multiway.systems.beit3_decoding import MaskDecoding
from multiway.systems.beit3_masks import FIRST_WORD, mask_captions

FORMS = pytest.mark.parametrize("form", ["release", "paper"])


def captioner(**changes) -> Captioner:
    return tiny.build(tiny.config(CaptionerConfig, **changes)).eval()


@FORMS
def test_words_see_what_came_before_and_pictures_see_no_word(form) -> None:
    model, batch = captioner(form=form), tiny.pairs()
    ids, mask = batch.text()
    whole = model.network(batch.image, ids, mask, causal=True)
    other = ids.clone()
    other[0, 5] = 60
    changed = model.network(batch.image, other, mask, causal=True)
    prefix = 1 + tiny.PATCHES
    torch.testing.assert_close(changed[:, : prefix + 5], whole[:, : prefix + 5])
    assert not torch.allclose(changed[0, prefix + 5 :], whole[0, prefix + 5 :])
    elsewhere = model.network(batch.image.flip(0), ids, mask, causal=True)
    assert not torch.allclose(elsewhere[:, prefix:], whole[:, prefix:])


@FORMS
def test_padding_changes_nothing(form) -> None:
    model, batch = captioner(form=form), tiny.pairs()
    hidden = model.hidden(batch, batch.input_ids)
    for b, length in enumerate(batch.attention_mask.sum(1).tolist()):
        row = replace(
            batch,
            image=batch.image[b : b + 1],
            input_ids=batch.input_ids[b : b + 1, :length],
            attention_mask=torch.ones(1, length, dtype=torch.long),
        )
        torch.testing.assert_close(hidden[b, :length], model.hidden(row, row.input_ids)[0])


def test_the_worst_words_count_no_more_after_so_many_steps() -> None:
    model, batch = captioner(drop_worst=0.5, drop_worst_after=2, label_smoothing=0.0), tiny.pairs()
    given, state = tiny.draws(batch), model.init_state()
    draws = Draws(input_ids=given.input_ids, labels=given.labels)
    masked = given.labels != -100
    logits = model.mlm_head(model.hidden(batch, given.input_ids)[masked])
    each = torch.nn.functional.cross_entropy(logits, given.labels[masked], reduction="none")
    for step in range(4):
        assert int(state.step) == step
        kept = each.sort().values[: len(each) // 2] if step > 2 else each
        torch.testing.assert_close(model.losses(batch, state, draws)["loss"], kept.mean())
        model.advance(state, [])


def test_as_many_words_are_masked_as_officially_and_the_first_token_never() -> None:
    model, batch = captioner(), tiny.pairs(200)
    lengths = batch.attention_mask.sum(1)
    official = [max(1, min(int(n * 0.7 + 0.5), n - 1)) for n in lengths.tolist()]
    seen = {}
    model.mlm_head.register_forward_hook(lambda module, args, y: seen.update(count=len(y)))
    model.losses(batch, model.init_state(), None, torch.Generator().manual_seed(0))
    assert seen["count"] == sum(official)
    given = (model.tokenizer, batch.input_ids, batch.attention_mask)
    masked, labels = mask_captions(*given, 0.7, torch.Generator().manual_seed(0))
    assert (labels != -100).sum(1).tolist() == official
    assert (labels[:, 0] == -100).all()
    new = masked[masked != batch.input_ids]
    assert new.min() == FIRST_WORD
    assert (new != tiny.MASK).any()
    short = torch.tensor([[tiny.CLS, tiny.SEP]])
    few = mask_captions(model.tokenizer, short, torch.ones_like(short), 0.0, None)[1]
    assert few.tolist() == [[-100, tiny.SEP]]


def uncached(model: Captioner, image: torch.Tensor, ids: torch.Tensor) -> torch.Tensor:
    """Log-probabilities of the next word: all is read anew, with a mask at the end."""
    asked = torch.cat([ids, torch.full_like(ids[:, :1], tiny.MASK)], dim=1)
    hidden = model.network(image, asked, torch.ones_like(asked), causal=True)[:, -1]
    return model.mlm_head(hidden).log_softmax(-1)


@FORMS
@torch.inference_mode()
def test_greedy_writing_with_a_cache_equals_writing_without_token_for_token(form) -> None:
    model, image = (
        captioner(form=form),
        torch.randn(3, 3, *tiny.PIXELS, generator=torch.Generator().manual_seed(1)),
    )
    start = torch.full((3, 1), tiny.CLS)
    asked = GenerationConfig(method="greedy", max_length=7, eos_id=tiny.SEP, pad_id=tiny.PAD)
    found = generate(
        MaskDecoding(model.network, model.mlm_head, image, mask_id=tiny.MASK), start, None, asked
    )
    for g in range(3):
        ids, said = start[:1], []
        while len(said) < 7 and (not said or said[-1] != tiny.SEP):
            logprobs = uncached(model, image[g : g + 1], ids)
            said.append(int(logprobs.argmax()))
            torch.testing.assert_close(
                torch.tensor(found.token_logprobs[g][0][len(said) - 1]), logprobs.max(), rtol=1e-4, atol=1e-4
            )
            ids = torch.cat([ids, torch.tensor([[said[-1]]])], dim=1)
        assert found.sequences[g][0] == said


@FORMS
@torch.inference_mode()
def test_beams_and_prompts_of_several_lengths_equal_writing_without_a_cache(form) -> None:
    """Every step's logits of every beam, beams reordered and groups left out on the way."""
    model = captioner(form=form)
    generator = torch.Generator().manual_seed(2)
    image = torch.randn(3, 3, *tiny.PIXELS, generator=generator)
    prompts = [[tiny.CLS], [tiny.CLS, 23, 8], [tiny.CLS, 9]]
    ids, mask = torch.full((3, 3), tiny.PAD), torch.zeros(3, 3, dtype=torch.long)
    for row, prompt in enumerate(prompts):
        ids[row, : len(prompt)], mask[row, : len(prompt)] = torch.tensor(prompt), 1
    decoding = MaskDecoding(model.network, model.mlm_head, image, mask_id=tiny.MASK)
    found = decoding.start(ids, mask).log_softmax(-1)[:, None]
    said, groups = [[list(prompt)] for prompt in prompts], [0, 1, 2]
    for kept, beams in (([0, 1, 2], 2), ([0, 1, 2], 3), ([1, 2], 2), ([1], 4)):
        for place, g in enumerate(groups):
            for beam, text in enumerate(said[g]):
                expected = uncached(model, image[g : g + 1], torch.tensor([text]))[0]
                torch.testing.assert_close(found[place, beam], expected, rtol=1e-4, atol=1e-4)
        width = found.shape[1]
        origin = torch.randint(width, (len(kept), beams), generator=generator)
        tokens = torch.randint(4, tiny.MASK, (len(kept), beams), generator=generator)
        rows = torch.tensor([groups.index(g) * width for g in kept])[:, None] + origin
        for place, g in enumerate(kept):
            said[g] = [
                said[g][o] + [t] for o, t in zip(origin[place].tolist(), tokens[place].tolist(), strict=True)
            ]
        found, groups = decoding.step(tokens, rows).log_softmax(-1), kept


def test_captions_of_pictures_as_a_user_asks_for_them() -> None:
    model = captioner(caption_length=(0, 8))
    image = torch.rand(2, 3, *tiny.PIXELS)
    found = model.generate(image)
    assert all(len(group[0]) <= 7 and group[0][-1] == tiny.SEP for group in found.sequences)
    assert model.caption(image) == [texts[0] for texts in model.texts(found)]
    prompted = model.generate(image, prompt="a red")
    ids = model.prompt_ids("a red")
    assert ids[0].tolist() == model.tokenizer.encode("a red")[:-1]
    assert len(prompted.sequences) == 2
    model.tokenizer.mask_id = None
    with pytest.raises(UserError, match="mask token"):
        model.caption(image)


@FORMS
def test_packed_for_many_pictures_it_writes_the_same(form) -> None:
    model, image = captioner(form=form, caption_length=(0, 8)), torch.rand(3, 3, *tiny.PIXELS)
    assert packed(model).generate(image).sequences == model.generate(image).sequences
