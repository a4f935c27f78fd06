"""`multiway match IMAGE TEXT...`: how well texts fit a picture."""

from __future__ import annotations

from collections.abc import Sequence


def match(argv: Sequence[str]) -> None:
    """Print the texts, best first, with the ITM probability (ITC similarity where there is no ITM head)."""
    from multiway.cli.arguments import Parser

    parser = Parser("multiway match", "How well each text fits a picture, the best first.")
    parser.add_argument("image", help="a picture")
    parser.add_argument("texts", nargs="+", metavar="text", help="one or more texts")
    parser.add_argument("--model", required=True, help="model folder, hub id or official checkpoint")
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    args = parser.parse(argv)

    import json

    import multiway

    model = multiway.load(args.model)
    if model.has_itm:
        scores, score = model.match(args.image, args.texts), "match probability"
    else:
        scores, score = (model.encode_image(args.image) @ model.encode_text(args.texts).T)[0], "similarity"
    ranked = sorted(zip(scores.tolist(), args.texts, strict=True), key=lambda row: -row[0])
    if args.json:
        rows = [{"text": text, "score": value} for value, text in ranked]
        print(json.dumps({"image": args.image, "score": score, "texts": rows}))
        return
    print(f"{score} with {args.image}")
    for value, text in ranked:
        print(f"{value:8.3f}  {text}")
