"""`multiway data inspect`: what a source of pairs holds, and what of it can't be used."""

from __future__ import annotations

import argparse
from collections.abc import Sequence

from multiway.cli.arguments import Command, Parser, dispatch

COMMANDS = {
    "inspect": Command("multiway.cli.data:inspect", "count pictures, texts and bad samples of a source"),
}


def data(argv: Sequence[str]) -> None:
    """Look at data."""
    dispatch("multiway data", "Look at a source of pairs before training on it.", COMMANDS, argv)


def add_source(parser: Parser, flag: str) -> None:
    """The arguments that name one source of pairs; `source_of` reads them."""
    about = (
        "shards (a tar, a folder, a glob, {000..009}.tar), a folder of pictures with csv or jsonl, "
        "COCO or Karpathy json, emoji, or scenes:N"
    )
    if flag.startswith("-"):
        parser.add_argument(flag, dest="source", required=True, help=about)
    else:
        parser.add_argument(flag, help=about)
    parser.add_argument("--images", help="folder of the pictures that an annotation file names")
    parser.add_argument("--split", help="of a Karpathy json, or of emoji: train, combination, style or all")
    parser.add_argument(
        "--texts", choices=("first", "all"), default="all", help="the first text of a picture, or all"
    )


def source_of(args: argparse.Namespace):
    """The `Source` that the arguments of `add_source` name."""
    from multiway.data.dataset import Source

    return Source(path=args.source, images=args.images, split=args.split, texts=args.texts)


def inspect(argv: Sequence[str]) -> None:
    """Read a source and print what is in it."""
    parser = Parser(
        "multiway data inspect", "Count pictures, texts and bad samples of a source, and show a few."
    )
    add_source(parser, "source")
    parser.add_argument("--read", type=int, default=1000, help="pictures to decode, spread evenly; 0 for all")
    parser.add_argument("--show", type=int, default=5, help="samples to show")
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    args = parser.parse(argv)

    import json

    from multiway.data.dataset import Dataset
    from multiway.tasks.inspect import look

    dataset = Dataset(source_of(args))
    seen = look(dataset, read=args.read, show=args.show)
    texts, sizes = seen.texts, seen.sizes
    shown = [{"key": s.key, "size": list(s.image.size), "texts": s.texts} for s in seen.first]
    words = [len(text.split()) for group in texts for text in group]
    report = {
        "source": args.source,
        "pictures": len(dataset),
        "read": len(seen.tally.seen),
        "bad": seen.tally.reasons,
        "texts_per_picture": sum(map(len, texts)) / max(len(texts), 1),
        "words_per_text": sum(words) / max(len(words), 1),
        "smallest": list(min(sizes, key=min, default=(0, 0))),
        "largest": list(max(sizes, key=max, default=(0, 0))),
        "samples": shown,
    }
    if args.json:
        print(json.dumps(report, ensure_ascii=False))
        return
    print(f"{args.source}: {len(dataset):,} pictures; {seen.tally.sentence()}")
    print(f"{report['texts_per_picture']:.2f} texts a picture, {report['words_per_text']:.1f} words a text")
    print("smallest {} x {}, largest {} x {} pixels".format(*report["smallest"], *report["largest"]))
    for row in shown:
        print(f"  {row['key']}  {' | '.join(row['texts'])}")
