"""What every `multiway evaluate TASK` shares: one model or two, intervals, slices, the sheet of errors."""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from multiway.cli.arguments import Parser
from multiway.cli.flags import check_file
from multiway.cli.model import add_device
from multiway.errors import UserError


def add_deciding(parser: Parser, *, upload: str | None = None) -> None:
    """The flags that `decide` reads.

    Args:
        upload: what --predictions writes; None: the task has no such flag.
    """
    add = parser.add_argument
    parser.set_defaults(predictions=None)
    if upload is not None:
        add("--predictions", type=Path, metavar="FILE", help=f"write what the model says: {upload}")
    add("--model", help="model folder, hub id or official checkpoint")
    add("--compare", nargs=2, metavar=("A", "B"), help="instead of --model: is B better, sample by sample?")
    about = "the main figure by this column of the data; may be given again"
    add("--slice", action="append", default=[], metavar="COLUMN", help=about)
    add("--sheet", type=Path, metavar="FILE.html", help="write the worst samples with pictures")
    add("--card", action="store_true", help="write the figures and this command into the model's card")
    add_device(parser)
    add("--json", action="store_true", help="print one JSON object")


def check(args: argparse.Namespace) -> None:
    """Refuse flags that do not go together, before anything is loaded."""
    if (args.model is None) == (args.compare is None):
        raise UserError("give --model MODEL, or --compare A B for two models")
    if args.compare is not None and (args.sheet or args.slice):
        raise UserError("--sheet and --slice are for one model: give --model instead of --compare")
    if args.predictions is not None and args.compare is not None:
        raise UserError("--predictions is for one model: give --model instead of --compare")
    if args.card and (args.model is None or not (Path(args.model) / "config.json").is_file()):
        raise UserError("--card writes into a model folder: give one as --model")
    if args.sheet is not None and args.sheet.suffix.lower() not in (".html", ".htm"):
        raise UserError(f"--sheet {args.sheet} is a page: name it x.html")
    for flag, path in (("--predictions", args.predictions), ("--sheet", args.sheet)):
        if path is not None:
            check_file(flag, path)


def decide(
    args: argparse.Namespace,
    opened: Callable[[Any], Any],
    measure: Callable[[Any, Any, Callable[[str, int, int], None]], Any],
    show: Callable[[Any], None],
) -> None:
    """Measure, and print what was asked for.

    Args:
        opened: the (first) model -> the samples, of which `image(i)` and, for slices, `meta(i)` are asked.
        measure: a model, samples and progress -> a Measurement with `result`, `outcomes` and `sentence`.
        show: prints a Measurement for a person.
    """
    import multiway
    from multiway.cli.decided import note, print_comparison, print_details
    from multiway.cli.model import progress_bar
    from multiway.tasks.outcomes import compare, metadata, slices
    from multiway.train.parallel import choose_device

    found: list[Any] = []
    data: Any = None
    for name in args.compare or [args.model]:
        model = multiway.load(name, device=choose_device(args.device))
        data = opened(model) if data is None else data
        with progress_bar() as progress:
            found.append(measure(model, data, progress))
    if args.compare is not None:
        print_comparison(compare(found[0].outcomes, found[1].outcomes), args)
        return
    one = counted(found[0], data)
    result, outcomes = one.result | ({"skipped": one.skipped} if one.skipped else {}), one.outcomes
    if outcomes is None and args.predictions is not None and (args.slice or args.sheet or args.card):
        raise UserError(
            f"the data has no labels, so that {args.predictions} alone is written: leave out --slice, "
            "--sheet and --card"
        )
    if outcomes is not None:
        result["intervals"] = outcomes.intervals()
        cut = {column: slices(outcomes, metadata(data.meta, outcomes, column)) for column in args.slice}
        result |= {"slices": cut} if cut else {}
        if args.sheet is not None:
            from multiway.tasks.error_sheet import write_sheet

            rows = [row | {"value": f"{c}: {row['value']}"} for c, found in cut.items() for row in found]
            write_sheet(args.sheet, f"{args.model}: {outcomes.main}", outcomes, data.image, sliced=rows)
        if args.card:
            note(outcomes, result, args)
    if args.json:
        print(json.dumps(result, ensure_ascii=False))
        return
    print(one.sentence())
    if args.predictions is not None:
        print(f"predictions in {args.predictions}")
        if outcomes is None:
            print("the data has no labels to compare with")
            return
    show(one)
    if outcomes is not None:
        print_details(outcomes, result, args)


def counted(found: Any, data: Any) -> Any:
    """A Measurement whose `skipped` also counts the rows that indexing the data could not use."""
    from collections import Counter
    from dataclasses import replace

    return replace(found, skipped=dict(Counter(found.skipped) + Counter(data.problems)))
