"""What the commands that use a model share: where it runs, and the bar that shows how far they are."""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

QUIET_SECONDS = 10.0  # between two lines where there is no terminal to draw a bar on


def add_device(parser: argparse.ArgumentParser) -> None:
    """The flag that `load_model` reads."""
    choices = ("auto", "cuda", "mps", "cpu")
    parser.add_argument("--device", choices=choices, default="auto", help="where to run")


def load_model(args: argparse.Namespace):
    """The system that `--model` names, on its device, in eval mode."""
    import multiway
    from multiway.train.parallel import choose_device

    return multiway.load(args.model, device=choose_device(args.device))


@contextmanager
def progress_bar() -> Iterator[Callable[[str, int, int], None]]:
    """A function (stage, done, total) that shows how far a stage is, its rate and the time left.

    A bar on a terminal; elsewhere a line now and then on stderr. The rate counts from a stage's first call,
    which may be above 0 where work was done before, and anew where `done` falls.
    """
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = ("{task.description}", BarColumn(), MofNCompleteColumn(), "{task.fields[rate]}", "eta")
    shown = [TextColumn(c) if isinstance(c, str) else c for c in columns]
    console = Console(stderr=True)
    with Progress(
        *shown, TimeRemainingColumn(), console=console, transient=True, disable=not console.is_terminal
    ) as bar:
        tasks, begins, reached, spoke = {}, {}, {}, time.monotonic()

        def show(stage: str, done: int, total: int) -> None:
            nonlocal spoke
            now = time.monotonic()
            if done < reached.get(stage, 0):  # it begins again, as with the second of two models
                del begins[stage]
            reached[stage] = done
            first, began = begins.setdefault(stage, (done, now))
            rate = (done - first) / max(now - began, 1e-9)
            if console.is_terminal:
                if stage not in tasks:
                    tasks[stage] = bar.add_task(stage, total=total, rate="")
                bar.update(tasks[stage], completed=done, total=total, rate=f"{rate:.1f}/s" if rate else "")
            elif rate and now - spoke > QUIET_SECONDS:
                spoke = now
                left = time.strftime("%H:%M:%S", time.gmtime((total - done) / rate))
                print(
                    f"{stage} {done:,} of {total:,}, {rate:.1f}/s, {left} left", file=sys.stderr, flush=True
                )

        yield show
