"""What the samples of a source say of their licence, and whether they may be used."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any, Protocol, runtime_checkable

from multiway.data.sample import BadSample
from multiway.data.tables import truth

LOOKED_AT = 200  # samples, spread evenly
NAMES = ("licence", "license", "rights")
OPT_OUTS = ("opt_out", "optout", "noai", "do_not_train")


@runtime_checkable
class Described(Protocol):
    """Samples of which something is said."""

    def __len__(self) -> int: ...
    def meta(self, i: int) -> dict[str, Any]: ...


def stated(meta: Mapping[str, Any], names: Sequence[str]) -> Any:
    """What the first of these columns says that is not empty, however it is capitalised; None: none does."""
    lower = {str(column).strip().lower(): value for column, value in meta.items()}
    return next((lower[name] for name in names if lower.get(name) not in (None, "")), None)


def opts_out(meta: Mapping[str, Any]) -> bool:
    """Whether one of the columns `OPT_OUTS` says so."""
    said = (value for column, value in meta.items() if str(column).strip().lower() in OPT_OUTS)
    return any(
        truth(value) is not False and str(value).strip().lower() not in ("", "none", "nan") for value in said
    )


def licences(samples: Described, source: str) -> str:
    """A few words: the licences of the samples, the most frequent first."""
    if source.startswith(("scenes:", "boxes:")):
        return "drawn by multiway, Apache-2.0"
    count = min(LOOKED_AT, len(samples))
    found: Counter[str] = Counter()
    for k in range(count):
        try:
            meta = samples.meta(k * len(samples) // count)
        except BadSample:
            continue
        found[str(stated(meta, NAMES) or "not stated")] += 1
    if len(found) == 1:
        return next(iter(found))
    return ", ".join(f"{name} ({n} of {count} looked at)" for name, n in found.most_common(5)) or "not stated"
