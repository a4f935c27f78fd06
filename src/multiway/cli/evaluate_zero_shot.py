"""`multiway evaluate zero_shot`: classes by their names alone, beside what blind choices reach."""

from __future__ import annotations

from collections.abc import Sequence

from multiway.cli.arguments import Parser
from multiway.cli.classify import add_templates, show_classes
from multiway.cli.flags import positive
from multiway.cli.labelled import DATA, add_labelled, add_labels, sources_of


def zero_shot(argv: Sequence[str]) -> None:
    """Print top-1 and top-5, beside the most frequent class and other samples' pictures."""
    from multiway.cli import decide

    parser = Parser(
        "multiway evaluate zero_shot",
        "Share in percent of pictures whose class is the first (top-1) or among the first five (top-5) by "
        "the similarity of its name, put into templates, to the picture; what the most frequent class "
        "reaches; and the same with the picture of another sample. Any model with contrastive features.",
    )
    add_labelled(parser, "--data", DATA["classify"])
    add_labels(parser)
    add_templates(parser)
    parser.add_argument("--batch-size", type=positive, default=32, help="samples at a time")
    decide.add_deciding(parser, upload="a csv of key and class")
    args = parser.parse(argv)
    decide.check(args)

    from multiway.data.labelled import LabelledPictures
    from multiway.tasks.zero_shot import TEMPLATES, measure

    data = LabelledPictures(sources_of(args, args.data))
    options = {
        "templates": args.template or TEMPLATES,
        "predictions": args.predictions,
        "batch_size": args.batch_size,
    }
    decide.decide(args, lambda _: data, lambda m, d, p: measure(m, d, progress=p, **options), show_classes)
