"""What a run says: `metrics.jsonl` is the truth; the progress bar and tensorboard are views of it."""

from __future__ import annotations

import errno
import fcntl
import json
import math
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from datetime import timedelta
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
        batch_size: samples a step, for the rate. file: of `claimed`; None on every rank but the first:
            nothing is then said.
    """

    def __init__(
        self,
        folder: Path,
        *,
        start: int,
        total: int,
        batch_size: int,
        tensorboard: bool = False,
        file: IO[str] | None,
    ):
        self.file, self.start, self.total, self.batch_size = file, start, total, batch_size
        self.began, self.spoke, self.away = time.monotonic(), 0.0, 0.0
        self.console = Console(quiet=file is None, highlight=False, soft_wrap=True)
        self.writer = self.bar = None
        if file is None:
            return
        if tensorboard:  # what it was told of steps that are taken again is hidden
            self.writer = _summary_writer()(str(folder / "tensorboard"), purge_step=start + 1)
        _cut(file, start)
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
        if self.file is None:
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
            left = timedelta(seconds=int(seconds * (self.total - step)))
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

    def _write(self, line: Mapping[str, int | float]) -> None:
        if self.file is None:
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


@contextmanager
def claimed(folder: Path, first: bool) -> Iterator[IO[str] | None]:
    """The metrics.jsonl of a run's folder, for the first rank of this process alone; None for other ranks.

    Raises:
        UserError: another process trains into this folder.
    """
    if not first:
        yield None
        return
    made = [path for path in (folder, *folder.parents) if not path.exists()]
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "metrics.jsonl"
    with open(path, "a+") as file:
        try:  # a lock of this process: a worker of it that outlives it does not hold it
            fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            if error.errno in (errno.EACCES, errno.EAGAIN):
                raise UserError(
                    f"another process is training into {folder}: wait for its end, or choose another output "
                    "folder"
                ) from None  # other errors: a file system that has no locks
        try:
            yield file
        finally:
            with suppress(OSError):  # something is in the folder, or somebody removed it
                if not path.stat().st_size:  # refused before its first step: it leaves nothing
                    path.unlink()
                    for empty in made:
                        empty.rmdir()


def _cut(file: IO[str], step: int) -> None:
    """Cut off what was recorded after the checkpoint that is resumed: those steps are taken again."""
    file.seek(0)
    kept = 0
    while line := file.readline():
        if not line.endswith("\n") or any(x["step"] > step for x in _parsed(line)):
            break
        kept = file.tell()
    file.truncate(kept)


def _summary_writer() -> Any:
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError:
        raise UserError(
            "train.tensorboard needs tensorboard: pip install 'multiway[track]', or turn it off"
        ) from None
    return SummaryWriter
