"""`multiway evaluate nlvr2|classify`: a fine-tuned model's choices, beside what blind choices reach."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from multiway.cli.arguments import Parser
from multiway.cli.finetune import CLASSES, PAIRS, add_labelled, add_labels, sources_of


def nlvr2(argv: Sequence[str]) -> None:
    """Print accuracy with its intervals, beside the majority answer and other pairs' pictures."""
    result = _evaluate(
        "nlvr2",
        "Accuracy in percent of true or false, with 95 % intervals (Wilson; and over sentences, where they "
        "have several pairs); what the more frequent answer reaches; and the same with the pictures of "
        "another pair.",
        PAIRS,
        argv,
    )
    if result is None:
        return
    print(f"accuracy  {_share(result, 'accuracy')}, majority {result['majority']:.1f}")
    if result["sentence_interval"] is not None:
        low, high = result["sentence_interval"]
        said = f"{result['n_sentences']:,} sentences"
        print(f"{said}, interval over them {low:.1f} to {high:.1f}; all right {result['consistency']:.1f}")
    print(f"shuffled  {_share(result['shuffled'], 'accuracy')}")


def classify(argv: Sequence[str]) -> None:
    """Print top-1 and top-5, beside the most frequent class and other samples' pictures."""
    result = _evaluate(
        "classify",
        "Share in percent of pictures whose class is the first (top-1) or among the first five (top-5), with "
        "a 95 % interval (Wilson); the mean of top-1 over the classes; what the most frequent class reaches; "
        "and the same with the picture of another sample.",
        CLASSES,
        argv,
    )
    if result is None:
        return
    print(
        f"top-1     {_share(result, 'top1')}, top-5 {result['top5']:.1f}, mean over classes "
        f"{result['balanced']:.1f}, most frequent of {result['n_classes']} classes {result['majority']:.1f}"
    )
    print(f"shuffled  {_share(result['shuffled'], 'top1')}")


def _share(values: dict[str, Any], name: str) -> str:
    low, high = values["interval"]
    return f"{values[name]:.1f} ({low:.1f} to {high:.1f})"


def _evaluate(task: str, about: str, data: str, argv: Sequence[str]) -> dict[str, Any] | None:
    """The result; None where it was printed as JSON."""
    from multiway.cli.model import add_device, load_model, progress_bar

    parser = Parser(f"multiway evaluate {task}", about)
    parser.add_argument("--model", required=True, help="model folder of a fine-tuning for the task")
    add_labelled(parser, "--data", data)
    add_labels(parser)
    parser.add_argument("--batch-size", type=int, default=32, help="samples at a time")
    add_device(parser)
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    args = parser.parse(argv)

    import json

    from multiway.tasks.finetune import labels_of, task_of

    model = load_model(args)
    samples = task_of(task).open(sources_of(args, args.data), labels_of(model.config), None)
    with progress_bar() as progress:
        found = task_of(task).measure(model, samples, batch_size=args.batch_size, progress=progress)
    if args.json:
        print(json.dumps(found.result))
        return None
    print(found.sentence())
    return found.result
