"""Texts of BLIP beside transformers' own `generate`: whole models on copied random weights, the same tokens.

transformers reads a question as it is given, [CLS] first, and looks at its padding: so do ours where told to.
"""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import multiway
from multiway.errors import UserError
from multiway.generation import GenerationConfig
from multiway.systems.base import System
from multiway.systems.blip_heads import AnswerModel, Captioner
from multiway.text.wordpiece import SHIPPED
from multiway.weights.hf_blip import from_transformers

transformers = pytest.importorskip("transformers")

VOCAB, SEP, LONGEST = 30524, 102, 9
SIZES = {"hidden_size": 24, "intermediate_size": 40, "num_attention_heads": 3}
TEXT = SIZES | {"vocab_size": VOCAB, "encoder_hidden_size": 24, "num_hidden_layers": 2, "bos_token_id": 30522}
VISION = SIZES | {"num_hidden_layers": 2, "image_size": 32, "patch_size": 8}

SEARCHES = {
    "greedy": ({"method": "greedy"}, {}),
    "beam 3": ({"beams": 3}, {"num_beams": 3}),
    "beam 4, n best, penalties": (
        {"beams": 4, "n_best": 3, "length_penalty": 0.5, "repetition_penalty": 1.4},
        {"num_beams": 4, "num_return_sequences": 3, "length_penalty": 0.5, "repetition_penalty": 1.4},
    ),
    "minimum length": ({"beams": 3, "min_length": 6}, {"num_beams": 3, "min_new_tokens": 6}),
}


@lru_cache
def theirs(name: str) -> torch.nn.Module:
    """A model whose texts differ by picture and end at different lengths."""
    config = transformers.BlipConfig(text_config=TEXT, vision_config=VISION, image_text_hidden_size=12)
    torch.manual_seed(0)
    model = getattr(transformers, name)(config).eval()
    g = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter += 0.3 * torch.randn(parameter.shape, generator=g)
        if hasattr(model, "text_decoder"):
            model.text_decoder.cls.predictions.bias[SEP] += 7 if "Conditional" in name else 6
    return model


def pictures(count: int = 5) -> list[Image.Image]:
    draw = np.random.default_rng(0)
    return [Image.fromarray(draw.integers(0, 255, (32, 32, 3), dtype=np.uint8)) for _ in range(count)]


def loaded(model: torch.nn.Module) -> System:
    vocab = SHIPPED["bert-base-uncased"]
    return from_transformers(model.state_dict(), model.config.to_dict(), vocab=vocab)


def until_end(rows: torch.Tensor, prompt: int, n_best: int) -> list[list[list[int]]]:
    """New tokens of each picture's candidates, the end token included, without the padding behind it."""
    found = []
    for row in rows[:, prompt:].tolist():
        found.append(row[: row.index(SEP) + 1] if SEP in row else row)
    return [found[i : i + n_best] for i in range(0, len(found), n_best)]


@pytest.mark.parametrize("prompt", ["", "a picture of"])
@pytest.mark.parametrize("search", SEARCHES)
def test_captions(search: str, prompt: str) -> None:
    mine, their_own = SEARCHES[search]
    other = theirs("BlipForConditionalGeneration")
    model = loaded(other)
    assert isinstance(model, Captioner)
    image, ids = model.prepare(pictures()), model.prompt_ids(prompt)
    given = torch.cat([ids, torch.full((1, 1), SEP)], 1).expand(len(image), -1).clone()
    with torch.no_grad():
        rows = other.generate(
            pixel_values=image,
            input_ids=given,
            attention_mask=torch.ones_like(given),
            max_new_tokens=LONGEST,
            do_sample=False,
            **their_own,
        )
    config = GenerationConfig(max_length=LONGEST, eos_id=SEP, **mine)
    found = model.generate(image, prompt=prompt, config=config)
    assert found.sequences == until_end(rows, ids.shape[1], their_own.get("num_return_sequences", 1))
    assert len({tuple(group[0]) for group in found.sequences}) > 1
    lengths = {len(tokens) for group in found.sequences for tokens in group}
    assert min(lengths) < LONGEST or search == "minimum length"


@pytest.mark.parametrize("search", ["greedy", "beam 3"])
def test_answers(search: str) -> None:
    mine, their_own = SEARCHES[search]
    other = theirs("BlipForQuestionAnswering")
    model = loaded(other)
    assert isinstance(model, AnswerModel)
    questions = ["what is it?", "how many red cats are there?", "where", "is it a dog or a cat", "why?"]
    ids, mask = model.tokenize(questions)
    object.__setattr__(model.config, "compat", ("question_padding",))
    image = model.prepare(pictures())
    with torch.no_grad():
        rows = other.generate(
            input_ids=model.first(ids, model.enc_id),  # with [ENC], as the weights were trained
            pixel_values=image,
            attention_mask=mask,
            max_new_tokens=LONGEST,
            do_sample=False,
            **their_own,
        )
    expected = [group[0] for group in until_end(rows, 1, 1)]
    config = GenerationConfig(max_length=LONGEST, eos_id=SEP, **mine)
    assert model.tokenizer is not None
    assert model.answer(image, questions, config=config) == model.tokenizer.decode(expected)
    assert len({tuple(tokens) for tokens in expected}) > 1


def test_a_saved_folder_captions_as_the_processor_and_generate_do(tmp_path: Path) -> None:
    """What `save_pretrained` writes is enough: its tokenizer is a tokenizer.json, without a vocab.txt."""
    other = theirs("BlipForConditionalGeneration")
    other.save_pretrained(tmp_path)
    words = transformers.BertTokenizerFast(vocab=str(SHIPPED["bert-base-uncased"]))
    words.add_special_tokens({"bos_token": "[DEC]"})
    words.add_special_tokens({"additional_special_tokens": ["[ENC]"]})
    looks = transformers.BlipImageProcessor(size={"height": 32, "width": 32})
    processor = transformers.BlipProcessor(looks, words)
    processor.save_pretrained(tmp_path)
    model = multiway.load(tmp_path)
    assert not (tmp_path / "vocab.txt").exists()
    inputs = processor(images=pictures(), text=["a picture of"] * 5, return_tensors="pt")
    torch.testing.assert_close(model.prepare(pictures()), inputs["pixel_values"], rtol=1e-5, atol=1e-5)
    with torch.no_grad():
        rows = other.generate(**inputs, max_new_tokens=LONGEST, num_beams=3, do_sample=False)
    config = GenerationConfig(max_length=LONGEST, eos_id=SEP)
    captions = model.caption(pictures(), prompt="a picture of", config=config)
    texts = [text.removeprefix("a picture of").strip() for text in processor.batch_decode(rows, True)]
    assert captions == texts


def test_a_filter_scores_as_transformers_matching_does(tmp_path: Path) -> None:
    from multiway.bootstrap.filter import open_filter

    other = theirs("BlipForImageTextRetrieval")
    other.save_pretrained(tmp_path)
    scores = open_filter(str(tmp_path), device="cpu")
    texts = [["a cat", "a very long text of a red dog"], ["a"], ["no", "yes"], [], ["two cats"]]
    found = scores(pictures(), texts)
    model = loaded(other)
    for picture, lines, row in zip(pictures(), texts, found, strict=True):
        for text, score in zip(lines, row, strict=True):
            ids, mask = model.tokenize([text])
            with torch.no_grad():
                said = other(
                    input_ids=model.first(ids, model.enc_id),  # with [ENC], as the weights were trained
                    pixel_values=model.prepare([picture]),
                    attention_mask=mask,
                ).itm_score
            assert score == pytest.approx(float(said.softmax(-1)[0, 1]), abs=1e-5)


def test_the_words_are_those_of_tokenizer_json(tmp_path: Path) -> None:
    """A model of another language brings its own; `[DEC]` and `[ENC]` lie among the added tokens."""
    theirs("BlipForConditionalGeneration").save_pretrained(tmp_path)
    names = SHIPPED["bert-base-uncased"].read_text(encoding="utf-8").splitlines()
    names[2000:2003] = ["hund", "katze", "##nfutter"]
    (tmp_path / "words.txt").write_text("\n".join(names))
    words = transformers.BertTokenizerFast(vocab=str(tmp_path / "words.txt"))
    (tmp_path / "words.txt").unlink()
    words.add_special_tokens({"bos_token": "[DEC]"})
    words.add_special_tokens({"additional_special_tokens": ["[ENC]"]})
    words.save_pretrained(tmp_path)
    tokenizer = multiway.load(tmp_path).tokenizer
    assert tokenizer is not None
    assert (tokenizer.dec_id, tokenizer.enc_id) == (30522, 30523)
    assert tokenizer.encode("hund katzenfutter")[1:4] == [2000, 2001, 2002]


def test_a_vocabulary_of_another_model_is_refused(tmp_path: Path) -> None:
    """As transformers 5 writes one when BertTokenizerFast was built by an argument that it ignores."""
    theirs("BlipForConditionalGeneration").save_pretrained(tmp_path)
    transformers.BertTokenizerFast().save_pretrained(tmp_path)
    with pytest.raises(UserError, match=r"has 7 words and the model 30524"):
        multiway.load(tmp_path)
