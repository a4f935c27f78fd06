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

    from multiway.systems import SYSTEMS
    from multiway.systems.parts import profile

    rows = {name: profile(name) for name in SYSTEMS}
    if args.json:
        print(
            json.dumps({name: {"paper": SYSTEMS[name].paper, "parts": parts} for name, parts in rows.items()})
        )
        return

    from rich import box
    from rich.console import Console
    from rich.table import Table

    table = Table("system", "paper", box=box.SIMPLE, caption="shares are vision / text / interaction")
    units = {"parameters": "M parameters", "gflops": "GFLOPs a pair"}
    for unit in units.values():
        table.add_column(unit, justify="right", no_wrap=True)
        table.add_column("shares", justify="right", no_wrap=True)
    for name, parts in rows.items():
        cells = []
        for unit in units:
            sizes = [part[unit] for part in parts.values()]
            total = sum(sizes)
            cells += [f"{total:,.1f}", " / ".join(f"{size / total:.0%}" for size in sizes)]
        table.add_row(name, SYSTEMS[name].paper, *cells)
    console = Console()
    (console if console.is_terminal else Console(width=120)).print(table)
