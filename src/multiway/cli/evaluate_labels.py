"""`multiway evaluate nlvr2|classify|vqa`: a fine-tuned model's choices, beside what blind choices reach."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from multiway.cli.arguments import Parser
from multiway.cli.labelled import ANSWERS, DATA, add_labelled, add_labels, answers_of, sources_of
from multiway.errors import UserError

INFERENCES, HOW = ("rank", "generate", "classify"), "how answers are found; default: the model's"


def nlvr2(argv: Sequence[str]) -> None:
    """Print accuracy with its intervals, beside the majority answer and other pairs' pictures."""

    def show(found) -> None:
        result = found.result
        print(f"accuracy  {_share(result, 'accuracy')}, majority {result['majority']:.1f}")
        if result["sentence_interval"] is not None:
            low, high = result["sentence_interval"]
            said = f"{result['n_sentences']:,} sentences"
            print(
                f"{said}, interval over them {low:.1f} to {high:.1f}; all right {result['consistency']:.1f}"
            )
        print(f"shuffled  {_share(result['shuffled'], 'accuracy')}")

    _evaluate(
        "nlvr2",
        "Accuracy in percent of true or false, with 95 % intervals (Wilson; and over sentences, where they "
        "have several pairs); what the more frequent answer reaches; and the same with the pictures of "
        "another pair.",
        argv,
        show,
    )


def classify(argv: Sequence[str]) -> None:
    """Print top-1 and top-5, beside the most frequent class and other samples' pictures."""

    def show(found) -> None:
        result = found.result
        print(
            f"top-1     {_share(result, 'top1')}, top-5 {result['top5']:.1f}, mean over classes "
            f"{result['balanced']:.1f}, most frequent of {result['n_classes']} classes "
            f"{result['majority']:.1f}"
        )
        print(f"shuffled  {_share(result['shuffled'], 'top1')}")

    _evaluate(
        "classify",
        "Share in percent of pictures whose class is the first (top-1) or among the first five (top-5), with "
        "a 95 % interval (Wilson); the mean of top-1 over the classes; what the most frequent class reaches; "
        "and the same with the picture of another sample.",
        argv,
        show,
    )


def vqa(argv: Sequence[str]) -> None:
    """Print soft accuracy, beside the most frequent answer and other questions' pictures; write answers."""

    def show(found) -> None:
        result = found.result
        if "accuracy" not in result:
            return
        kinds = ", ".join(f"{kind} {value:.1f}" for kind, value in result["by_kind"].items())
        blind = result["majority"]
        print(f"accuracy  {_share(result, 'accuracy')}, {kinds}; always the same answer {blind:.1f}")
        print(f"shuffled  {_share(result['shuffled'], 'accuracy')}")

    _evaluate(
        "vqa",
        "VQA's soft accuracy in percent (an answer is right as far as people agree with it, after the "
        "official normalisation), with a 95 % interval of a bootstrap over pictures; what the best single "
        "answer to all questions reaches; and the same with the picture of another question.",
        argv,
        show,
    )


def _share(values: dict[str, Any], name: str) -> str:
    low, high = values["interval"]
    return f"{values[name]:.1f} ({low:.1f} to {high:.1f})"


def _evaluate(task: str, about: str, argv: Sequence[str], show: Callable[[Any], None]) -> None:
    from multiway.cli import decide

    parser = Parser(f"multiway evaluate {task}", about)
    add_labelled(parser, "--data", DATA[task])
    add_labels(parser)
    if task == "vqa":
        parser.add_argument("--inference", choices=INFERENCES, help=HOW)
        parser.add_argument("--answers", help=f"{ANSWERS}; default: the model's own")
        parser.add_argument("--k", type=int, default=128, help="answers that are ranked to their end")
        parser.add_argument("--predictions", help="file to write in the upload format of the VQA challenge")
    parser.add_argument("--batch-size", type=int, default=32, help="samples at a time")
    decide.add_deciding(parser)
    args = parser.parse(argv)
    decide.check(args)

    from multiway.systems.answering import Asking
    from multiway.tasks.finetune import labels_of, task_of

    options: dict[str, Any] = {"batch_size": args.batch_size}
    if task == "vqa":
        asking = Asking(inference=args.inference, answers=answers_of(args), k=args.k)
        options |= {"asking": asking, "predictions": args.predictions}

    def opened(model):
        return task_of(task).open(sources_of(args, args.data), labels_of(model.config), None)

    def measure(model, samples, progress):
        if samples.labels and labels_of(model.config) not in ((), samples.labels):
            raise UserError("the models know other classes: compare models of the same classes")
        return task_of(task).measure(model, samples, progress=progress, **options)

    decide.decide(args, opened, measure, show)
