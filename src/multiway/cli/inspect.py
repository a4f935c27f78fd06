"""`multiway data inspect`: what a source holds, what of it can't be used, and how it looks."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any

from multiway.cli.arguments import Parser
from multiway.cli.labelled import add_source, source_of

#: Share of one colour from which on it is called a background.
BACKGROUND = 1 / 3


def inspect(argv: Sequence[str]) -> None:
    """Read a source and print what is in it."""
    parser = Parser(
        "multiway data inspect",
        "Count pictures, texts and bad samples of a source, and show a few; with --against, pictures that "
        "look like one of another split.",
    )
    add_source(parser, "source")
    parser.add_argument(
        "--task", help="read it as data of this task: nlvr2, classify, vqa, entailment, grounding"
    )
    parser.add_argument("--label", help="of a task: the column of the class")
    parser.add_argument("--read", type=int, default=1000, help="pictures to decode, spread evenly; 0 for all")
    parser.add_argument("--show", type=int, default=5, help="samples to show")
    parser.add_argument("--duplicates", action="store_true", help="look for near-duplicates among those read")
    parser.add_argument(
        "--against",
        action="append",
        default=[],
        metavar="SPLIT",
        help="and in another split of the source, or in another source; --read of it",
    )
    parser.add_argument("--sheet", metavar="FILE.html", help="write a contact sheet")
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    args = parser.parse(argv)

    import json
    from pathlib import Path

    from multiway.data.splits import against
    from multiway.tasks.inspect import look, open_source, shared, write_contact_sheet

    source = source_of(args)
    others = [against(source, name) for name in args.against]  # refused before anything is read
    dataset = open_source(source, args.task, args.label)
    mark = args.duplicates or bool(args.against)
    seen = look(dataset, read=args.read, show=args.show, mark=mark)
    texts, sizes = seen.texts, seen.sizes
    words = [len(text.split()) for group in texts for text in group]
    same = Counter(text for group in texts for text in set(group))
    report: dict[str, Any] = {
        "source": args.source,
        "pictures": len(dataset),
        "read": len(seen.tally.seen),
        "bad": seen.tally.reasons,
        "texts_per_picture": sum(map(len, texts)) / max(len(texts), 1),
        "words_per_text": sum(words) / max(len(words), 1),
        "texts_of_several_pictures": sum(count > 1 for count in same.values()),
        "smallest": list(min(sizes, key=min, default=(0, 0))),
        "largest": list(max(sizes, key=max, default=(0, 0))),
        "mean": seen.colours.mean,
        "std": seen.colours.std,
        "background": dict(zip(("colour", "share"), seen.colours.background, strict=True)),
        "samples": [{"key": s.key, "size": list(s.image.size), "texts": s.texts} for s in seen.first],
    }
    if seen.labels:
        report["labels"] = dict(sorted(seen.labels.items(), key=lambda item: -item[1]))
    if mark:
        found = [look(open_source(one, args.task, args.label), read=args.read, mark=True) for one in others]
        report["near_duplicates"] = [{"key": a, "like": b} for a, b in shared(seen, found)]
    if args.sheet:
        write_contact_sheet(dataset, Path(args.sheet), args.source)
    if args.json:
        print(json.dumps(report, ensure_ascii=False))
        return
    print(f"{args.source}: {len(dataset):,} pictures; {seen.tally.sentence()}")
    print(
        f"{report['texts_per_picture']:.2f} texts a picture, {report['words_per_text']:.1f} words a text, "
        f"{report['texts_of_several_pictures']:,} texts of several pictures"
    )
    print("smallest {} x {}, largest {} x {} pixels".format(*report["smallest"], *report["largest"]))
    print("mean {:.3g} {:.3g} {:.3g}, ".format(*report["mean"]), end="")
    print("deviation {:.3g} {:.3g} {:.3g} of the channels".format(*report["std"]))
    if report["background"]["share"] > BACKGROUND:
        colour = " ".join(f"{value:.3g}" for value in report["background"]["colour"])
        print(
            f"{report['background']['share']:.0%} of the pixels are of one colour: a model from scratch "
            f"may learn faster where that is zero (--system.image.mean {colour})"
        )
    if seen.labels:
        print("classes: " + ", ".join(f"{n} {c:,}" for n, c in [*report["labels"].items()][:20]))
    for row in report["samples"]:
        print(f"  {row['key']}  {' | '.join(row['texts'])}")
    if mark:
        where = f"of {', '.join(args.against)}" if args.against else "of the source itself"
        print(f"{len(report['near_duplicates']):,} of the pictures read look like one {where}")
        for pair in report["near_duplicates"][:20]:
            print(f"  {pair['key']}  {pair['like']}")
    if args.sheet:
        print(f"contact sheet in {args.sheet}")
