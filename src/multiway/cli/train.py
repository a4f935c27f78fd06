"""`multiway train RECIPE`: the recipe, then `--from run.json`, then flags decide; the same under torchrun."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from multiway.cli.finetune import FIND
from multiway.errors import UserError

READ = 200  # pictures of each source that --dry-run decodes
ABOUT = """Train a recipe. Any field of the run can be changed by its dotted flag, as in --train.lr 1e-4 or
--data.train.0.path shards; those of `train` also by their name alone, as in --seed 1. The recipe comes first,
then --from run.json, then flags; what ran is written to OUT/run.json."""


def train(argv: Sequence[str]) -> None:
    """Resolve the run and train it, or print it with `--dry-run`."""
    from multiway import recipes
    from multiway.cli.arguments import Parser
    from multiway.cli.model import add_device

    parser = Parser(
        "multiway train", ABOUT, usage="multiway train RECIPE [--from run.json] [flags]", add_help=False
    )
    parser.epilog = (
        f"recipes: {', '.join(recipes.list_recipes())}. multiway train RECIPE --help lists every field."
    )
    parser.add_argument("--from", dest="base", type=Path, metavar="RUN", help="a run.json to start from")
    parser.add_argument("--out", type=Path, help="folder to write to; without it runs/ and the run's name")
    parser.add_argument(
        "--resume", choices=("auto", "never"), default="auto", help="go on from OUT's last checkpoint"
    )
    parser.add_argument(
        "--stage", help="this stage of the recipe alone, as image, text or pairs of vlmo_base"
    )
    add_device(parser)
    parser.add_argument("--find-batch-size", action="store_true", help=FIND)
    parser.add_argument("--dry-run", action="store_true", help="print the resolved run and stop")

    name = argv[0] if argv and not argv[0].startswith("-") else None
    args, flags = parser.parse_known_args(argv if name is None else argv[1:])
    if not argv or {"-h", "--help"} & set(flags):
        parser.print_help()
        if name is None:
            return
    if name is None and args.base is None:
        raise UserError(f"multiway train needs a recipe or --from run.json; {parser.epilog}")

    from multiway.cli.overrides import override
    from multiway.train.memory import find
    from multiway.train.run import Run

    stages = () if name is None else recipes.stages(recipes.get(name)())
    if args.base is not None:
        stages = (_read(args.base),)
    if args.stage is not None:
        names = [run.name for run in stages]
        stages = tuple(run for run in stages if run.name == args.stage)
        if not stages:
            raise UserError(f"--stage {args.stage}: this recipe's stages are {', '.join(names)}")
    prog, resolved = f"multiway train {name or f'--from {args.base}'}", []
    generic: Any = Run
    for run in stages:  # a flag changes every stage of a recipe
        run = override(run, flags, kind=generic[type(run.system), type(run.data)], prog=prog)
        if args.device != "auto":
            run = replace(run, train=replace(run.train, device=args.device))
        resolved.append(run)
    if args.stage is not None and run.train.freeze and run.init.checkpoint is None:
        raise UserError(f"--stage {run.name} goes on from the one before it: give --init.checkpoint")

    from multiway.tasks.pretrain import as_stages, pretrain_stages

    resolved = as_stages(resolved)
    if args.find_batch_size:
        resolved = list(map(find, resolved))
    if args.dry_run:
        for run in resolved:
            _show(run)
        return

    out = args.out or Path("runs") / (name or resolved[-1].name)
    result = pretrain_stages(resolved, out, resume=args.resume)
    if result.stopped_by is None and os.environ.get("RANK", "0") == "0":
        print(f"model in {out / 'model'}")


def _read(path: Path):
    """A saved run, read back strictly with the config class of the system that it names."""
    from multiway.data.dataset import DataConfig
    from multiway.systems import NETWORKS
    from multiway.train.run import read_run, system_of

    path = path / "run.json" if path.is_dir() else path
    name = system_of(path)
    if name not in NETWORKS:
        raise UserError(
            f"{path} names no system (run.system.system is {name!r}): give a run.json that multiway wrote"
        )
    return read_run(path, NETWORKS[name].config(), DataConfig)


def _show(run) -> None:
    import json

    from multiway.data.dataset import Dataset
    from multiway.tasks.inspect import look
    from multiway.train.build import describe

    description = describe(run, world=int(os.environ.get("WORLD_SIZE", "1")))
    print("\n".join([json.dumps(description.run, indent=2), *description.lines()]))
    for name, sources in (("train", run.data.train), ("val", run.data.val)):
        for source in sources:
            dataset = Dataset(source)
            tally = look(dataset, read=READ).tally
            print(f"data.{name}: {source.path}: {len(dataset):,} pictures; {tally.sentence()}")
