"""Engines, worker counts, kills and resumes do not change a byte."""

from __future__ import annotations

import signal
import time
from pathlib import Path

import pytest
from commands import PATIENCE, finish, kill_three_times, scored, start

from multiway.bootstrap import journal
from multiway.bootstrap.pipeline import AnswerFailed
from multiway.bootstrap.run import bootstrap
from multiway.errors import UserError


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
    with pytest.raises(AnswerFailed, match="one score for each text"):
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


def stat(pid: int) -> list[str]:
    """State, parent, ... of a process, from /proc; nothing where it is gone."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return []


# Only there can a test see whose child a process is.
@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="looks for processes in /proc")
def test_a_killed_run_leaves_no_process(web, tmp_path):
    process = start(web(400, shard_size=100), tmp_path / "out", "--workers", "2", seconds=0.05)
    end = time.monotonic() + 200
    while scored(tmp_path / "out") < 4 and process.poll() is None and time.monotonic() < end:
        time.sleep(0.05)
    pids = [int(path.name) for path in Path("/proc").iterdir() if path.name.isdigit()]
    workers = [pid for pid in pids if stat(pid)[1:2] == [str(process.pid)]]
    assert len(workers) >= 2
    process.kill()
    process.communicate()
    while any(stat(pid)[:1] not in ([], ["Z"]) for pid in workers) and time.monotonic() < end:
        time.sleep(0.05)
    assert [pid for pid in workers if stat(pid)[:1] not in ([], ["Z"])] == []


@pytest.mark.slow
@pytest.mark.timeout(5 * PATIENCE)
@pytest.mark.parametrize("seed", range(3))
def test_2000_pictures_survive_three_kills(web, contents, tmp_path, seed):
    data = web(2000, shard_size=250)
    finish(start(data, tmp_path / "whole", "--workers", "2"))
    stood = kill_three_times(data, tmp_path / "killed", 500, "--workers", "2", seed=seed)
    assert 0 < stood[0] < stood[1] < stood[2] < 508
    finish(start(data, tmp_path / "killed", "--workers", "1"))
    assert contents(tmp_path / "whole") == contents(tmp_path / "killed")
