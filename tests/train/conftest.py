"""The fake system as a fixture, and a way to train it in other processes."""

from __future__ import annotations

import importlib.util
import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest

FAKE = Path(__file__).parent / "fake.py"


@pytest.fixture(scope="session")
def fake():
    """tests/train/fake.py as a module."""
    if "multiway_fake" not in sys.modules:
        spec = importlib.util.spec_from_file_location("multiway_fake", FAKE)
        module = importlib.util.module_from_spec(spec)
        sys.modules["multiway_fake"] = module
        spec.loader.exec_module(module)
    return sys.modules["multiway_fake"]


@pytest.fixture(scope="session")
def start():
    """start(out, jobs, world): processes that train the fake system, one a rank; jobs: (name, settings)."""

    def start(out: Path, jobs: list, world: int = 1) -> list[subprocess.Popen]:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        source = Path(__file__).parents[2] / "src"
        common = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(source)}
        processes = []
        for rank in range(world):
            env = common
            if world > 1:
                group = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
                env = {
                    **common,
                    **group,
                    "RANK": str(rank),
                    "LOCAL_RANK": str(rank),
                    "WORLD_SIZE": str(world),
                }
            command = [sys.executable, str(FAKE), str(out), json.dumps(jobs)]
            processes.append(
                subprocess.Popen(
                    command, env=env, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
                )
            )
        return processes

    return start


@pytest.fixture(scope="session")
def finish(start):
    """finish(out, jobs, world): train to the end; what rank 0 said."""

    def finish(out: Path, jobs: list, world: int = 1) -> str:
        said = [(p.communicate(timeout=800)[0], p.returncode) for p in start(out, jobs, world)]
        for text, code in said:
            assert code == 0, text
        return said[0][0]

    return finish
