"""Training that is killed, stopped, or finds a torn checkpoint."""

from __future__ import annotations

import os
import random
import signal
import time

import pytest
import torch

from multiway.train.log import read_metrics


def steps_done(out) -> int:
    return max((line["step"] for line in read_metrics(out / "metrics.jsonl")), default=0)


def wait_for(out, step: int, process) -> None:
    end = time.monotonic() + 120
    while steps_done(out) < step and time.monotonic() < end and process.poll() is None:
        time.sleep(0.002)


def kill_and_resume(fake, start, tmp_path, *, steps: int, slow: float, seed: int) -> None:
    train = {"steps": steps, "save_every": 2, "keep_last": 2, "accumulate": 2}
    settings = {"train": train, "data": {"slow": slow, "poison": (3,)}}
    fake.fit(tmp_path / "whole", settings)
    draw = random.Random(seed)
    for part in range(3):
        (process,) = start(tmp_path, [("killed", settings)])
        step = draw.randint(steps * part // 4 + 1, steps * (part + 1) // 4)
        wait_for(tmp_path / "killed", step, process)
        time.sleep(draw.random() * 2 * slow)
        process.kill()
        process.communicate()
        assert process.returncode == -signal.SIGKILL
    fake.fit(tmp_path / "killed", settings)
    whole, killed = (fake.final(tmp_path / name, steps) for name in ("whole", "killed"))
    assert whole.keys() == killed.keys()
    for name in whole:
        assert torch.equal(whole[name], killed[name]), name
    lines = [read_metrics(tmp_path / name / "metrics.jsonl") for name in ("whole", "killed")]
    assert [x["step"] for x in lines[1]] == list(range(1, steps + 1))
    assert [x["loss"] for x in lines[0]] == [x["loss"] for x in lines[1]]
    assert not [p for p in (tmp_path / "killed" / "checkpoints").iterdir() if p.name.startswith(".")]


@pytest.mark.slow
def test_killed_three_times_is_the_same_run(fake, start, tmp_path):
    kill_and_resume(fake, start, tmp_path, steps=16, slow=0.02, seed=0)


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(8))
def test_killed_at_any_moment(fake, start, tmp_path, seed):
    kill_and_resume(fake, start, tmp_path, steps=200, slow=0.0, seed=seed)


@pytest.mark.parametrize(("number", "world"), [(signal.SIGINT, 1), (signal.SIGTERM, 2)])
def test_a_signal_saves_and_ends_cleanly(fake, start, tmp_path, capsys, number, world):
    train = {"steps": 3000, "save_every": 3000, "schedule": "constant"}
    processes = start(tmp_path, [("run", {"train": train, "data": {"slow": 0.01}})], world)
    out = tmp_path / "run"
    wait_for(out, 3, processes[0])
    os.kill(processes[-1].pid, number)  # one rank is told; all have to stop at the same step
    said = [p.communicate(timeout=600)[0] for p in processes]
    assert [p.returncode for p in processes] == [0] * world, said
    step = steps_done(out)
    assert 3 <= step < 3000
    assert f"after step {step:,}: saved in {out}; --resume auto goes on" in said[0].replace("\n", "")
    fake.fit(out, {"train": {**train, "steps": step + 1}, "data": {"slow": 0.01}})
    assert f"resumed after step {step}" in capsys.readouterr().out


@pytest.mark.parametrize(("number", "world"), [(signal.SIGINT, 1), (signal.SIGTERM, 2)])
def test_a_signal_while_the_run_is_built_ends_it_cleanly(fake, start, tmp_path, number, world):
    settings = {"train": {"steps": 2}, "data": {"building": 600.0}}
    processes = start(tmp_path, [("run", settings)], world)
    for process in processes:
        assert process.stdout.readline() == "building\n"
    for process in processes[::-1]:  # the last first: its sentence is not the one that is read
        os.kill(process.pid, number)
    said = [p.communicate(timeout=300)[0] for p in processes]  # sooner than what is built would be there
    assert [p.returncode for p in processes] == [0] * world, said
    name = signal.Signals(number).name
    assert said[0].splitlines() == [
        f"{name} before the first step: nothing is lost, and the same command starts again",
        f"done 0 {name}",
    ]
    assert not any((tmp_path / "run").rglob("*"))
    assert fake.fit(tmp_path / "run", {"train": {"steps": 2}}).progress.step == 2


def test_a_torn_checkpoint_is_passed_over_with_a_word(fake, tmp_path, capsys):
    settings = {"train": {"steps": 6, "save_every": 2, "keep_last": 9}}
    fake.fit(tmp_path, settings)
    whole = fake.final(tmp_path, 6)
    folder = tmp_path / "checkpoints"
    with open(folder / "step-00000006" / "model.safetensors", "r+b") as file:
        file.truncate(100)
    (folder / "step-00000004" / "trainer.json").write_text("{")
    (folder / "step-00000009").mkdir()
    (folder / ".step-00000010.new").mkdir()
    capsys.readouterr()
    fake.fit(tmp_path, settings)
    said = capsys.readouterr().out
    for name in ("step-00000009", "step-00000006", "step-00000004"):
        assert f"{name} is not a whole checkpoint and is ignored" in said
    assert "resumed after step 2" in said
    again = fake.final(tmp_path, 6)
    assert all(torch.equal(whole[name], again[name]) for name in whole)
    assert not (folder / ".step-00000010.new").exists()
