"""The arguments that name data, and what each task takes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from multiway.cli.arguments import Parser
from multiway.errors import UserError

PAIRS = (
    "NLVR2's json, a table of two pictures, sentence and label, tars with .txt and .cls (NLVR1's strips are "
    "cut), scenes:N or boxes:N (drawn)"
)
CLASSES = "a folder of pictures a class, a table of pictures and labels, tars with .cls or .json, or emoji"
QUESTIONS = (
    "VQA v2's questions (answers are found beside them), Visual Genome's question_answers.json, ALBEF's "
    "json, a table of image, question and answer (or several), easy-vqa's folder, or scenes:N (drawn)"
)
ANSWERS = "file with the answers to choose from: an answer a line, or a json list"
SENTENCES = "SNLI-VE's jsonl, ALBEF's json, a table of image, sentence and label, or scenes:N (drawn)"
CAPTIONS = (
    "shards (a tar, a folder, a glob, {000..009}.tar), a folder of pictures with csv or jsonl, a table of "
    "pictures and captions, COCO or Karpathy json, emoji, or scenes:N (drawn)"
)
SPLITS = (
    "of a Karpathy json (train+restval, val, test), a table with a column split, or emoji (train, "
    "combination, style, all; in German: style:de)"
)
DATA = {"nlvr2": PAIRS, "classify": CLASSES, "vqa": QUESTIONS, "entailment": SENTENCES}


def add_source(parser: Parser, flag: str) -> None:
    """The arguments that name one source of pairs; `source_of` reads them."""
    named: dict[str, Any] = {"dest": "source", "required": True} if flag.startswith("-") else {}
    parser.add_argument(flag, help=CAPTIONS, **named)
    parser.add_argument("--images", help="folder of the pictures that an annotation file names")
    parser.add_argument("--split", help=SPLITS)
    parser.add_argument(
        "--texts", choices=("first", "all"), default="all", help="the first text of a picture, or all"
    )


def source_of(args):
    """The `Source` that the arguments of `add_source` name."""
    from multiway.data.dataset import Source

    return Source(path=args.source, images=args.images, split=args.split, texts=args.texts)


def add_labelled(parser: Parser, flag: str, about: str, *, required: bool = True) -> None:
    """The arguments that name labelled data; `sources_of` reads them."""
    parser.add_argument(
        flag, action="append", required=required, metavar="SOURCE", help=f"{about}; may be given again"
    )


def add_labels(parser: Parser) -> None:
    """What is said of all the sources alike."""
    parser.add_argument("--images", help="folder of the pictures that an annotation file names")
    parser.add_argument("--label", help="the column of the class; of emoji: group or subgroup")
    parser.add_argument("--split", help=SPLITS)


def add_learning(parser: Parser, about: str, *, pairs: bool) -> None:
    """The data that a model learns from, and is validated on; `learning_of` reads them.

    Args:
        about: what the data are. pairs: they are captions, and have no labels.
    """
    add_labelled(parser, "--data", about)
    add_labelled(parser, "--val", "held-back data, by which the best model is kept", required=False)
    parser.add_argument("--images", help="folder of the pictures that an annotation file names")
    if not pairs:
        parser.add_argument("--label", help="the column of the class; of emoji: group or subgroup")
    parser.add_argument("--split", help=f"of --data: {SPLITS}")
    parser.add_argument("--val-split", help=f"of --val: {SPLITS}")


def learning_of(args, *, pairs: bool):
    """The `DataConfig` of pairs, else the `TaskData`, that the arguments name.

    Raises:
        UserError: the data by which the best model is kept would be learned from.
    """
    from multiway.data.dataset import DataConfig, Source
    from multiway.data.labelled import LabelledSource, TaskData
    from multiway.data.splits import overlap
    from multiway.tasks.finetune import AUGMENT

    if args.val_split is not None and not args.val:
        raise UserError("--val-split is of --val: name that too")
    for path in args.val or ():
        if path in args.data and overlap(path, args.split, args.val_split):
            raise UserError(f"--val {path} has samples of --data: name a --split and a --val-split apart")
    kind, more = (Source, {}) if pairs else (LabelledSource, {"label": args.label})

    def sources(paths, split) -> Any:
        return tuple(kind(path=path, images=args.images, split=split, **more) for path in paths or ())

    named: dict[str, Any] = {
        "train": sources(args.data, args.split),
        "val": sources(args.val, args.val_split),
    }
    return DataConfig(**named, augment=AUGMENT) if pairs else TaskData(**named)


def sources_of(args, paths: Sequence[str]) -> tuple:
    """The sources that the arguments of `add_labels` name."""
    from multiway.data.labelled import LabelledSource

    options = {"images": args.images, "label": args.label, "split": args.split}
    return tuple(LabelledSource(path=path, **options) for path in paths)


def answers_of(args) -> tuple[str, ...] | None:
    """The answers that a file lists; None where none is named."""
    from multiway.data.questions import read_answers

    return None if args.answers is None else read_answers(args.answers)
