"""Replays one recorded case with our code and compares all that was recorded."""

from __future__ import annotations

import json
import math
from collections.abc import Collection, Iterator
from dataclasses import dataclass, field
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

import torch
from case import Case, Real, Rule
from known import CASES, OUTPUT_FACTS, RECORDED_FACTS, RECORDED_PATHS
from safetensors.torch import load_file
from torch import Tensor

HERE = Path(__file__).resolve().parent

#: At most this share of a case's tensors may be excused.
EXCUSABLE = 0.02


@dataclass
class Result:
    """What became of one case; `worst` is the tensor nearest to (or farthest beyond) its tolerance."""

    case: str
    compared: int = 0
    excused: int = 0
    skipped_pads: int = 0
    failed: list[str] = field(default_factory=list)
    worst: str = ""
    error: float = 0.0
    tolerance: float = 0.0
    ratio: float = 0.0

    def line(self) -> str:
        """One line for a person, and one more for each failure."""
        worst = (
            f"worst {self.error:.1e} of {self.tolerance:.1e} in {self.worst}" if self.worst else "all exact"
        )
        return "\n".join(
            [
                f"{'FAIL' if self.failed else 'ok  '} {self.case:28s} compared {self.compared:4d}  "
                f"excused {self.excused}  skipped pads {self.skipped_pads}  "
                f"failed {len(self.failed)}  {worst}",
                *(f"     {failure}" for failure in self.failed),
            ]
        )


def recorded_facts(found: Any, path: str, kinds: Collection[str]) -> Iterator[tuple[str, Any]]:
    """(name, value) of everything of these kinds that the official code found out."""
    if not isinstance(found, dict):
        return
    for key, value in found.items():
        name = f"{path}.{key}"
        if key.rpartition(".")[2] in kinds or any(fnmatch(name, p) for p in RECORDED_PATHS):
            yield name, value
        else:
            yield from recorded_facts(value, name, kinds)


def replay(folder: Path) -> Result:
    """Run one case with our code and compare all that was recorded."""
    folder = folder.resolve()
    result = Result("/".join(folder.parts[-2:]))
    if result.case not in CASES:
        result.failed.append(f"unknown case: known are {', '.join(CASES)}")
        return result
    run, rule_of = CASES[result.case]
    try:
        case, recorded = Case.load(folder), load_file(folder / "outputs.safetensors")
        ours = run(case)
    except Exception as error:  # a changed name or shape stops the replay: that is a failure of the case
        result.failed.append(f"the replay stopped: {type(error).__name__}: {error}")
        return result
    excuses = json.loads((HERE / "excuses.json").read_text()).get(result.case, {})
    if len(excuses) > EXCUSABLE * len(recorded):
        result.failed.append(f"{len(excuses)} excuses for {len(recorded)} tensors: at most {EXCUSABLE:.0%}")
    facts = dict(recorded_facts(case.config, "config", RECORDED_FACTS))
    beside = folder / "outputs.json"
    if beside.is_file():
        facts |= recorded_facts(json.loads(beside.read_text()), "outputs", OUTPUT_FACTS)
    facts |= {name: value for name, value in ours.items() if name.startswith("inputs.")}
    for name in sorted(recorded):
        if name in excuses:
            result.excused += 1
        elif name not in ours:
            result.failed.append(f"{name}: recorded, but not replayed")
        else:
            compare(result, name, ours[name], recorded[name], rule_of(case, name))
    for name in facts:
        if name not in ours:
            result.failed.append(f"{name}: recorded, but not replayed")
        elif name.startswith("inputs."):
            compare(result, name, ours[name], case.inputs[name.removeprefix("inputs.")], rule_of(case, name))
        else:
            compare_fact(result, name, ours[name], facts[name])
    return result


def compare(result: Result, name: str, ours: Tensor | Real, recorded: Tensor, rule: Rule) -> None:
    """Count one tensor, and note it when it fails or comes nearest to its tolerance."""
    result.compared += 1
    value = ours.value if isinstance(ours, Real) else ours
    if value.shape != recorded.shape:
        result.failed.append(f"{name}: shape {tuple(value.shape)}, recorded {tuple(recorded.shape)}")
        return
    if not recorded.is_floating_point():
        if not torch.equal(value.to(recorded.dtype), recorded):
            result.failed.append(
                f"{name}: {int((value != recorded).sum())} of {recorded.numel()} values differ"
            )
        return
    error, tolerance = rule.errors(value, recorded)
    if isinstance(ours, Real):
        error = error.masked_fill(~ours.real, 0.0)
        result.skipped_pads += int((~ours.real).expand_as(recorded).sum())
    if not error.numel():
        return
    tolerance = tolerance.expand_as(error)
    ratio = (error / tolerance.clamp_min(1e-300)).nan_to_num(nan=math.inf)
    at = int(ratio.argmax())
    worst, error_there, tolerance_there = (float(x.flatten()[at]) for x in (ratio, error, tolerance))
    if worst > 1:
        result.failed.append(f"{name}: error {error_there:.3e}, tolerance {tolerance_there:.3e}")
    if worst > result.ratio:
        result.worst, result.ratio = name, worst
        result.error, result.tolerance = error_there, tolerance_there


def compare_fact(result: Result, name: str, ours: Any, recorded: Any) -> None:
    """Count one fact: strings and integers exactly, sets where the order has no meaning."""
    result.compared += 1
    if name.startswith("outputs.") and name.endswith(".groups"):
        recorded = {n: (g["lr_scale"], g["weight_decay"]) for g in recorded for n in g["params"]}
    if name.endswith(("param_groups", "parameter_groups")):
        # BLIP's one group is named by a sentence: it holds every parameter.
        every = [n for n, _ in ours]
        recorded = {
            (n, group["weight_decay"])
            for group in recorded
            for named in [group["names"] if "names" in group else group["params"]]
            for n in (every if isinstance(named, str) else named)
        }
    elif isinstance(ours, set):
        recorded = {tuple(x) if isinstance(x, list) else x for x in recorded}
    if isinstance(ours, set) and ours != recorded:
        result.failed.append(
            f"{name}: ours alone {_some(ours - recorded)}, recorded alone {_some(recorded - ours)}"
        )
    elif isinstance(ours, dict):
        wrong = {k for k in ours.keys() | recorded.keys() if not _equal(ours.get(k), recorded.get(k))}
        if wrong:
            result.failed.append(f"{name}: other values of {_some(wrong)}")
    elif not isinstance(ours, set) and not _equal(ours, recorded):
        result.failed.append(f"{name}: {ours!r}, recorded {recorded!r}")


def _equal(a: Any, b: Any) -> bool:
    if isinstance(a, tuple) and isinstance(b, tuple):
        return len(a) == len(b) and all(map(_equal, a, b))
    return math.isclose(a, b, rel_tol=1e-9) if isinstance(a, float) and isinstance(b, float) else a == b


def _some(values: set) -> list:
    return sorted(values, key=str)[:5]


def case_folders(root: Path) -> list[Path]:
    """Every known case under a folder that is laid out as <root>/<system>/<case>."""
    return sorted(root / name for name in CASES if (root / name / "config.json").is_file())
