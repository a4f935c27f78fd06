"""Every decoding gives as many tokens as it has positions for, and refuses one more."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import tiny
import tiny_beit3
import tiny_blip
import tiny_coca
import tiny_generalist
import tiny_simvlm
import torch

import multiway
from multiway.errors import UserError
from multiway.generation import Decoding, GenerationConfig, generate
from multiway.systems.answering import Asking
from multiway.systems.beit3_config import CaptionerConfig
from multiway.text import Tokenizer, TokenizerConfig

VOCABULARY = Path(__file__).parents[1] / "golden/cases/vocab_tiny.txt"


def pictures(model, count: int = 2) -> torch.Tensor:
    size = model.image_size if isinstance(model.image_size, tuple) else (model.image_size,) * 2
    return torch.rand(count, 3, *size)


def of_captioner(model) -> Decoding:
    return model.eval().decoding(pictures(model))


def of_generalist(form: str) -> Decoding:
    model = tiny_generalist.build(form=form).eval()
    return model.decoding(pictures(model), 2)


def blip_captioner(**changes):
    return multiway.create("blip_captioner", image=tiny.vit(), text=tiny_blip.med(), **changes)


DECODINGS = {
    "blip": lambda: of_captioner(tiny_blip.blip()[0]),
    "blip_captioner": lambda: of_captioner(blip_captioner()),
    "coca": lambda: of_captioner(tiny_coca.coca()),
    "open_clip": lambda: of_captioner(tiny_coca.coca(tiny_coca.config(compat=("zero_is_padding",)))),
    "simvlm": lambda: of_captioner(tiny_simvlm.build()),
    "beit3": lambda: of_captioner(tiny_beit3.build(tiny_beit3.config(CaptionerConfig))),
    "prefix": lambda: of_generalist("prefix"),
    "semi_causal": lambda: of_generalist("semi_causal"),
}
#: Positions at tiny size, without those that no text has; and what a prompt of P tokens leaves of them.
ROOM = {
    "blip": lambda p: 20 - p + 1,
    "blip_captioner": lambda p: 20 - p + 1,
    "coca": lambda p: 11 - p + 1,
    "open_clip": lambda p: 11 - p + 1,
    "simvlm": lambda p: 30,
    "beit3": lambda p: 18 - p,
    "prefix": lambda p: 50,
    "semi_causal": lambda p: 50 - p + 1,
}


@pytest.mark.parametrize("prompt", [[7], [7, 9, 5]], ids=len)
@pytest.mark.parametrize("name", list(DECODINGS))
def test_texts_get_as_long_as_there_are_positions(name: str, prompt: list[int]) -> None:
    torch.manual_seed(0)
    ids, room = torch.tensor([prompt] * 2), ROOM[name](len(prompt))
    decoding = DECODINGS[name]()
    assert decoding.room(len(prompt)) == room
    ends = {"eos_id": 2, "pad_id": 0, "beams": 2}
    longest = GenerationConfig(min_length=room, max_length=room, **ends)
    assert [len(group[0]) for group in generate(decoding, ids, None, longest).sequences] == [room] * 2
    with pytest.raises(UserError, match=f"positions for {room} after the prompt"):
        generate(DECODINGS[name](), ids, None, replace(longest, max_length=room + 1))
    # and one more would have no position
    decoding, rows = DECODINGS[name](), torch.arange(2)[:, None]
    with torch.no_grad():
        decoding.start(ids)
        for _ in range(room - 1):
            decoding.step(torch.full((2, 1), 5), rows)
        with pytest.raises((RuntimeError, IndexError, TypeError)):  # jaxtyping sees a text of no token
            decoding.step(torch.full((2, 1), 5), rows)


def test_a_search_of_the_model_s_own_ends_where_positions_do() -> None:
    words = Tokenizer.load(TokenizerConfig(vocab=str(VOCABULARY), add_sep=True, max_length=6))
    med = tiny_blip.med(vocab_size=words.vocab_size + 2, positions=8)
    captioner = multiway.create("blip_captioner", image=tiny.vit(), text=med, caption_length=(10, 20))
    captioner.tokenizer = words
    answerer = multiway.create("blip_vqa", image=tiny.vit(), text=med)
    answerer.tokenizer = words
    assert len(captioner.eval().generate(pictures(captioner), prompt="").sequences[0][0]) == 8
    replies = answerer.eval().replies(pictures(answerer), ["a red ?"] * 2, Asking(inference="generate"))
    assert len(replies) == 2
    coca = tiny_coca.config(caption_length=(20, 20))
    coca = tiny_coca.coca(replace(coca, text=replace(coca.text, vocab_size=words.vocab_size)))
    coca.tokenizer = words
    assert len(coca.eval().generate(pictures(coca), prompt="").sequences[0][0]) == 11
    beit3 = tiny_beit3.build(tiny_beit3.config(CaptionerConfig, caption_length=(30, 40))).eval()
    assert len(beit3.generate(pictures(beit3), prompt="").sequences[0][0]) == 17
    for form in ("prefix", "semi_causal"):
        asked = tiny_generalist.build(form=form).eval()
        prompt = " ".join(["red dog"] * 10)
        room = 50 - asked.tokenize(prompt)[0].shape[1] + 1 if form == "semi_causal" else 50
        assert len(asked.answer(pictures(asked, 1), prompt)) == 1
        with pytest.raises(UserError, match=f"positions for {room} after"):
            asked.answer(pictures(asked, 1), prompt, config=GenerationConfig(max_length=51))
