"""`multiway caption PICTURES --model MODEL`: what pictures show, printed or written for what comes next."""

from __future__ import annotations

import argparse
from collections.abc import Sequence

from multiway.cli.arguments import Parser
from multiway.cli.caption_report import print_captions, report
from multiway.cli.flags import check_file, check_folder, positive
from multiway.cli.generation import add_generation, options_of
from multiway.cli.model import add_device, load_model, progress_bar
from multiway.errors import UserError

FORMATS = ("jsonl", "imagefolder", "txt", "tar")


def caption(argv: Sequence[str]) -> None:
    """Caption pictures; print the captions, or write them in a format and go on where a run was stopped."""
    parser = Parser(
        "multiway caption",
        "What pictures show. Without --out or --format each caption is printed beside its picture's name. An "
        "interrupted command goes on where it stopped when it is given again.",
    )
    parser.add_argument("pictures", nargs="+", help="picture files, a folder (folders within count), or tars")
    parser.add_argument("--model", required=True, help="model folder, hub id or official checkpoint")
    parser.add_argument("--out", help="x.jsonl, or the folder of tars or texts")
    parser.add_argument(
        "--format",
        choices=FORMATS,
        help="jsonl; imagefolder: metadata.jsonl in the folder of pictures; txt: a text beside each picture; "
        "tar: img2dataset shards",
    )
    add_generation(parser)
    parser.add_argument("--batch-size", type=positive, default=8, help="pictures at a time")
    parser.add_argument("--shard-size", type=positive, default=1000, help="pictures in a tar")
    parser.add_argument("--overwrite", action="store_true", help="caption anew what has captions")
    add_device(parser)
    args = parser.parse(argv)
    format = _format(args)
    options = options_of(args)

    if args.out is not None:
        (check_file if format == "jsonl" else check_folder)("--out", args.out)

    import time
    from dataclasses import asdict
    from pathlib import Path

    from multiway.data.pictures import open_pictures
    from multiway.search.index import fingerprint
    from multiway.tasks.caption_many import caption_pictures, captioning
    from multiway.tasks.caption_output import Output, opener

    pictures = open_pictures(*args.pictures)
    output = None
    if format is not None:
        out = None if args.out is None else Path(args.out)
        output = Output(pictures, format, out, shard_size=args.shard_size, overwrite=args.overwrite)
        if not output.numbers:
            print(
                f"nothing to do: all {len(pictures.keys):,} pictures have a .txt (--overwrite for new ones)"
            )
            return
    numbers = range(len(pictures.keys)) if output is None else output.numbers
    keys = [pictures.keys[number] for number in numbers]
    model = captioning(load_model(args))
    options.config(model)  # refused here, nothing is written or overwritten for it
    load = opener(pictures, numbers)

    def make(start: int):
        return caption_pictures(model, keys, load, options=options, batch_size=args.batch_size, start=start)

    done, bad, before, began = 0, [], 0, time.monotonic()
    if output is None:
        for rows in make(0):
            print_captions(rows)
            bad += [row for row in rows if row.error is not None]
        done = len(keys)
    else:
        settings = {"model": fingerprint(model), "batch_size": args.batch_size, **asdict(options)}
        batches = output.run(settings, make)
        with progress_bar() as progress:
            for i, rows in enumerate(batches):
                done += len(rows)
                before = done if i == 0 else before
                bad += [row for row in rows if row.error is not None]
                progress("captions", done, len(keys))
    report(done, before, bad, time.monotonic() - began, output)
    if output is None and len(bad) == len(keys):
        raise UserError("no picture can be used: give JPEG, PNG or WebP files")


def _format(args: argparse.Namespace) -> str | None:
    """What is written; None prints.

    Raises:
        UserError: --out alone does not say it.
    """
    if args.format is None and args.out is not None:
        if args.out.endswith(".jsonl"):
            return "jsonl"
        raise UserError(f"--out {args.out} does not say what to write: name it x.jsonl, or give --format")
    return args.format
