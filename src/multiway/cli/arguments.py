"""Parsing that answers a slip with one sentence and the nearest name, instead of a usage dump."""

from __future__ import annotations

import argparse
import difflib
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from importlib import import_module
from typing import NoReturn

from multiway.errors import UserError


@dataclass(frozen=True)
class Command:
    """A command's function as "module:function", taking the arguments after its name, and a line about it."""

    target: str
    summary: str

    def load(self) -> Callable[[Sequence[str]], None]:
        """The function, imported now."""
        module, function = self.target.split(":")
        return getattr(import_module(module), function)


def nearest(word: str, names: Iterable[str]) -> str:
    """`; did you mean NAME?`, or nothing where no name is near."""
    close = difflib.get_close_matches(word, list(names), n=1, cutoff=0.5)
    return f"; did you mean {close[0]}?" if close else ""


def dispatch(prog: str, about: str, commands: Mapping[str, Command], argv: Sequence[str]) -> None:
    """Run the command that `argv` starts with, or list them all for `--help` and for nothing.

    Raises:
        UserError: no such command.
    """
    name = argv[0] if argv else "--help"
    if name in ("-h", "--help", "help"):
        width = max(map(len, commands))
        lines = [f"  {command:<{width}}  {entry.summary}" for command, entry in commands.items()]
        print("\n".join([f"usage: {prog} COMMAND ...", "", about, "", *lines, "", f"{prog} COMMAND --help"]))
        return
    if name not in commands:
        kind = "flag" if name.startswith("-") else "command"
        hint = nearest(name, commands) or f"; it has {', '.join(commands)}"
        raise UserError(f"{prog} has no {kind} {name!r}{hint}")
    commands[name].load()(argv[1:])


class _Defaults(argparse.ArgumentDefaultsHelpFormatter):
    """Shows a default where there is one."""

    def _get_help_string(self, action: argparse.Action) -> str | None:
        return action.help if action.default in (None, False) else super()._get_help_string(action)


class Parser(argparse.ArgumentParser):
    """argparse that raises `UserError` and shows every default."""

    def __init__(self, prog: str, about: str, **options):
        super().__init__(prog, description=about, formatter_class=_Defaults, allow_abbrev=False, **options)

    def error(self, message: str) -> NoReturn:
        """Raise instead of printing the usage and leaving."""
        raise UserError(f"{message}; see {self.prog} --help")

    def parse(self, argv: Sequence[str]) -> argparse.Namespace:
        """Parse all of `argv`.

        Raises:
            UserError: something is missing, unknown or of the wrong type.
        """
        # A misspelt flag is named before argparse complains that the right one is missing.
        flags = self._option_string_actions
        named = argv[: argv.index("--")] if "--" in argv else argv  # behind it all words are arguments
        refuse(self.prog, [w for w in named if w.startswith("--") and w.split("=")[0] not in flags], flags)
        values, rest = self.parse_known_args(argv)
        refuse(self.prog, rest, flags)
        return values


def refuse(prog: str, rest: Sequence[str], flags: Iterable[str]) -> None:
    """Raise a `UserError` about the first argument that nobody took, if there is one."""
    if not rest:
        return
    word = next((r for r in rest if r.startswith("-")), rest[0]).split("=")[0]
    if not word.startswith("-"):
        raise UserError(f"{prog}: unexpected argument {word!r}; see {prog} --help")
    raise UserError(f"{prog} has no flag {word}{nearest(word, flags) or f'; see {prog} --help'}")
