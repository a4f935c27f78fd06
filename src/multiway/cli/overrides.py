"""Dotted flags over a frozen dataclass: `--train.lr 1e-4` replaces one leaf of a run."""

from __future__ import annotations

import contextlib
import io
from collections.abc import Iterator, Sequence, Set
from dataclasses import fields, is_dataclass
from typing import Any, TypeVar

from multiway.cli.arguments import refuse
from multiway.errors import UserError

T = TypeVar("T")


def override(value: T, argv: Sequence[str], *, prog: str, kind: Any = None, group: str = "train") -> T:
    """`value` with the leaves that `argv` names replaced; `--help` prints all of them with their values.

    Args:
        kind: the type to read flags by, where `type(value)` leaves a parameter open.
        group: a flag without a dot is short for this field's: `--seed` for `--train.seed`.

    Raises:
        UserError: unknown flag, or a value of the wrong type.
    """
    import tyro

    leaves = dict(flags_of(value))
    flags = list(leaves)
    argv = [_long(word, flags, group) for word in argv]
    argv = _booleans(argv, {flag for flag, leaf in leaves.items() if isinstance(leaf, bool)})
    box = io.StringIO()
    try:
        with contextlib.redirect_stderr(box):
            # A config's union keeps the kind that the recipe chose; its leaves are what flags change.
            config = (tyro.conf.AvoidSubcommands, tyro.conf.FlagConversionOff)
            result, rest = tyro.cli(
                kind or type(value),
                prog=prog,
                default=value,
                args=argv,
                config=config,
                return_unknown_args=True,
            )
    except SystemExit as left:
        if left.code == 0:
            raise
        raise UserError(f"{_sentence(box.getvalue())}; see {prog} --help") from left
    refuse(prog, rest, flags)
    return result


def flags_of(value, prefix: str = "--") -> Iterator[tuple[str, Any]]:
    """The dotted flag of every leaf of a dataclass instance, and the leaf."""
    for field in fields(value):
        leaf, name = getattr(value, field.name), f"{prefix}{field.name.replace('_', '-')}"
        if is_dataclass(leaf):
            yield from flags_of(leaf, f"{name}.")
        elif isinstance(leaf, tuple) and leaf and all(map(is_dataclass, leaf)):
            for i, item in enumerate(leaf):
                yield from flags_of(item, f"{name}.{i}.")
        else:
            yield name, leaf


def _long(word: str, flags: Sequence[str], group: str) -> str:
    name, equals, value = word.partition("=")
    name = name.replace("_", "-")
    long = f"--{group}.{name[2:]}"
    return f"{long}{equals}{value}" if name.startswith("--") and name not in flags and long in flags else word


def _booleans(argv: Sequence[str], flags: Set[str]) -> list[str]:
    """`true` and `false` behind a flag of a truth value as tyro reads them, with a capital letter."""
    found: list[str] = []
    for word in argv:
        flag, equals, said = word.partition("=")
        if equals and flag.replace("_", "-") in flags and said in ("true", "false"):
            word = f"{flag}={said.capitalize()}"
        elif found and found[-1].replace("_", "-") in flags and word in ("true", "false"):
            word = word.capitalize()
        found.append(word)
    return found


def _sentence(box: str) -> str:
    """The middle of tyro's framed message, on one line and without its frame."""
    lines = [line.strip(" │┃|╭╮╰╯─━-") for line in box.splitlines()]
    lines = [line for line in lines if line]
    body = []
    for line in lines[1:]:  # the first is the title
        if line.startswith(("Argument helptext", "For full helptext")):
            break
        body.append(line)
    return " ".join(body).rstrip(".") or "the flags can't be read"
