"""What `multiway caption` prints: captions, and what became of the pictures."""

from __future__ import annotations

import sys
from collections import Counter

NAMED = 10  # bad pictures that are named on the terminal; the file has all


def print_captions(rows) -> None:
    """A line a caption; what was skipped goes to stderr."""
    for row in rows:
        if row.error is not None:
            print(f"{row.key}: skipped ({row.error})", file=sys.stderr)
        for caption in row.captions:
            print(f"{row.key}\t{caption}", flush=True)


def report(done: int, before: int, bad: list, seconds: float, output) -> None:
    """What was done, at what rate, and what could not be used."""
    made = done - before
    line = f"{done - len(bad):,} pictures captioned"
    line += f", {before:,} of them by an earlier run;" if before else ""
    line += f" in {seconds:.1f} s ({made / max(seconds, 1e-9):.1f} pictures/s)"
    if bad:
        counts = Counter(row.error for row in bad)
        line += "; skipped " + ", ".join(f"{reason} {count:,}" for reason, count in counts.most_common())
    if output is None:
        print(line, file=sys.stderr)
        return
    print(f"{line}; captions in {output.target}")
    if bad:
        names = ", ".join(row.key for row in bad[:NAMED])
        print(
            f"skipped: {names}{', ...' if len(bad) > NAMED else ''}; all in {output.skipped}", file=sys.stderr
        )
