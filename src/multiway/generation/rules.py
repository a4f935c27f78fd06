"""Beam search's bookkeeping for one group: which sequences are finished, and when the group is done.

Four rules are known. `TransformersRule` is transformers 5's `_beam_search`. `OfficialRule` is what BLIP's
captions were published with, transformers 4.15's `BeamSearchScorer`: it counts the prompt and not the end
token, so that with a prompt the same sums give other captions; a later one, `OpenClipRule`, counts the end
token too. `BEiT3Rule` is that of BEiT-3's captioner.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from multiway.generation.config import GenerationConfig
from multiway.generation.protocol import Hypothesis


class TransformersRule:
    """A sequence's score is its sum over the number of new tokens, the end token included.

    Sequences that are cut at the maximum length compete as they are.
    """

    def __init__(self, config: GenerationConfig, prompt_length: int):
        self.config, self.prompt_length = config, prompt_length
        self.finished: list[Hypothesis] = []

    def update(self, candidates: Sequence[Hypothesis]) -> list[Hypothesis]:
        """What goes on, K at most, and nothing when the group is done.

        Args:
            candidates: the 2K best continuations, best first, with their sums as scores.
        """
        if not candidates:
            return []
        config, length = self.config, len(candidates[0].tokens)
        last = length == config.max_length
        ended = [c for c in candidates[: config.beams] if last or c.tokens[-1] == config.eos_id]
        going = [] if last else [c for c in candidates if c.tokens[-1] != config.eos_id][: config.beams]
        for hypothesis in ended:
            self.finish(hypothesis, length)
        if len(self.finished) < config.beams or not going:
            return going
        if config.early_stopping is True:
            return []
        hoped = (
            config.max_length if config.early_stopping == "never" and config.length_penalty > 0 else length
        )
        return going if self.normalised(going[0].score, hoped) > self.finished[-1].score else []

    def normalised(self, total: float, length: int) -> float:
        """A sum of log-probabilities over its length."""
        return total / length**self.config.length_penalty

    def finish(self, hypothesis: Hypothesis, length: int) -> None:
        """Keep a sequence among the K best."""
        self.finished.append(replace(hypothesis, score=self.normalised(hypothesis.score, length)))
        self.finished.sort(key=lambda h: -h.score)  # stable: of two equals the older one stays
        del self.finished[self.config.beams :]


class OfficialRule(TransformersRule):
    """A sequence's score is its sum over the length of prompt and new tokens without the end token.

    Sequences that are cut at the maximum length are finished only in a group that is not done by then.
    """

    end_token = 0  # what it counts in the length

    def update(self, candidates: Sequence[Hypothesis]) -> list[Hypothesis]:
        if not candidates:
            return []
        config, length = self.config, len(candidates[0].tokens) + self.prompt_length
        for candidate in candidates[: config.beams]:
            if candidate.tokens[-1] == config.eos_id:
                self.finish(candidate, length - 1 + self.end_token)
        if len(self.finished) == config.beams:
            # As recorded: it may be an ended one.
            best = self.normalised(candidates[0].score, length - 1 + self.end_token)
            if config.early_stopping is True or self.finished[-1].score >= best:
                return []
        going = [c for c in candidates if c.tokens[-1] != config.eos_id][: config.beams]
        if len(candidates[0].tokens) < config.max_length:
            return going
        for hypothesis in going:
            self.finish(hypothesis, length)
        return []


class OpenClipRule(OfficialRule):
    """As `OfficialRule`, the end token counted (transformers 4.49)."""

    end_token = 1


class BEiT3Rule(TransformersRule):
    """A sequence's score is its sum over the length of prompt and new tokens, the end token included.

    An ended candidate counts if it comes before the K-th open one. A sequence that is cut at the maximum
    length ends with the end token in place of its last one, whose log-probability still counts. Source:
    beit3 engine_for_finetuning.py and utils.py, `BeamHypotheses`.
    """

    def update(self, candidates: Sequence[Hypothesis]) -> list[Hypothesis]:
        if not candidates:
            return []
        config, length = self.config, len(candidates[0].tokens)
        if len(self.finished) == config.n_best:
            hoped = self.normalised(candidates[0].score, self.prompt_length + config.max_length)
            if config.early_stopping is True or self.finished[-1].score >= hoped:
                return []
        last, going = length == config.max_length, []
        for candidate in candidates:
            if last or candidate.tokens[-1] == config.eos_id:
                ended = replace(candidate, tokens=(*candidate.tokens[:-1], config.eos_id))
                self.finish(ended, self.prompt_length + length)
                del self.finished[config.n_best :]
            else:
                going.append(candidate)
            if len(going) == config.beams:
                break
        return going


RULES = {
    "transformers": TransformersRule,
    "official": OfficialRule,
    "beit3": BEiT3Rule,
    "open_clip": OpenClipRule,
}
