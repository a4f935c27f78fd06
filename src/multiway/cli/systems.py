"""`multiway systems`: what there is, and where parameters and FLOPs lie in the field's own taxonomy."""

from __future__ import annotations

from collections.abc import Sequence


def systems(argv: Sequence[str]) -> None:
    """Print a row a system: paper, size, and the shares of vision, text and interaction."""
    from multiway.cli.arguments import Parser

    parser = Parser(
        "multiway systems",
        "The systems at their papers' sizes, with the share of parameters and of one pair's forward FLOPs in "
        "vision, text and their interaction.",
    )
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    args = parser.parse(argv)

    import json

    from multiway.systems import SYSTEMS, profile

    rows = {name: profile(name) for name in SYSTEMS}
    if args.json:
        print(json.dumps(rows))
        return
