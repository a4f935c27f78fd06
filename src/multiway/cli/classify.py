"""`multiway classify PICTURES --model MODEL`: the class of pictures, learned or by its name alone."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from multiway.cli.arguments import Parser
from multiway.cli.decided import control, share
from multiway.cli.flags import positive
from multiway.errors import UserError


def add_templates(parser: Parser) -> None:
    """The flag that names prompts."""
    parser.add_argument(
        "--template",
        action="append",
        metavar="TEXT",
        help="what a class's name is put into, as 'a photo of a {}.'; may be given again: features are "
        "averaged",
    )


def classify(argv: Sequence[str]) -> None:
    """Print each picture's likeliest classes with their probabilities."""
    from multiway.cli.model import add_device, load_model

    parser = Parser(
        "multiway classify",
        "Which class is a picture of? A model fine-tuned with `multiway finetune classify` knows its "
        "classes; any model with contrastive features takes the names of yours.",
    )
    parser.add_argument("pictures", nargs="+", help="picture files")
    parser.add_argument("--model", required=True, help="model folder, hub id or official checkpoint")
    parser.add_argument("--classes", help="names with commas between, or a text file with one a line")
    add_templates(parser)
    parser.add_argument("--top", type=positive, default=3, help="classes shown of each picture")
    add_device(parser)
    parser.add_argument("--json", action="store_true", help="print one JSON object a picture")
    args = parser.parse(argv)
    if args.template is not None and args.classes is None:
        raise UserError(
            "--template without --classes would do nothing: name the classes too, or leave it out"
        )

    import json

    import torch

    from multiway.batch import Batch, Missing
    from multiway.tasks.two_stage import as_array
    from multiway.tasks.zero_shot import TEMPLATES, ZeroShot

    model = load_model(args)
    if args.classes is not None:
        model = ZeroShot(model, _names(args.classes), args.template or TEMPLATES)
    labels = getattr(model, "labels", ())
    if not labels or callable(labels):  # CoCa's are a method, of words
        labels = getattr(model.config, "labels", ())
    if not labels:
        raise UserError("this model knows no classes: name them with --classes a,b,c")
    for picture in args.pictures:
        with torch.inference_mode():
            batch = Batch(image=model.prepare(picture))
            try:
                logits = model.predict(batch)
            except Missing:
                raise UserError(
                    f"{type(model).__name__} judges a text beside pictures: {_instead(model, labels)}"
                ) from None
            shares = torch.from_numpy(as_array(logits, picture))[0].softmax(-1)
        best = shares.topk(min(args.top, len(labels)))
        rows = [
            (labels[i], share) for share, i in zip(best.values.tolist(), best.indices.tolist(), strict=True)
        ]
        if args.json:
            found = [{"label": label, "probability": share} for label, share in rows]
            print(json.dumps({"image": picture, "classes": found}, ensure_ascii=False))
        else:
            print(f"{picture}: " + ", ".join(f"{label} {share:.3f}" for label, share in rows))


def _instead(model: Any, labels: Sequence[str]) -> str:
    """The command for a model that can't do without a text."""
    from multiway.data.sentences import Sentences
    from multiway.data.two_pictures import PicturePairs
    from multiway.systems.answering import Answering

    if isinstance(model, Answering):
        return "ask it with `multiway answer`"
    tasks: dict[tuple[str, ...], str] = {
        tuple(PicturePairs.labels): "nlvr2",
        tuple(Sentences.labels): "entailment",
    }
    task = tasks.get(tuple(labels), "TASK")
    return f"measure it with `multiway evaluate {task}`, or classify with another model"


def _names(given: str) -> list[str]:
    from multiway.data.tables import read_lines

    if os.path.isfile(given):  # `Path.is_file` fails at names that are too long for a file's
        return read_lines(Path(given), "class")
    return [name.strip() for name in given.split(",") if name.strip()]


def show_classes(found: Any) -> None:
    """Two lines of a measurement of classes."""
    result = found.result
    print(
        f"top-1     {share(result, 'top1')}, top-5 {result['top5']:.1f}, mean over classes "
        f"{result['balanced']:.1f}, most frequent of {result['n_classes']} classes "
        f"{result['majority']:.1f}"
    )
    print(f"shuffled  {control(result, 'top1')}")
