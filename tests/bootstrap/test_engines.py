"""Engines, worker counts, kills and resumes do not change a byte."""

from __future__ import annotations

import importlib.util
import os
import random
import signal
import subprocess
import sys
import time
from functools import partial
from pathlib import Path

import pytest

import multiway
from multiway.bootstrap import journal
from multiway.bootstrap.run import bootstrap
from multiway.errors import UserError

HERE = Path(__file__).parent


def start(data: str, out: Path, *flags: str, seconds: float = 0.0) -> subprocess.Popen:
    """The command in a process group of its own."""
    source = str(Path(multiway.__file__).parents[1])
    env = {**os.environ, "PYTHONPATH": f"{source}{os.pathsep}{HERE}", "FAKE_SECONDS": str(seconds)}
    command = [sys.executable, "-m", "multiway", "bootstrap", "--data", data, "--out", str(out)]
    command += ["--captioner", "fakes:caption", "--filter", "fakes:score", "--batch-size", "4", *flags]
    # A job that a shell put in the background ignores SIGINT, and so would all that it starts.
    heard = partial(signal.signal, signal.SIGINT, signal.SIG_DFL)
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    return subprocess.Popen(command, env=env, text=True, preexec_fn=heard, **pipes)


def finish(process: subprocess.Popen) -> str:
    out, err = process.communicate(timeout=800)
    assert process.returncode == 0, err
    return out


def scored(out: Path) -> int:
    return sum(path.read_bytes().count(b"\n") for path in out.glob("scores/*.jsonl"))


def kill_three_times(data: str, out: Path, batches: int, *flags: str, seed: int) -> list[int]:
    """SIGKILL after some of each third of the batches; returns how many stood there each time."""
    draw, stood = random.Random(seed), []
    for part in range(3):
        process = start(data, out, *flags, seconds=0.01)
        until = draw.randint(batches * part // 4 + 1, batches * (part + 1) // 4)
        end = time.monotonic() + 200
        while scored(out) < until and process.poll() is None and time.monotonic() < end:
            time.sleep(0.01)
        time.sleep(draw.random() * 0.05)
        process.kill()
        process.communicate()
        assert process.returncode == -signal.SIGKILL
        stood.append(scored(out))
    return stood


def test_two_workers_give_what_one_gives(web, config, contents, tmp_path):
    data = web(40)
    bootstrap(config(data), tmp_path / "one", workers=1)
    report = bootstrap(config(data), tmp_path / "two", workers=2)
    assert contents(tmp_path / "one") == contents(tmp_path / "two")
    assert report["throughput"]["pictures"] == 40


def test_killed_three_times_it_gives_the_same_shards(web, config, contents, tmp_path):
    data, out = web(96, shard_size=32), tmp_path / "killed"
    bootstrap(config(data), tmp_path / "whole", workers=1)
    stood = kill_three_times(data, out, 24, "--workers", "2", seed=0)
    assert 0 < stood[0] < stood[1] < stood[2]
    said = finish(start(data, out, "--workers", "2"))
    assert "96 pictures read" in said
    assert contents(tmp_path / "whole") == contents(out)
    assert not [path for path in out.iterdir() if path.name.endswith(".part")]


def test_a_torn_line_is_done_again(web, config, contents, tmp_path):
    data = web(20, shard_size=20)
    bootstrap(config(data), tmp_path / "whole", workers=1)
    bootstrap(config(data), tmp_path / "torn", workers=1)
    book = tmp_path / "torn" / "scores" / "00000.jsonl"
    content = book.read_bytes()
    (tmp_path / "torn" / "00000.json").unlink()
    for cut in (len(content) - 7, content.index(b"\n") + 1, 3, 0):
        book.write_bytes(content[:cut])
        bootstrap(config(data), tmp_path / "torn", workers=1)
        assert book.read_bytes() == content
        assert contents(tmp_path / "whole") == contents(tmp_path / "torn")
        (tmp_path / "torn" / "00000.tar").write_bytes(b"")


def test_a_finished_shard_is_not_done_again(web, config, tmp_path):
    data, out, calls = web(20), tmp_path / "out", []

    def count(pictures, keys):
        calls.append(len(keys))
        return [[] for _ in keys]

    bootstrap(config(data), out, workers=1, captioner=count)
    times = {path: path.stat().st_mtime_ns for path in out.glob("*.tar")}
    bootstrap(config(data), out, workers=1, captioner=count)
    assert sum(calls) == 20
    assert times == {path: path.stat().st_mtime_ns for path in out.glob("*.tar")}


def test_two_runs_do_not_share_a_folder(web, config, tmp_path):
    out = tmp_path / "out"
    out.mkdir()
    with open(out / ".lock", "ab") as file:
        assert journal.lock(file, wait=False)
        with pytest.raises(UserError, match="another run is working"):
            bootstrap(config(web(4)), out, workers=1)


def test_a_failing_worker_ends_the_run(web, config, tmp_path):
    with pytest.raises(ValueError, match="one score for each text"):
        bootstrap(config(web(20), filter="fakes:broken"), tmp_path / "out", workers=2)


def test_ctrl_c_ends_the_workers_too(web, tmp_path):
    process = start(web(400, shard_size=100), tmp_path / "out", "--workers", "2", seconds=0.05)
    end = time.monotonic() + 200
    while scored(tmp_path / "out") < 4 and process.poll() is None and time.monotonic() < end:
        time.sleep(0.05)
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=60)
    assert process.returncode == 130, err
    assert "Traceback" not in err
    before = scored(tmp_path / "out")
    time.sleep(0.5)
    assert scored(tmp_path / "out") == before


# An extra that nothing else here needs: without it there is no engine to compare.
@pytest.mark.slow
@pytest.mark.skipif(importlib.util.find_spec("ray") is None, reason="needs ray: pip install 'multiway[ray]'")
def test_ray_gives_what_local_processes_give(web, contents, tmp_path):
    data = web(2000, shard_size=250)
    finish(start(data, tmp_path / "local", "--workers", "2"))
    said = finish(start(data, tmp_path / "ray", "--engine", "ray", "--workers", "2"))
    assert "ray, 2 workers" in said
    assert contents(tmp_path / "local") == contents(tmp_path / "ray")


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(3))
def test_2000_pictures_survive_three_kills(web, contents, tmp_path, seed):
    data = web(2000, shard_size=250)
    finish(start(data, tmp_path / "whole", "--workers", "2"))
    kill_three_times(data, tmp_path / "killed", 500, "--workers", "2", seed=seed)
    finish(start(data, tmp_path / "killed", "--workers", "1"))
    assert contents(tmp_path / "whole") == contents(tmp_path / "killed")
