"""Ray gives what local processes give. Its start is slow, so these tests are."""

from __future__ import annotations

import importlib.util
import os
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest
from commands import PATIENCE, finish, kill_three_times, start

from multiway.bootstrap import on_ray
from multiway.errors import UserError

TRIES = 6

# An extra that nothing else here needs: without it there is no engine to compare.
needs_ray = pytest.mark.skipif(
    importlib.util.find_spec("ray") is None, reason="needs ray: pip install 'multiway[ray]'"
)


PATIENT = {
    "FAKE_SECONDS": "0.002",  # so that there is something left to kill
    "RAY_AUTH_MODE": "disabled",
    "RAY_agent_register_timeout_ms": "600000",
    "RAY_worker_register_timeout_seconds": "600",
    "RAY_gcs_server_port_wait_time_s": "300",
}
PORTS = (
    "--port",
    "--metrics-export-port",
    "--dashboard-agent-grpc-port",
    "--dashboard-agent-listen-port",
    "--runtime-env-agent-port",
)


@pytest.fixture(scope="module")
def cluster(tmp_path_factory):
    """A Ray cluster of one machine: what is to be set to use it.

    Ray waits 15 seconds for helpers that find a port themselves and 30 for the node, whatever is set. So the
    ports are given, and a start that a busy machine made too slow is repeated.
    """
    folder = tmp_path_factory.mktemp("ray")
    for tried in range(TRIES):
        log = folder / f"log{tried}"
        process, port = begin(log)
        end = time.monotonic() + PATIENCE
        while b"Ray runtime started" not in log.read_bytes() and process.poll() is None:
            assert time.monotonic() < end, log.read_text()
            time.sleep(0.2)
        if process.poll() is None:
            break
    assert process.poll() is None, log.read_text()
    yield {"RAY_AUTH_MODE": "disabled", "RAY_ADDRESS": f"127.0.0.1:{port}"}
    process.terminate()  # with --block it takes its helpers with it
    process.wait(PATIENCE)


def begin(log: Path) -> tuple[subprocess.Popen, str]:
    """`ray start` on free ports, and the first of them."""
    places = [socket.create_server(("127.0.0.1", 0)) for _ in PORTS]
    ports = [str(place.getsockname()[1]) for place in places]
    for place in places:
        place.close()
    command = [str(Path(sys.executable).with_name("ray")), "start", "--head", "--block", "--num-cpus", "3"]
    command += ["--object-store-memory", "100000000", "--include-dashboard", "false", "--disable-usage-stats"]
    for name, port in zip(PORTS, ports, strict=True):
        command += [name, port]
    with open(log, "wb") as file:
        return subprocess.Popen(command, env=os.environ | PATIENT, stdout=file, stderr=file), ports[0]


@pytest.mark.slow
@pytest.mark.timeout(5 * PATIENCE)
@needs_ray
def test_ray_gives_what_local_processes_give(web, contents, tmp_path, cluster):
    data = web(2000, shard_size=250)
    finish(start(data, tmp_path / "local", "--workers", "2"))
    flags = ("--engine", "ray", "--workers", "2")
    stood = kill_three_times(data, tmp_path / "killed", 500, *flags, seed=0, **cluster)
    assert 0 < stood[0] < stood[1] < stood[2] < 508
    finish(start(data, tmp_path / "killed", *flags, **cluster))
    said = finish(start(data, tmp_path / "ray", *flags, **cluster))
    assert "ray, 2 workers" in said
    assert contents(tmp_path / "local") == contents(tmp_path / "ray") == contents(tmp_path / "killed")


@pytest.mark.slow
@pytest.mark.timeout(3 * PATIENCE)
@needs_ray
def test_ray_hands_on_what_a_worker_says(web, tmp_path, cluster):
    process = start(web(8), tmp_path / "out", "--engine", "ray", "--filter", "fakes:broken", **cluster)
    _, err = process.communicate(timeout=400)
    assert process.returncode == 1
    assert "one score for each text" in err
    process = start(web(8), tmp_path / "none", "--engine", "ray", "--filter", "fakes:none", **cluster)
    _, err = process.communicate(timeout=400)
    assert process.returncode == 2
    assert "fakes has no none" in err


class SlowRay:
    """A Ray that starts at the n-th try, or never."""

    def __init__(self, starts_at: int):
        self.starts_at, self.tries, self.stopped, self.options = starts_at, 0, 0, {}

    def init(self, **options):
        self.tries, self.options = self.tries + 1, options
        if self.tries < self.starts_at:
            raise Exception("The current node timed out during startup.\nmore")

    def shutdown(self):
        self.stopped += 1


def test_ray_is_started_again_where_a_busy_machine_was_too_slow(monkeypatch):
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    ray = SlowRay(starts_at=3)
    on_ray._start(ray, 4)
    assert (ray.tries, ray.stopped) == (3, 2)
    assert (ray.options["num_cpus"], ray.options["address"]) == (4, "local")
    ray = SlowRay(starts_at=9)
    with pytest.raises(
        UserError, match=r"in 3 tries \(The current node timed out during startup\.\): run `ray"
    ):
        on_ray._start(ray, 4)
    assert ray.tries == ray.stopped == 3


def test_a_cluster_that_is_not_there_is_one_sentence(monkeypatch):
    with socket.create_server(("127.0.0.1", 0)) as place:
        address = f"127.0.0.1:{place.getsockname()[1]}"
    monkeypatch.setenv("RAY_ADDRESS", address)
    with pytest.raises(UserError, match=f"no Ray cluster at RAY_ADDRESS={address}"):
        on_ray._start(SlowRay(starts_at=1), 4)


def test_workers_find_the_modules_that_the_command_finds(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PYTHONPATH", f"/somewhere{os.pathsep}below")
    paths = on_ray._environment()["env_vars"]["PYTHONPATH"].split(os.pathsep)
    assert paths[1:] == ["/somewhere", str(tmp_path / "below"), str(tmp_path)]
    assert (Path(paths[0]) / "multiway").is_dir()
