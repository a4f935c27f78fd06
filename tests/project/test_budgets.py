"""Files stay short: a budget that nothing checks is only a wish."""

from __future__ import annotations

from pathlib import Path

import pytest

import multiway

PACKAGE = Path(multiway.__file__).parent
HARD_CAP = 400
SYSTEM = 250  # a system's file reads as its figure
LOOP = 200  # the loop is one page


def lines(path: Path) -> int:
    return len(path.read_text().splitlines())


@pytest.mark.parametrize("path", sorted((PACKAGE / "systems").glob("*.py")), ids=lambda path: path.name)
def test_a_system_is_a_short_file(path):
    assert lines(path) <= SYSTEM


def test_the_loop_is_one_page():
    assert lines(PACKAGE / "train" / "loop.py") <= LOOP


def test_no_file_is_long():
    long = {str(path.relative_to(PACKAGE)): lines(path) for path in PACKAGE.rglob("*.py")}
    assert not {name: count for name, count in long.items() if count > HARD_CAP}


def test_commands_are_thin():
    for path in (PACKAGE / "cli").glob("*.py"):
        assert lines(path) <= 120, path.name
