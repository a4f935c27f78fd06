"""What the scripts here share: where figures lie, a file written whole, a model trained once."""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from multiway.cli.main import main as run_cli

ROOT = Path(__file__).resolve().parents[1]
FIGURES = ROOT / "docs" / "figures"


def write(path: Path, found: Any) -> None:
    """Write JSON whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    aside = path.with_suffix(".part")
    aside.write_text(json.dumps(found, indent=1) + "\n")
    os.replace(aside, path)


def trained(
    out: Path, train: Callable[[], Any], clock: Callable[[], float] = time.monotonic
) -> tuple[Path, float]:
    """The model in `out`, trained unless it is there; and the seconds that took in all.

    Args:
        clock: `time.process_time` counts this process's work alone, where others keep the machine busy.
    """
    spent = out / "seconds"
    if not (out / "model").exists():
        began, before = clock(), float(spent.read_text()) if spent.exists() else 0.0
        train()
        if out.exists():  # else it ended before its first step
            spent.write_text(str(before + clock() - began))
        if not (out / "model").exists():
            sys.exit("stopped: the same command goes on from here")
    return out / "model", round(float(spent.read_text()), 1)


def train(recipe: str, out: Path, flags: list[str]) -> float:
    """`multiway train` of a recipe into `out`, unless its model is there; the seconds that took in all."""
    return trained(out, lambda: run_cli(["train", recipe, *flags, "--out", str(out)]))[1]
