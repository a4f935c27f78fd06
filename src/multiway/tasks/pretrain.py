"""A pre-training run from end to end: what `multiway train` does, for Python."""

from __future__ import annotations

import os
import shutil
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

from multiway import weights
from multiway.data.dataset import DataConfig, Dataset
from multiway.systems import NETWORKS
from multiway.systems.base import System
from multiway.train.loop import Result, train
from multiway.train.run import Run
from multiway.train.validate import Evaluate
from multiway.weights.adapter import save_adapter
from multiway.weights.aside import replacing

RERANKED = 16  # candidates that a validation re-ranks


def pretrain(run: Run, out: str | Path, *, resume: Literal["auto", "never"] = "auto") -> Result:
    """Train `run` into the folder `out`; its model is then in `out/model`, the best one so far in `out/best`.

    Raises:
        UserError: the run is impossible, its data is missing or bad, or `out` holds another run.
    """

    def save(system: System, folder: Path) -> Path:
        if run.train.lora.rank:
            save_adapter(
                system, folder.with_name(f"{folder.name}-adapter"), run.init.checkpoint, run.train.lora
            )
        return weights.save(system, folder, card=card(run))

    return train(run, Path(out), resume=resume, evaluate=validation(run.data), save=save)


def pretrain_stages(
    runs: Sequence[Run], out: str | Path, *, resume: Literal["auto", "never"] = "auto"
) -> Result:
    """Train the stages of a recipe in turn, each from the model of the one before; the last is `out/model`.

    One stage trains in `out` itself, several in `out/1-name`, `out/2-name`, ... A stage that was finished is
    not trained again.

    Raises:
        UserError: as `pretrain`.
    """
    out, (first, *later) = Path(out), runs
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
        with replacing(out / "model") as aside:
            shutil.copytree(folder / "model", aside, dirs_exist_ok=True)
    return result


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
    length = f"{run.train.steps:,} steps" if run.train.steps is not None else f"{run.train.epochs} epochs"
    named = {"checkpoint": run.init.checkpoint, "image tower": run.init.image_tower, "text": run.init.text}
    origin = ", ".join(f"{part} `{name}`" for part, name in named.items() if name) or "fresh weights"
    sources = "\n".join(f"- `{s.path}`{f', split {s.split}' if s.split else ''}" for s in run.data.train)
    return f"""# {run.name}

A {run.system.system.upper()} model ({NETWORKS[run.system.system].paper}), trained by multiway.

```python
import multiway

model = multiway.load("this folder")
model.encode_image("cat.jpg") @ model.encode_text("a cat").T
```

## Training
{length} of {run.train.batch_size} samples at {run.data.image_size} pixels, seed {run.train.seed}; started
from {origin}. `run.json` of the run has every setting.

## Data
{sources}

## Limits
It knows what its data shows, with its data's biases, and was not examined for any use beyond research.
"""
