"""Folders written aside, then put in place: a kill at any moment leaves the old or the new one, whole."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def replacing(target: Path) -> Iterator[Path]:
    """A new folder beside `target` that takes its place when the block ends without an exception.

    What was there moves to `.NAME.old` for the instant between two renames: `standing` finds it there.
    """
    aside, old = target.with_name(f".{target.name}.new"), target.with_name(f".{target.name}.old")
    shutil.rmtree(aside, ignore_errors=True)
    aside.mkdir(parents=True)
    try:
        yield aside
        for file in aside.rglob("*"):
            _to_disk(file)
        if target.exists():
            shutil.rmtree(old, ignore_errors=True)  # half deleted, as `target` is there
            os.rename(target, old)
        os.rename(aside, target)
        _to_disk(target.parent)
    finally:
        shutil.rmtree(aside, ignore_errors=True)
    shutil.rmtree(old, ignore_errors=True)


def standing(target: Path) -> Path:
    """Where the folder `target` is: at its name, or where a killed `replacing` had moved it."""
    old = target.with_name(f".{target.name}.old") if target.name else target
    return old if old.is_dir() and not target.exists() else target


def _to_disk(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
