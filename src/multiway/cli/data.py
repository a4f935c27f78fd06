"""`multiway data inspect|pack|drop`: look at a source, write it as shards, take samples out."""

from __future__ import annotations

from collections.abc import Sequence

from multiway.cli.arguments import Command, Parser, dispatch
from multiway.cli.flags import positive
from multiway.cli.labelled import add_source, source_of

COMMANDS = {
    "inspect": Command("multiway.cli.inspect:inspect", "counts, problems, near-duplicates, a contact sheet"),
    "pack": Command("multiway.cli.data:pack", "any source into img2dataset tars with source and licence"),
    "drop": Command("multiway.cli.data:drop", "take samples out of tars, features and indexes"),
}


def data(argv: Sequence[str]) -> None:
    """Look at data."""
    dispatch("multiway data", "Look at data before training on it, pack it, drop samples.", COMMANDS, argv)


def pack(argv: Sequence[str]) -> None:
    """Write img2dataset tars whose json says source, licence and opt-out."""
    parser = Parser(
        "multiway data pack",
        "Write a source as img2dataset tars. Every json has source, licence and opt_out; what a column "
        "opt_out (or noai) or --opt-out names is left out. Picture files are copied as they are.",
    )
    add_source(parser, "source")
    parser.add_argument("--out", required=True, help="folder of the tars")
    parser.add_argument("--from", dest="named", help="source of samples that name none; else the path")
    parser.add_argument("--licence", help="licence of samples that name none")
    parser.add_argument("--opt-out", help="file of keys to leave out, one a line")
    parser.add_argument("--shard-size", type=positive, default=10_000, help="samples in a tar")
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    args = parser.parse(argv)

    import json
    from pathlib import Path

    from multiway.cli.model import progress_bar
    from multiway.data.dataset import Dataset
    from multiway.data.pack import pack as run
    from multiway.tasks.drop import read_keys

    opted_out = read_keys(Path(args.opt_out)) if args.opt_out else set()
    with progress_bar() as progress:
        found = run(
            Dataset(source_of(args)),
            Path(args.out),
            source=args.named,
            licence=args.licence,
            opted_out=opted_out,
            shard_size=args.shard_size,
            progress=progress,
        )
    if args.json:
        print(json.dumps(found))
        return
    why = ", ".join(f"{reason} {count:,}" for reason, count in found["skipped"].items()) or "none"
    print(f"{found['written']:,} samples in {found['tars']:,} tars in {args.out}; skipped: {why}")
    print(f"{found['opted_out']:,} left out as opted out, {found['without_licence']:,} without a licence")
    _warn_of(found["unknown"], args.opt_out)


def drop(argv: Sequence[str]) -> None:
    """Remove samples for good, and say where they were."""
    parser = Parser(
        "multiway data drop",
        "Remove samples by their keys (in the tar, or the key that the source had before `data pack`) from "
        "tars, folders of `multiway embed` and search indexes; caches that hold their pictures are deleted. "
        "Files are written aside, then renamed.",
    )
    parser.add_argument("places", nargs="+", help="tars (a tar, a folder, a glob), feature folders, indexes")
    parser.add_argument("--keys", required=True, help="file of keys, one a line")
    about = "what names a sample of a tar: its key there, the one that the source had, or either of them"
    parser.add_argument("--keys-of", choices=("either", "tar", "source"), default="either", help=about)
    args = parser.parse(argv)

    from pathlib import Path

    from multiway.tasks import drop as tasks

    found = tasks.drop(tasks.read_keys(Path(args.keys)), args.places, keys_of=args.keys_of)
    for place, count in found["removed"].items():
        print(f"{place}: {count:,} removed")
    print(f"{found['caches']:,} caches of features deleted")
    _warn_of(found["unknown"], args.keys)


def _warn_of(unknown: list[str], path: str) -> None:
    """Say which keys of a list named nothing: a sample that should be gone may still be there."""
    if unknown:
        print(f"{len(unknown):,} keys of {path} name no sample: {', '.join(unknown[:5])}; check them")
