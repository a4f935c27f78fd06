"""What a run says: `metrics.jsonl` is the truth; the progress bar and tensorboard are views of it."""

from __future__ import annotations

import errno
import fcntl
import json
import math
import time
from collections.abc import Mapping
from pathlib import Path
from typing import IO, Any

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

from multiway.errors import UserError

QUIET_SECONDS = 10.0  # between two lines where there is no terminal to draw a bar on


class Log:
    """The log of one run.

    Args:
        folder: where metrics.jsonl lies. start, total: the steps that are done and to be done.
        batch_size: samples a step, for the rate. on: False on every rank but the first; nothing is then said.

    Raises:
        UserError: another process is writing this log.
    """

    def __init__(
        self,
        folder: Path,
        *,
        start: int,
        total: int,
        batch_size: int,
        tensorboard: bool = False,
        on: bool = True,
    ):
        self.on, self.start, self.total, self.batch_size = on, start, total, batch_size
        self.began, self.spoke, self.away = time.monotonic(), 0.0, 0.0
        self.console = Console(quiet=not on, highlight=False, soft_wrap=True)
        self.writer = self.bar = None
        if not on:
            return
        writer = _summary_writer() if tensorboard else None
        folder.mkdir(parents=True, exist_ok=True)
        self.file = _open(folder / "metrics.jsonl", start)
        self.writer = writer and writer(str(folder / "tensorboard"))
        if self.console.is_terminal:
            columns = ("{task.description}", BarColumn(), MofNCompleteColumn(), "{task.fields[rate]}", "eta")
            self.bar = Progress(
                *(TextColumn(c) if isinstance(c, str) else c for c in columns),
                TimeRemainingColumn(),
                TimeElapsedColumn(),
                console=self.console,
            )
            self.task = self.bar.add_task("training", total=total, completed=start, rate="")
            self.bar.start()

    def step(self, step: int, values: Mapping[str, int | float]) -> None:
        """Record step `step` (counted from 1) and show it."""
        if not self.on:
            return
        now = time.monotonic()
        seconds = max(now - self.began - self.away, 1e-9) / max(step - self.start, 1)
        rate = self.batch_size / seconds
        self._write({"step": step, **values, "samples_per_second": round(rate, 3)})
        said = f"loss {values.get('loss', math.nan):.4f}, {rate:.1f} samples/s"
        if self.bar is not None:
            self.bar.update(self.task, completed=step, rate=said)
        elif now - self.spoke > QUIET_SECONDS or step == self.total:
            self.spoke = now
            left = time.strftime("%H:%M:%S", time.gmtime(seconds * (self.total - step)))
            self.say(f"step {step:,}/{self.total:,}: {said}, {left} left")

    def validation(self, step: int, values: Mapping[str, int | float], seconds: float) -> None:
        """Record the validation after step `step`; its time does not count as training."""
        self.away += seconds
        self._write({"step": step, **{f"val/{name}": value for name, value in values.items()}})
        self.say(f"validation after step {step:,}: " + ", ".join(f"{k} {v:.4g}" for k, v in values.items()))

    def say(self, sentence: str) -> None:
        """One line for the person who watches."""
        self.console.print(sentence, markup=False)

    def close(self) -> None:
        """Leave the terminal as it was."""
        if self.bar is not None:
            self.bar.stop()
        if self.writer is not None:
            self.writer.close()
        if self.on:
            self.file.close()

    def _write(self, line: Mapping[str, int | float]) -> None:
        if not self.on:
            return
        plain = {k: v if math.isfinite(v) else None for k, v in line.items()}  # JSON has no nan
        self.file.write(json.dumps(plain) + "\n")
        self.file.flush()
        if self.writer is not None:
            for name, value in line.items():
                if name != "step":
                    self.writer.add_scalar(name, value, int(line["step"]))


def read_metrics(path: Path) -> list[dict[str, Any]]:
    """The lines of a metrics.jsonl; a torn last line, as a killed process leaves it, is left out."""
    return [x for line in (path.read_text().splitlines() if path.exists() else []) for x in _parsed(line)]


def _parsed(line: str) -> list[dict[str, Any]]:
    """What a line records; nothing where it is torn."""
    try:
        return [json.loads(line)]
    except json.JSONDecodeError:
        return []


def _open(path: Path, step: int) -> IO[str]:
    """A metrics.jsonl to go on with, for this process alone.

    What was recorded after the checkpoint that is resumed is cut off: those steps are taken again.
    """
    file = open(path, "a+")  # noqa: SIM115 -- the log keeps it open, and with it the lock
    try:  # a lock of this process: a worker of it that outlives it does not hold it
        fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        if error.errno in (errno.EACCES, errno.EAGAIN):
            file.close()
            raise UserError(
                f"another process is training into {path.parent}: wait for its end, or choose another output "
                "folder"
            ) from None  # other errors: a file system that has no locks
    file.seek(0)
    kept = 0
    while line := file.readline():
        if not line.endswith("\n") or any(x["step"] > step for x in _parsed(line)):
            break
        kept = file.tell()
    file.truncate(kept)
    return file


def _summary_writer() -> Any:
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError:
        raise UserError(
            "train.tensorboard needs tensorboard: pip install 'multiway[track]', or turn it off"
        ) from None
    return SummaryWriter
