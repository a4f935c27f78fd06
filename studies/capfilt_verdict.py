"""What the arms say of each claim: holds, fails, or cannot tell at this size."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np

#: claim -> (better arm, worse arm)
CLAIMS = {
    "filtering web texts helps (table 1: F)": ("filtered", "web"),
    "adding synthetic texts helps (table 1: C)": ("synthetic", "web"),
    "both help more than nothing (table 1: C + F)": ("both", "web"),
    "both beat filtering alone": ("both", "filtered"),
    "both beat synthetic texts alone": ("both", "synthetic"),
    "nucleus sampling beats beam search (table 2)": ("both", "beam"),
    "captioner and filter apart beat shared ones (table 4)": ("both", "shared"),
    "the filter beats a contrastive score at the same keep rate": ("filtered", "contrastive"),
}
METRICS = ("retrieval", "cider", "caption_true", "told_apart")
MAIN = ("retrieval", "cider")  # the paper's: a claim is run again where one of these has the wrong sign
T95 = {2: 12.706, 3: 4.303, 4: 3.182, 5: 2.776}  # Student's t of 95 %, by the number of seeds


def read(results: Path) -> list[dict[str, Any]]:
    """Every arm's result."""
    return [json.loads(path.read_text()) for path in sorted(results.glob("*-s*.json"))]


def spent(results: Path) -> float:
    """Core seconds so far."""
    return sum(result["core_seconds"] for result in read(results))


def effect(rows: list[dict[str, Any]], better: str, worse: str, metric: str) -> dict[str, Any] | None:
    """The mean paired difference in points, with its interval: over seeds, or over pictures where there is
    one seed; None without a pair.
    """
    pairs = []
    for a in (row for row in rows if row["arm"] == better):
        for b in (row for row in rows if row["arm"] == worse and row["seed"] == a["seed"]):
            pairs.append((a, b))
    if not pairs:
        return None
    names = [name for name in pairs[0][0]["metrics"] if name.endswith(f"/{metric}")]
    each = [float(np.mean([a["metrics"][n] - b["metrics"][n] for n in names])) for a, b in pairs]
    found: dict[str, Any] = {
        "effect": round(float(np.mean(each)), 3),
        "seeds": len(each),
        "each": np.round(each, 3).tolist(),
    }
    if len(each) > 1:
        half = T95[len(each)] * float(np.std(each, ddof=1)) / math.sqrt(len(each))
        found |= {
            "interval": [round(found["effect"] - half, 3), round(found["effect"] + half, 3)],
            "over": "seeds",
        }
    elif metric == "caption_true":
        (a, b) = pairs[0]
        differences = np.concatenate([np.subtract(a["items"][n], b["items"][n]) for n in names]) * 100
        half = 1.96 * float(differences.std(ddof=1)) / math.sqrt(len(differences))
        found |= {
            "interval": [round(found["effect"] - half, 3), round(found["effect"] + half, 3)],
            "over": "pictures",
        }
    found["verdict"] = verdict(found)
    return found


def verdict(found: dict[str, Any]) -> str:
    """By the interval: above zero, below zero, or around it."""
    if "interval" not in found:
        return "cannot tell (one seed)"
    low, high = found["interval"]
    return "holds" if low > 0 else "fails" if high < 0 else "cannot tell at this size"


def groups(rows: list[dict[str, Any]]) -> dict[str, list[dict[str, Any]]]:
    """Arms that may be compared: one world, one share of noise, one budget."""
    found: dict[str, list[dict[str, Any]]] = {}
    for row in rows:
        name = f"{row['world']}, {row['noise']:.0%} noise{', double budget' if row['double'] else ''}"
        found.setdefault(name, []).append(row)
    return found


def failed(results: Path) -> list[tuple[str, ...]]:
    """Pairs of arms of scenes at 40 % whose order is the other way round, and that were not run again."""
    found = groups(read(results))
    rows, again = found.get("scenes, 40% noise", []), found.get("scenes, 40% noise, double budget", [])
    pairs = []
    for better, worse in CLAIMS.values():
        effects = [effect(rows, better, worse, metric) for metric in MAIN]
        wrong = any(e is not None and e["seeds"] > 1 and e["effect"] < 0 for e in effects)
        if wrong and effect(again, better, worse, MAIN[0]) is None:
            pairs.append((worse, better))
    return pairs


def judge(results: Path) -> str:
    """Write `verdicts.json` beside the arms and return it as Markdown."""
    rows = read(results)
    found: dict[str, Any] = {"core_hours": round(spent(results) / 3600, 2), "groups": {}}
    lines = [f"{len(rows)} arms, {found['core_hours']} core hours.", ""]
    for name, group in groups(rows).items():
        effects = {
            claim: {m: e for m in METRICS if (e := effect(group, better, worse, m)) is not None}
            for claim, (better, worse) in CLAIMS.items()
        }
        found["groups"][name] = {claim: e for claim, e in effects.items() if e}
        lines += [f"### {name}", "", *_arms(group), "", *_claims(found["groups"][name]), ""]
    results.mkdir(parents=True, exist_ok=True)
    (results / "verdicts.json").write_text(json.dumps(found, indent=1) + "\n")
    return "\n".join(lines)


def _arms(rows: list[dict[str, Any]]) -> list[str]:
    lines = ["| arm | seeds | " + " | ".join(METRICS) + " |", "| --- |" + " ---: |" * (len(METRICS) + 1)]
    for arm in dict.fromkeys(row["arm"] for row in rows):
        own = [row["metrics"] for row in rows if row["arm"] == arm]
        cells = []
        for metric in METRICS:
            values = [np.mean([v for n, v in metrics.items() if n.endswith(f"/{metric}")]) for metrics in own]
            cells.append(
                f"{np.mean(values):.1f}" + (f" ({min(values):.1f}–{max(values):.1f})" if len(own) > 1 else "")
            )
        lines.append(f"| {arm} | {len(own)} | " + " | ".join(cells) + " |")
    filters = [
        (row["arm"], row["seed"], o, d) for row in rows for o, d in row["data"].items() if isinstance(d, dict)
    ]
    if filters:
        lines += ["", "| arm | seed | texts | kept | noise before | after | precision | recall |"]
        lines += ["| --- | ---: | --- |" + " ---: |" * 5]
        for arm, seed, origin, d in filters:
            numbers = [d[n] for n in ("noise_before", "noise_after", "precision", "recall")]
            cells = " | ".join("–" if x is None else f"{x:.1%}" for x in numbers)
            lines.append(f"| {arm} | {seed} | {origin} | {d['kept']:,} of {d['texts']:,} | {cells} |")
    return lines


def _claims(effects: dict[str, dict[str, dict[str, Any]]]) -> list[str]:
    lines = ["| claim | " + " | ".join(METRICS) + " |", "| --- |" + " --- |" * len(METRICS)]
    for claim, by_metric in effects.items():
        cells = []
        for metric in METRICS:
            e = by_metric.get(metric)
            if e is None:
                cells.append("–")
                continue
            interval = f" ({e['interval'][0]:+.1f} to {e['interval'][1]:+.1f})" if "interval" in e else ""
            cells.append(f"{e['effect']:+.1f}{interval}: {e['verdict']}")
        lines.append(f"| {claim} | " + " | ".join(cells) + " |")
    return lines
