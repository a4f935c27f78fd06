"""`scores/NAME.jsonl`: what was captioned and scored of one shard, a line a batch, written as it is known.

A batch that stands here is never computed again: not by a resumed run, and not when another threshold is
tried. The first line says which shard this is. A killed process leaves at most a torn last line, which is cut
off.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

from multiway.errors import UserError


class Journal:
    """The journal of one shard, opened to be gone on with.

    Attributes:
        rows: what stands in it: a dict a picture, in the shard's order.
        batches: how many batches that is.
    """

    def __init__(self, file: IO[bytes], head: dict[str, Any], path: Path):
        self.file = file
        lines, end = _whole_lines(file)
        file.truncate(end)
        file.seek(end)
        self.batches = max(len(lines) - 1, 0)
        if not self.batches:  # whatever was begun here, nothing is lost by beginning anew
            file.truncate(0)
            self._write(head)
        elif lines[0] != head:
            raise UserError(other_input(path, lines[0], head))
        self.rows: list[dict[str, Any]] = [row for line in lines[1:] for row in line]

    def add(self, rows: list[dict[str, Any]]) -> None:
        """The rows of the next batch; a kill after this loses none of them."""
        self._write(rows)
        self.rows += rows
        self.batches += 1

    def _write(self, value: Any) -> None:
        self.file.write(json.dumps(value, ensure_ascii=False).encode() + b"\n")
        self.file.flush()  # a killed process loses nothing of it; after a power cut the whole lines count


@contextmanager
def opened(path: Path, head: dict[str, Any]) -> Iterator[Journal]:
    """The journal at `path`, to this process alone: another one, perhaps orphaned, is waited for.

    Raises:
        UserError: it belongs to another shard than `head` says.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with open(path, "a+b") as file:
        lock(file)
        yield Journal(file, head, path)


def read(path: Path) -> list[dict[str, Any]]:
    """The rows in a journal."""
    with open(path, "rb") as file:
        lines, _ = _whole_lines(file)
    return [row for line in lines[1:] for row in line]


def lock(file: IO[bytes], *, wait: bool = True) -> bool:
    """Take the file for this process until it is closed; False where it is taken and `wait` is off."""
    try:
        import fcntl
    except ImportError:  # no such locks on this system: nothing to wait for
        return True
    try:
        fcntl.flock(file, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
    except BlockingIOError:
        return False
    return True


def _whole_lines(file: IO[bytes]) -> tuple[list[Any], int]:
    """The lines that are whole, and where they end in the file."""
    file.seek(0)
    lines, end = [], 0
    for line in file:
        if not line.endswith(b"\n"):
            break
        try:
            lines.append(json.loads(line))
        except ValueError:
            break
        end += len(line)
    return lines, end


def other_input(path: Path, old: Any, new: dict[str, Any]) -> str:
    """The sentence that `path` was made of something else than `new` says."""
    known = old if isinstance(old, dict) else {}
    differing = ", ".join(key for key in new if known.get(key) != new[key]) or "shard"
    return (
        f"{path} was written for another {differing}: the input or the settings have changed since this run "
        "began; choose another output folder"
    )
