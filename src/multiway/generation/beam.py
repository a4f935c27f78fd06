"""Beam search: each group's K likeliest beginnings, until no better ending can be hoped for."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor

from multiway.generation.config import GenerationConfig
from multiway.generation.constraints import constrain, no_text
from multiway.generation.protocol import Decoding, Hypothesis
from multiway.generation.rules import RULES

#: Words whose maximum is looked at first, see `top`.
STRETCH = 64


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
    rules = [RULES[config.length_rule](config, len(prompt)) for prompt in prompts]
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
    if config.beam_scores == "logits":
        scores = logits.float().clone()
    else:
        scores = logprobs if config.repetition_penalty == 1 else logprobs.clone()
    rows = [h.tokens for group in beams for h in _filled(group, width)]
    constrain(scores.flatten(0, 1), [prompt for prompt in prompts for _ in range(width)], rows, config)
    # Of each row its 2K best, then of each group: what a sum is added to is small.
    values, tokens = top(scores, min(2 * config.beams, vocabulary))
    own = logprobs.gather(-1, tokens)
    sums = [[h.score for h in group] + [float("-inf")] * (width - len(group)) for group in beams]
    values = (values + torch.tensor(sums, device=logits.device)[..., None]).flatten(1)
    values, place = values.topk(min(2 * config.beams, values.shape[1]))
    chosen = [values, tokens.flatten(1).gather(1, place), own.flatten(1).gather(1, place), place]
    return [
        [
            group[i // tokens.shape[-1]].extended(token, logprob, value, i // tokens.shape[-1])
            for value, token, logprob, i in zip(*row, strict=True)
            if value != float("-inf")
        ]
        for group, *row in zip(beams, *(part.tolist() for part in chosen), strict=True)
    ]


def top(scores: Float[Tensor, "*R V"], count: int) -> tuple[Float[Tensor, "*R C"], Int[Tensor, "*R C"]]:
    """`topk`, several times as fast over a vocabulary: only the stretches with the best maxima are sorted."""
    vocabulary = scores.shape[-1]
    whole = vocabulary // STRETCH * STRETCH
    if vocabulary < 4 * count * STRETCH:
        return scores.topk(count)
    best = scores[..., :whole].unflatten(-1, (-1, STRETCH)).amax(-1).topk(count).indices
    within = torch.arange(STRETCH, device=scores.device)
    rest = torch.arange(whole, vocabulary, device=scores.device).expand(*best.shape[:-1], -1)
    index = torch.cat([(best[..., None] * STRETCH + within).flatten(-2), rest], dim=-1)
    values, place = scores.gather(-1, index).topk(count)
    return values, index.gather(-1, place)


def _filled(row: list, length: int) -> list:
    return row + row[:1] * (length - len(row))


def _best(finished: list[Hypothesis], config: GenerationConfig) -> list[Hypothesis]:
    if not finished:
        raise no_text(config)
    return finished[: config.n_best]
