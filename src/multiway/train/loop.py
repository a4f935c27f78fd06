"""The training loop, on one page.

batch -> micro-batches -> losses -> gradients -> finite on all ranks? -> optimizer, then the state moves
                                                    | no
                                                    +-> nothing moves; the step is counted as skipped
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Literal, Protocol, runtime_checkable

from multiway import weights
from multiway.batch import Batch
from multiway.errors import UserError
from multiway.systems.base import System
from multiway.train import checkpoint, optim, parallel
from multiway.train.build import build
from multiway.train.checkpoint import Progress
from multiway.train.log import Log, claimed
from multiway.train.run import Run, write_run
from multiway.train.step import take_step
from multiway.train.validate import Evaluate, check, improves, validate
from multiway.weights.folder import is_model

SKIPS_ALLOWED = 10  # in a row; more is a broken run, not a bad batch


@runtime_checkable
class Loader(Protocol):
    """Where batches come from; batch s of a rank is a function of s alone."""

    def __len__(self) -> int: ...
    def iterate(self, start_step: int = 0) -> Iterator[Batch]: ...


class TrainingFailed(RuntimeError):
    """The run can't go on; the message says why."""


@dataclass(frozen=True)
class Result:
    """How a run ended.

    Attributes:
        progress: steps consumed and skipped. validation: the latest.
        stopped_by: the signal that ended it early, if one did.
    """

    progress: Progress
    validation: dict[str, float] | None = None
    stopped_by: str | None = None


def train(
    run: Run,
    out: Path,
    *,
    resume: Literal["auto", "never"] = "auto",
    evaluate: Evaluate | None = None,
    save: Callable[[System, Path], object] = weights.save,
    make: Callable[[Run, parallel.Ranks], tuple[System, Loader]] = build,
) -> Result:
    """Train `run` into the folder `out`.

    It will hold run.json, metrics.jsonl, checkpoints/, model/, and best/ if a metric decides what is best.

    Args:
        resume: `auto` goes on from the latest intact checkpoint in `out`, on the CPU bit for bit.
        evaluate: validates while training. save: writes a model folder, replacing what is there.
        make: builds the system and this rank's loader.

    Raises:
        UserError: the config is impossible, or `out` holds another run.
        TrainingFailed: losses or gradients stay non-finite.
    """
    config = run.train
    check(config, evaluate)
    with (
        parallel.ranks(config.device) as ranks,
        parallel.stop_signals() as stop,
        claimed(out, ranks.first) as file,
    ):
        config.per_rank(ranks.world)
        found = checkpoint.find(run, out, resume, ranks)
        progress = found.progress if found else Progress()

        parallel.seed_all(config.seed)
        built = stop.interrupting(lambda: make(run.resumed(out) if found else run, ranks), ranks)
        if built is None:
            return Result(progress, stopped_by=stop.name)
        system, loader = built
        epoch, total = len(loader), config.total_steps(len(loader))
        if progress.step > total:
            raise UserError(
                f"{out} holds a run of {progress.step:,} steps already, and {total:,} are asked for: give at "
                "least as many, or choose another output folder"
            )
        trained = optim.freeze(system, config.freeze)
        parallel.agree(system.to(ranks.device))
        state = system.init_state(steps_per_epoch=epoch).to(ranks.device)
        found.restore(system, state) if found else system.begin(state)
        model = parallel.wrap(system, config, ranks)
        optimizer = optim.build_optimizer(system, config)
        names = {p: name for name, p in system.named_parameters() if p.requires_grad}
        if found:
            checkpoint.load_optimizer(optimizer, names, found.load("optimizer"))
        size, board = config.batch_size, config.tensorboard
        log = Log(out, start=progress.step, total=total, batch_size=size, tensorboard=board, file=file)
        if ranks.first:
            write_run(run, out)
            if system.tokenizer is not None and system.tokenizer.config.vocab == "trained":
                system.tokenizer.save(out)
        log.say(f"{run.name}: {total:,} steps of {size} on {ranks.world} x {ranks.device.type}; {trained}")
        if found:
            log.say(found.sentence(ranks.world))
        progress.world = ranks.world
        progress.decide_by(config.best_metric, config.best_mode, run.data.val)
        validation, stopped_by = None, None

        def measure_if_due() -> None:
            nonlocal validation
            due = progress.step == total or progress.due(config.validate_every)
            if evaluate is None or not due or progress.validated == progress.step:
                return
            began = time.monotonic()
            validation = parallel.from_first(validate(system, evaluate, config))
            log.validation(progress.step, validation, time.monotonic() - began)
            better = improves(validation, progress.best, config)
            if better is not None:
                progress.best = better
                write_model("best")
            progress.validated = progress.step

        def write_model(name: str) -> None:
            whole = parallel.whole_model(system, lambda: make(run.resumed(out), ranks)[0])
            if ranks.first:
                save(whole, out / name)

        kept = out / "checkpoints", progress, system, state, optimizer, names
        keep = partial(checkpoint.save, *kept, keep=config.keep_last, write=ranks.first)
        batches = loader.iterate(progress.step)
        try:
            if progress.step < total:  # a signal had come before it could be measured
                measure_if_due()
            while progress.step < total and stopped_by is None:
                lr = optim.learning_rate(progress.step, config, steps_per_epoch=epoch)
                optim.set_lr(optimizer, lr)
                taken, values = take_step(
                    model, system, state, optimizer, next(batches), progress, config, ranks
                )
                progress.count(taken)
                log.step(progress.step, {**values, "lr": lr, "skipped": progress.skipped})
                if progress.in_a_row >= SKIPS_ALLOWED:
                    raise TrainingFailed(
                        f"loss or gradient was not finite in {SKIPS_ALLOWED} steps in a row, up to step "
                        f"{progress.step}: lower train.lr, set train.clip_grad, or look at the data"
                    )
                done = progress.step == total
                if not parallel.everywhere(stop.name is None, ranks.device):
                    stopped_by = stop.name or "a signal to another rank"
                elif not done:
                    measure_if_due()
                if stopped_by or done or progress.due(config.save_every):
                    keep()
            if stopped_by:
                log.say(f"{stopped_by} after step {progress.step:,}: saved in {out}; --resume auto goes on")
            else:  # all steps are saved: what fails here, is made up for when the run is resumed
                saved = replace(progress)
                measure_if_due()
                if progress.written != total or not parallel.from_first(is_model(out / "model")):
                    write_model("model")
                    progress.written = total
                if progress != saved:
                    keep()
            if progress.skipped:
                log.say(f"{progress.skipped} of {progress.step} steps were not finite and moved nothing")
            if tally := getattr(loader, "tally", None):
                log.say(f"data: {tally.sentence()}")
        finally:
            log.close()
        return Result(progress, validation, stopped_by)
