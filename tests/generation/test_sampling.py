"""Sampling: what may be drawn, and draws that depend on the seed and the picture's key alone."""

from __future__ import annotations

import pytest
import torch
from tiny_decoder import EOS, PAD, Decoder, Plain, pictures, prompts

from multiway.generation import GenerationConfig, generate
from multiway.generation.sampling import draw, likeliest, uniforms

COUNT = 5
DECODER, PICTURES = Decoder(), pictures(COUNT)
KEYS = [f"shard-0/{i}" for i in range(COUNT)]


def config(**changes) -> GenerationConfig:
    start = {"method": "sample", "max_length": 10, "eos_id": EOS, "pad_id": PAD, "top_p": 0.9}
    return GenerationConfig(**(start | changes))


def run(index: list[int], wanted: GenerationConfig, kind=None, **options):
    decoding = (kind or (lambda decoder, tokens: decoder.decoding(tokens)))(DECODER, PICTURES[index])
    return generate(decoding, prompts(len(index)), config=wanted, keys=[KEYS[i] for i in index], **options)


def test_batches_and_caches_do_not_change_a_text() -> None:
    wanted = config(samples=3, repetition_penalty=1.1)
    together = run([0, 1, 2, 3, 4], wanted)
    assert together.sequences == run([0, 1, 2, 3, 4], wanted, Plain).sequences
    for index in ([4, 2], [1], [3, 0, 1]):
        for i, texts in zip(index, run(index, wanted).sequences, strict=True):
            assert texts == together.sequences[i]
    assert len({tuple(text) for group in together.sequences for text in group}) > COUNT
    assert together.sequences != run([0, 1, 2, 3, 4], config(samples=3, seed=1)).sequences


def test_a_first_sample_is_the_same_whatever_follows_it() -> None:
    few, many = config(samples=1), config(samples=4, max_length=20)
    assert torch.equal(uniforms(few, KEYS), uniforms(many, KEYS)[::4, :10])
    assert uniforms(many, KEYS).min() > 0
    assert len(uniforms(many, KEYS).unique()) == COUNT * 4 * 20


def test_samples_come_likeliest_first_with_the_sum_of_their_log_probabilities() -> None:
    found = run([0, 1, 2], config(samples=3))
    for scores, logprobs in zip(found.scores, found.logprobs, strict=True):
        assert scores == sorted(scores, reverse=True)
        assert scores == pytest.approx(logprobs)


def test_recorded_draws_are_replayed() -> None:
    draws = torch.randint(5, 90, (10, 2 * 3), generator=torch.Generator().manual_seed(0))
    draws[4, 1] = EOS  # the second sample of the first picture
    found = generate(DECODER.decoding(PICTURES[:3]), prompts(3), config=config(samples=2), draws=draws)
    texts = [sorted(group) for group in found.sequences]
    columns = draws.T.tolist()
    columns[1] = columns[1][:5]
    assert texts == [sorted(columns[i : i + 2]) for i in (0, 2, 4)]


def test_padding_ends_a_text_where_it_is_asked_to() -> None:
    draws = torch.randint(5, 90, (10, 3), generator=torch.Generator().manual_seed(0))
    draws[4, 1] = PAD
    for ends, length in ((True, 5), (False, 10)):
        found = generate(
            DECODER.decoding(PICTURES[:3]), prompts(3), config=config(pad_ends=ends), draws=draws
        )
        assert [len(group[0]) for group in found.sequences] == [10, length, 10]


@pytest.mark.parametrize(
    ("top_k", "top_p", "temperature"), [(None, 0.9, 1.0), (7, 1.0, 0.7), (50, 0.6, 1.3), (None, 1.0, 1.0)]
)
@pytest.mark.parametrize("scale", [0.1, 3.0])  # flat, so that the whole vocabulary is sorted, and peaked
def test_what_may_be_drawn_equals_transformers(top_k, top_p, temperature, scale) -> None:
    from transformers import TemperatureLogitsWarper, TopKLogitsWarper, TopPLogitsWarper

    scores = scale * torch.randn(4, 900, generator=torch.Generator().manual_seed(0))
    expected = TemperatureLogitsWarper(temperature)(None, scores) if temperature != 1 else scores
    if top_k is not None:
        expected = TopKLogitsWarper(top_k)(None, expected)
    if top_p < 1:
        expected = TopPLogitsWarper(top_p)(None, expected)
    kept, tokens = likeliest(scores, config(top_k=top_k, top_p=top_p, temperature=temperature))
    found = torch.full_like(scores, float("-inf")).scatter(1, tokens, kept)
    torch.testing.assert_close(found, expected)


def test_tokens_are_drawn_as_often_as_they_are_likely() -> None:
    rows = 20000
    probabilities = torch.tensor([0.05, 0.3, 0.0, 0.45, 0.2])
    # Evenly spaced instead of random numbers: a count is off by no more than the row at each of its borders.
    uniform = torch.linspace(0, 1, rows + 1, dtype=torch.double)[1:]
    tokens = draw(probabilities.log().expand(rows, -1), uniform, config(top_p=1.0))
    assert (tokens.bincount(minlength=5) - rows * probabilities).abs().max() < 2
    cut = draw(probabilities.log().expand(rows, -1), uniform, config(top_p=0.6))
    expected = torch.tensor([0, 0.3 / 0.75, 0, 0.45 / 0.75, 0])
    assert (cut.bincount(minlength=5) - rows * expected).abs().max() < 2
