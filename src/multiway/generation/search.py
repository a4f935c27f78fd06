"""`generate`: one call for every way of searching."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from jaxtyping import Int
from torch import Tensor

from multiway.errors import UserError
from multiway.generation.beam import beam_search
from multiway.generation.config import GenerationConfig
from multiway.generation.protocol import Decoding, Generated
from multiway.generation.sampling import sample


@torch.inference_mode()
def generate(
    decoding: Decoding,
    input_ids: Int[Tensor, "G P"],
    attention_mask: Int[Tensor, "G P"] | None = None,
    config: GenerationConfig | None = None,
    *,
    keys: Sequence[str] | None = None,
    draws: Int[Tensor, "L R"] | None = None,
) -> Generated:
    """Text after each group's prompt. A group that is finished leaves the batch.

    Args:
        decoding: fresh: `start` is called here.
        input_ids: prompts, the token that begins every text included.
        attention_mask: 1 = real; the zeros, if any, at the end. None: all are real.
        config: None: `GenerationConfig()`.
        keys: names of the groups for sampling (see `sample`); None: "0", "1", ...
        draws: tokens that a recorded run drew, `[steps, groups * samples]`: read instead of drawing.

    Raises:
        UserError: numbers of groups differ, a token id is not in the vocabulary, texts may get longer than
            there are positions, or nothing is allowed.
    """
    config = config or GenerationConfig()
    if not len(input_ids) == decoding.groups == len(keys or input_ids):
        raise UserError(
            f"generate got {len(input_ids)} prompts and {len(keys or input_ids)} keys "
            f"for {decoding.groups} pictures: give one of each for every picture"
        )
    flat = [t for entry in config.blocklist for t in ([entry] if isinstance(entry, int) else entry)]
    outside = [
        token for token in (config.eos_id, config.pad_id, *flat) if not 0 <= token < decoding.vocab_size
    ]
    if outside:
        raise UserError(
            f"token id {outside[0]} is not in the model's vocabulary of {decoding.vocab_size}: "
            "look at eos_id, pad_id and blocklist"
        )
    real = [len(row) for row in input_ids] if attention_mask is None else attention_mask.sum(-1).tolist()
    prompts = [row[:length] for row, length in zip(input_ids.tolist(), real, strict=True)]
    room = decoding.room(max(map(len, prompts)))
    if config.max_length > room:
        raise UserError(
            f"texts may get {config.max_length} new tokens (max_length), and this model has positions for "
            f"{max(room, 0)} after the prompt: lower it"
        )
    logits = decoding.start(input_ids, attention_mask)
    if config.method == "beam":
        return Generated.of(beam_search(decoding, logits, prompts, config))
    names = keys or [str(i) for i in range(len(prompts))]
    return Generated.of(sample(decoding, logits, prompts, config, names, draws))
