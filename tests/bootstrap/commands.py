"""`multiway bootstrap` as a process of its own, and what kills it."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from functools import partial
from pathlib import Path

import multiway

HERE = Path(__file__).parent
PATIENCE = 800  # seconds; Ray alone takes minutes to start where other jobs fill the cores


def start(data: str, out: Path, *flags: str, seconds: float = 0.0, **extra: str) -> subprocess.Popen:
    """The command in a process of its own."""
    source = str(Path(multiway.__file__).parents[1])
    env = {**os.environ, "PYTHONPATH": f"{source}{os.pathsep}{HERE}", "FAKE_SECONDS": str(seconds), **extra}
    command = [sys.executable, "-m", "multiway", "bootstrap", "--data", data, "--out", str(out)]
    command += ["--captioner", "fakes:caption", "--filter", "fakes:score", "--batch-size", "4", *flags]
    # A job that a shell put in the background ignores SIGINT, and so would all that it starts.
    heard = partial(signal.signal, signal.SIGINT, signal.SIG_DFL)
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    return subprocess.Popen(command, env=env, text=True, preexec_fn=heard, **pipes)


def finish(process: subprocess.Popen) -> str:
    out, err = process.communicate(timeout=PATIENCE)
    assert process.returncode == 0, err
    return out


def scored(out: Path) -> int:
    return sum(path.read_bytes().count(b"\n") for path in out.glob("scores/*.jsonl"))


def kill_three_times(data: str, out: Path, batches: int, *flags: str, seed: int, **extra: str) -> list[int]:
    """SIGKILL after some of each third of the batches; returns how many stood there each time."""
    draw, stood = random.Random(seed), []
    for part in range(3):
        process = start(data, out, *flags, seconds=0.01, **extra)
        until = draw.randint(batches * part // 4 + 1, batches * (part + 1) // 4)
        end = time.monotonic() + PATIENCE
        while scored(out) < until and process.poll() is None and time.monotonic() < end:
            time.sleep(0.01)
        time.sleep(draw.random() * 0.05)
        process.kill()
        process.communicate()
        assert process.returncode == -signal.SIGKILL
        stood.append(scored(out))
    return stood
