"""`multiway bootstrap`: a noisy web data set into a better one, by CapFilt."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from multiway.errors import UserError

if TYPE_CHECKING:
    from multiway.bootstrap.config import BootstrapConfig

ABOUT = """Caption every picture, score the web texts and the synthetic ones, and write new img2dataset shards
of the pairs that the filter keeps (BLIP, section 3.3), with a report in OUT/report.html. The same command
goes on where one was stopped or killed; another --threshold or --keep on a finished OUT is selected anew
without any model. A captioner or filter is a model (folder, hub id, checkpoint), module:function, or an
http(s) address."""


def bootstrap(argv: Sequence[str]) -> None:
    """Caption, filter, write, report."""
    from multiway.cli.arguments import Parser
    from multiway.cli.model import add_device, progress_bar

    parser = Parser("multiway bootstrap", ABOUT)
    add = parser.add_argument
    add("--data", required=True, nargs="+", help="tars of web pictures and texts: a tar, a folder, a glob")
    add("--out", required=True, help="folder of the new shards")
    add("--filter", required=True, help="scores pictures and texts")
    add("--captioner", help="writes synthetic texts; without it web texts alone are filtered")
    add("--human", nargs="+", default=(), help="tars of human pairs, taken over whole")
    add("--captions", type=int, default=1, help="synthetic captions a picture")
    add(
        "--best-of",
        type=int,
        default=1,
        help="captions drawn for each one, of which the filter takes the best",
    )
    add("--method", choices=("nucleus", "beam"), default="nucleus", help="how captions are made")
    add("--top-p", type=float, default=0.9, help="share of the probability that nucleus sampling draws from")
    add("--beams", type=int, default=3, help="beams of beam search")
    add("--min-length", type=int, help="fewest tokens of a caption; without it the model's own")
    add("--max-length", type=int, help="most tokens of a caption; without it the model's own")
    add("--repetition-penalty", type=float, default=1.0, help="of words that are there already; 1 is none")
    add("--prompt", help="what captions start with; without it the model's own")
    add(
        "--threshold",
        type=float,
        help="lowest score that is kept; without it the filter's own, 0.5 for models",
    )
    add("--labelled", help="csv or jsonl of image, text, label (or tars) that sets the threshold")
    add("--precision", type=float, help="what --labelled aims at; without it the best F1")
    add(
        "--keep", nargs="+", choices=("web", "synthetic"), default=("web", "synthetic"), help="texts to write"
    )
    add("--drop-duplicates", action="store_true", help="of near-duplicate pictures keep the first")
    add("--keep-out", nargs="+", default=(), help="tars or folders of an evaluation set to keep out")
    add("--source", help="written where a sample's json names no source")
    add("--licence", help="written where a sample's json names no licence")
    add("--engine", choices=("local", "ray"), default="local", help="who works: processes, or Ray Data")
    add("--workers", type=int, help="processes or actors; without it one a core, and one on a GPU")
    add("--threads", type=int, default=1, help="threads of each")
    add("--batch-size", type=int, default=32, help="pictures at a time")
    add("--seed", type=int, default=0, help="of all draws")
    add_device(parser)
    add("--json", action="store_true", help="print the report as one JSON object")
    args = parser.parse(argv)

    import json
    from dataclasses import fields

    from multiway.bootstrap.config import BootstrapConfig
    from multiway.bootstrap.report import sentences
    from multiway.bootstrap.run import bootstrap as run

    given: dict[str, Any] = {field.name: getattr(args, field.name) for field in fields(BootstrapConfig)}
    given = {k: tuple(v) if isinstance(v, list) else v for k, v in given.items()}
    config = BootstrapConfig(**given)
    _refuse_ignored(config)
    with progress_bar() as progress:
        report = run(
            config,
            args.out,
            engine=args.engine,
            workers=args.workers,
            device=args.device,
            labelled=args.labelled,
            precision=args.precision,
            progress=progress,
        )
    print(json.dumps(report) if args.json else "\n".join([*sentences(report), f"shards in {args.out}"]))


#: Flags of captions that only a model looks at.
OF_MODELS = ("method", "top_p", "beams", "min_length", "max_length", "repetition_penalty", "prompt")


def _refuse_ignored(config: BootstrapConfig) -> None:
    """Refuse flags of captions that the captioner never hears of."""
    from dataclasses import fields

    from multiway.bootstrap import named

    name = config.captioner
    if name is not None and not named.is_address(name) and not named.is_function(name):
        return
    unheard = set(OF_MODELS)
    if name is not None and named.is_function(name) and config.best_of == 1:
        unheard.add("captions")  # it makes as many as it likes; where the best are taken, they are cut to it
    given = [
        f"--{field.name.replace('_', '-')}"
        for field in fields(config)
        if field.name in unheard and getattr(config, field.name) != field.default
    ]
    if given:
        who = "without a captioner" if name is None else f"with the captioner {name}, which is no model"
        raise UserError(f"{', '.join(given)} would do nothing {who}: leave it out")
