"""The table of `family.py`: what a step costs, and what each system learned on each budget."""

from __future__ import annotations

import json
import statistics
from collections.abc import Sequence
from typing import Any

from arms import Study, described

BUDGETS = ("steps", "flops", "time")
SYSTEMS = ("clip", "flip", "albef", "vlmo", "blip", "coca", "beit3", "vilt", "simvlm", "generalist")
METRICS = {
    "itc": "mean R@1 of texts and of pictures by the contrast",
    "reranked": "the same, the best 16 put in order by the matching head; without a contrast, of all",
    "cider": "CIDEr of captions by beam search",
    "vqa": "accuracy on questions about new pictures, after fine-tuning",
    "reasoning": "accuracy on pairs of new pictures, half of them true, after fine-tuning",
}


def table(study: Study, places: Sequence[str]) -> str:
    """Costs, and the metrics of every budget: means over the seeds, with least and most."""
    parts = []
    for place in places:
        rows = {path.stem: json.loads(path.read_text()) for path in study.results.glob(f"{place}-*.json")}
        found = {name: rows.get(f"{place}-{name}-cost-s0") for name in SYSTEMS}
        costs = {name: row["step"] for name, row in found.items() if row is not None}
        if not costs:
            continue
        parts += [f"### {place}: a step of 32 pairs on one core", "", *_costs(costs), ""]
        if guess := rows.get(f"{place}-blind-s0"):
            share = guess["metrics"]["vqa"]
            parts += [
                f"Of the questions {share} % are guessed right without a picture, of the pairs half.",
                "",
            ]
        for by in BUDGETS:
            arms = {
                name: [row for row in rows.values() if row["arm"] == f"{place}-{name}-{by}"]
                for name in SYSTEMS
            }
            if any(arms.values()):
                parts += [f"### {place}: equal {by}", "", *_metrics(arms), ""]
    hours = sum(json.loads(p.read_text())["core_seconds"] for p in study.results.glob("*-s*.json")) / 3600
    return "\n".join([f"{hours:.2f} core hours.", "", *described(METRICS), "", *parts])


def _costs(costs: dict[str, dict[str, float]]) -> list[str]:
    names = {
        "parameters": "parameters, thousands",
        "seconds": "seconds",
        "gflops": "GFLOP",
        "passes": "passes through a block, a pair",
        "kept_mb": "MB kept for the backward pass",
    }
    lines = [f"| system | {' | '.join(names.values())} |", "| --- |" + " ---: |" * len(names)]
    return lines + [
        f"| {system} | " + " | ".join(f"{values[name]:,.6g}" for name in names) + " |"
        for system, values in costs.items()
    ]


def _metrics(arms: dict[str, list[dict[str, Any]]]) -> list[str]:
    head = ["system", "steps", "learning rate", "seeds", *METRICS]
    lines = [f"| {' | '.join(head)} |", "| --- |" + " ---: |" * (len(head) - 1)]
    for name, rows in arms.items():
        if not rows:
            continue
        cells = [name, f"{rows[0]['spent']['pretrain']['steps']:,}", f"{rows[0]['lr']:g}", str(len(rows))]
        for metric in METRICS:
            values = [row["metrics"][metric] for row in rows if row["metrics"][metric] is not None]
            spread = f" ({min(values):.1f} to {max(values):.1f})" if len(values) > 1 else ""
            cells.append(f"{statistics.fmean(values):.1f}{spread}" if values else "–")
        lines.append(f"| {' | '.join(cells)} |")
    return lines
