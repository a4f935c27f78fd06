"""What every system promises, asked of each at a tiny size.

Whole searches with caches and without, and fine-tuning networks, are beside each system's plain path:
`tests/generation/test_search.py`, `tests/systems/test_{beit3_captioner,coca,simvlm,generalist}.py`.
"""

from __future__ import annotations

import math
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jaxtyping
import pytest
import tiny
import tiny_blip
import torch
from tiny_all import CERTAIN, MAKE, built, losses, undecided
from tiny_encoders import ENCODERS, encoder

import multiway
from multiway.systems import SYSTEMS
from multiway.systems.decoding import StackDecoding
from multiway.systems.prefix_network import PrefixDecoding

#: BLIP's labels: nine tenths for the word, a tenth for all words alike.
SMOOTHED = torch.tensor([0.9] + [0.0] * (tiny_blip.VOCAB - 1)) + 0.1 / tiny_blip.VOCAB
#: What a loss can't go under: ALBEF's and BLIP's texts are in the batch and once more in the queue; two of
#: ViLT's five pairs are false, and can be 2 apart.
FLOORS = {
    "albef": math.log(2),
    "blip": math.log(2) - float((SMOOTHED * SMOOTHED.log()).sum()),
    "vilt": -0.1 * 2 / 5 * 2,  # its weight is 0.1
}

#: What writes texts of pictures.
WRITERS = [name for name in MAKE if hasattr(SYSTEMS[name].network(), "decoding")]
KINDS = [(name, kind) for name in MAKE for kind in ENCODERS[name]]


@pytest.fixture
def unchecked() -> Iterator[None]:
    """Shapes are checked in the other tests: where steps or layers are many, that takes most of the time."""
    jaxtyping.config.update("jaxtyping_disable", True)
    yield
    jaxtyping.config.update("jaxtyping_disable", False)


def test_every_system_is_asked() -> None:
    assert set(MAKE) == set(SYSTEMS)


@pytest.mark.parametrize("name", MAKE)
def test_losses_are_finite_pure_and_reach_every_parameter(name: str) -> None:
    model, state, batch = built(name)
    before = {n: t.clone() for n, t in model.state_dict().items()}
    moving = {n: t.clone() for n, t in state.state_dict().items()}
    out, again = (losses(name, model, state, batch) for _ in range(2))
    assert all(torch.isfinite(value).all() for value in out.values())
    tiny.assert_same(out, again, tolerance=0)  # a function of its arguments alone
    tiny.assert_same(dict(model.state_dict()), before, tolerance=0)
    tiny.assert_same(dict(state.state_dict()), moving, tolerance=0)
    out["loss"].backward()
    assert _idle(model) == []


def _idle(model: Any) -> list[str]:
    named = ((n, p) for n, p in model.named_parameters() if p.requires_grad)
    return [n for n, p in named if p.grad is None or not p.grad.abs().sum()]


@pytest.mark.parametrize("name", MAKE)
def test_its_random_choices_are_the_generators(name: str) -> None:
    model, state, batch = undecided(name)
    found = []
    for seed in (0, 0, 1):
        model.zero_grad()
        out = model.losses(batch, state, None, torch.Generator().manual_seed(seed))
        out["loss"].backward()
        found.append(({n: value.detach() for n, value in out.items()}, tiny.gradients(model)))
    for ours, theirs in zip(found[0], found[1], strict=True):
        tiny.assert_same(ours, theirs, tolerance=0)
    assert torch.equal(found[0][0]["loss"], found[2][0]["loss"]) == (name in CERTAIN)


@pytest.mark.parametrize("name", MAKE)
@pytest.mark.usefixtures("unchecked")
def test_one_batch_is_learned_by_heart(name: str) -> None:
    """Nine tenths of what there is to lose, in 120 steps that all draw the same."""
    model, state, batch = built(name)
    optimizer = torch.optim.Adam((p for p in model.parameters() if p.requires_grad), lr=0.01)
    floor, seen = FLOORS.get(name, 0.0), list[float]()
    for _ in range(120):
        out = losses(name, model, state, batch)
        seen.append(float(out["loss"].detach()) - floor)
        if seen[-1] < 0.1 * seen[0]:
            return
        optimizer.zero_grad()
        out["loss"].backward()
        optimizer.step()
        model.advance(state, [{n: value.detach() for n, value in out.items()}])
    pytest.fail(f"{seen[0]:.3f} above what can't be undercut, and after 120 steps still {seen[-1]:.3f}")


@pytest.mark.parametrize("name", MAKE)
def test_saved_and_loaded_it_is_the_same(name: str, tmp_path: Path) -> None:
    model = built(name)[0].eval()
    again = multiway.load(multiway.save(model, tmp_path / "model"))
    assert again.config == model.config
    tiny.assert_same(dict(again.state_dict()), dict(model.state_dict()), tolerance=0)


@torch.no_grad()
@pytest.mark.parametrize("name", WRITERS)
def test_writing_with_a_cache_equals_reading_all_again(name: str) -> None:
    model, _, batch = built(name)
    image, prompt = batch.image[:3], torch.full((3, 1), tiny.CLS)
    tokens = torch.randint(5, 30, (3, 4), generator=torch.Generator().manual_seed(0))
    cached = decoding(name, model.eval(), image)
    found = [cached.start(prompt)]
    found += [cached.step(tokens[:, i : i + 1], torch.arange(3)[:, None])[:, 0] for i in range(4)]
    assert not torch.allclose(found[0], found[1])
    for i, logits in enumerate(found):
        again = reading(decoding(name, model, image), prompt).start(torch.cat([prompt, tokens[:, :i]], dim=1))
        torch.testing.assert_close(logits, again, rtol=1e-4, atol=1e-5)


def decoding(name: str, model: Any, image: torch.Tensor) -> Any:
    return model.decoding(image, len(image)) if name == "generalist" else model.decoding(image)


def reading(fresh: Any, prompt: torch.Tensor) -> Any:
    """A decoding that was asked nothing, whose `start` reads a whole text; a prefix stays the encoder's."""
    if not isinstance(fresh, PrefixDecoding):
        return fresh
    network = fresh.network
    context = network.context(*fresh.encode(prompt, torch.ones_like(prompt)))
    return StackDecoding(network.embed, network.decoder, network.logits, context=context)


@pytest.mark.parametrize("name", MAKE)
@torch.no_grad()
def test_half_precision_is_close(name: str) -> None:
    model, state, batch = built(name)
    model.eval()
    whole = losses(name, model, state, batch)["loss"]
    with torch.autocast("cpu", torch.bfloat16):
        half = losses(name, model, state, batch)["loss"]
    # bfloat16 keeps 8 bits, 0.4 % a rounding: some layers' worth, and far from what a wrong cast costs
    torch.testing.assert_close(half.float(), whole, rtol=0.03, atol=0.01)


@pytest.mark.parametrize(("name", "kind"), KINDS)
@pytest.mark.usefixtures("unchecked")
@torch.no_grad()
def test_its_encoders_are_exported(name: str, kind: str) -> None:
    model, _, batch = built(name)
    encode, inputs = encoder(name, kind, model.eval(), batch)
    program = torch.export.export(encode, inputs)
    torch.testing.assert_close(program.module()(*inputs), encode(*inputs))


@pytest.mark.slow
@pytest.mark.parametrize(("name", "kind"), KINDS)
@pytest.mark.usefixtures("unchecked")
@torch.no_grad()
def test_its_encoders_are_exported_for_any_number_of_rows(name: str, kind: str) -> None:
    model, _, batch = built(name)
    encode, inputs = encoder(name, kind, model.eval(), batch)
    sizes = (tuple({0: torch.export.Dim("rows")} for _ in inputs),)
    program = torch.export.export(encode, tuple(x[-2:] for x in inputs), dynamic_shapes=sizes)
    torch.testing.assert_close(program.module()(*inputs), encode(*inputs))


@pytest.mark.compile
@pytest.mark.parametrize("name", [name for name in MAKE if name != "vqvae"])  # that has no block
def test_compiled_it_is_the_same(name: str) -> None:
    """In a process of its own: what checks shapes in tests can't be compiled."""
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    command = [sys.executable, str(Path(__file__).parents[1] / "tiny_all.py"), name]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
