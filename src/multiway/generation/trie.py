"""Answers of which one must come, as a tree of their tokens."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any


class Trie:
    """Token sequences of which exactly one is to be generated, each followed by the end token.

    Args:
        sequences: token ids of each answer, without prompt and end token.
    """

    def __init__(self, sequences: Iterable[Sequence[int]]):
        self._root: dict[int | None, Any] = {}
        self.depth = 0
        for number, sequence in enumerate(sequences):
            node = self._root
            for token in sequence:
                node = node.setdefault(int(token), {})
            node.setdefault(None, number)  # an answer may end here
            self.depth = max(self.depth, len(sequence))

    def allowed(self, tokens: Sequence[int], eos_id: int) -> list[int]:
        """What may follow new tokens; nothing after those that begin no answer."""
        node = self._root
        for token in tokens:
            node = node.get(token)
            if node is None:
                return []
        return [eos_id if token is None else token for token in node]

    def number(self, tokens: Sequence[int], eos_id: int) -> int:
        """Which of the sequences was generated, with or without its end token; of equal ones the first."""
        node = self._root
        for token in tokens:
            if token == eos_id and token not in node:
                break
            node = node[token]
        return node[None]
