"""What the commands that use a model share: where it runs, and the bar that shows how far they are."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager


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
    """A function (stage, done, total) that draws a bar on a terminal, and nothing elsewhere."""
    from rich.console import Console
    from rich.progress import Progress

    with Progress(console=Console(stderr=True), transient=True, disable=not sys.stderr.isatty()) as bar:
        tasks = {}

        def show(stage: str, done: int, total: int) -> None:
            if stage not in tasks:
                tasks[stage] = bar.add_task(stage, total=total)
            bar.update(tasks[stage], completed=done, total=total)

        yield show
