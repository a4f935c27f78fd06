"""Key maps: one list of entries a layout, read in both directions.

An entry says which tensors of a published layout make one tensor of ours. The same list loads a checkpoint,
exports ours in that layout, and renames gradients or optimizer state, because every operation is linear and
invertible.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor


@dataclass(frozen=True)
class Op:
    """How tensors of the layout become ours, and how ours becomes `n` of them again."""

    ours: Callable[[Sequence[Tensor]], Tensor]
    theirs: Callable[[Tensor, int], Sequence[Tensor]]


COPY = Op(lambda t: t[0], lambda t, n: [t])
#: Several matrices under each other: query, key, value.
STACK = Op(lambda t: torch.cat(list(t)), lambda t, n: t.chunk(n))
TRANSPOSE = Op(lambda t: t[0].T, lambda t, n: [t.T])
#: A scalar of ours that the layout stores as `[1]`.
SCALAR = Op(lambda t: t[0].reshape(()), lambda t, n: [t.reshape(1)])
#: Ours has one or two leading axes of length 1 more than theirs, or theirs one more than ours.
LEAD1 = Op(lambda t: t[0][None], lambda t, n: [t[0]])
LEAD2 = Op(lambda t: t[0][None, None], lambda t, n: [t[0, 0]])
ROW = Op(lambda t: t[0][0], lambda t, n: [t[None]])


@dataclass(frozen=True)
class Entry:
    """One tensor of ours and where it lies in the layout.

    Attributes:
        ours: our name. theirs: the layout's names that make it.
        also: further names that hold the same tensors (ties): `theirs` once more, or several times more.
        share: (first, last, of): ours are the parts `first` to `last` - 1 of `of` equal ones, by rows, of
            their one tensor; other entries take the others.
    """

    ours: str
    theirs: tuple[str, ...]
    op: Op = COPY
    also: tuple[str, ...] = ()
    share: tuple[int, int, int] | None = None

    def ties(self) -> list[tuple[str, ...]]:
        """Names of the layout that hold one tensor; only where there are several."""
        return [(name, *self.also[i :: len(self.theirs)]) for i, name in enumerate(self.theirs) if self.also]


@dataclass(frozen=True)
class Layout:
    """Every entry of a layout, and the `constants` beside them: written on export, ignored on load."""

    entries: tuple[Entry, ...]
    constants: Mapping[str, Tensor] = field(default_factory=dict)

    def keys(self) -> set[str]:
        """Every key that the layout stores."""
        return {k for e in self.entries for k in (*e.theirs, *e.also)} | set(self.constants)


@dataclass(frozen=True)
class Report:
    """What a load did: our names that were matched, resized or missing, and the keys that were left over."""

    matched: tuple[str, ...]
    resized: tuple[str, ...]
    missing: tuple[str, ...]
    unexpected: tuple[str, ...]

    def sentence(self) -> str:
        """One line for a person."""
        parts = [f"{len(self.matched)} tensors matched"]
        for name in ("resized", "missing", "unexpected"):
            names = getattr(self, name)
            if names:
                shown = ", ".join(names[:4]) + (f" and {len(names) - 4} more" if len(names) > 4 else "")
                parts.append(f"{len(names)} {name} ({shown})")
        return "; ".join(parts)


def to_ours(layout: Layout, tensors: Mapping[str, Tensor]) -> tuple[dict[str, Tensor], list[str], list[str]]:
    """Our tensors from a checkpoint's; with our names that it lacks, and its keys that nothing took."""
    ours, missing = {}, []
    for entry in layout.entries:
        if all(name in tensors for name in entry.theirs):
            found = [tensors[name] for name in entry.theirs]
            if entry.share is not None:
                first, last, of = entry.share
                found = [found[0].unflatten(0, (of, -1))[first:last].flatten(0, 1)]
            ours[entry.ours] = entry.op.ours(found)
        else:
            missing.append(entry.ours)
    return ours, missing, sorted(set(tensors) - layout.keys())


def to_theirs(layout: Layout, tensors: Mapping[str, Tensor], *, ties: bool = True) -> dict[str, Tensor]:
    """The layout's tensors from ours; names of ours that are absent are left out.

    Args:
        ties: also write the further names of tied tensors, and the constants.
    """
    theirs: dict[str, Tensor] = {}
    shares: dict[str, dict[tuple[int, int, int], Tensor]] = {}
    for entry in layout.entries:
        if entry.ours in tensors and entry.share is not None:
            shares.setdefault(entry.theirs[0], {})[entry.share] = tensors[entry.ours]
        elif entry.ours in tensors:
            parts = entry.op.theirs(tensors[entry.ours], len(entry.theirs))
            theirs.update(zip(entry.theirs, parts, strict=True))
            if ties:
                theirs.update({name: parts[i % len(parts)] for i, name in enumerate(entry.also)})
    for name, found in shares.items():
        if sum(last - first for first, last, _ in found) == next(iter(found))[2]:
            theirs[name] = torch.cat([found[share] for share in sorted(found)])
    return {**theirs, **layout.constants} if ties else theirs


def linear(ours: str, theirs: str | Sequence[str]) -> list[Entry]:
    """Weight and bias of a Linear or LayerNorm, of one module of the layout or of several stacked."""
    names = [theirs] if isinstance(theirs, str) else list(theirs)
    op = STACK if len(names) > 1 else COPY
    return [Entry(f"{ours}.{part}", tuple(f"{n}.{part}" for n in names), op) for part in ("weight", "bias")]


def pairs(ours: str, theirs: str, names: Iterable[tuple[str, str]]) -> list[Entry]:
    """`linear` for (ours, theirs) names under two prefixes."""
    return [entry for a, b in names for entry in linear(f"{ours}{a}", f"{theirs}{b}")]
