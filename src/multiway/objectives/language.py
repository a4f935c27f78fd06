"""Language modelling: which words were here (MLM), and which word comes next (LM)?"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor


def mask_tokens(
    input_ids: Int[Tensor, "B T"],
    maskable: Bool[Tensor, "B T"],
    *,
    mask_id: int,
    vocab_size: int,
    probability: float | Float[Tensor, "B 1"] = 0.15,
    word_starts: Bool[Tensor, "B T"] | None = None,
    generator: torch.Generator | None = None,
) -> tuple[Int[Tensor, "B T"], Int[Tensor, "B T"]]:
    """Choose 15 % of the tokens: 80 % of them become [MASK], 10 % any id, 10 % stay (BERT, section 3.1).

    Args:
        maskable: tokens that may be chosen; ALBEF spares only [PAD] and [CLS].
        probability: of being chosen, for all texts or each.
        word_starts: True where a token begins a word: whole words are then chosen, and each of their tokens
            replaced on its own (transformers' DataCollatorForWholeWordMask).

    Returns:
        The ids to read, and the labels: the original id where a token was chosen, -100 elsewhere.
    """

    draw = torch.rand(input_ids.shape, generator=generator, device=input_ids.device)
    if word_starts is not None:
        # Every token of a word takes the draw of its first token.
        word = (word_starts.long().cumsum(1) - 1).clamp_min(0)
        first = torch.zeros_like(draw).scatter_add_(1, word, draw * word_starts)
        draw = first.gather(1, word)
    picked = (draw < probability) & maskable
    return replace_tokens(input_ids, picked, mask_id=mask_id, vocab_size=vocab_size, generator=generator)


def replace_tokens(
    input_ids: Int[Tensor, "B T"],
    picked: Bool[Tensor, "B T"],
    *,
    mask_id: int,
    vocab_size: int,
    first_word: int = 0,
    generator: torch.Generator | None = None,
) -> tuple[Int[Tensor, "B T"], Int[Tensor, "B T"]]:
    """Of the picked tokens 80 % become [MASK], 10 % any id from `first_word` on, and 10 % stay.

    Returns:
        As `mask_tokens`.
    """

    def chosen(share: float) -> Tensor:
        return torch.rand(input_ids.shape, generator=generator, device=input_ids.device) < share

    replaced = picked & chosen(0.8)
    random = picked & ~replaced & chosen(0.5)
    size, device = input_ids.shape, input_ids.device
    other = torch.randint(first_word, vocab_size, size, generator=generator, device=device)
    masked = input_ids.masked_fill(replaced, mask_id).where(~random, other)
    return masked, input_ids.masked_fill(~picked, -100)


def mlm(
    logits: Float[Tensor, "M V"],
    targets: Int[Tensor, " M"],
    *,
    teacher_logits: Float[Tensor, "M V"] | None = None,
    alpha: float | Tensor = 0.0,
    count: Tensor | None = None,
) -> Float[Tensor, ""]:
    """`(1 - alpha) CE(logits, targets) + alpha CE(logits, softmax(teacher))`, a mean (ALBEF, eq. 7).

    Args:
        logits: of the masked positions only, as the mean is over them alone.
        count: the normaliser when it is not M: the all-rank mean number of masked positions.
    """
    loss = each(logits, targets, teacher_logits=teacher_logits, alpha=alpha)
    # Without a masked token anywhere the sum is 0, and so is the mean.
    return loss.sum() / (max(len(targets), 1) if count is None else count.clamp_min(1e-6))


def each(
    logits: Float[Tensor, "M V"],
    targets: Int[Tensor, " M"],
    *,
    smoothing: float = 0.0,
    teacher_logits: Float[Tensor, "M V"] | None = None,
    alpha: float | Tensor = 0.0,
) -> Float[Tensor, " M"]:
    """`(1 - alpha) CE(logits, targets) + alpha CE(logits, softmax(teacher))` of every token.

    Args:
        smoothing: share of a target that is spread over all V tokens.
    """
    loss = F.cross_entropy(logits, targets, reduction="none", label_smoothing=smoothing)
    if teacher_logits is None:
        return loss
    soft = F.cross_entropy(logits, teacher_logits.detach().softmax(-1), reduction="none")
    return torch.lerp(loss, soft, torch.as_tensor(alpha).to(loss))


def lm(
    logits: Float[Tensor, "M V"],
    targets: Int[Tensor, " M"],
    *,
    smoothing: float = 0.0,
    count: Tensor | None = None,
) -> Float[Tensor, ""]:
    """Cross-entropy of the next token, mean over the M positions that have one.

    Args:
        logits: of the positions with a target only.
        smoothing: share of the target that is spread over all V tokens (BLIP's med.py: 0.1).
        count: the normaliser when it is not M: the all-rank mean number of targets.
    """
    loss = F.cross_entropy(logits, targets, reduction="sum", label_smoothing=smoothing)
    return loss / (max(len(targets), 1) if count is None else count.clamp_min(1e-6))
