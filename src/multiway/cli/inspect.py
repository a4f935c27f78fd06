"""`multiway data inspect`: what a source holds, what of it can't be used, and how it looks."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any

from multiway.cli.arguments import Parser
from multiway.cli.data import add_source, source_of
from multiway.errors import UserError


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

    from multiway.tasks.inspect import look, shared, write_contact_sheet

    source = source_of(args)
    others = [_against(source, name) for name in args.against]  # refused before anything is read
    dataset = _opened(source, args.task, args.label)
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
        "samples": [{"key": s.key, "size": list(s.image.size), "texts": s.texts} for s in seen.first],
    }
    if seen.labels:
        report["labels"] = dict(sorted(seen.labels.items(), key=lambda item: -item[1]))
    if mark:
        found = [look(_opened(one, args.task, args.label), read=args.read, mark=True) for one in others]
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


def _opened(source, task: str | None, label: str | None):
    """The samples of a source, as pairs or as data of a task."""
    from multiway.data.dataset import Dataset
    from multiway.data.labelled import LabelledSource
    from multiway.data.referring import Referring
    from multiway.tasks.task import TASKS

    if task is None or (task in TASKS and TASKS[task].pairs):
        return Dataset(source)
    named = LabelledSource(path=source.path, images=source.images, label=label, split=source.split)
    if task == "grounding":  # nothing is fine-tuned for it, so that it is none of those tasks
        return Referring(named)
    if task not in TASKS:
        raise UserError(f"there is no task {task!r}: choose from {', '.join((*TASKS, 'grounding'))}")
    return TASKS[task].open((named,), (), None)


def _against(source, name: str):
    """Another split of `source` where it has one of that name, else another source, whole."""
    import os
    from dataclasses import replace

    from multiway.data.splits import has_split, overlap

    if has_split(source.path, name):
        if overlap(source.path, source.split, name):
            own = "the whole of it" if source.split is None else f"the split {source.split}"
            raise UserError(
                f"--against {name} is compared with {own} of {source.path}, which holds the same samples: "
                "name another split by --split or --against, or look within one by --duplicates"
            )
        return replace(source, split=name)
    same = name == source.path or (
        os.path.exists(name) and os.path.realpath(name) == os.path.realpath(source.path)
    )
    if same:
        raise UserError(
            f"--against {name} is the source itself: name another of its splits, another source, or look "
            "within it by --duplicates"
        )
    return replace(source, path=name, split=None)
