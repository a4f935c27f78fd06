"""`multiway caption PICTURES --model MODEL`: what pictures show, printed or written for what comes next."""

from __future__ import annotations

import argparse
from collections.abc import Sequence

from multiway.cli.arguments import Parser
from multiway.cli.model import add_device, load_model, progress_bar
from multiway.errors import UserError

FORMATS = ("jsonl", "imagefolder", "txt", "tar")
NAMED = 10  # bad pictures that are named on the terminal; the file has all


def add_generation(parser: Parser) -> None:
    """The flags of generation; `options_of` reads them."""
    parser.add_argument(
        "--method", choices=("beam", "greedy", "sample"), default="beam", help="search, or draw (nucleus)"
    )
    parser.add_argument("--n", type=int, default=1, help="captions a picture, best first")
    parser.add_argument("--beams", type=int, help="of beam search; without it 3, or n")
    parser.add_argument("--prompt", help="what every caption continues; without it the model's own")
    parser.add_argument("--min-length", type=int, help="new tokens, the end token included; else the model's")
    parser.add_argument("--max-length", type=int, help="likewise")
    parser.add_argument("--top-p", type=float, help="of sample: draw from this mass; without it 0.9")
    parser.add_argument("--top-k", type=int, help="of sample: draw from the likeliest k only")
    parser.add_argument("--temperature", type=float, help="of sample: below 1 is bolder, above 1 wilder")
    parser.add_argument("--repetition-penalty", type=float, help="above 1 discourages repeated words")
    parser.add_argument("--seed", type=int, default=0, help="of sample")


def options_of(args: argparse.Namespace):
    """The `Options` that the arguments of `add_generation` say."""
    from multiway.tasks.caption_many import Options

    if args.n < 1:
        raise UserError(f"--n is {args.n}: give at least 1 caption a picture")
    return Options(
        method=args.method,
        number=args.n,
        beams=args.beams,
        prompt=args.prompt,
        min_length=args.min_length,
        max_length=args.max_length,
        top_p=args.top_p,
        top_k=args.top_k,
        temperature=args.temperature,
        repetition_penalty=args.repetition_penalty,
        seed=args.seed,
    )


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
    parser.add_argument("--batch-size", type=int, default=8, help="pictures at a time")
    parser.add_argument("--shard-size", type=int, default=1000, help="pictures in a tar")
    parser.add_argument("--overwrite", action="store_true", help="caption anew what has captions")
    add_device(parser)
    args = parser.parse(argv)
    format = _format(args)
    options = options_of(args)
    if args.batch_size < 1:
        raise UserError(f"--batch-size is {args.batch_size}: give at least 1")

    import time
    from dataclasses import asdict
    from pathlib import Path

    from multiway.search.index import fingerprint
    from multiway.search.pictures import open_pictures
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
    load = opener(pictures, numbers)

    def make(start: int):
        return caption_pictures(model, keys, load, options=options, batch_size=args.batch_size, start=start)

    done, bad, before, began = 0, [], 0, time.monotonic()
    if output is None:
        for rows in make(0):
            _print(rows)
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
    _report(done, before, bad, time.monotonic() - began, output)
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


def _print(rows) -> None:
    import sys

    for row in rows:
        if row.error is not None:
            print(f"{row.key}: skipped ({row.error})", file=sys.stderr)
        for caption in row.captions:
            print(f"{row.key}\t{caption}", flush=True)


def _report(done: int, before: int, bad: list, seconds: float, output) -> None:
    """What was done, at what rate, and what could not be used."""
    import sys
    from collections import Counter

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
