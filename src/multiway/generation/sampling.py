"""One token after another: the likeliest each time, or drawn from the likeliest."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor

from multiway.generation.config import GenerationConfig
from multiway.generation.constraints import constrain, no_text
from multiway.generation.protocol import Decoding, Hypothesis

#: How many of the likeliest tokens are looked at before the whole vocabulary is sorted for `top_p`.
FEW = 256


def sample(
    decoding: Decoding,
    logits: Float[Tensor, "G V"],
    prompts: Sequence[Sequence[int]],
    config: GenerationConfig,
    keys: Sequence[str],
    draws: Int[Tensor, "L R"] | None = None,
) -> list[list[Hypothesis]]:
    """The greedy text, or `samples` texts, of each group; a score is the sum of log-probabilities.

    Args:
        logits: of the first new token, from `decoding.start`.
        keys: one a group: its sample s draws from (seed, key, s), whatever else is in the batch.
        draws: tokens that a recorded run drew, by step and row (group * samples + sample).
    """
    width = config.samples if config.method == "sample" else 1
    texts = [[Hypothesis() for _ in range(width)] for _ in prompts]
    noise = uniforms(config, keys) if config.method == "sample" and draws is None else None
    groups, before = list(range(len(prompts))), 1
    logits = logits[:, None]
    for step in range(config.max_length):
        # Rows that are finished while others of their group are not are fed padding, and not looked at.
        rows = [
            (i, g, s) for i, g in enumerate(groups) for s in range(width) if not _ended(texts[g][s], config)
        ]
        own = logits.flatten(0, 1)[[i * before + s % before for i, _, s in rows]].float()
        whole = F.log_softmax(own, -1)
        scores = constrain(
            own, [prompts[g] for _, g, _ in rows], [texts[g][s].tokens for _, g, s in rows], config
        )
        if scores.amax(-1).isneginf().any():
            raise no_text(config)
        if draws is not None:
            tokens = draws[step, [g * width + s for _, g, s in rows]].to(own.device)
        elif noise is not None:
            tokens = draw(scores, noise[[g * width + s for _, g, s in rows], step].to(own.device), config)
        else:
            tokens = scores.argmax(-1)
        logprobs = whole.gather(1, tokens[:, None])[:, 0]
        feed = [[config.pad_id] * width for _ in groups]
        for (i, g, s), token, logprob in zip(rows, tokens.tolist(), logprobs.tolist(), strict=True):
            texts[g][s] = texts[g][s].extended(token, logprob, texts[g][s].score + logprob, s)
            feed[i][s] = token
        going = [i for i, g in enumerate(groups) if not all(_ended(text, config) for text in texts[g])]
        if not going or step + 1 == config.max_length:
            break
        origins = [[i * before + s % before for s in range(width)] for i in going]
        groups, before = [groups[i] for i in going], width
        logits = decoding.step(tokens.new_tensor([feed[i] for i in going]), tokens.new_tensor(origins))
    return [sorted(group, key=lambda text: -text.score) for group in texts]


def draw(
    scores: Float[Tensor, "R V"], uniform: Float[Tensor, " R"], config: GenerationConfig
) -> Int[Tensor, " R"]:
    """One token a row: the first, in the vocabulary's order, whose cumulated mass reaches `uniform`."""
    kept, tokens = likeliest(scores, config)
    tokens, order = tokens.sort(-1)
    mass = kept.gather(1, order).double().softmax(-1).cumsum(-1)
    place = torch.searchsorted(mass, uniform[:, None] * mass[:, -1:])
    return tokens.gather(1, place)[:, 0]


def likeliest(
    scores: Float[Tensor, "R V"], config: GenerationConfig
) -> tuple[Float[Tensor, "R N"], Int[Tensor, "R N"]]:
    """What may be drawn: logits over the temperature, likeliest first, and their tokens; -inf where cut off.

    `top_k` is applied first, and `top_p` to the mass that it leaves.
    """
    scores = scores / config.temperature
    limit = min(config.top_k or scores.shape[1], scores.shape[1])
    if config.top_p == 1:
        return scores.topk(limit)
    if config.top_k is not None:
        values, tokens = scores.topk(limit)
        mass = values.softmax(-1).cumsum(-1)
    else:
        for size in (min(FEW, limit), limit):
            values, tokens = scores.topk(size)
            mass = (values - scores.logsumexp(-1, keepdim=True)).exp().cumsum(-1)
            if (mass[:, -1] >= config.top_p).all():
                break
    # A token stays if those before it have not reached p: the one that reaches it does.
    cut = F.pad(mass[:, :-1], (1, 0)) >= config.top_p
    return values.masked_fill(cut, float("-inf")), tokens


def uniforms(config: GenerationConfig, keys: Sequence[str]) -> Float[Tensor, "R L"]:
    """Numbers in (0, 1] for each sample of each group, which depend on nothing but (seed, key, sample)."""
    rows = []
    for key in keys:
        for s in range(config.samples):
            digest = hashlib.blake2b(f"{config.seed}\0{key}\0{s}".encode(), digest_size=16).digest()
            generator = np.random.Generator(np.random.Philox(key=int.from_bytes(digest, "little")))
            rows.append(1 - generator.random(config.max_length))
    return torch.from_numpy(np.stack(rows))


def _ended(text: Hypothesis, config: GenerationConfig) -> bool:
    ends = (config.eos_id, config.pad_id) if config.pad_ends else (config.eos_id,)
    return bool(text.tokens) and text.tokens[-1] in ends
