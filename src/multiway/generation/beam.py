"""Beam search: each group's K likeliest beginnings, until no better ending can be hoped for."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from multiway.generation.config import GenerationConfig
from multiway.generation.constraints import constrain, no_text
from multiway.generation.protocol import Decoding, Hypothesis
from multiway.generation.rules import OfficialRule, TransformersRule


def beam_search(
    decoding: Decoding,
    logits: Float[Tensor, "G V"],
    prompts: Sequence[Sequence[int]],
    config: GenerationConfig,
) -> list[list[Hypothesis]]:
    """The `n_best` sequences of each group.

    Args:
        logits: of the first new token, from `decoding.start`.
    """
    rule = OfficialRule if config.length_rule == "official" else TransformersRule
    rules = [rule(config, len(prompt)) for prompt in prompts]
    living = list(range(len(prompts)))
    beams = [[Hypothesis()] for _ in prompts]
    logits = logits[:, None]
    while True:
        found = _candidates(logits, [prompts[g] for g in living], beams, config)
        after = [rules[g].update(candidates) for g, candidates in zip(living, found, strict=True)]
        going = [place for place, group in enumerate(after) if group]
        if not going:
            return [_best(rule.finished, config) for rule in rules]
        living, beams = [living[place] for place in going], [after[place] for place in going]
        # A group with fewer than K continuations repeats its first: a row that is read and never used.
        full = [_filled(group, config.beams) for group in beams]
        width = logits.shape[1]
        rows = [[place * width + h.origin for h in group] for place, group in zip(going, full, strict=True)]
        tokens = [[h.tokens[-1] for h in group] for group in full]
        logits = decoding.step(
            logits.new_tensor(tokens, dtype=torch.long), logits.new_tensor(rows, dtype=torch.long)
        )


def _candidates(
    logits: Float[Tensor, "G K V"],
    prompts: Sequence[Sequence[int]],
    beams: list[list[Hypothesis]],
    config: GenerationConfig,
) -> list[list[Hypothesis]]:
    """The 2K best continuations of each group, best first."""
    width, vocabulary = logits.shape[1:]
    logprobs = F.log_softmax(logits.float(), -1)
    rows = [h.tokens for group in beams for h in _filled(group, width)]
    prompt_of_row = [prompt for prompt in prompts for _ in range(width)]
    scores = constrain(logprobs.flatten(0, 1), prompt_of_row, rows, config).view_as(logits)
    sums = [[h.score for h in group] + [float("-inf")] * (width - len(group)) for group in beams]
    scores = scores + torch.tensor(sums, device=logits.device)[..., None]
    values, index = scores.flatten(1).topk(min(2 * config.beams, width * vocabulary))
    own = logprobs.flatten(1).gather(1, index)
    return [
        [
            group[i // vocabulary].extended(i % vocabulary, logprob, value, i // vocabulary)
            for value, i, logprob in zip(*row, strict=True)
            if value != float("-inf")
        ]
        for group, *row in zip(beams, values.tolist(), index.tolist(), own.tolist(), strict=True)
    ]


def _filled(row: list, length: int) -> list:
    return row + row[:1] * (length - len(row))


def _best(finished: list[Hypothesis], config: GenerationConfig) -> list[Hypothesis]:
    if not finished:
        raise no_text(config)
    return finished[: config.n_best]
