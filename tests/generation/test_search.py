"""Greedy and beam search: cached equals plain, and both equal transformers with the very same weights."""

from __future__ import annotations

import math

import pytest
import torch
from tiny_decoder import EOS, PAD, START, Decoder, Plain, pictures, prompts, transformers_twin

from multiway.errors import UserError
from multiway.generation import GenerationConfig, generate
from multiway.generation.beam import top
from multiway.generation.protocol import Hypothesis
from multiway.generation.rules import OfficialRule, TransformersRule

COUNT, LONGEST = 6, 12
DECODER, PICTURES = Decoder(), pictures(COUNT)


def config(**changes) -> GenerationConfig:
    return GenerationConfig(**({"max_length": LONGEST, "eos_id": EOS, "pad_id": PAD} | changes))


CASES = {
    "greedy": (config(method="greedy"), {}),
    "greedy, penalty and blocklist": (
        config(method="greedy", repetition_penalty=1.7, blocklist=(20, (30, 31))),
        {"repetition_penalty": 1.7, "bad_words_ids": [[20], [30, 31]]},
    ),
    "beam 3": (config(), {"num_beams": 3}),
    "beam 5, n best": (config(beams=5, n_best=5), {"num_beams": 5, "num_return_sequences": 5}),
    "minimum length": (config(min_length=4), {"num_beams": 3, "min_new_tokens": 4}),
    "maximum alone": (config(min_length=LONGEST), {"num_beams": 3, "min_new_tokens": LONGEST}),
    "long ones": (
        config(length_penalty=2.0, n_best=3),
        {"num_beams": 3, "length_penalty": 2.0, "num_return_sequences": 3},
    ),
    "short ones, early": (
        config(length_penalty=-1.0, early_stopping=True, n_best=2),
        {"num_beams": 3, "length_penalty": -1.0, "early_stopping": True, "num_return_sequences": 2},
    ),
    "never early, penalty": (
        config(beams=4, early_stopping="never", repetition_penalty=1.7, n_best=3),
        {"num_beams": 4, "early_stopping": "never", "repetition_penalty": 1.7, "num_return_sequences": 3},
    ),
}


@pytest.mark.parametrize("name", CASES)
def test_equals_transformers_and_cached_equals_plain(name) -> None:
    ours, theirs = CASES[name]
    ids = prompts(COUNT)
    out = transformers_twin(DECODER).generate(
        input_ids=ids,
        attention_mask=torch.ones_like(ids),
        encoder_hidden_states=PICTURES,
        encoder_attention_mask=torch.ones(PICTURES.shape[:2], dtype=torch.long),
        eos_token_id=EOS,
        pad_token_id=PAD,
        max_new_tokens=LONGEST,
        do_sample=False,
        return_dict_in_generate=True,
        output_scores=True,
        **theirs,
    )
    n_best = theirs.get("num_return_sequences", 1)
    new = [_until_end(row) for row in out.sequences[:, ids.shape[1] :].tolist()]
    expected = [new[g * n_best : (g + 1) * n_best] for g in range(COUNT)]
    cached = generate(DECODER.decoding(PICTURES), ids, config=ours)
    plain = generate(Plain(DECODER, PICTURES), ids, config=ours)
    assert cached.sequences == plain.sequences == expected
    torch.testing.assert_close(torch.tensor(cached.scores), torch.tensor(plain.scores), rtol=1e-4, atol=1e-4)
    if "num_beams" in theirs:
        scores = out.sequences_scores.view(COUNT, n_best)
        torch.testing.assert_close(torch.tensor(cached.scores), scores, rtol=1e-4, atol=1e-4)


def test_the_cases_above_end_at_different_lengths() -> None:
    lengths = {len(text) for group in beams(n_best=3).sequences for text in group}
    assert min(lengths) < 4
    assert max(lengths) == LONGEST
    assert len(lengths) > 3


def beams(**changes):
    return generate(DECODER.decoding(PICTURES), prompts(COUNT), config=config(**changes))


def test_log_probabilities_are_the_models_own_before_penalties() -> None:
    found = beams(repetition_penalty=1.7, min_length=2, n_best=2)
    for group in range(COUNT):
        for text, own, total in zip(
            found.sequences[group], found.token_logprobs[group], found.logprobs[group], strict=True
        ):
            whole = torch.tensor([[*prompts(1)[0].tolist(), *text]])
            x = DECODER.embed(whole[:, :-1])
            context = DECODER.stack.context(PICTURES[group : group + 1])
            with torch.no_grad():
                logits = DECODER.logits(DECODER.stack(x, causal=True, context=context))
            expected = logits[0, 2:].log_softmax(-1).gather(1, whole[0, 3:, None])[:, 0]
            torch.testing.assert_close(torch.tensor(own), expected, rtol=1e-4, atol=1e-4)
            assert total == pytest.approx(sum(own))


def test_a_group_is_generated_as_if_it_were_alone_and_leaves_when_it_is_done() -> None:
    together = beams(beams=2)
    alive = []

    class Watched(Plain):
        def step(self, tokens, rows):
            alive.append(len(tokens))
            return super().step(tokens, rows)

    generate(Watched(DECODER, PICTURES), prompts(COUNT), config=config(beams=2))
    assert alive[0] > alive[-1]
    assert alive == sorted(alive, reverse=True)
    for g in range(COUNT):
        alone = generate(DECODER.decoding(PICTURES[g : g + 1]), prompts(1), config=config(beams=2))
        assert alone.sequences[0] == together.sequences[g]


@pytest.mark.parametrize("method", ["greedy", "beam", "sample"])
def test_prompts_of_different_lengths(method) -> None:
    texts = [[START], [START, 10, 11, 12], [START, 10]]
    ids, mask = torch.full((3, 4), PAD), torch.zeros(3, 4, dtype=torch.long)
    for i, text in enumerate(texts):
        ids[i, : len(text)], mask[i, : len(text)] = torch.tensor(text), 1
    wanted = config(method=method, repetition_penalty=1.3, length_rule="official", samples=2)
    keys = ["a", "b", "c"]
    found = generate(DECODER.decoding(PICTURES[:3]), ids, mask, wanted, keys=keys)
    plain = generate(Plain(DECODER, PICTURES[:3]), ids, mask, wanted, keys=keys)
    assert found.sequences == plain.sequences
    for i, text in enumerate(texts):
        decoding = DECODER.decoding(PICTURES[i : i + 1])
        alone = generate(decoding, torch.tensor([text]), None, wanted, keys=keys[i : i + 1])
        assert alone.sequences[0] == found.sequences[i]
        torch.testing.assert_close(
            torch.tensor(alone.scores[0]), torch.tensor(found.scores[i]), rtol=1e-4, atol=1e-4
        )


def test_pictures_keys_are_not_copied_for_beams() -> None:
    decoding = DECODER.decoding(PICTURES)
    context = decoding.context
    logits = decoding.start(prompts(COUNT))
    assert logits.shape == (COUNT, 97)
    rows = torch.arange(COUNT)[:, None].expand(-1, 3)
    decoding.step(torch.full((COUNT, 3), 9), rows)
    assert decoding.context is context
    decoding.step(torch.full((2, 3), 9), torch.tensor([[3, 3, 5], [12, 14, 13]]))  # groups 1 and 4 go on
    assert torch.equal(decoding.context.layers[0].key, context.layers[0].key[[1, 4]])


def candidate(score: float, *tokens: int) -> Hypothesis:
    return Hypothesis(tokens, (0.0,) * len(tokens), score)


@pytest.mark.parametrize(
    ("rule", "length", "cut_length"), [(TransformersRule, 3, 4), (OfficialRule, 2 + 5, 4 + 5)]
)
def test_lengths_that_scores_are_divided_by(rule, length, cut_length) -> None:
    wanted = config(beams=2, max_length=4, n_best=2, length_penalty=1.5)
    group = rule(wanted, 5)
    going = group.update([candidate(-1, 7, 7, 7), candidate(-2, 7, 8, EOS), candidate(-2.5, 9, 9, 9)])
    assert [h.score for h in going] == [-1, -2.5]
    group.update([candidate(-3, 7, 7, 7, 7), candidate(-4, 9, 9, 9, 9)])
    scores = {h.tokens: h.score for h in group.finished}
    assert scores[7, 8, EOS] == pytest.approx(-2 / length**1.5)
    assert scores[7, 7, 7, 7] == pytest.approx(-3 / cut_length**1.5)


def test_only_the_best_k_candidates_can_end() -> None:
    for rule in (TransformersRule, OfficialRule):
        group = rule(config(beams=2), 1)
        group.update([candidate(-1, 7), candidate(-2, 8), candidate(-3, EOS)])
        assert group.finished == []


def test_when_a_group_is_done() -> None:
    # Transformers 5 looks at the best open text; the recorded rule at the best candidate, ended or not, and
    # at its length before the new token.
    ended = [candidate(-1.0, 7, EOS), candidate(-1.2, 8, EOS), candidate(-3.0, 7, 7), candidate(-4.0, 7, 8)]
    assert not TransformersRule(config(beams=2), 1).update(ended)
    assert OfficialRule(config(beams=2), 1).update(ended)
    assert not OfficialRule(config(beams=2, early_stopping=True), 1).update(ended)
    never = config(beams=2, early_stopping="never", max_length=12)
    assert TransformersRule(never, 1).update(ended)  # -3 / 12 would be better than -1.2 / 2


@pytest.mark.parametrize(
    ("changes", "word"),
    [
        ({"n_best": 4}, "n_best"),
        ({"max_length": 0}, "max_length"),
        ({"min_length": 13}, "min_length"),
        ({"temperature": 0.0}, "temperature"),
        ({"top_p": 0.0}, "top_p"),
        ({"top_k": 0}, "top_k"),
        ({"repetition_penalty": -1.0}, "repetition_penalty"),
        ({"length_rule": "official", "early_stopping": "never"}, "never"),
    ],
)
def test_values_out_of_range(changes, word) -> None:
    with pytest.raises(UserError, match=word):
        config(**changes)


def test_what_does_not_fit_the_model() -> None:
    with pytest.raises(UserError, match="token id 500 "):
        beams(blocklist=((3, 500),))
    with pytest.raises(UserError, match="for 6 pictures"):
        generate(DECODER.decoding(PICTURES), prompts(2))
    with pytest.raises(UserError, match="for 6 pictures"):
        generate(DECODER.decoding(PICTURES), prompts(COUNT), config=config(), keys=["a"])
    with pytest.raises(ValueError, match="after start"):
        DECODER.decoding(PICTURES).step(torch.zeros(6, 1, dtype=torch.long), torch.arange(6)[:, None])
    assert math.isfinite(beams().scores[0][0])


def _until_end(row: list[int]) -> list[int]:
    return row[: row.index(EOS) + 1] if EOS in row else row


def test_the_best_of_stretches_are_the_best_of_all() -> None:
    scores = torch.randn(2, 3, 30524, generator=torch.Generator().manual_seed(0))
    scores[0, 0, 30520:] = 9.0 + torch.arange(4)  # behind the last whole stretch
    scores[0, 1, 512:520] = 9.0 + torch.arange(8)  # all in one stretch
    scores[1, 2, 5:] = float("-inf")
    for count in (1, 6, 10):
        values, tokens = top(scores, count)
        expected, places = scores.topk(count)
        assert torch.equal(values, expected)
        real = expected > float("-inf")
        assert torch.equal(tokens[real], places[real])
