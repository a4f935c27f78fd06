"""`multiway finetune TASK`: a pre-trained model learns a task from labelled data; the same under torchrun."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from multiway.cli.arguments import Command, Parser, dispatch
from multiway.cli.evaluate_vqa import INFERENCES
from multiway.cli.flags import positive
from multiway.cli.labelled import (
    ANSWERS,
    CAPTIONS,
    DATA,
    add_learning,
    answers_of,
    learning_of,
)

COMMANDS = {
    "nlvr2": Command("multiway.cli.finetune:nlvr2", "is a sentence true of two pictures?"),
    "classify": Command("multiway.cli.finetune:classify", "which class is a picture of?"),
    "entailment": Command("multiway.cli.finetune:entailment", "is a sentence true of a picture?"),
    "vqa": Command("multiway.cli.finetune:vqa", "what is the answer to a question about a picture?"),
    "retrieval": Command(
        "multiway.cli.finetune:retrieval", "which texts belong to a picture, and which pictures to a text?"
    ),
    "caption": Command("multiway.cli.finetune:caption", "what does a picture show, in words?"),
}
FIND = "cut the batch into as few micro-batches (train.accumulate) as fit into memory, by trying a step"
CLASSES = "The classes are read from the data and saved with the model."
ABOUT = """Any field of the run can be changed by its dotted flag, as in --system.image.image-size 128 or
--data.augment.flip 0; those of `train` also by their name alone, as in --lr 1e-4 or --epochs 3. What ran is
written to OUT/run.json."""


def finetune(argv: Sequence[str]) -> None:
    """Fine-tune a model."""
    dispatch("multiway finetune", "Fine-tune a model for a task.", COMMANDS, argv)


def _finetune(task: str, argv: Sequence[str]) -> None:
    from multiway.cli.model import add_device

    pairs = task in ("retrieval", "caption")
    said = (COMMANDS[task].summary, *(() if pairs else (CLASSES,)), ABOUT)
    parser = Parser(f"multiway finetune {task}", " ".join(said))
    parser.add_argument("--model", required=True, help="model folder, hub id or official checkpoint")
    add_learning(parser, CAPTIONS if pairs else DATA[task], pairs=pairs)
    if task == "vqa":
        parser.add_argument("--answers", help=f"{ANSWERS}; without it, those of the data")
        parser.add_argument(
            "--min-count", type=positive, default=1, help="leave out answers given less often"
        )
        parser.add_argument("--inference", choices=INFERENCES, help="how it shall answer")
    parser.add_argument("--out", type=Path, required=True, help="folder to write to")
    parser.add_argument(
        "--resume", choices=("auto", "never"), default="auto", help="go on from OUT's last checkpoint"
    )
    add_device(parser)
    parser.add_argument("--find-batch-size", action="store_true", help=FIND)
    parser.add_argument("--dry-run", action="store_true", help="print the resolved run and stop")
    args, flags = parser.parse_known_args(argv)

    from multiway.cli.overrides import override
    from multiway.tasks import finetune as tasks
    from multiway.train.run import Run

    data: Any = learning_of(args, pairs=pairs)
    options: dict[str, Any] = (
        {"labels": answers_of(args), "min_count": args.min_count, "inference": args.inference}
        if task == "vqa"
        else {}
    )
    run = tasks.plan(task, args.model, data, **options)
    given = {flag.split("=")[0] for flag in flags}
    if given & {"--steps", "--train.steps"} and not given & {"--epochs", "--train.epochs"}:
        flags = [*flags, "--train.epochs", "None"]  # one of both counts
    generic: Any = Run
    planned, prog = run, f"multiway finetune {task}"
    run = override(run, flags, kind=generic[type(run.system), type(data)], prog=prog)
    if pairs and run.data.image_size == planned.data.image_size:  # pictures follow --system.image.image-size
        run = replace(run, data=replace(run.data, image_size=run.system.image.image_size))
    if args.device != "auto":
        run = replace(run, train=replace(run.train, device=args.device))

    def make(run, ranks):
        return tasks.build(task, run, ranks)

    if args.find_batch_size:
        from multiway.train.memory import find

        run = find(run, make)
    if args.dry_run:
        import json

        from multiway.train.build import describe

        shown = describe(run, world=int(os.environ.get("WORLD_SIZE", "1")), make=make)
        print("\n".join([json.dumps(shown.run, indent=2), *shown.lines()]))
        return
    result = tasks.finetune(task, run, args.out, resume=args.resume)
    if result.stopped_by is None and os.environ.get("RANK", "0") == "0":
        print(f"model in {args.out / 'model'}")


nlvr2, classify, entailment, vqa, retrieval, caption = (partial(_finetune, task) for task in COMMANDS)
