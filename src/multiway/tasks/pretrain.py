"""A pre-training run from end to end: what `multiway train` does, for Python."""

from __future__ import annotations

import filecmp
import os
import shutil
from collections.abc import Sequence
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any, Literal

import torch

from multiway import weights
from multiway.data.dataset import DataConfig, Dataset
from multiway.data.licences import licences
from multiway.errors import UserError
from multiway.systems import NETWORKS
from multiway.systems.base import System
from multiway.tasks.two_stage import NOTHING_TO_COMPARE
from multiway.train.loop import Result, train
from multiway.train.run import Run
from multiway.train.validate import Evaluate
from multiway.weights.adapter import save_adapter
from multiway.weights.aside import replacing
from multiway.weights.card import add_metrics
from multiway.weights.card import card as make_card
from multiway.weights.folder import FILES, is_model

RERANKED = 16  # candidates that a validation re-ranks


def pretrain(run: Run, out: str | Path, *, resume: Literal["auto", "never"] = "auto") -> Result:
    """Train `run` into the folder `out`; its model is then in `out/model`, the best one so far in `out/best`.

    Raises:
        UserError: the run is impossible, its data is missing or bad, or `out` holds another run.
    """
    if run.data.val and not _compares(run):
        name = NETWORKS[run.system.system].network().__name__
        lacks = NOTHING_TO_COMPARE.format(name).split(":")[0]
        raise UserError(f"{lacks}, by which data.val is measured: leave data.val out")

    @cache
    def said() -> str:
        return card(run)

    def save(system: System, folder: Path) -> Path:
        if run.train.lora.rank:
            save_adapter(
                system, folder.with_name(f"{folder.name}-adapter"), run.init.checkpoint, run.train.lora
            )
        return weights.save(system, folder, card=said())

    result = train(run, Path(out), resume=resume, evaluate=validation(run.data), save=save)
    note_validation(result, Path(out))
    return result


def _compares(run: Run) -> bool:
    """Whether its system can be asked what `validation` measures."""
    with torch.device("meta"):
        system = NETWORKS[run.system.system].network()(run.system)
    return system.has_itc or system.has_itm


def as_stages(runs: Sequence[Run]) -> list[Run]:
    """The stages of a recipe without what a flag gave to all and one can't use: `data.val` where there is
    nothing to compare, `init.visual_tokenizer` where a later one predicts no visual tokens.
    """
    if len(runs) == 1:
        return list(runs)
    stages = []
    for number, run in enumerate(runs):
        if run.data.val and not _compares(run):
            data, train = replace(run.data, val=()), replace(run.train, best_metric=None)
            run = replace(run, data=data, train=train)
        if number and NETWORKS[run.system.system].network().learn_from is System.learn_from:
            run = replace(run, init=replace(run.init, visual_tokenizer=None))
        stages.append(run)
    return stages


def pretrain_stages(
    runs: Sequence[Run], out: str | Path, *, resume: Literal["auto", "never"] = "auto"
) -> Result:
    """Train the stages of a recipe in turn, each from the model of the one before; the last is `out/model`.

    One stage trains in `out` itself, several in `out/1-name`, `out/2-name`, ... A stage that was finished is
    not trained again. Each leaves out what `as_stages` says.

    Raises:
        UserError: as `pretrain`.
    """
    out, (first, *later) = Path(out), as_stages(runs)
    if not later:
        return pretrain(first, out, resume=resume)
    folder = out / f"1-{first.name}"
    result = pretrain(first, folder, resume=resume)
    for number, run in enumerate(later, 2):
        if result.stopped_by is not None:
            return result
        init = replace(run.init, checkpoint=str(folder / "model"))
        folder = out / f"{number}-{run.name}"
        result = pretrain(replace(run, init=init), folder, resume=resume)
    if result.stopped_by is None and int(os.environ.get("RANK", "0")) == 0:
        _copy_model(folder / "model", out / "model")
    return result


def _copy_model(source: Path, target: Path) -> None:
    """Copy a model folder, unless the same model is there: what was measured of it since stays beside it."""
    if is_model(target) and all(filecmp.cmp(source / name, target / name, shallow=False) for name in FILES):
        return
    with replacing(target) as aside:
        shutil.copytree(source, aside, dirs_exist_ok=True)


def validation(data: DataConfig) -> Evaluate | None:
    """Retrieval on the validation sources, to measure a model while it trains; None where there are none."""
    if not data.val:
        return None
    from multiway.tasks.retrieval import evaluate

    dataset = Dataset(data.val)

    def measure(system: System) -> dict[str, Any]:
        return evaluate(system, dataset, k=RERANKED)

    return measure


def card(run: Run) -> str:
    """The model card of a trained model: what it is, what made it, and how to use it."""
    named = {"checkpoint": run.init.checkpoint, "image tower": run.init.image_tower, "text": run.init.text}
    origin = ", ".join(f"{part} `{name}`" for part, name in named.items() if name) or "fresh weights"
    return make_card(
        run.system.system,
        title=run.name,
        about="Trained by multiway.",
        training=f"{length(run)} at {run.data.image_size} pixels, seed {run.train.seed}; started from "
        f"{origin}. `run.json` of the run has every setting.",
        data=[
            (f"{s.path}{f', split {s.split}' if s.split else ''}", licences(Dataset(s), s.path))
            for s in run.data.train
        ],
    )


def length(run: Run) -> str:
    """How long a run is."""
    steps = f"{run.train.steps:,} steps" if run.train.steps is not None else f"{run.train.epochs} epochs"
    return f"{steps} of {run.train.batch_size} samples"


def note_validation(result: Result, out: Path) -> None:
    """Put what the run's last validation measured into the card of its model."""
    finished = result.stopped_by is None and int(os.environ.get("RANK", "0")) == 0
    if finished and result.validation and (out / "model").is_dir():
        figures = {
            name: f"{value:.2f}" for name, value in result.validation.items() if "shuffled" not in name
        }
        add_metrics(out / "model", "its run's validation", figures, "metrics.jsonl of the run")
