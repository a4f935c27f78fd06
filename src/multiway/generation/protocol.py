"""The next-token protocol: what a search asks of a model, and what it returns."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol, runtime_checkable

from jaxtyping import Float, Int
from torch import Tensor


@runtime_checkable
class Decoding(Protocol):
    """One running generation over G groups: pictures, or pictures with their questions.

    A group's K rows are its beams or samples. They share what the group looks at; how rows share their own
    past is the decoding's affair.

    Attributes:
        groups: G, as `start` expects them. vocab_size: V.
    """

    groups: int
    vocab_size: int

    def room(self, prompt_length: int) -> int:
        """The most new tokens that there are positions for after a prompt of so many tokens."""
        ...

    def start(
        self, input_ids: Int[Tensor, "G P"], attention_mask: Int[Tensor, "G P"] | None = None
    ) -> Float[Tensor, "G V"]:
        """Read each group's prompt; logits of its next token. The mask's zeros, if any, are at the end."""
        ...

    def step(self, tokens: Int[Tensor, "G K"], rows: Int[Tensor, "G K"]) -> Float[Tensor, "G K V"]:
        """Append one token to each row; logits of the tokens after them.

        Args:
            rows: which row of the last call each row continues, counted group by group: row = group * K + k
                with the last call's K (1 after `start`). Groups keep their order; those that no row continues
                are left out for good.
        """
        ...


@dataclass(frozen=True)
class Generated:
    """What a search found: for each group a list of candidates, best first.

    Attributes:
        sequences: the new tokens of each candidate, without the prompt and with the end token if it came.
        scores: what candidates are ordered by: beam search's normalised sums, else `logprobs`.
        token_logprobs: log-probability of each new token under the model, before any penalty or constraint.
        logprobs: their sums.
    """

    sequences: list[list[list[int]]]
    scores: list[list[float]]
    token_logprobs: list[list[list[float]]]
    logprobs: list[list[float]]

    @classmethod
    def of(cls, groups: list[list[Hypothesis]]) -> Generated:
        """The candidates of each group, in the order given."""
        return cls(
            [[list(h.tokens) for h in group] for group in groups],
            [[h.score for h in group] for group in groups],
            [[list(h.logprobs) for h in group] for group in groups],
            [[sum(h.logprobs) for h in group] for group in groups],
        )


@dataclass(frozen=True)
class Hypothesis:
    """New tokens, their log-probabilities under the model, a search's score, the row that they continue."""

    tokens: tuple[int, ...] = ()
    logprobs: tuple[float, ...] = ()
    score: float = 0.0
    origin: int = 0

    def extended(self, token: int, logprob: float, score: float, origin: int) -> Hypothesis:
        """One token longer, with its new score."""
        return Hypothesis((*self.tokens, token), (*self.logprobs, logprob), score, origin)
