"""One optimizer step moves everything once; a skipped one moves nothing; a resumed run is the same run."""

from __future__ import annotations

import itertools
import os
import shutil
import signal
from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch

from multiway.data.dataset import Source
from multiway.errors import UserError
from multiway.train import checkpoint, loop
from multiway.train.log import read_metrics
from multiway.train.run import Init, read_run, write_run
from multiway.train.step import take_step


@pytest.fixture
def fit(fake, tmp_path):
    """fit(out, **options): train the fake system here; its result and the system."""

    def fit(name="run", *, evaluate=None, resume="auto", **options):
        kept = []

        def build(run, ranks):
            kept[:] = fake.build(run, ranks)
            return tuple(kept)

        run = fake.make_run(**options)
        out = tmp_path / name
        result = loop.train(run, out, make=build, save=fake.save, evaluate=evaluate, resume=resume)
        return result, *kept, out

    return fit


def assert_same(a, b):
    assert a.keys() == b.keys()
    for name in a:
        assert torch.equal(a[name], b[name]), name


POISONED = {"steps": 3, "accumulate": 2, "eps": 1e-4, "data": {"poison": (1,)}}


@pytest.mark.parametrize(("accumulate", "checkpointing"), [(1, False), (2, False), (2, True)])
def test_everything_moves_once_a_step(fit, fake, accumulate, checkpointing):
    options = {**POISONED, "accumulate": accumulate, "checkpointing": checkpointing}
    result, system, loader, out = fit(**options)
    state = fake.final(out, 3)
    assert result.progress.skipped == 1
    assert system.calls["begin"] == 1
    assert system.calls["losses"] == 3 * accumulate
    assert system.calls["advance"] == 2  # steps 0 and 2
    assert system.calls["outputs"] == 2 * accumulate
    assert state["state/step"] == 2
    assert state["state/queue.pointer"] == 8  # two batches of 4
    assert loader.served == [0, 1, 2]


@pytest.mark.compile
def test_everything_moves_once_a_step_when_compiled(fit, fake, finish, tmp_path):
    """In a process of its own: what checks shapes in tests can't be compiled."""
    exact = {"dropout": 0.0}
    train = {name: value for name, value in POISONED.items() if name != "data"}
    settings = {"train": {**train, "compile": True, "checkpointing": True}, "system": exact}
    finish(tmp_path, [("compiled", {**settings, "data": POISONED["data"]})])
    *_, out = fit("plain", system=exact, **POISONED)
    plain, compiled = fake.final(out, 3), fake.final(tmp_path / "compiled", 3)
    assert compiled["state/step"] == 2
    assert compiled["state/queue.pointer"] == 8
    assert compiled.keys() == plain.keys()  # compiling renames nothing
    torch.testing.assert_close(compiled, plain, rtol=1e-3, atol=1e-5)


def test_ema_follows_each_taken_step_once(fit, fake):
    """With decay 0.9, the momentum copy is the weighted sum of the weights after each step."""
    *_, first = fit("first", steps=1, schedule="constant")
    *_, second = fit("second", steps=2, schedule="constant")
    *_, skipped = fit("skipped", steps=2, schedule="constant", data={"poison": (1,)})
    one, two, same = fake.final(first, 1), fake.final(second, 2), fake.final(skipped, 2)
    name = "encoders.proj.weight"
    torch.testing.assert_close(
        two[f"state/{name}"], 0.9 * one[f"state/{name}"] + 0.1 * two[f"model/{name}"], rtol=1e-6, atol=1e-7
    )
    assert_same(one, same)


def test_a_skipped_step_moves_nothing_not_even_batchnorm(fit, fake):
    *_, one = fit("one", steps=1, schedule="constant", system={"batchnorm": True})
    *_, two = fit("two", steps=2, schedule="constant", system={"batchnorm": True}, data={"poison": (1,)})
    assert_same(fake.final(one, 1), fake.final(two, 2))
    assert [line["skipped"] for line in read_metrics(two / "metrics.jsonl")] == [0, 1]
    assert read_metrics(two / "metrics.jsonl")[1]["loss"] is None


def test_ten_skipped_steps_in_a_row_end_the_run(fit):
    with pytest.raises(loop.TrainingFailed, match="10 steps in a row, up to step 11: lower train.lr"):
        fit(steps=20, data={"poison": tuple(range(1, 20))})
    result, *_ = fit("other", steps=20, data={"poison": (*range(1, 10), *range(11, 20))})
    assert result.progress.skipped == 18


def test_checkpointing_changes_no_bit(fit, fake):
    *_, plain = fit("plain", steps=3)
    *_, saving = fit("saving", steps=3, checkpointing=True)
    assert_same(fake.final(plain, 3), fake.final(saving, 3))


def test_resumed_run_is_bit_exact(fit, fake):
    options = {"steps": 7, "save_every": 2, "keep_last": 9, "clip_grad": 1.0, "accumulate": 2}
    options["data"] = {"poison": (1,)}  # a skipped step was consumed all the same
    whole_result, _, loader, whole = fit("whole", **options)
    shutil.copytree(whole, whole.with_name("cut"))
    for late in ("step-00000006", "step-00000007"):
        shutil.rmtree(whole.with_name("cut") / "checkpoints" / late)
    result, system, loader, cut = fit("cut", **options)
    assert loader.served == [4, 5, 6]
    assert system.calls["begin"] == 0
    assert result.progress == whole_result.progress
    assert_same(fake.final(whole, 7), fake.final(cut, 7))
    once, again = (read_metrics(folder / "metrics.jsonl") for folder in (whole, cut))
    assert [line["step"] for line in again] == list(range(1, 8))
    assert [line["loss"] for line in once] == [line["loss"] for line in again]


def test_clipping_makes_large_gradients_smaller_and_no_gradient_larger(fit, fake):
    options = {"steps": 2, "eps": 1.0}  # AdamW with its usual eps would undo any factor
    free, loose, tight = (
        fake.final(fit(str(clip), clip_grad=clip, **options)[-1], 2) for clip in (None, 1e6, 1e-3)
    )
    assert_same(free, loose)
    moments = [
        sum(t.square().sum() for name, t in found.items() if name.startswith("optimizer/exp_avg/"))
        for found in (free, tight)
    ]
    assert moments[1].sqrt() < 2e-3 < moments[0].sqrt()


def test_each_step_has_the_learning_rate_of_its_number(fit):
    *_, out = fit(steps=5, lr=1e-2, min_lr=1e-3, warmup_steps=2, warmup_lr=1e-4)
    found = [line["lr"] for line in read_metrics(out / "metrics.jsonl")]
    assert found == pytest.approx([0.00505, 0.01, 0.00775, 0.00325, 0.001])


def test_what_a_checkpoint_replaces_is_not_computed_again(fake, tmp_path):
    starts = []

    def build(run, ranks):
        starts.append((run.init.fusion, run.init.text))
        return fake.build(run, ranks)

    init = Init(fusion="itc", text="minilm")
    for steps in (2, 4):
        run = replace(fake.make_run(steps=steps), init=init)
        loop.train(run, tmp_path / "run", make=build, save=fake.save)
    assert starts == [("itc", "minilm"), ("fresh", "minilm")]  # a frozen tower's features need its weights
    assert read_run(tmp_path / "run", fake.FakeConfig, fake.FakeData).init == init


def test_resuming_with_more_steps_is_allowed_and_with_another_lr_refused(fit):
    fit(steps=2)
    with pytest.raises(UserError, match=r"another train\.lr.*--from"):
        fit(steps=2, lr=0.5)
    with pytest.raises(UserError, match=r"data\.seed, system\.dropout"):
        fit(steps=2, data={"seed": 3}, system={"dropout": 0.0})
    with pytest.raises(UserError, match="holds a run already"):
        fit(steps=2, resume="never")
    result, _, loader, _ = fit(steps=3, save_every=5)
    assert loader.served == [2]
    assert result.progress.step == 3


def test_frozen_bytes_stay_and_frozen_modules_rest(fit, fake):
    loop.parallel.seed_all(0)
    system = fake.Fake(fake.FakeConfig(batchnorm=True))  # as the run begins
    frozen = ("encoders.tower", "temperature")
    _, trained, *_ = fit("frozen", steps=4, freeze=frozen, system={"batchnorm": True})
    tower = trained.encoders.tower
    assert not tower.training
    assert trained.encoders.blocks.training
    assert not any(p.requires_grad for p in tower.parameters())
    assert torch.equal(tower[0].weight, system.encoders.tower[0].weight)
    assert tower[1].num_batches_tracked == 0
    assert float(trained.temperature) == pytest.approx(0.2)
    assert not torch.equal(trained.encoders.proj.weight, system.encoders.proj.weight)


def test_validation_keeps_the_best_model(fit, fake):
    measures = iter([3.0, 5.0, 4.0])
    result, system, _, out = fit(
        steps=5,
        validate_every=2,
        best_metric="itc.ir_r1",
        evaluate=lambda model: {"itc": {"ir_r1": next(measures)}, "note": "text"},
    )
    assert result.progress.best == 5.0
    assert result.validation == {"itc.ir_r1": 4.0}
    assert system.training
    lines = [line for line in read_metrics(out / "metrics.jsonl") if "val/itc.ir_r1" in line]
    assert [(line["step"], line["val/itc.ir_r1"]) for line in lines] == [(2, 3.0), (4, 5.0), (5, 4.0)]
    best, last = (fake.load_file(out / name / "model.safetensors") for name in ("best", "model"))
    assert not torch.equal(best["encoders.proj.weight"], last["encoders.proj.weight"])
    with pytest.raises(UserError, match=r"best_metric is 'itm.r1', and the validation measures itc.ir_r1"):
        fit("typo", steps=1, best_metric="itm.r1", evaluate=lambda model: {"itc": {"ir_r1": 1.0}})
    *_, kept = fit("typo", steps=1)  # the steps were not lost
    assert [line["step"] for line in read_metrics(kept / "metrics.jsonl") if "loss" in line] == [1]
    with pytest.raises(UserError, match=r"best_metric is itc.ir_r1, but nothing is validated"):
        fit("nothing", steps=1, best_metric="itc.ir_r1")


def test_last_checkpoints_are_kept(fit):
    *_, out = fit(steps=7, save_every=1, keep_last=2)
    assert sorted(p.name for p in (out / "checkpoints").iterdir()) == ["step-00000006", "step-00000007"]


def test_bf16_and_fp32_differ_a_little(fit):
    losses = [
        read_metrics(fit(p, steps=1, precision=p)[-1] / "metrics.jsonl")[0]["loss"] for p in ("fp32", "bf16")
    ]
    assert losses[0] != losses[1]
    assert losses[0] == pytest.approx(losses[1], rel=0.05)


def test_accumulation_is_the_mean_of_its_parts(fake):
    """Two micro-batches are two forwards of half the rows, each with half of its loss."""
    run = fake.make_run(accumulate=2, system={"dropout": 0.0, "noise": 0.0})
    ranks = loop.parallel.Ranks(0, 1, torch.device("cpu"))
    system, loader = fake.build(run, ranks)
    state, batch, seen = system.init_state(), next(loader.iterate()), {}

    class Spy(torch.optim.SGD):
        def step(self, closure=None):
            seen.update({name: p.grad for name, p in system.named_parameters() if p.grad is not None})

    halves = [system(half, state)["loss"] / 2 for half in batch.split(2)]
    names = [name for name, _ in system.named_parameters() if "unused" not in name]
    expected = torch.autograd.grad(sum(halves), [system.get_parameter(name) for name in names])
    take_step(system, system, state, Spy(system.parameters(), 0.1), batch, loop.Progress(), run.train, ranks)
    assert sorted(seen) == sorted(names)
    for name, gradient in zip(names, expected, strict=True):
        torch.testing.assert_close(seen[name], gradient, msg=name)


def test_dropout_and_draws_are_functions_of_seed_step_rank_and_part(fake):
    device = torch.device("cpu")
    numbers = set()
    for key in itertools.product((0, 1), repeat=4):
        generator = loop.parallel.generator(device, *key)
        numbers.add((float(torch.rand((), generator=generator)), float(torch.rand(()))))
    assert len(numbers) == 16
    assert len({n for pair in numbers for n in pair}) == 32
    again = loop.parallel.generator(device, 0, 1, 1, 0), float(torch.rand(()))
    assert (float(torch.rand((), generator=again[0])), again[1]) in numbers


def test_impossible_batch_is_refused_before_anything_is_written(fit, fake, tmp_path):
    with pytest.raises(
        UserError, match=r"batch_size 4 can't be divided over 1 rank\(s\) times 3.*for example 3"
    ):
        fit(accumulate=3)
    assert not (tmp_path / "run").exists()


def test_run_json_is_written_first(fit, fake, tmp_path):
    there = []

    def evaluate(model):
        there.append((out / "run.json").exists() and not (out / "checkpoints").exists())
        return {"r1": 1.0}

    out = tmp_path / "run"
    fit(steps=2, validate_every=1, evaluate=evaluate)
    assert there[0]
    write_run(fake.make_run(steps=9), out)  # a harmless difference
    fit(steps=2)


def signal_at(fake, monkeypatch, step):
    """SIGTERM while the batch of this step, counted from 1, is made."""
    left = itertools.count(1)

    def kill(seconds: float) -> None:
        if next(left) == step:
            os.kill(os.getpid(), signal.SIGTERM)

    monkeypatch.setattr(fake, "time", SimpleNamespace(sleep=kill))


@pytest.mark.parametrize("step", [2, 6])
def test_a_signal_drops_no_validation(fit, fake, monkeypatch, step):
    sums = []

    def evaluate(model):
        sums.append(float(model.encoders.proj.weight.abs().sum()))
        return {"r1": sums[-1]}

    options = {"steps": 6, "validate_every": 2, "best_metric": "r1", "best_mode": "min", "evaluate": evaluate}
    whole_result, *_, whole = fit("whole", **options)
    with monkeypatch.context() as patch:
        signal_at(fake, patch, step)
        result, *_ = fit("cut", **options)
    assert (result.stopped_by, result.progress.step) == ("SIGTERM", step)
    result, *_, cut = fit("cut", **options)
    assert result == whole_result
    assert sums[3:] == sums[:3]
    best = [fake.load_file(out / "best" / "model.safetensors") for out in (whole, cut)]
    assert_same(*best)


def test_a_validation_that_failed_is_made_up_for(fit):
    def fails(model):
        raise OSError("no such picture")

    options = {"steps": 2, "best_metric": "r1"}
    with pytest.raises(OSError, match="no such picture"):
        fit(evaluate=fails, **options)
    result, _, loader, out = fit(evaluate=lambda model: {"r1": 3.0}, **options)
    assert (result.validation, loader.served) == ({"r1": 3.0}, [])
    assert (out / "best").is_dir()
    result, *_ = fit(evaluate=fails, **options)  # not again
    assert result.progress.best == 3.0


def test_other_validation_data_start_without_a_best_value(fit):
    options = {"steps": 2, "best_metric": "r1"}

    def measured(name, value):
        data = {"val": (Source(path=name),)}
        return fit(evaluate=lambda model: {"r1": value}, data=data, **options)[0]

    assert measured("a", 90.0).progress.best == 90.0
    assert measured("b", 60.0).progress.best == 60.0  # no further step, and yet measured
    assert measured("b", 70.0).validation is None


def test_another_metric_starts_without_a_best_value(fit):
    options = {"evaluate": lambda model: {"r1": 50.0, "gap": 2.0}}
    assert fit(steps=1, best_metric="r1", **options)[0].progress.best == 50.0
    assert fit(steps=2, best_metric="gap", **options)[0].progress.best == 2.0
    assert fit(steps=3, **options)[0].progress.best == 2.0


def test_a_finished_run_is_left_as_it_is(fit, fake, monkeypatch):
    written, save = [], fake.save

    def noted(system, folder):
        written.append(folder.name)
        save(system, folder)

    monkeypatch.setattr(fake, "save", noted)
    *_, out = fit(steps=4)
    fit(steps=4)
    assert written == ["model"]
    said = (out / "run.json").read_text()
    with pytest.raises(UserError, match="holds a run of 4 steps already, and 2 are asked for"):
        fit(steps=2)
    assert (out / "run.json").read_text() == said
    with monkeypatch.context() as patch:
        signal_at(fake, patch, 2)
        fit(steps=6)
    fit(steps=6)  # its last step was taken, and `model/` is still that of step 4
    (out / "model" / "config.json").unlink()
    fit(steps=6)
    assert written == ["model"] * 3


@pytest.fixture
def keep(tmp_path):
    """keep(step, keep): a checkpoint of nothing much; its path."""

    def keep(step, keep=9):
        parts = torch.nn.Linear(2, 2), torch.nn.Linear(1, 1)
        optimizer = torch.optim.SGD(parts[0].parameters(), 0.1)
        checkpoint.save(tmp_path, loop.Progress(step), *parts, optimizer, {}, keep=keep, write=True)
        return tmp_path / f"step-{step:08d}"

    return keep


def test_only_intact_checkpoints_up_to_this_one_are_counted(keep, tmp_path):
    keep(2), keep(4)
    (keep(8) / "state.safetensors").write_bytes(b"")
    shutil.copytree(tmp_path / "step-00000002", tmp_path / "step-00000002.bak")
    keep(6, keep=1)
    assert sorted(p.name[-5:] for p in tmp_path.iterdir()) == ["00006", "00008", "2.bak"]
    assert checkpoint.newest(tmp_path, print).progress.step == 6


def test_a_kill_between_two_renames_loses_no_checkpoint(keep, tmp_path):
    keep(2).rename(tmp_path / ".step-00000002.old")
    shutil.copytree(keep(4), tmp_path / ".step-00000004.old")
    checkpoint.sweep(tmp_path)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["step-00000002", "step-00000004"]


def test_a_checkpoint_of_zeros_is_passed_over(keep, tmp_path):
    keep(2)
    file = keep(4) / "model.safetensors"
    file.write_bytes(bytes(file.stat().st_size))
    said = []
    assert checkpoint.newest(tmp_path, said.append).progress.step == 2
    assert "step-00000004 is not a whole checkpoint" in said[0]
