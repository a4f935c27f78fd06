"""`multiway evaluate probe`: a linear classifier of a model's frozen features."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from multiway.cli.arguments import Parser
from multiway.cli.decided import control, share
from multiway.cli.flags import positive
from multiway.cli.labelled import DATA, add_labelled, add_labels, sources_of


def probe(argv: Sequence[str]) -> None:
    """Print top-1 of a logistic regression, beside the most frequent class and other samples' pictures."""
    from multiway.cli.model import add_device, load_model, progress_bar

    parser = Parser(
        "multiway evaluate probe",
        "A logistic regression of the frozen image tower's features learns classes from one set of pictures "
        "and is measured on another: top-1 and top-5 in percent with a 95 % interval (Wilson), the mean of "
        "top-1 over the classes, the most frequent class, and top-1 with the picture of another sample. "
        "Any system with pictures can be probed; nothing of it is trained.",
    )
    parser.add_argument("--model", required=True, help="model folder, hub id or official checkpoint")
    add_labelled(parser, "--train", f"what is learned from: {DATA['classify']}")
    add_labelled(parser, "--data", "what is measured, with the same classes")
    add_labels(parser)
    parser.add_argument("--train-split", help="of emoji, where --train is another split than --data")
    parser.add_argument(
        "--pool",
        choices=("own", "cls", "mean"),
        default="own",
        help="what stands for a picture: as the tower has it, its class token, or the mean of its patches",
    )
    parser.add_argument("--batch-size", type=positive, default=32, help="pictures at a time")
    add_device(parser)
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    args = parser.parse(argv)

    import json

    from multiway.cli.decide import counted
    from multiway.data.labelled import LabelledPictures
    from multiway.tasks.probe import measure

    sources = sources_of(args, args.train)
    if args.train_split is not None:
        sources = tuple(replace(source, split=args.train_split) for source in sources)
    train = LabelledPictures(sources)
    data = LabelledPictures(sources_of(args, args.data), labels=train.labels)
    model = load_model(args)
    with progress_bar() as progress:
        found = measure(model, train, data, pool=args.pool, batch_size=args.batch_size, progress=progress)
    found = counted(found, data)
    result = found.result | ({"skipped": found.skipped} if found.skipped else {})
    if args.json:
        print(json.dumps(result))
        return
    print(found.sentence())
    print(
        f"top-1     {share(result, 'top1')}, top-5 {result['top5']:.1f}, mean over classes "
        f"{result['balanced']:.1f}, most frequent of {result['n_classes']} classes {result['majority']:.1f}"
    )
    print(f"shuffled  {control(result, 'top1')}")
    said = f"{result['n_train']:,} pictures, {result['width']} features, penalty {result['penalty']:g}"
    print(f"learned from {said}")
