"""What a run kept and dropped, by source, in the paper's terms, from its shards' manifests."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any

from multiway.bootstrap.writer import BIN

#: BLIP, section 3.3: D = {(I_w, T_w)} + {(I_w, T_s)} + {(I_h, T_h)}
PAPER = {
    "web": "web pictures with web texts",
    "synthetic": "web pictures with synthetic texts",
    "human": "human pairs",
}

NAMED = 5  # bad pictures that are named on the terminal


def summed(manifests: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """The sums of manifests.

    Returns:
        `shards`, `pictures`, `written` (pictures with a kept text), `texts` (by source: `kept`, `dropped`,
        and `keep_rate` in 0..1), `bad` and `skipped` (reason -> pictures), `bad_pictures` (shard, key and
        reason of each; no key where the tar itself is at fault), `histogram` (source -> lower edge of a bar
        -> texts).
    """
    texts: dict[str, Counter[str]] = {name: Counter() for name in PAPER}
    bars: dict[str, Counter[int]] = {}
    bad, skipped, named = Counter(), Counter(), []
    for manifest in manifests:
        for origin, counts in manifest["texts"].items():
            texts[origin].update(counts)
        for origin, counts in manifest["histogram"].items():
            bars.setdefault(origin, Counter()).update({int(b): n for b, n in counts.items()})
        bad.update(manifest["indexing"])
        named += [{"shard": manifest["input"], "key": "", "reason": why} for why in manifest["indexing"]]
        for kind in ("bad", "bad_texts"):
            bad.update(why.partition(":")[0] for why in manifest[kind].values())
            named += [
                {"shard": manifest["input"], "key": key, "reason": why} for key, why in manifest[kind].items()
            ]
        skipped.update(
            "kept out" if why.startswith("kept out") else "near-duplicate"
            for why in manifest["skipped"].values()
        )
    kinds = {}
    for origin, counts in texts.items():
        kept, dropped = counts["kept"], counts["dropped"]
        if kept + dropped:
            rate = kept / (kept + dropped)
            kinds[origin] = {"kept": kept, "dropped": dropped, "keep_rate": round(rate, 4)}
    return {
        "shards": len(manifests),
        "pictures": sum(manifest["pictures"] for manifest in manifests),
        "written": sum(manifest["written"] for manifest in manifests),
        "texts": kinds,
        "bad": dict(bad.most_common()),
        "bad_pictures": named,
        "skipped": dict(skipped.most_common()),
        "histogram": {
            origin: {f"{b * BIN:.2f}": n for b, n in sorted(counts.items())}
            for origin, counts in bars.items()
        },
    }


def sentences(report: dict[str, Any]) -> list[str]:
    """The report in a few lines."""
    lines = [f"{report['pictures']:,} pictures read, {report['written']:,} written"]
    if report["pictures"] and not report["written"]:
        lines.append("no pair was kept, so that there are no tars: look at the texts, or lower the threshold")
    for origin, counts in report["texts"].items():
        total = counts["kept"] + counts["dropped"]
        lines.append(f"{PAPER[origin]}: {counts['kept']:,} of {total:,} kept ({counts['keep_rate']:.1%})")
    for what in ("bad", "skipped"):
        if report[what]:
            lines.append(f"{what}: " + ", ".join(f"{why} {n:,}" for why, n in report[what].items()))
            lines[-1] += f" ({_names(report['bad_pictures'])})" if what == "bad" else ""
    threshold, speed = report["threshold"], report["throughput"]
    lines.append(f"threshold {threshold['value']:.4f} ({threshold['from']})")
    if speed["pictures"]:
        lines.append(
            f"{speed['pictures']:,} pictures in {speed['seconds']:,.1f} s: "
            f"{speed['pictures_per_second']:,.1f} a second ({speed['engine']}, {speed['workers']} workers)"
        )
    return lines


def _names(bad: Sequence[dict[str, str]]) -> str:
    """The first few of bad pictures, as SHARD/KEY."""
    names = [f"{row['shard']}/{row['key']}".rstrip("/") for row in bad[:NAMED]]
    return ", ".join([*names, "... all in report.json"] if len(bad) > NAMED else names)
