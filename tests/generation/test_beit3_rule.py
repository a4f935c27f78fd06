"""BEiT-3's rule of beam search against the official loop, written slowly, on made-up probabilities."""

from __future__ import annotations

import pytest
import torch

from multiway.errors import UserError
from multiway.generation import GenerationConfig, generate

VOCAB, END, PAD, START = 9, 2, 1, 0


class Table:
    """A decoding whose next word depends on the last two words alone."""

    def __init__(self, seed: int, groups: int, ends: float):
        g = torch.Generator().manual_seed(seed)
        self.logits = 2 * torch.randn(VOCAB, VOCAB, VOCAB, generator=g)
        self.logits[..., END] += ends
        self.groups, self.vocab_size = groups, VOCAB

    def room(self, prompt_length):
        return 100

    def start(self, input_ids, attention_mask=None):
        self.past = input_ids[:, None, -1:].expand(-1, -1, 2)
        return self.logits[self.past[..., 0], self.past[..., 1]][:, 0]

    def step(self, tokens, rows):
        past = self.past.flatten(0, 1)[rows]
        self.past = torch.stack([past[..., 1], tokens], dim=-1)
        return self.logits[self.past[..., 0], self.past[..., 1]]


def official(table: Table, beams: int, longest: int, penalty: float) -> tuple[list[int], float]:
    """One picture. `longest` counts the first token and one mask beside the words."""
    kept: list[tuple[float, list[int]]] = []
    rows, sums = [[START]] * beams, [0.0] + [-1e9] * (beams - 1)
    length = 2
    while length <= longest:
        logprobs = torch.stack(
            [table.logits[row[-2] if len(row) > 1 else START, row[-1]].log_softmax(-1) for row in rows]
        )
        scores, places = (logprobs + torch.tensor(sums)[:, None]).flatten().topk(3 * beams)
        if kept and kept[0][0] >= float(scores.max()) / (longest - 1) ** penalty:
            break
        following = []
        for score, place in zip(scores.tolist(), places.tolist(), strict=True):
            row, word = divmod(place, VOCAB)
            if word == END or length + 1 == longest:
                ended = (score / length**penalty, [*rows[row][1:], END])
                if not kept or ended[0] > kept[0][0]:
                    kept = [ended]
            else:
                following.append((score, [*rows[row], word]))
            if len(following) == beams:
                break
        if not following:
            break
        sums, rows = [s for s, _ in following], [r for _, r in following]
        length += 1
    return kept[0][1], kept[0][0]


@pytest.mark.parametrize("beams", [1, 2, 3])
@pytest.mark.parametrize("ends", [-1.0, 1.5, 4.0])
def test_the_search_is_the_official_one(beams, ends) -> None:
    lengths = set()
    for seed in range(12):
        table = Table(seed, 1, ends)
        config = GenerationConfig(
            beams=beams, max_length=6, length_penalty=0.6, length_rule="beit3", eos_id=END, pad_id=PAD
        )
        found = generate(table, torch.full((1, 1), START), None, config)
        words, score = official(table, beams, 8, 0.6)
        assert found.sequences[0][0] == words
        assert found.scores[0][0] == pytest.approx(score, rel=1e-5)
        lengths.add(len(words))
    assert len(lengths) > 1 or ends == 4.0


def test_several_candidates_are_ordered_by_their_score() -> None:
    config = GenerationConfig(beams=3, n_best=3, max_length=5, length_rule="beit3", eos_id=END, pad_id=PAD)
    found = generate(Table(5, 2, 1.5), torch.full((2, 1), START), None, config)
    for scores, sequences in zip(found.scores, found.sequences, strict=True):
        assert scores == sorted(scores, reverse=True)
        assert len(sequences) == len({tuple(s) for s in sequences}) == 3


def test_it_knows_no_never() -> None:
    with pytest.raises(UserError, match="beit3"):
        GenerationConfig(length_rule="beit3", early_stopping="never")
