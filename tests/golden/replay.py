"""Replays recorded runs of the official code with ours, and says where they differ.

    python tests/golden/replay.py [CASE_DIR ...] [--json]

A line a case: tensors and recorded facts compared, excused, elements left out at padded positions, failed,
and the worst error beside its tolerance. Without folders: all of tests/golden/cases. Exits with 1 on any
failure.
"""

from __future__ import annotations

import argparse
import json
import sys
from dataclasses import asdict
from pathlib import Path

import torch

HERE = Path(__file__).resolve().parent


def main() -> int:
    """The command; returns its exit code."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("folders", nargs="*", type=Path, metavar="CASE_DIR")
    parser.add_argument("--json", action="store_true", help="one object a line instead of text")
    arguments = parser.parse_args()
    # Python has put this folder on the path. Spawned ranks are given the whole of it, so they find these too:
    # the helpers beside all tests, and the package where it is not installed.
    sys.path[:0] = [str(HERE.parent), str(HERE.parents[1] / "src")]
    from comparison import case_folders, replay

    torch.set_num_threads(1)
    failures = 0
    for folder in arguments.folders or case_folders(HERE / "cases"):
        result = replay(folder)
        failures += bool(result.failed)
        print(json.dumps(asdict(result)) if arguments.json else result.line(), flush=True)
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main())
