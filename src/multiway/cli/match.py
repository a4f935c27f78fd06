"""`multiway match IMAGE TEXT...`: how well texts fit a picture."""

from __future__ import annotations

from collections.abc import Sequence


def match(argv: Sequence[str]) -> None:
    """Print the texts, best first, with ITM probability (where there is a head) and ITC similarity."""
    from multiway.cli.arguments import Parser
    from multiway.cli.model import add_device, load_model

    parser = Parser("multiway match", "How well each text fits a picture, the best first.")
    parser.add_argument("image", help="a picture")
    parser.add_argument("texts", nargs="+", metavar="text", help="one or more texts")
    parser.add_argument("--model", required=True, help="model folder, hub id or official checkpoint")
    add_device(parser)
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    args = parser.parse(argv)

    import json

    from multiway.tasks.match import match

    scores = match(load_model(args), [args.image], args.texts)
    rows = [
        {"text": text, "probability": score.probability, "similarity": score.cosine}
        for text, score in zip(args.texts, scores, strict=True)
    ]
    rows.sort(key=lambda row: (row["probability"] or 0.0, row["similarity"] or 0.0), reverse=True)
    if args.json:
        print(json.dumps({"image": args.image, "texts": rows}))
        return
    print("probability  similarity")
    for row in rows:
        probability, similarity = (
            "-" if row[name] is None else f"{row[name]:.3f}" for name in ("probability", "similarity")
        )
        print(f"{probability:>11}  {similarity:>10}  {row['text']}")
