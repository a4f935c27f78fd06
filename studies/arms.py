"""What studies share: arms that are run once and kept, their paired effects, a verdict on each claim."""

from __future__ import annotations

import argparse
import json
import math
import os
import resource
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np

from multiway.bootstrap.local import end_with_parent
from multiway.train.run import provenance

ROOT = Path(__file__).resolve().parents[1]
SEEDS = (0, 1, 2)
T95 = {2: 12.706, 3: 4.303, 4: 3.182, 5: 2.776}  # Student's t of 95 %, by the number of seeds


@dataclass(frozen=True, kw_only=True)
class Claim:
    """A sentence of a paper, as one arm against another.

    Attributes:
        says: the claim. better, worse: the arms.
        paper: the paper's own figures, or what it says where it has none; never ours.
    """

    says: str
    better: str
    worse: str
    paper: str


@dataclass(frozen=True, kw_only=True)
class Study:
    """A study's arms and claims.

    Attributes:
        name: of its folder of results.
        arms: what is compared. metrics: name -> what it is; points of 100.
        work: data, runs and checkpoints. results: a JSON an arm and seed.
    """

    name: str
    arms: tuple[str, ...]
    claims: tuple[Claim, ...]
    metrics: dict[str, str]
    work: Path
    results: Path

    def path(self, arm: str, seed: int) -> Path:
        """Where an arm's result lies."""
        return self.results / f"{file_name(arm, seed)}.json"


def file_name(arm: str, seed: int) -> str:
    """Of an arm's run and result: its name without spaces and signs."""
    return f"{'-'.join(arm.removesuffix(' %').split())}-s{seed}"


def keep(study: Study, arm: str, seed: int, measure: Callable[[], dict[str, Any]]) -> None:
    """Run one arm unless its result is there; it is written whole, with what it cost and what made it."""
    path = study.path(arm, seed)
    if path.exists():
        return
    began, cpu = time.monotonic(), core_seconds()
    found = {"arm": arm, "seed": seed, **measure()}
    found |= {"seconds": round(time.monotonic() - began, 1), "core_seconds": round(core_seconds() - cpu, 1)}
    found |= {"made_by": provenance()}
    path.parent.mkdir(parents=True, exist_ok=True)
    aside = path.with_suffix(".part")
    aside.write_text(json.dumps(found, indent=1) + "\n")
    os.replace(aside, path)
    print(f"{path.stem}: {found['metrics']} in {found['seconds']:.0f} s", flush=True)


def core_seconds() -> float:
    """Of this process so far."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_utime


def in_processes(function: Callable[..., None], calls: Sequence[tuple], workers: int) -> None:
    """`function(*call)` for every call, `workers` at a time, a core each."""
    context = get_context("spawn")
    with ProcessPoolExecutor(workers, mp_context=context, initializer=end_with_parent) as pool:
        for future in [pool.submit(_on_one_core, function, call) for call in calls]:
            future.result()


def _on_one_core(function: Callable[..., None], call: tuple) -> None:
    import torch

    torch.set_num_threads(1)
    function(*call)


def main(
    about: str,
    make: Callable[[bool], Study],
    run: Callable[[Study, int, bool], None],
    say: Callable[[Study], str] | None = None,
) -> None:
    """A study's command: `make(tiny)` says what it is, `run(study, workers, tiny)` runs what is missing, and
    `say(study)` is what it prints at the end: `judge`, if it has claims.
    """
    parser = argparse.ArgumentParser(description=about, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--judge", action="store_true", help="only judge the results that are there")
    parser.add_argument("--tiny", action="store_true", help="a few steps of everything, elsewhere")
    parser.add_argument("--workers", type=int, default=2, help="arms at a time, a core each")
    args = parser.parse_args()
    study = make(args.tiny)
    if not args.judge:
        run(study, args.workers, args.tiny)
    told = (say or judge)(study)
    write(study.results, told)
    print(told)


def write(results: Path, told: str) -> None:
    """Keep a study's tables beside its results; `scripts/figures.py` puts them into docs/studies.md."""
    results.mkdir(parents=True, exist_ok=True)
    (results / "tables.md").write_text(told.rstrip() + "\n")


# --- the verdict


def read(study: Study) -> list[dict[str, Any]]:
    """Every result that is there."""
    return [json.loads(path.read_text()) for path in sorted(study.results.glob("*-s*.json"))]


def effect(rows: Sequence[dict[str, Any]], better: str, worse: str, metric: str) -> dict[str, Any] | None:
    """The mean difference of two arms, paired by seed, with a 95 % interval over the seeds (Student's t).

    None where no seed has both.
    """
    by = {(row["arm"], row["seed"]): row["metrics"][metric] for row in rows}
    seeds = sorted({seed for arm, seed in by if arm == better} & {seed for arm, seed in by if arm == worse})
    if not seeds:
        return None
    each = np.array([by[better, seed] - by[worse, seed] for seed in seeds])
    found: dict[str, Any] = {"effect": round(float(each.mean()), 3), "each": each.round(3).tolist()}
    if len(seeds) > 1:
        half = T95[len(seeds)] * float(each.std(ddof=1)) / math.sqrt(len(seeds))
        found["interval"] = [round(float(each.mean()) - half, 3), round(float(each.mean()) + half, 3)]
    return found | {"verdict": verdict(found)}


def verdict(found: dict[str, Any]) -> str:
    """By the interval: above zero, below zero, or around it."""
    if "interval" not in found:
        return "cannot tell (one seed)"
    low, high = found["interval"]
    return "holds" if low > 0 else "fails" if high < 0 else "cannot tell at this size"


def judge(study: Study) -> str:
    """Write `verdicts.json` beside the arms and return it as Markdown."""
    rows = read(study)
    hours = round(sum(row["core_seconds"] for row in rows) / 3600, 2)
    claims = [
        {
            "claim": claim.says,
            "arms": [claim.better, claim.worse],
            "paper": claim.paper,
            **{m: effect(rows, claim.better, claim.worse, m) for m in study.metrics},
        }
        for claim in study.claims
    ]
    study.results.mkdir(parents=True, exist_ok=True)
    (study.results / "verdicts.json").write_text(
        json.dumps({"core_hours": hours, "metrics": study.metrics, "claims": claims}, indent=1) + "\n"
    )
    return "\n".join([f"{len(rows)} results, {hours} core hours.", "", *described(study.metrics), "",
                      *_arms(study, rows), "", *_claims(study, claims)])  # fmt: skip


def described(metrics: dict[str, str]) -> list[str]:
    """What each metric is, a line each."""
    return [f"- `{name}`: {what}" for name, what in metrics.items()]


def _arms(study: Study, rows: list[dict[str, Any]]) -> list[str]:
    facts = [name for name in ("parameters", "mflops") if rows and name in rows[0]]
    head = ["arm", "seeds", *facts, *study.metrics]
    lines = ["| " + " | ".join(head) + " |", "| --- |" + " ---: |" * (len(head) - 1)]
    for arm in study.arms:
        own = [row for row in rows if row["arm"] == arm]
        if not own:
            continue
        cells = [arm, str(len(own)), *(f"{own[0][name]:,.1f}" for name in facts)]
        for metric in study.metrics:
            values = [row["metrics"][metric] for row in own]
            spread = f" ({min(values):.1f} to {max(values):.1f})" if len(values) > 1 else ""
            cells.append(f"{np.mean(values):.1f}{spread}")
        lines.append("| " + " | ".join(cells) + " |")
    return lines


def _claims(study: Study, claims: list[dict[str, Any]]) -> list[str]:
    head = ["claim", *study.metrics, "the paper's figures"]
    lines = ["| " + " | ".join(head) + " |", "|" + " --- |" * len(head)]
    for claim in claims:
        cells = [f"{claim['claim']} ({claim['arms'][0]} − {claim['arms'][1]})"]
        for metric in study.metrics:
            found = claim[metric]
            if found is None:
                cells.append("not run")
                continue
            interval = "{:+.1f} to {:+.1f}".format(*found["interval"]) if "interval" in found else "one seed"
            cells.append(f"{found['effect']:+.1f} ({interval}): {found['verdict']}")
        lines.append("| " + " | ".join([*cells, claim["paper"]]) + " |")
    return lines
