"""The other engine: Ray Data, on this machine or on the cluster that RAY_ADDRESS names.

Each shard is one row of a data set, each worker an actor that keeps its models. The output folder must be one
that all machines see.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator, Sequence
from typing import Any

from multiway.bootstrap.pipeline import Job, Work
from multiway.errors import UserError


class _Worker:
    """An actor: the same work as a local process does."""

    def __init__(self, work: Work):
        self.work = work

    def __call__(self, row: dict[str, Any]) -> dict[str, Any]:
        return {"name": self.work(row["job"])}


def run(jobs: Sequence[Job], work: Work, *, workers: int) -> Iterator[str]:
    """Do the jobs; yields the name of each as it is done.

    Raises:
        UserError: ray is not installed.
    """
    try:
        import ray  # pyrefly: ignore  # an extra
    except ImportError:
        raise UserError("the Ray engine needs ray: pip install 'multiway[ray]'") from None
    if not jobs:
        return
    started = not ray.is_initialized()
    if started:
        cores = max(os.cpu_count() or 1, workers * work.config.threads + 1)
        local: dict[str, Any] = {"num_cpus": cores, "include_dashboard": False}
        local = {} if os.environ.get("RAY_ADDRESS") else local
        ray.init(log_to_driver=False, logging_level=logging.WARNING, **local)
    try:
        context = ray.data.DataContext.get_current()
        context.enable_progress_bars = False
        rows = ray.data.from_items([{"job": job} for job in jobs], override_num_blocks=len(jobs))
        done = rows.map(
            _Worker,  # pyrefly: ignore
            fn_constructor_args=(work,),
            concurrency=workers,
            num_cpus=work.config.threads,
            num_gpus=1 if work.device == "cuda" else None,
        )
        for row in done.iter_rows():
            yield row["name"]
    finally:
        if started:
            ray.shutdown()
