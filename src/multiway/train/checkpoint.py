"""Checkpoints that a SIGKILL at any moment can't spoil.

`checkpoints/step-00000100/` holds model, state and optimizer as safetensors, and trainer.json, which is
written last and names the size of each file. A folder is written aside and renamed; removal renames first.
No random state is saved: every draw of a step is a function of (seed, step, rank, micro-batch).
"""

from __future__ import annotations

import json
import os
import re
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.distributed.tensor import DTensor, distribute_tensor

from multiway.core.lora import is_adapter
from multiway.errors import UserError
from multiway.train import parallel
from multiway.train.parallel import Ranks, whole
from multiway.train.run import Run, check_same_run
from multiway.weights.aside import replacing, standing


@dataclass
class Progress:
    """Where a run stands.

    Attributes:
        step: batches consumed, which is also the loader's position.
        skipped: those of them that were not finite; in_a_row: how many of the latest.
        best: the best value so far of the metric that decides. best_of: which that is, with its mode.
        best_on: path and split of each source that it is measured on.
        validated: the latest step after which the model was validated.
        written: the step whose model lies in `model/`.
        world: ranks that took the latest step.
    """

    step: int = 0
    skipped: int = 0
    in_a_row: int = 0
    best: float | None = None
    best_of: str | None = None
    best_on: list[list[str | None]] | None = None
    validated: int = 0
    written: int | None = None
    world: int = 1

    def due(self, every: int | None) -> bool:
        """Whether what happens every so many steps happens after this one."""
        return every is not None and self.step % every == 0

    def decide_by(self, metric: str | None, mode: str, sources: Sequence[Any]) -> None:
        """From here on `metric` on `sources` decides what is best; the best value of another is forgotten."""
        rule, on = f"{mode} {metric}", [[source.path, source.split] for source in sources]
        if self.best_on not in (None, on):  # older checkpoints don't say what it was measured on
            self.best, self.validated = None, 0
        self.best_on = on
        if metric is not None and rule != self.best_of:
            if self.best_of is not None:  # older checkpoints don't say which one it was
                self.best = None
            self.best_of = rule

    def count(self, taken: bool) -> None:
        """One more step, taken or skipped."""
        self.step += 1
        self.skipped += not taken
        self.in_a_row = 0 if taken else self.in_a_row + 1


@dataclass(frozen=True)
class Checkpoint:
    """An intact checkpoint on disk."""

    path: Path
    progress: Progress

    def load(self, name: str) -> dict[str, Tensor]:
        """The tensors of one of its files, in memory: a mapped file would outlive its checkpoint."""
        return {k: v.clone() for k, v in load_file(self.path / f"{name}.safetensors").items()}

    def restore(self, system: nn.Module, state: nn.Module) -> None:
        """Give both the weights and buffers that they had."""
        tensors = self.load("model")
        adapted = any(
            map(is_adapter, tensors)
        )  # what is frozen beside adapters came from the run's checkpoint
        unknown = system.load_state_dict(tensors, strict=not adapted).unexpected_keys
        if unknown:
            raise UserError(
                f"{self.path} holds {unknown[0]}, which this run has not: resume it with its own run"
            )
        state.load_state_dict(self.load("state"))

    def sentence(self, world: int) -> str:
        """What a run hears that goes on from here on `world` ranks."""
        step, before = self.progress.step, self.progress.world
        changed = f"; it had {before} rank(s) and has {world} now: its draws differ from here"
        return f"resumed after step {step:,}" + (changed if before != world else "")


def tensors_of(module: nn.Module) -> dict[str, Tensor]:
    """A module's state dict on the CPU, whole and unshared. Under FSDP2 all ranks have to call it."""
    return _plain(module.state_dict())


def optimizer_tensors(
    optimizer: torch.optim.Optimizer, names: Mapping[nn.Parameter, str]
) -> dict[str, Tensor]:
    """The optimizer's moments as `<kind>/<parameter's name>`. Under FSDP2 all ranks have to call it."""
    found = {}
    for parameter, name in names.items():
        for kind, value in optimizer.state.get(parameter, {}).items():
            found[f"{kind}/{name}"] = value
    return _plain(found)


def load_optimizer(
    optimizer: torch.optim.Optimizer, names: Mapping[nn.Parameter, str], tensors: Mapping[str, Tensor]
) -> None:
    """Give the moments back, sharded as the parameters are."""
    parameters = {name: parameter for parameter, name in names.items()}
    for key, value in tensors.items():
        kind, name = key.split("/", 1)
        parameter = parameters[name]
        if isinstance(parameter, DTensor) and value.shape == parameter.shape:
            value = distribute_tensor(value.to(parameter.device), parameter.device_mesh, parameter.placements)
        elif kind != "step" or optimizer.param_groups[0].get("fused"):
            value = value.to(parameter.device)  # the unfused AdamW keeps its step counts on the CPU
        optimizer.state[parameter][kind] = value


def _plain(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    plain, seen = {}, set()
    for name, tensor in tensors.items():
        tensor = whole(tensor.detach()).cpu().contiguous()
        storage = tensor.untyped_storage().data_ptr()
        plain[name] = tensor.clone() if storage in seen else tensor
        seen.add(storage)
    return plain


def save(
    folder: Path,
    progress: Progress,
    system: nn.Module,
    state: nn.Module,
    optimizer: torch.optim.Optimizer,
    names: Mapping[nn.Parameter, str],
    *,
    keep: int,
    write: bool,
) -> None:
    """Write a checkpoint, then remove what is older than the latest `keep` intact ones up to it.

    Args:
        names: the trained parameters' names. write: on one rank only; under FSDP2 all have to call.
    """
    model = tensors_of(system)
    if any(map(is_adapter, names.values())):  # frozen weights are the run's checkpoint's, and come from there
        frozen = {name for name, p in system.named_parameters() if not p.requires_grad}
        model = {name: tensor for name, tensor in model.items() if name not in frozen}
    tensors = {
        "model": model,
        "state": tensors_of(state),
        "optimizer": optimizer_tensors(optimizer, names),
    }
    if not write:
        return
    path = folder / f"step-{progress.step:08d}"
    with replacing(path) as aside:
        for name, content in tensors.items():
            save_file(content, aside / f"{name}.safetensors")
        facts = {"progress": asdict(progress), "files": {f.name: f.stat().st_size for f in aside.iterdir()}}
        (aside / "trainer.json").write_text(json.dumps(facts, indent=2))
    # a torn one is no copy to go back to, and a later one is of steps that are taken again
    steps = _steps(folder)
    oldest = [*(step for step in steps if step < path and _intact(step)), path][-keep:][0]
    for old in steps:
        if old < oldest:
            remove(old)


def newest(folder: Path, say: Callable[[str], None]) -> Checkpoint | None:
    """The latest intact checkpoint; a torn one is passed over with a word."""
    for path in reversed(_steps(folder)):
        facts = _intact(path)
        if facts is not None:
            return Checkpoint(path, Progress(**facts["progress"]))
        say(f"{path} is not a whole checkpoint and is ignored")
    return None


def _steps(folder: Path) -> list[Path]:
    """The checkpoints in a folder, whole or torn, the oldest first; a copy of another name is the user's."""
    return sorted(path for path in folder.glob("step-*") if re.fullmatch(r"step-\d{8}", path.name))


def _intact(path: Path) -> dict[str, Any] | None:
    try:
        facts = json.loads((path / "trainer.json").read_text())
        Progress(**facts["progress"])
        for name, size in facts["files"].items():
            if (path / name).stat().st_size != size:
                return None
            with safe_open(path / name, "pt"):  # raises where the header is damaged
                pass
        return facts if facts["files"] else None
    except (OSError, ValueError, KeyError, TypeError, SafetensorError):
        return None


def remove(folder: Path) -> None:
    """Delete a folder so that a half-deleted one never keeps its name."""
    aside = folder.with_name(f".{folder.name}.gone")
    shutil.rmtree(aside, ignore_errors=True)
    os.rename(folder, aside)
    shutil.rmtree(aside, ignore_errors=True)


def sweep(folder: Path) -> None:
    """Remove what a killed process left half written or half deleted; what it had only moved comes back."""
    for old in folder.glob(".step-*.old"):
        path = old.with_name(old.name.removeprefix(".").removesuffix(".old"))
        if standing(path) == old:
            os.rename(old, path)
    for path in folder.glob(".step-*"):
        shutil.rmtree(path, ignore_errors=True)


def find(run: Run, out: Path, resume: str, ranks: Ranks) -> Checkpoint | None:
    """The newest intact checkpoint of `run` in `out`, if there is one; leftovers of killed writes are swept.

    Raises:
        UserError: `out` holds another run, or one that shall not be resumed.
    """
    found = None
    if ranks.first:
        sweep(out / "checkpoints")
        found = newest(out / "checkpoints", print)
    found = parallel.from_first(found)  # all ranks start from the same one
    if found and resume == "never":
        raise UserError(f"{out} holds a run already: give --resume auto, or choose another output folder")
    if found:
        check_same_run(run, out)
    return found
