"""What must and must not come: trie, blocklist, lengths."""

from __future__ import annotations

import itertools

import pytest
import torch
from tiny_decoder import EOS, PAD, Decoder, pictures, prompts

from multiway.errors import UserError
from multiway.generation import GenerationConfig, Trie, generate

COUNT = 4
DECODER, PICTURES = Decoder(), pictures(COUNT)
ANSWERS = [[50], [50, 51], [52, 53, 54], [60, 61], [60, 62]]


def config(**changes) -> GenerationConfig:
    return GenerationConfig(**({"max_length": 6, "eos_id": EOS, "pad_id": PAD} | changes))


def run(**changes):
    return generate(DECODER.decoding(PICTURES), prompts(COUNT), config=config(**changes))


def test_a_wide_beam_over_a_trie_ranks_all_answers_by_their_probability() -> None:
    found = run(trie=Trie(ANSWERS), beams=8, n_best=5, length_penalty=0.0, early_stopping="never")
    context = DECODER.stack.context(PICTURES)
    for group in range(COUNT):
        totals = {}
        for answer in ANSWERS:
            ids = torch.tensor([[*prompts(1)[0].tolist(), *answer, EOS]])
            own = context.select(torch.tensor([group]))
            with torch.no_grad():
                hidden = DECODER.stack(DECODER.embed(ids[:, :-1]), causal=True, context=own)
                logprobs = DECODER.logits(hidden)[0, 2:].log_softmax(-1)
            totals[tuple(answer)] = float(logprobs.gather(1, ids[0, 3:, None]).sum())
        expected = sorted(totals, key=lambda answer: -totals[answer])
        assert [tuple(text[:-1]) for text in found.sequences[group]] == expected
        assert found.scores[group] == pytest.approx([totals[answer] for answer in expected], rel=1e-4)


@pytest.mark.parametrize("method", ["greedy", "beam", "sample"])
def test_every_search_stays_in_the_trie(method) -> None:
    found = run(method=method, trie=Trie(ANSWERS), samples=4)
    texts = list(itertools.chain(*found.sequences))
    assert all(text[-1] == EOS and text[:-1] in ANSWERS for text in texts)


@pytest.mark.parametrize("method", ["greedy", "beam", "sample"])
def test_blocklist_and_minimum_length(method) -> None:
    free = run(method=method)
    token = free.sequences[0][0][0]
    pair = next(tuple(text[:2]) for group in free.sequences for text in group if len(text) > 2)
    found = run(method=method, blocklist=(token, pair), min_length=3)
    for text in itertools.chain(*found.sequences):
        assert token not in text
        assert pair not in itertools.pairwise(text)
        assert len(text) > 3 or EOS not in text
    assert any(pair in itertools.pairwise(text) for text in itertools.chain(*free.sequences))


def test_a_blocked_sequence_may_begin_in_the_prompt() -> None:
    first = run(method="greedy").sequences[0][0][0]
    last = int(prompts(1)[0, -1])
    assert run(method="greedy", blocklist=((last, first),)).sequences[0][0][0] != first


def test_a_trie_that_is_too_deep_and_one_that_leaves_nothing() -> None:
    with pytest.raises(UserError, match="longest answer"):
        config(trie=Trie(ANSWERS), max_length=3)
    for method in ("greedy", "beam", "sample"):
        with pytest.raises(UserError, match="no text of 5 to 6 tokens"):
            run(method=method, trie=Trie(ANSWERS), min_length=5)


def test_allowed_tokens() -> None:
    trie = Trie(ANSWERS)
    assert sorted(trie.allowed([], EOS)) == [50, 52, 60]
    assert sorted(trie.allowed([50], EOS)) == [EOS, 51]
    assert trie.allowed([60, 62], EOS) == [EOS]
    assert trie.allowed([61], EOS) == []
    assert trie.allowed([50, EOS], EOS) == []
