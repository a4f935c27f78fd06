"""What `multiway evaluate` prints and writes beside a task's own lines."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import Any

NEITHER = "no difference that these data can show"


def note(outcomes: Any, result: dict[str, Any], args: argparse.Namespace) -> None:
    """Into the model's card: the figures and the command that measured them."""
    import sys

    from multiway.weights.card import add_metrics

    spread = {
        n: "{:.2f} ({:.2f} to {:.2f})".format(v, *result["intervals"][n])
        for n, v in outcomes.values().items()
    }
    said = " ".join(["multiway", *(word for word in sys.argv[1:] if word != "--card")])
    add_metrics(Path(args.model), f"{len(outcomes):,} samples", spread, said)


def print_details(outcomes: Any, result: dict[str, Any], args: argparse.Namespace) -> None:
    """Intervals, slices, and where the sheet is."""
    values = outcomes.values()
    spread = ", ".join("{} {:.1f} to {:.1f}".format(n, *result["intervals"][n]) for n in values)
    print(f"bootstrap, 95 %: {spread}")
    for column, rows in result.get("slices", {}).items():
        for row in rows:
            figure = "{:.1f} ({:.1f} to {:.1f})".format(row["figure"], *row["interval"])
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
        change = "{difference:+.2f} ({low:+.2f} to {high:+.2f}), p {p:.3f}".format(**row)
        print(f"{name:<10}  A {row['first']:.2f}  B {row['second']:.2f}  B - A {change}")
    main = found["figures"][found["main"]]
    better = "B is better" if main["low"] > 0 else "A is better" if main["high"] < 0 else NEITHER
    print(f"by {found['main']}: {better}")


def share(values: dict[str, Any], name: str) -> str:
    """A share in percent with its interval."""
    return "{:.1f} ({:.1f} to {:.1f})".format(values[name], *values["interval"])
