"""`multiway evaluate vqa`: a model's answers, and how far people agree with them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from multiway.cli.arguments import Parser
from multiway.cli.decided import control, share
from multiway.cli.evaluate_labels import evaluate_task
from multiway.cli.flags import positive
from multiway.cli.labelled import ANSWERS, answers_of

INFERENCES = ("rank", "generate", "classify")


def add_answering(parser: Parser) -> None:
    """How questions are to be answered; `asking_of` reads it."""
    how = "how answers are found; default: the model's own way"
    parser.add_argument("--inference", choices=INFERENCES, help=how)
    parser.add_argument("--answers", help=f"{ANSWERS}; default: the model's own")
    parser.add_argument("--k", type=positive, default=128, help="answers that are ranked to their end")


def asking_of(args: Any, **more: Any) -> Any:
    """What the arguments say, as `systems.answering.Asking`."""
    from multiway.systems.answering import Asking

    return Asking(inference=args.inference, answers=answers_of(args), k=args.k, **more)


def vqa(argv: Sequence[str]) -> None:
    """Print soft accuracy, beside the most frequent answer and other questions' pictures; write answers."""

    def show(found) -> None:
        result = found.result
        kinds = ", ".join(f"{kind} {value:.1f}" for kind, value in result["by_kind"].items())
        blind = result["majority"]
        print(f"accuracy  {share(result, 'accuracy')}, {kinds}; always the same answer {blind:.1f}")
        print(f"shuffled  {control(result, 'accuracy')}")

    evaluate_task(
        "vqa",
        "VQA's soft accuracy in percent (an answer is right as far as people agree with it, after the "
        "official normalisation), with a 95 % interval of a bootstrap over pictures; what the best single "
        "answer to all questions reaches; and the same with the picture of another question.",
        argv,
        show,
        upload="question_id and answer, as the VQA challenge takes it",
        add=add_answering,
        options_of=lambda args: {"asking": asking_of(args)},
    )
