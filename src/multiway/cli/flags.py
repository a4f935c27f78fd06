"""What flags are given: counts, and places to write to."""

from __future__ import annotations

import argparse
from pathlib import Path

from multiway.errors import UserError


def positive(text: str) -> int:
    """The type of a flag that counts something: a whole number of at least 1."""
    try:
        number = int(text)
    except ValueError:
        number = 0
    if number < 1:
        raise argparse.ArgumentTypeError(f"{text!r} is no whole number of at least 1")
    return number


def check_folder(flag: str, path: str | Path) -> None:
    """Refuse a folder that can't be made, before any work is done for it.

    Raises:
        UserError: a file lies there, or where a folder above it should be.
    """
    path = Path(path)
    for part in (path, *path.parents):
        if part.exists():
            if not part.is_dir():
                raise UserError(f"{flag} {path} can't be written, because {part} is a file: name another")
            return


def check_file(flag: str, path: str | Path) -> None:
    """Refuse a file that can't be written, before any work is done for it.

    Raises:
        UserError: a folder lies there, or a file where a folder above it should be.
    """
    path = Path(path)
    if path.is_dir():
        raise UserError(f"{flag} {path} is a folder: name a file in it")
    check_folder(flag, path.parent)
