"""`multiway answer IMAGE QUESTION`: what a fine-tuned model answers, and how sure it is."""

from __future__ import annotations

from collections.abc import Sequence


def answer(argv: Sequence[str]) -> None:
    """Print the best answers with their probabilities."""
    from multiway.cli.arguments import Parser
    from multiway.cli.evaluate_vqa import add_answering, asking_of
    from multiway.cli.flags import positive
    from multiway.cli.model import add_device, load_model

    parser = Parser(
        "multiway answer",
        "Answers to a question about a picture, the best first. The probability is among the answers that "
        "were compared (rank), of the text (generate), or of each answer by itself (classify).",
    )
    parser.add_argument("image", help="a picture")
    parser.add_argument("question", help="a question about it")
    parser.add_argument("--model", required=True, help="a model that answers questions")
    add_answering(parser)
    parser.add_argument("--top", type=positive, default=1, help="answers to print")
    add_device(parser)
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    args = parser.parse(argv)

    import json

    from multiway.tasks.vqa import answering

    model = answering(load_model(args))
    (found,) = model.replies([args.image], [args.question], asking_of(args, n=args.top))
    if args.json:
        rows = [reply._asdict() for reply in found]
        print(json.dumps({"image": args.image, "question": args.question, "answers": rows}))
        return
    for reply in found:
        print(f"{reply.probability:.3f}  {reply.text}")
