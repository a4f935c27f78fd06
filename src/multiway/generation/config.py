"""What can be asked of a generation."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from multiway.errors import UserError
from multiway.generation.trie import Trie


@dataclass(frozen=True, kw_only=True)
class GenerationConfig:
    """How text is generated; lengths count new tokens, the end token included and the prompt not.

    Attributes:
        method: `greedy`: the likeliest token each time; `beam`: the likeliest sequences; `sample`: drawn.
        max_length: new tokens at most. min_length: new tokens before which the end token is forbidden.
        repetition_penalty: divides positive scores of tokens that are there already, prompt included, and
            multiplies negative ones (Keskar et al. 2019); scores are log-probabilities in beam search, else
            logits. 1: none.
        blocklist: token ids, or sequences of them, that must not come.
        trie: answers of which one must come, see `Trie`.
        beams: K of beam search. n_best: candidates returned, at most K.
        length_penalty: exponent of the length that divides a sum of log-probabilities.
        length_rule: the length: new tokens, the end token included (`transformers` 5); or prompt and new
            tokens without the end token (`official`: BLIP with transformers 4.15, and how it ends a search);
            or prompt and new tokens, the end token included (`beit3`, and how its captioner ends a search; or
            `open_clip`: CoCa with transformers 4.49, which ends a search as BLIP's does).
        beam_scores: what a beam sums: log-probabilities, or plain logits (open_clip's CoCa).
        early_stopping: True: a picture is done with K finished sequences; False: when also the best open one,
            at its length, is no better than the worst of them; "never": at the length that favours it most.
        samples: drawn for each group. temperature: divides the logits. top_k: draw from the likeliest k only
            (None: all); top_p: then from the fewest likeliest tokens whose mass reaches p.
        seed: with a sample's key, all that its draws depend on.
        eos_id: the end token; the default is [SEP] of BERT's vocabulary. pad_id: what finished rows are fed.
        pad_ends: a greedy or drawn text ends with `pad_id` too (open_clip's CoCa, to which "!" is padding).

    Raises:
        UserError: a value is out of its range.
    """

    method: Literal["greedy", "beam", "sample"] = "beam"
    max_length: int = 20
    min_length: int = 0
    repetition_penalty: float = 1.0
    blocklist: tuple[int | tuple[int, ...], ...] = ()
    trie: Trie | None = None
    beams: int = 3
    n_best: int = 1
    length_penalty: float = 1.0
    length_rule: Literal["transformers", "official", "beit3", "open_clip"] = "transformers"
    beam_scores: Literal["logprobs", "logits"] = "logprobs"
    early_stopping: bool | Literal["never"] = False
    samples: int = 1
    temperature: float = 1.0
    top_k: int | None = None
    top_p: float = 1.0
    seed: int = 0
    eos_id: int = 102
    pad_id: int = 0
    pad_ends: bool = False

    def __post_init__(self):
        for name in ("max_length", "beams", "n_best", "samples"):
            _require(getattr(self, name) >= 1, name, getattr(self, name), "at least 1")
        _require(0 <= self.min_length <= self.max_length, "min_length", self.min_length, "0 to max_length")
        _require(self.repetition_penalty > 0, "repetition_penalty", self.repetition_penalty, "above 0")
        _require(self.temperature > 0, "temperature", self.temperature, "above 0")
        _require(0 < self.top_p <= 1, "top_p", self.top_p, "above 0 and at most 1")
        _require(self.top_k is None or self.top_k >= 1, "top_k", self.top_k, "at least 1, or None for all")
        if self.method == "beam":
            _require(self.n_best <= self.beams, "n_best", self.n_best, f"at most the {self.beams} beams")
        if self.length_rule != "transformers" and self.early_stopping == "never":
            raise UserError(
                f'length_rule "{self.length_rule}" knows no early_stopping "never": give True or False'
            )
        if self.trie is not None:
            _require(
                self.max_length > self.trie.depth,
                "max_length",
                self.max_length,
                f"more than the {self.trie.depth} tokens of the longest answer in the trie",
            )


def _require(right: bool, name: str, value: object, range_: str) -> None:
    if not right:
        raise UserError(f"generation's {name} is {value}: give {range_}")
