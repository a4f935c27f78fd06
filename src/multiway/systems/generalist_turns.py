"""A generalist's rows: prompts with their whole answers, and what of them is predicted."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor

from multiway.batch import Batch
from multiway.errors import UserError


@dataclass(frozen=True)
class Turns:
    """Prompts and answers, one sequence a row.

    Attributes:
        input_ids: [CLS] prompt [SEP] answer [SEP]; of a drawn row the answer is picture tokens, no [SEP].
        attention_mask: 1 = real token.
        prompt: where the prompt ends: the place of the first [SEP].
        drawn: rows whose answer is their picture, which is not shown. seen: rows that are shown theirs.
    """

    input_ids: Int[Tensor, "B T"]
    attention_mask: Int[Tensor, "B T"]
    prompt: Int[Tensor, " B"]
    drawn: Bool[Tensor, " B"]
    seen: Bool[Tensor, " B"]

    @classmethod
    def of(
        cls,
        batch: Batch,
        sep_id: int,
        codes: Callable[[Float[Tensor, "N 3 H W"]], Int[Tensor, "N P"]],
        said: Callable[[Int[Tensor, " T"]], str],
    ) -> Turns:
        """The rows of a batch of texts `prompt TAB answer`; where that is empty, the picture is the answer.

        Args:
            codes: normalised pictures to the ids of their tokens.
            said: token ids to their text, by which a row without an answer is named.

        Raises:
            UserError: a row has no answer: it would teach nothing.
        """
        (ids, mask), rows = batch.text(), torch.arange(len(batch))
        prompt = (ids == sep_id).float().argmax(1)
        has = batch.has_image
        if has is None:
            has = torch.full_like(prompt, batch.image is not None, dtype=torch.bool)
        answer = mask.sum(1) - prompt - 1  # tokens behind the first [SEP]: none without a tab, or cut off
        drawn = has & (answer == 1)
        silent = (answer < 1) | ~drawn & (answer == 1)
        if silent.any():
            row = int(silent.nonzero()[0])
            raise UserError(
                f"the text {said(ids[row])!r} has no answer: write prompt, tab and answer in one line, "
                "within tokenizer.max_length (nothing behind the tab: its picture is the answer)"
            )
        if drawn.any():
            found, rows = codes(batch.need("image")[drawn]), drawn.nonzero()
            place = prompt[drawn, None] + 1 + torch.arange(found.shape[1], device=ids.device)
            missing = max(int(place.max()) + 1 - ids.shape[1], 0)
            ids, mask = F.pad(ids, (0, missing)), F.pad(mask, (0, missing))
            ids = ids.index_put((rows, place), found)
            mask = mask.index_put((rows, place), torch.ones_like(found))
        return cls(ids, mask, prompt, drawn, has & ~drawn)

    @property
    def place(self) -> Int[Tensor, "B T"]:
        """Of each token within the answer, from 0; negative in the prompt."""
        length = self.input_ids.shape[1]
        return torch.arange(length, device=self.prompt.device) - 1 - self.prompt[:, None]

    @property
    def prompt_mask(self) -> Int[Tensor, "B T"]:
        """1 for [CLS] prompt [SEP]."""
        return self.attention_mask * (self.place < 0)

    def spans(self, share: float, generator: torch.Generator | None = None) -> Int[Tensor, "B 2"]:
        """A span of `share` of each answer's tokens at any place: its first one, and the one behind it."""
        length = self.attention_mask.sum(1) - 1 - self.prompt
        size = (length * share).long()
        first = torch.rand(len(length), generator=generator, device=length.device) * (length - size + 1)
        return torch.stack([first.long(), first.long() + size], dim=1)

    def semi_causal(self, spans: Int[Tensor, "B 2"]) -> tuple[Int[Tensor, "B T"], Int[Tensor, "B T"]]:
        """The number of each token's span (1: the prompt, 2: the answer's, 0: none), and what is predicted.

        That is the tokens of the answer outside its span; -100 elsewhere.
        """
        inside = (self.place >= spans[:, :1]) & (self.place < spans[:, 1:]) & (self.place >= 0)
        unsaid = (self.place < 0) | inside | (self.attention_mask == 0)
        return (self.place < 0).long() + 2 * inside, self.input_ids.masked_fill(unsaid, -100)
