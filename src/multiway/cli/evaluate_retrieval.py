"""`multiway evaluate retrieval`: texts of pictures, and pictures of texts."""

from __future__ import annotations

from collections.abc import Sequence

from multiway.cli.arguments import Parser
from multiway.cli.flags import positive


def retrieval(argv: Sequence[str]) -> None:
    """Print recalls and median ranks, by contrast alone and re-ranked by the ITM head."""
    from multiway.cli import decide
    from multiway.cli.labelled import add_source, source_of

    parser = Parser(
        "multiway evaluate retrieval",
        "Recall in percent and median rank of the texts of pictures (tr) and the pictures of texts (ir): by "
        "contrast (itc), and with the K best re-ranked by the matching head (itm). Equal texts are one text "
        "with several pictures; a query is right at k if any of its positives is among the first k; ties "
        "count against the model. shuffled: by contrast, each picture's texts given to another one.",
    )
    add_source(parser, "--data")
    parser.add_argument("--k", type=positive, default=16, help="candidates that the matching head re-ranks")
    parser.add_argument("--folds", type=int, default=1, help="mean over so many folds (COCO's 1k test: 5)")
    parser.add_argument("--batch-size", type=positive, default=32, help="pictures, texts or pairs at a time")
    parser.add_argument(
        "--prefilter",
        metavar="MODEL",
        help="a model whose contrastive features choose the K candidates: for models without such features "
        "(ViLT) an approximation of scoring every pair",
    )
    parser.add_argument(
        "--frames",
        type=positive,
        metavar="N",
        help="the data is a table of videos (folders of frames, animated pictures): look at N frames of each",
    )
    decide.add_deciding(parser)
    args = parser.parse(argv)
    decide.check(args)

    from multiway.data.dataset import Dataset
    from multiway.data.videos import Videos
    from multiway.systems.frames import OverFrames, frame_size
    from multiway.tasks.retrieval_folds import measure_folds
    from multiway.train.parallel import choose_device
    from multiway.weights import load

    options = {"texts": args.texts, "k": args.k, "batch_size": args.batch_size}
    if args.prefilter is not None:
        options["prefilter"] = load(args.prefilter, device=choose_device(args.device))

    def opened(model):
        if args.frames is None:
            return Dataset(source_of(args))
        return Videos(source_of(args), frames=args.frames, size=frame_size(model))

    def measured(model, data, progress):
        seen = model if args.frames is None else OverFrames(model, args.frames)
        return measure_folds(seen, data, args.folds, progress=progress, **options)

    def show(found) -> None:
        for stage, values in (*((s, found.result[s]) for s in ("itc", "itm")), ("shuffled", found.shuffled)):
            if values:
                stage += " (approximate)" * (stage == "itm" and args.prefilter is not None)
                print(f"{stage:<8}  {_line(values, 'tr')}   {_line(values, 'ir')}")

    decide.decide(args, opened, measured, show)


def _line(values: dict[str, float], way: str) -> str:
    recalls = " / ".join(f"{values[f'{way}_r{k}']:.1f}" for k in (1, 5, 10))
    return f"{way.upper()} R@1/5/10 {recalls}, median rank {values[f'{way}_median_rank']:g}"
