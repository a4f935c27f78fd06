"""`multiway evaluate TASK`: measure a model on held-back data."""

from __future__ import annotations

from collections.abc import Sequence

from multiway.cli.arguments import Command, Parser, dispatch

COMMANDS = {
    "retrieval": Command(
        "multiway.cli.evaluate:retrieval", "texts of pictures and pictures of texts, in two stages"
    ),
}


def evaluate(argv: Sequence[str]) -> None:
    """Measure a model."""
    dispatch("multiway evaluate", "Measure a model on data that it was not trained on.", COMMANDS, argv)


def retrieval(argv: Sequence[str]) -> None:
    """Print recalls and median ranks, by contrast alone and re-ranked by the ITM head."""
    from multiway.cli.data import add_source, source_of

    parser = Parser(
        "multiway evaluate retrieval",
        "Recall and median rank of texts of pictures (tr) and pictures of texts (ir): by contrast (itc), and with "
        "the K best re-ranked by the matching head (itm). Equal texts are one text with several pictures; a query "
        "is right at k if any of its positives is among the first k; ties count against the model.",
    )
    parser.add_argument("--model", required=True, help="model folder, hub id or official checkpoint")
    add_source(parser, "--data")
    parser.add_argument("--k", type=int, default=16, help="candidates that the matching head re-ranks")
    parser.add_argument("--batch-size", type=int, default=64, help="pictures, texts or pairs at a time")
    parser.add_argument(
        "--device", choices=("auto", "cuda", "mps", "cpu"), default="auto", help="where to run"
    )
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    args = parser.parse(argv)
