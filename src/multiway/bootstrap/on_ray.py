"""The other engine: Ray Data, on this machine or on the cluster that RAY_ADDRESS names.

Each shard is one row of a data set, each worker an actor that keeps its models. The output folder must be one
that all machines see.
"""

from __future__ import annotations

import logging
import os
import pickle
import socket
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import multiway
from multiway.bootstrap.pipeline import Job, Work
from multiway.errors import UserError

TRIES = 3  # of starting Ray here: it gives its own helpers 15 seconds, which a busy machine may not
OBJECTS = 100 * 2**20  # bytes of Ray's shared memory, of which shards' numbers need next to nothing


class _Worker:
    """An actor: the same work as a local process does, in the folder that the command was given in."""

    def __init__(self, work: Work, jobs: Sequence[Job], folder: str):
        self.work, self.jobs, self.folder = work, jobs, folder

    def __call__(self, row: dict[str, Any]) -> dict[str, Any]:
        """The name of the shard; or what was raised, which Ray would wrap, print and try again."""
        try:
            os.chdir(self.folder)
            return {"name": self.work(self.jobs[row["id"]]), "error": b""}
        except Exception as error:
            return {"name": "", "error": _pickled(error)}


def run(jobs: Sequence[Job], work: Work, *, workers: int) -> Iterator[str]:
    """Do the jobs; yields the name of each as it is done.

    Raises:
        UserError: ray is not installed, can't be started or reached, or a worker met wrong input.
    """
    try:
        import ray  # pyrefly: ignore  # an extra
    except ImportError:
        raise UserError("the Ray engine needs ray: pip install 'multiway[ray]'") from None
    if not jobs:
        return
    started = not ray.is_initialized()
    if started:
        _start(ray, max(os.cpu_count() or 1, workers * work.config.threads + 1))
    try:
        context = ray.data.DataContext.get_current()
        context.enable_progress_bars = False
        done = ray.data.range(len(jobs), override_num_blocks=len(jobs)).map(
            _Worker,  # pyrefly: ignore
            fn_constructor_args=(work, list(jobs), os.getcwd()),
            compute=ray.data.ActorPoolStrategy(size=workers),
            num_cpus=work.config.threads,
            num_gpus=1 if work.device == "cuda" else None,
        )
        logging.getLogger("ray.data").setLevel(logging.ERROR)  # set up anew with each data set
        for row in done.iter_rows():
            if row["error"]:
                raise pickle.loads(row["error"])
            yield row["name"]
    finally:
        if started:
            ray.shutdown()


def _start(ray: Any, cores: int) -> None:
    """Connect to the cluster that RAY_ADDRESS names, or start Ray here."""
    options = {"log_to_driver": False, "logging_level": logging.ERROR, "runtime_env": _environment()}
    if address := os.environ.get("RAY_ADDRESS"):
        try:
            _reach(address)
            ray.init(**options)
        except Exception as error:
            raise UserError(
                f"there is no Ray cluster at RAY_ADDRESS={address} ({_line(error)}): start it, or unset it "
                "to run on this machine"
            ) from None
        return
    options |= {
        "address": "local",
        "num_cpus": cores,
        "include_dashboard": False,
        "object_store_memory": OBJECTS,
    }
    for tried in range(1, TRIES + 1):
        try:
            ray.init(**options)
            return
        except Exception as error:
            ray.shutdown()
            if tried == TRIES:
                raise UserError(
                    f"Ray did not start in {TRIES} tries ({_line(error)}): run `ray start --head` when the "
                    "machine is less busy and set RAY_ADDRESS=auto, or take --engine local"
                ) from None


def _reach(address: str) -> None:
    """Ray itself would try a dead address for many minutes."""
    host, _, port = address.rpartition(":")
    if host and port.isdigit() and "/" not in host:
        socket.create_connection((host, int(port)), timeout=10).close()


def _environment() -> dict[str, Any]:
    """Workers find the modules that this process finds: this package, PYTHONPATH, the current folder."""
    given = [os.path.abspath(path) for path in os.environ.get("PYTHONPATH", "").split(os.pathsep) if path]
    paths = dict.fromkeys([str(Path(multiway.__file__).parents[1]), *given, os.getcwd()])
    return {"env_vars": {"PYTHONPATH": os.pathsep.join(paths)}}


def _pickled(error: Exception) -> bytes:
    try:
        pickle.loads(content := pickle.dumps(error))
    except Exception:  # an exception of some library that can't travel
        return pickle.dumps(RuntimeError(f"{type(error).__name__}: {error}"))
    return content


def _line(error: Exception) -> str:
    return next(iter(str(error).strip().splitlines()), type(error).__name__)[:200]
