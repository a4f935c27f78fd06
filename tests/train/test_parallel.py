"""Two gloo ranks equal one process with the whole batch: weights, queue, momentum, optimizer."""

from __future__ import annotations

import pytest
import torch

from multiway.errors import UserError
from multiway.train import parallel
from multiway.train.log import read_metrics

#: Nothing differs between a half and the whole of a batch: no dropout, no noise, candidates from all ranks.
EXACT = {"dropout": 0.0, "noise": 0.0}
#: The gradient of a key bias is rounding noise, which AdamW with its usual eps would make into whole steps.
TRAIN = {"steps": 4, "clip_grad": 0.5, "eps": 1e-4}


#: Not finite on the last rank only, which starts from other weights, as a start by its own batch would be.
SIMILAR = {"train": TRAIN, "system": EXACT, "data": {"poison": (2,), "uneven": True}}
#: With dropout, draws and accumulation.
RESUMED = {"batch_size": 8, "accumulate": 2, "save_every": 2, "keep_last": 9, "schedule": "constant"}


@pytest.fixture(scope="module")
def ranks(finish, tmp_path_factory):
    """The folder of all runs on two ranks, trained one after the other by the same two processes."""
    folder, jobs = tmp_path_factory.mktemp("ranks"), []
    for kind in ("ddp", "fsdp"):
        jobs.append((f"{kind}-equal", {**SIMILAR, "train": {**TRAIN, "parallel": kind, "save_every": 2}}))
        for name, steps in (("whole", 4), ("cut", 2), ("cut", 4)):
            train = {**RESUMED, "parallel": kind, "steps": steps}
            jobs.append((f"{kind}-{name}", {"train": train, "evaluate": True}))
    said = finish(folder, jobs, world=2)
    assert said.count("resumed after step 2") == 2
    return folder


@pytest.fixture(scope="module")
def alone(fake, tmp_path_factory):
    """The folder of the same run on one process."""
    out = tmp_path_factory.mktemp("alone")
    fake.fit(out, SIMILAR)
    return out


@pytest.mark.parametrize("kind", ["ddp", "fsdp"])
def test_two_ranks_equal_one(fake, ranks, alone, kind):
    one, two = fake.final(alone, 4), fake.final(ranks / f"{kind}-equal", 4)
    assert one.keys() == two.keys()
    for name in one:
        torch.testing.assert_close(
            two[name], one[name], rtol=2e-4, atol=2e-6, msg=lambda m, n=name: f"{n}: {m}"
        )
    lines = [read_metrics(out / "metrics.jsonl") for out in (alone, ranks / f"{kind}-equal")]
    assert [line["step"] for line in lines[1]] == [1, 2, 3, 4]  # written once, by the first rank
    assert [line["skipped"] for line in lines[1]] == [0, 0, 1, 1]  # both ranks skipped it
    for a, b in zip(*lines, strict=True):
        if a["loss"] is not None:
            assert a["loss"] == pytest.approx(b["loss"], rel=1e-5)
            assert a["grad_norm"] == pytest.approx(b["grad_norm"], rel=1e-4)
    model = [fake.load_file(out / "model" / "model.safetensors") for out in (alone, ranks / f"{kind}-equal")]
    torch.testing.assert_close(model[1], model[0], rtol=2e-4, atol=2e-6)


@pytest.mark.parametrize("kind", ["ddp", "fsdp"])
def test_two_ranks_resume_bit_for_bit(fake, ranks, capsys, kind):
    one, two = fake.final(ranks / f"{kind}-whole", 4), fake.final(ranks / f"{kind}-cut", 4)
    assert one.keys() == two.keys()
    for name in one:
        assert torch.equal(one[name], two[name]), name
    # its checkpoint is also a start for one process
    fake.fit(ranks / f"{kind}-cut", {"train": {**RESUMED, "steps": 5}})
    assert "it had 2 rank(s) and has 1 now" in capsys.readouterr().out


def test_device_is_chosen_or_refused():
    assert parallel.choose_device("auto").type in ("cuda", "mps", "cpu")
    assert parallel.choose_device("cpu") == torch.device("cpu")
    if not torch.backends.mps.is_available():
        with pytest.raises(
            UserError, match="train.device is mps, which this machine does not have: choose one of auto"
        ):
            parallel.choose_device("mps")


def test_one_process_needs_no_group():
    with parallel.ranks("cpu") as ranks:
        assert (ranks.rank, ranks.world, ranks.first) == (0, 1, True)
        assert parallel.everywhere(True, ranks.device)
        assert not parallel.everywhere(False, ranks.device)
