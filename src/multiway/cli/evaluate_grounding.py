"""`multiway evaluate grounding`: does the heat of a text lie on what it names?"""

from __future__ import annotations

from collections.abc import Sequence

from multiway.cli.arguments import Parser
from multiway.cli.decided import NO_OTHER, share
from multiway.cli.flags import positive


def add_looking(parser: Parser) -> None:
    """Which attention is looked at."""
    parser.add_argument(
        "--by",
        choices=("itm", "itc"),
        default="itm",
        help="by matching and cross-attention, or by contrast and the image tower",
    )
    parser.add_argument("--layer", type=int, help="number of the layer; default: at two thirds of the way")


def grounding(argv: Sequence[str]) -> None:
    """Print the pointing game and the accuracy of proposals, beside chance and other samples' texts."""
    from multiway.cli import decide
    from multiway.cli.labelled import add_labelled, add_labels, sources_of

    parser = Parser(
        "multiway evaluate grounding",
        "By Grad-CAM, in percent: texts whose hottest point lies in the box (pointing), and whose hottest "
        "proposal and box overlap by half (accuracy; needs proposals); what blind guesses reach; and the "
        "same with another sample's text.",
    )
    about = "RefCOCO+'s refs.json (beside instances.json and dets.json), ALBEF's json, a table of image, text"
    add_labelled(parser, "--data", f"{about} and box, scenes:N or boxes:N (drawn)")
    add_labels(parser)
    add_looking(parser)
    parser.add_argument("--batch-size", type=positive, default=16, help="texts at a time")
    decide.add_deciding(parser, upload="a json list of ref_id and sent_id (else key) and bbox")
    args = parser.parse(argv)
    decide.check(args)

    from multiway.data.referring import Referring
    from multiway.tasks.grounding import measure

    samples = Referring(sources_of(args, args.data))
    options = {"by": args.by, "layer": args.layer, "batch_size": args.batch_size}
    options["predictions"] = args.predictions

    def show(found) -> None:
        result = found.result
        print(f"pointing  {share(result, 'pointing')}, {_more(result)}")
        for name in ("chance", "shuffled"):
            found = result[name]
            said = NO_OTHER if found is None else f"{found['pointing']:.1f}, {_more(found)}"
            print(f"{name:<8}  {said}")

    decide.decide(args, lambda _: samples, lambda m, d, p: measure(m, d, progress=p, **options), show)


def _more(values) -> str:
    found = values["accuracy"]
    return "no proposals" if found is None else f"accuracy of proposals {found:.1f}"
