"""`multiway evaluate nlvr2|classify|entailment`: a model's choices, beside what blind choices reach."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from multiway.cli.arguments import Parser
from multiway.cli.classify import show_classes
from multiway.cli.decided import control, share
from multiway.cli.flags import positive
from multiway.cli.labelled import DATA, add_labelled, add_labels, sources_of
from multiway.errors import UserError


def nlvr2(argv: Sequence[str]) -> None:
    """Print accuracy with its intervals, beside the majority answer and other pairs' pictures."""

    def show(found) -> None:
        from multiway.tasks.outcomes import between

        result = found.result
        print(f"accuracy  {share(result, 'accuracy')}, majority {result['majority']:.1f}")
        if result["sentence_interval"] is not None:
            said = f"{result['n_sentences']:,} sentences"
            over = between(result["sentence_interval"], 1)
            print(f"{said}, interval over them {over}; all right {result['consistency']:.1f}")
        print(f"shuffled  {control(result, 'accuracy')}")

    evaluate_task(
        "nlvr2",
        "Accuracy in percent of true or false, with 95 % intervals (Wilson; and over sentences, where they "
        "have several pairs); what the more frequent answer reaches; and the same with the pictures of "
        "another pair.",
        argv,
        show,
        upload="identifier,True or False a line, as NLVR2's evaluation reads it",
    )


def classify(argv: Sequence[str]) -> None:
    """Print top-1 and top-5, beside the most frequent class and other samples' pictures."""
    evaluate_task(
        "classify",
        "Share in percent of pictures whose class is the first (top-1) or among the first five (top-5), with "
        "a 95 % interval (Wilson); the mean of top-1 over the classes; what the most frequent class reaches; "
        "and the same with the picture of another sample.",
        argv,
        show_classes,
        upload="a csv of key and class",
    )


def entailment(argv: Sequence[str]) -> None:
    """Print accuracy, beside the most frequent label and other samples' pictures."""

    def show(found) -> None:
        result = found.result
        labels = ", ".join(f"{label} {value:.1f}" for label, value in result["by_label"].items())
        print(f"accuracy  {share(result, 'accuracy')}, {labels}; majority {result['majority']:.1f}")
        print(f"shuffled  {control(result, 'accuracy')}")

    evaluate_task(
        "entailment",
        "Accuracy in percent of entailment, neutral and contradiction, with a 95 % interval of a bootstrap "
        "over pictures; the share that is right of each; what the most frequent label reaches; and the same "
        "with the picture of another sample.",
        argv,
        show,
        upload="pairID and label, a .csv or a .jsonl",
    )


def evaluate_task(
    task: str,
    about: str,
    argv: Sequence[str],
    show: Callable[[Any], None],
    *,
    upload: str,
    add: Callable[[Parser], None] | None = None,
    options_of: Callable[[Any], dict[str, Any]] | None = None,
) -> None:
    """Measure and print.

    Args:
        show: prints a Measurement. upload: what --predictions writes.
        add: further flags; options_of: what they say to the task's `measure`.
    """
    from multiway.cli import decide

    parser = Parser(f"multiway evaluate {task}", about)
    add_labelled(parser, "--data", DATA[task])
    add_labels(parser)
    if add is not None:
        add(parser)
    parser.add_argument("--batch-size", type=positive, default=32, help="samples at a time")
    decide.add_deciding(parser, upload=upload)
    args = parser.parse(argv)
    decide.check(args)
    options = {"predictions": args.predictions} | ({} if options_of is None else options_of(args))

    from multiway.tasks.finetune import labels_of, task_of

    def opened(model):
        unlabelled = args.predictions is not None  # what is uploaded is most often a test split
        sources = sources_of(args, args.data)
        return task_of(task).open(sources, labels_of(model.config), None, unlabelled=unlabelled)

    def measure(model, samples, progress):
        if samples.labels and labels_of(model.config) not in ((), samples.labels):
            raise UserError("the models know other classes: compare models of the same classes")
        return task_of(task).measure(model, samples, batch_size=args.batch_size, progress=progress, **options)

    decide.decide(args, opened, measure, show)
