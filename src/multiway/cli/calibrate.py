"""`multiway calibrate`: what probability a match has, fitted on gold pairs."""

from __future__ import annotations

from collections.abc import Sequence


def calibrate(argv: Sequence[str]) -> None:
    """Fit, report the calibration error before and after, and keep the fit in the model folder."""
    from multiway.cli.arguments import Parser
    from multiway.cli.flags import positive
    from multiway.cli.model import add_device, load_model, progress_bar

    parser = Parser(
        "multiway calibrate",
        "Fit the probability of a match on pairs that a person labelled, and write calibration.json into the "
        "model folder: `match` and `search` use it from then on. The expected calibration error (ECE) after "
        "is of pairs that did not fit it, in five folds by picture.",
    )
    parser.add_argument("--model", required=True, help="model folder")
    parser.add_argument("--data", required=True, help="a table of image, text and label (1 or 0), or tars")
    parser.add_argument("--images", help="folder of the pictures that the table names")
    parser.add_argument(
        "--method", choices=("platt", "temperature"), default="platt", help="scale and bias, or scale alone"
    )
    parser.add_argument("--batch-size", type=positive, default=32, help="pairs at a time")
    parser.add_argument("--dry-run", action="store_true", help="report alone")
    add_device(parser)
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    args = parser.parse(argv)

    import json
    from dataclasses import asdict
    from pathlib import Path

    from multiway.data.gold import GoldPairs
    from multiway.tasks import calibrate as task

    pairs = GoldPairs(args.data, images=args.images)
    model = load_model(args)
    with progress_bar() as progress:
        found = task.calibrate(
            model, pairs, method=args.method, batch_size=args.batch_size, progress=progress
        )
    if not args.dry_run:
        task.save(found, Path(args.model))
    if args.json:
        print(json.dumps(asdict(found)))
        return
    before = "" if found.ece_before is None else f"{found.ece_before:.4f} before, "
    print(f"{found.pairs:,} gold pairs: ECE {before}{found.ece_after:.4f} after, on held-out folds")
    print(f"p = sigmoid({found.scale:.4f} * {found.score} {found.bias:+.4f})")
    print("nothing written" if args.dry_run else f"written to {args.model}; match and search use it")
