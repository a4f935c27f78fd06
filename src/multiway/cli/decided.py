"""What `multiway evaluate` prints and writes beside a task's own lines."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

NO_OTHER = "not measured: there is no other picture"
NEITHER = "no difference that these data can show"


def note(outcomes: Any, result: dict[str, Any], args: argparse.Namespace) -> None:
    """Into the model's card: the figures and the command that measured them."""
    import sys

    from multiway.tasks.outcomes import between
    from multiway.weights.card import add_metrics

    figures = outcomes.values().items()
    spread = {n: f"{v:.2f} ({between(result['intervals'][n], 2)})" for n, v in figures}
    said = " ".join(["multiway", *(word for word in sys.argv[1:] if word != "--card")])
    add_metrics(Path(args.model), f"{len(outcomes):,} samples", spread, said)


def print_details(outcomes: Any, result: dict[str, Any], args: argparse.Namespace) -> None:
    """Intervals, slices, and where the sheet is."""
    from multiway.tasks.outcomes import between

    spread = ", ".join(f"{n} {between(result['intervals'][n], 1)}" for n in outcomes.values())
    print(f"bootstrap, 95 %: {spread}")
    for column, rows in result.get("slices", {}).items():
        for row in rows:
            figure = f"{row['figure']:.1f} ({between(row['interval'], 1)})"
            print(f"{column} {row['value']}: {row['n']:,} samples, {outcomes.main} {figure}")
    if args.sheet is not None:
        print(f"sheet of errors in {args.sheet}")


def print_comparison(found: dict[str, Any], args: argparse.Namespace) -> None:
    """Two models side by side, and which is better, if that can be said."""
    if args.json:
        print(json.dumps({"a": args.compare[0], "b": args.compare[1], **found}))
        return
    print(f"{found['n']:,} samples; A {args.compare[0]}, B {args.compare[1]}; paired bootstrap, 95 %")
    for name, row in found["figures"].items():
        ends = "no interval" if row["low"] is None else "{low:+.2f} to {high:+.2f}".format(**row)
        change = f"{row['difference']:+.2f} ({ends}), p {row['p']:.3f}"
        print(f"{name:<10}  A {row['first']:.2f}  B {row['second']:.2f}  B - A {change}")
    print(f"by {found['main']}: {verdict(found['figures'][found['main']])}")


def verdict(figure: dict[str, Any]) -> str:
    """Which is better by a figure of `tasks.outcomes.compare`, if that can be said."""
    from multiway.metrics.resample import LEAST

    low, high, differing = figure["low"], figure["high"], figure["differing"]
    if low is not None and low <= 0 <= high or not figure["difference"]:
        return NEITHER
    if differing < LEAST:
        return f"{NEITHER}: they differ on {differing} alone, and it takes {LEAST}"
    return "B is better" if low > 0 else "A is better"


def control(result: dict[str, Any], name: str) -> str:
    """The share under `shuffled`, or that there is none."""
    return NO_OTHER if result["shuffled"] is None else share(result["shuffled"], name)


def share(values: dict[str, Any], name: str) -> str:
    """A share in percent with its interval."""
    from multiway.tasks.outcomes import between

    return f"{values[name]:.1f} ({between(values['interval'], 1)})"
