"""Further scores of captions by others' code, named by the user: METEOR and SPICE of pycocoevalcap.

They need Java, and WordNet-sized downloads of their own, so that nothing here imports them: a scorer is
`module:Class`, as `pycocoevalcap.meteor.meteor:Meteor`, with pycocoevalcap's `compute_score(gts, res)`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol, runtime_checkable

import numpy as np
from jaxtyping import Float

from multiway.bootstrap.named import function, is_function
from multiway.errors import UserError


@runtime_checkable
class Scorer(Protocol):
    """pycocoevalcap's interface: number -> references, number -> [caption]; the corpus' and each one's score.

    Scores are 0..1; a dict of them, as SPICE has, holds its own under `All`, `f`.
    """

    def compute_score(self, gts: dict[int, list[str]], res: dict[int, list[str]]) -> tuple[float, Any]: ...


def load_scorer(name: str) -> Scorer:
    """The scorer that `module:Class` names.

    Raises:
        UserError: there is none, it can't be started, or it is no scorer.
    """
    if not is_function(name):
        raise UserError(f"--scorer {name}: name it module:Class, as pycocoevalcap.meteor.meteor:Meteor")
    made = function(name)
    try:
        scorer = made()
    except Exception as error:  # without Java, or without its models
        raise UserError(f"--scorer {name} can't be started ({type(error).__name__}: {error})") from None
    if not isinstance(scorer, Scorer):
        raise UserError(f"--scorer {name} has no compute_score: name a scorer of pycocoevalcap, or alike")
    return scorer


def score(
    scorer: Scorer, candidates: Sequence[Sequence[str]], references: Sequence[Sequence[Sequence[str]]]
) -> tuple[float, Float[np.ndarray, " N"]]:
    """The corpus' score and each picture's, 0..1, of captions cut into words."""
    given = {i: [" ".join(words) for words in group] for i, group in enumerate(references)}
    whole, each = scorer.compute_score(given, {i: [" ".join(words)] for i, words in enumerate(candidates)})
    return float(whole), np.array([one["All"]["f"] if isinstance(one, dict) else one for one in each], float)
