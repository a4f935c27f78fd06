"""What may come next: minimum length, repetition penalty, blocklist, and answers of which one must come."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from multiway.errors import UserError
from multiway.generation.config import GenerationConfig


def constrain(
    scores: Float[Tensor, "R V"],
    prompts: Sequence[Sequence[int]],
    rows: Sequence[Sequence[int]],
    config: GenerationConfig,
) -> Float[Tensor, "R V"]:
    """The config's penalty, and -inf for what must not come: `scores` itself, changed.

    Args:
        scores: logits or log-probabilities.
        prompts: the prompt of each row. rows: the new tokens of each row.
    """
    if config.repetition_penalty != 1:
        seen = [[*prompt, *row] for prompt, row in zip(prompts, rows, strict=True)]
        longest = max(map(len, seen))
        index = torch.tensor([s + s[-1:] * (longest - len(s)) for s in seen], device=scores.device)
        found = scores.gather(1, index)
        penalty = config.repetition_penalty
        scores.scatter_(1, index, torch.where(found < 0, found * penalty, found / penalty))
    short = [i for i, row in enumerate(rows) if len(row) < config.min_length]
    scores[short, config.eos_id] = float("-inf")
    if config.blocklist:
        for i, (prompt, row) in enumerate(zip(prompts, rows, strict=True)):
            scores[i, _blocked([*prompt, *row], config.blocklist)] = float("-inf")
    if config.trie is not None:
        forbidden = torch.ones_like(scores, dtype=torch.bool)
        for i, row in enumerate(rows):
            forbidden[i, config.trie.allowed(row, config.eos_id)] = False
        scores.masked_fill_(forbidden, float("-inf"))
    return scores


def no_text(config: GenerationConfig) -> UserError:
    """What to say when nothing may come next."""
    return UserError(
        f"no text of {config.min_length} to {config.max_length} tokens is allowed by blocklist and trie: "
        "allow more, or change the lengths"
    )


def _blocked(tokens: list[int], blocklist: Sequence[int | tuple[int, ...]]) -> list[int]:
    """Tokens that would complete an entry of the blocklist."""
    last = []
    for entry in blocklist:
        start = () if isinstance(entry, int) else tuple(entry[:-1])
        if not start or tuple(tokens[-len(start) :]) == start:
            last.append(entry if isinstance(entry, int) else entry[-1])
    return last
