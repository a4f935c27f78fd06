"""Does CapFilt work? BLIP's claims (arXiv:2201.12086, tables 1, 2 and 4), where every text's truth is known.

    python studies/capfilt.py            run every arm that has no result yet, two at a time, then judge
    python studies/capfilt.py --judge    only judge what is there
    python studies/capfilt.py --tiny     a few steps of everything, elsewhere: does it run?

A chain is one world, one share of noise, one seed. Its web pictures have texts that are wrong at that rate; a
quarter as many human pictures have true ones. First a BLIP is pre-trained on both (arm `web`). From it
captioner and filter are fine-tuned apart on the human pairs, and `multiway.bootstrap` captions and scores the
web. Each further arm is a new model, trained with the same seed for as many steps on what was kept and the
human pairs. As in the paper the image tower of each starts from one that was taught classes, and no more:

    web          all web texts                          (table 1: no bootstrapping)
    filtered     web texts that the filter keeps        (table 1: F)
    synthetic    all web texts and all synthetic ones   (table 1: C)
    both         what the filter keeps of either        (table 1: C + F)
    contrastive  as many web texts as `filtered`, the highest by the base model's contrastive score
    beam         as `both`, captions by beam search     (table 2)
    shared       as `both`, captioner and filter one    (table 4)
    clean        the true text of every web picture: what filtering could reach

An arm's result is a JSON of its own in studies/results/capfilt/, written when the arm is finished; a killed
study goes on with the arm, and inside it with the step, where it was.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import shutil
import time
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, field, replace
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
from arms import write
from capfilt_models import BUDGETS, SCENES_VIT, Budget, ItcFilter, load, measured, pretrained, trained, tuned
from capfilt_tower import taught
from capfilt_verdict import failed, judge, spent
from capfilt_worlds import WORLDS, Sizes, noise_kinds, plain

from multiway.bootstrap import journal
from multiway.bootstrap.config import BootstrapConfig
from multiway.bootstrap.local import end_with_parent
from multiway.bootstrap.run import bootstrap
from multiway.data.shards import Shards, expand, write_shards

ROOT = Path(__file__).resolve().parents[1]
Key = tuple[str, float, int]  # world, noise, seed
TABLE1 = ("web", "filtered", "synthetic", "both")
EXTRA = ("contrastive", "beam", "shared", "clean")
#: The longest chain first.
CHAINS: dict[Key, tuple[str, ...]] = {
    ("scenes", 0.4, 0): TABLE1 + EXTRA,
    ("scenes", 0.4, 1): (*TABLE1, "contrastive"),
    ("scenes", 0.4, 2): (*TABLE1, "contrastive"),
    ("emoji", 0.4, 0): TABLE1,
    ("scenes", 0.2, 0): TABLE1,
    ("scenes", 0.6, 0): TABLE1,
}
LIMIT = 10 * 3600.0  # core seconds: five hours on two cores


class Chain:
    """One world at one share of noise and one seed."""

    def __init__(self, study: Study, world: str, noise: float, seed: int):
        self.name, self.noise, self.seed = f"{world}-{noise}-s{seed}", noise, seed
        self.kind, self.world = world, WORLDS[world](study.work / world, study.sizes)
        self.budget, self.work, self.results = study.budgets[world], study.work / self.name, study.results
        self.vocabulary, self.tower = self.world.vocabulary(), study.tower(world)
        self.web, self.human = self.world.pairs(noise, seed)

    def run(self, arms: tuple[str, ...], double: bool = False) -> None:
        """Every arm that has no result yet."""
        for arm in arms:
            path = self.results / f"{self.name}-{arm}{'-x2' if double else ''}.json"
            if path.exists():
                continue
            began, cpu = time.monotonic(), _cpu()
            about, sources = self.pairs_of(arm)
            steps = self.budget.steps * (2 if double else 1)
            metrics, items = measured(load(self.pretrained(path.stem, sources, steps)), self.world.tests())
            spent = {"seconds": round(time.monotonic() - began, 1), "core_seconds": round(_cpu() - cpu, 1)}
            result = {"world": self.kind, "noise": self.noise, "seed": self.seed, "arm": arm, "steps": steps}
            result |= {"double": double, "metrics": metrics, "data": about, "items": items, **spent}
            self.results.mkdir(parents=True, exist_ok=True)
            aside = path.with_suffix(".part")
            aside.write_text(json.dumps(result, indent=1) + "\n")
            os.replace(aside, path)
            print(f"{path.stem}: {metrics}", flush=True)

    def pretrained(self, name: str, sources: list[str], steps: int) -> Path:
        """A new model on pairs."""
        run = pretrained(self.kind, self.vocabulary, self.tower, sources, steps=steps, seed=self.seed)
        return trained(run, self.work / name)

    def pairs_of(self, arm: str) -> tuple[dict[str, Any], list[str]]:
        """What an arm trains on: its numbers, and folders of tars."""
        if arm == "web":
            return {"noise": self.noise, "pictures": len(noise_kinds(self.web))}, [self.web, self.human]
        if arm == "clean":
            return {"noise": 0.0}, [self.clean(), self.human]
        if arm == "contrastive":
            out, rows, threshold = self.by_contrast()
            return self.counts(rows, threshold, ("web",)), [str(out), self.human]
        keep = ("web",) if arm == "filtered" else ("web", "synthetic")
        settings = {"method": "beam"} if arm == "beam" else {}
        out, config = self.scored("shared" if arm == "shared" else "apart", settings)
        chosen = self.work / f"pairs-{arm}"
        threshold = 0.0 if arm == "synthetic" else 0.5
        _copy_scores(out, chosen)
        config = replace(config, threshold=threshold, keep=keep)
        bootstrap(config, chosen, workers=1, device="cpu")
        pairs = [str(chosen)] if any(chosen.glob("*.tar")) else []  # a bad filter may keep nothing
        return self.counts(_rows(out), threshold, keep), [*pairs, self.human]

    def tuned(self, kind: str) -> Path:
        """Captioner, filter, or both in one, fine-tuned from the chain's base."""
        base = self.pretrained(f"{self.name}-web", [self.web, self.human], self.budget.steps)
        run = tuned(
            kind, self.kind, self.vocabulary, self.human, base, steps=self.budget.tune, seed=self.seed
        )
        return trained(run, self.work / kind)

    def scored(self, kind: str, settings: dict[str, Any]) -> tuple[Path, BootstrapConfig]:
        """Captions and scores of all web pictures, by captioner and filter apart or by one model."""
        names = ("captioner", "filter") if kind == "apart" else ("shared", "shared")
        captioner, scores = (str(self.tuned(name) / "model") for name in names)
        out = self.work / f"scored-{kind}-{settings.get('method', 'nucleus')}"
        config = BootstrapConfig(
            data=(self.web,), captioner=captioner, filter=scores, seed=self.seed, batch_size=50, **settings
        )
        bootstrap(config, out, workers=1, device="cpu")
        return out, config

    def by_contrast(self) -> tuple[Path, list[dict[str, Any]], float]:
        """As many web texts as the filter keeps, by the base model's own contrastive score."""
        scored, _ = self.scored("apart", {})
        kept = sum(s >= 0.5 for row in _rows(scored) for _, s in row["web"])
        chosen = self.work / "pairs-contrastive"
        config = BootstrapConfig(data=(self.web,), filter="itc", batch_size=50, threshold=0.0)
        scores = ItcFilter(load(self.work / f"{self.name}-web"))
        bootstrap(config, chosen, workers=1, device="cpu", filter=scores)
        rows = _rows(chosen)
        threshold = sorted((s for row in rows for _, s in row["web"]), reverse=True)[kept - 1]
        bootstrap(replace(config, threshold=threshold), chosen, workers=1, device="cpu", filter=scores)
        return chosen, rows, threshold

    def clean(self) -> str:
        """The web pictures with true texts."""
        out = self.work / "pairs-clean"
        if not (out / "whole").exists():
            shards = Shards(expand(self.web))
            samples = (
                {"__key__": shards.key(i), "png": shards.image(i), "txt": shards.meta(i)["truth"]}
                for i in range(len(shards))
            )
            write_shards(out, samples, shard_size=1000)
            (out / "whole").touch()
        return str(out)

    def counts(self, rows: list[dict[str, Any]], threshold: float, keep: tuple[str, ...]) -> dict[str, Any]:
        """Of each source: texts, noise before and after, and the filter's precision and recall; by kind of
        noise.
        """
        kinds, found = noise_kinds(self.web), {}
        for origin in keep:
            pairs = [(row["key"], text, s) for row in rows for text, s in row.get(origin, [])]
            true = np.array([plain(text) in self.world.true(self.seed, key) for key, text, _ in pairs])
            kept = np.array([s >= threshold for *_, s in pairs])
            found[origin] = {
                "texts": len(pairs),
                "kept": int(kept.sum()),
                "noise_before": _share(~true),
                "noise_after": _share(~true[kept]),
                "precision": _share(true[kept]),
                "recall": _share(kept[true]),
            }
            if origin == "web":
                of = np.array([kinds[key] for key, *_ in pairs])
                found[origin]["kept_by_noise"] = {k: _share(kept[of == k]) for k in sorted(set(of))}
        return found


def _share(values: np.ndarray) -> float | None:
    return round(float(values.mean()), 4) if len(values) else None


def _rows(out: Path) -> list[dict[str, Any]]:
    return [row for path in sorted((out / "scores").glob("*.jsonl")) for row in journal.read(path)]


def _copy_scores(out: Path, chosen: Path) -> None:
    """The same captions and scores in another folder, to be selected otherwise."""
    if not (chosen / "run.json").exists():
        shutil.rmtree(chosen, ignore_errors=True)
        shutil.copytree(out / "scores", chosen / "scores")
        shutil.copy(out / "run.json", chosen / "run.json")


def _cpu() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_utime


@dataclass(frozen=True, kw_only=True)
class Study:
    """Where the study works, and how large it is.

    Attributes:
        work: data, runs and checkpoints. results: the arms' JSONs.
    """

    work: Path = ROOT / "runs" / "capfilt"
    results: Path = ROOT / "studies" / "results" / "capfilt"
    budgets: dict[str, Budget] = field(default_factory=lambda: dict(BUDGETS))
    sizes: Sizes = Sizes()
    tower_steps: int = 1500

    def tower(self, world: str) -> str:
        """Weights that the image towers of a world start from."""
        if world == "emoji":
            return "efficientnet_lite0"
        pictures = 2 * self.sizes.web
        return str(taught(SCENES_VIT, self.work / world, steps=self.tower_steps, pictures=pictures))

    def run(self, workers: int) -> None:
        """All chains, and again at double budget the orderings that failed, within the limit."""
        self.tower("scenes")  # before several processes want it
        self._run(CHAINS, workers, double=False)
        chains = [key for key in CHAINS if key[:2] == ("scenes", 0.4)]
        for arms in failed(self.results):
            left, need = LIMIT - spent(self.results), 2 * len(arms) * len(chains) * mean_arm(self.results)
            if need > left:
                print(
                    f"{', '.join(arms)} at double budget need {need:,.0f} core seconds, {left:,.0f} are left"
                )
            else:
                self._run(dict.fromkeys(chains, arms), workers, double=True)

    def _run(self, chains: dict[Key, tuple[str, ...]], workers: int, *, double: bool) -> None:
        with ProcessPoolExecutor(
            workers, mp_context=get_context("spawn"), initializer=end_with_parent
        ) as pool:
            for future in [pool.submit(run_chain, self, key, arms, double) for key, arms in chains.items()]:
                future.result()


def run_chain(study: Study, key: Key, arms: tuple[str, ...], double: bool) -> None:
    """One chain, on one core."""
    import torch

    torch.set_num_threads(1)
    Chain(study, *key).run(arms, double)


def mean_arm(results: Path) -> float:
    """Core seconds of an arm of scenes."""
    spent = [json.loads(path.read_text())["core_seconds"] for path in results.glob("scenes-*.json")]
    return float(np.mean(spent)) if spent else 0.0


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--judge", action="store_true", help="only judge the results that are there")
    parser.add_argument("--tiny", action="store_true", help="a few steps of everything, in runs/capfilt-tiny")
    parser.add_argument("--workers", type=int, default=2, help="chains at a time, a core each")
    args = parser.parse_args()
    study = Study()
    if args.tiny:
        study = Study(
            work=ROOT / "runs" / "capfilt-tiny",
            results=ROOT / "runs" / "capfilt-tiny" / "results",
            budgets=dict.fromkeys(BUDGETS, Budget(steps=3, tune=2)),
            sizes=Sizes(web=400, human=64, test=20),
            tower_steps=3,
        )
    if not args.judge:
        study.run(args.workers)
    told = judge(study.results)
    write(study.results, told)
    print(told)


if __name__ == "__main__":
    main()
