"""`multiway search index|query`: a folder of pictures that answers to words."""

from __future__ import annotations

from collections.abc import Sequence

from multiway.cli.arguments import Command, Parser, dispatch
from multiway.cli.flags import check_folder, positive
from multiway.cli.model import add_device, load_model, progress_bar

COMMANDS = {
    "index": Command(
        "multiway.cli.search:index", "index a folder of pictures, or bring its index up to date"
    ),
    "query": Command("multiway.cli.search:query", "find pictures by a text, or by a picture"),
}


def search(argv: Sequence[str]) -> None:
    """Search pictures."""
    dispatch("multiway search", "Index a folder of pictures, and ask it.", COMMANDS, argv)


def index(argv: Sequence[str]) -> None:
    """Index pictures; what is unchanged since the last time is not encoded again."""
    parser = Parser("multiway search index", "Index a folder of pictures, or bring its index up to date.")
    parser.add_argument("pictures", help="a folder of pictures (folders within count), or tars")
    parser.add_argument("--model", required=True, help="model folder, hub id or official checkpoint")
    parser.add_argument("--out", required=True, help="folder of the index")
    parser.add_argument("--batch-size", type=positive, default=32, help="pictures at a time")
    add_device(parser)
    args = parser.parse(argv)
    check_folder("--out", args.out)

    from multiway.search.index import build

    model = load_model(args)
    with progress_bar() as progress:
        report = build(model, args.pictures, args.out, batch_size=args.batch_size, progress=progress)
    print(f"{report.sentence()}; index in {args.out}")


def query(argv: Sequence[str]) -> None:
    """Print the pictures that fit a text (in two stages) or are like a picture, the best first."""
    parser = Parser("multiway search query", "Find pictures by a text, or by a picture, the best first.")
    parser.add_argument("query", help="what the picture shows; with --picture, the path of a picture")
    parser.add_argument("--picture", action="store_true", help="the query is a picture: find similar ones")
    parser.add_argument("--index", required=True, help="folder of the index")
    parser.add_argument("--model", required=True, help="the model that made the index")
    parser.add_argument("--top", type=positive, default=10, help="pictures to show")
    parser.add_argument("--k", type=positive, default=16, help="candidates that the matching head re-ranks")
    add_device(parser)
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    args = parser.parse(argv)

    import json
    from dataclasses import asdict
    from pathlib import Path

    from multiway.search.index import Index
    from multiway.search.query import Searcher

    Index.load(Path(args.index))  # its absence is said before a model is loaded
    searcher = Searcher(load_model(args), args.index)
    if args.picture:
        hits = searcher.picture(args.query, top=args.top)
    else:
        hits = searcher.text(args.query, top=args.top, k=args.k)
    if args.json:
        print(json.dumps({"query": args.query, "hits": [asdict(hit) for hit in hits]}, ensure_ascii=False))
        return
    print("probability  similarity")
    for hit in hits:
        probability = "-" if hit.probability is None else f"{hit.probability:.3f}"
        print(f"{probability:>11}  {hit.cosine:>10.3f}  {hit.key}")
