"""`report.json`, and `report.html`: numbers, scores, and pairs kept and dropped, for a person to look at."""

from __future__ import annotations

import html
import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from PIL import Image

from multiway.bootstrap.pipeline import Job
from multiway.bootstrap.report import PAPER, sentences, summed
from multiway.bootstrap.writer import BIN, read_manifest
from multiway.data.images import decode
from multiway.data.pages import SIDE, figure, table, write_page
from multiway.data.sample import BadSample
from multiway.data.shards import Shards
from multiway.errors import UserError
from multiway.train.run import read_json

SHOWN = 12  # pairs of each source and fate


def write_report(
    out: Path, jobs: Sequence[Job], threshold: dict[str, Any], speed: dict[str, Any]
) -> dict[str, Any]:
    """Write `report.json` and `report.html`; returns what the former holds.

    A run that only selected anew keeps the throughput of the one before.
    """
    if not speed["pictures"] and (out / "report.json").exists():
        speed = read_json(out / "report.json").get("throughput", speed)
    manifests = [manifest for job in jobs if (manifest := read_manifest(out, job.name)) is not None]
    report = {**summed(manifests), "threshold": threshold, "throughput": _rate(speed)}
    aside = out / ".report.json.part"
    aside.write_text(json.dumps(report, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    os.replace(aside, out / "report.json")
    write_sheet(out, report, manifests)
    return report


def _rate(speed: dict[str, Any]) -> dict[str, Any]:
    return {**speed, "pictures_per_second": round(speed["pictures"] / max(speed["seconds"], 1e-9), 2)}


def write_sheet(out: Path, report: dict[str, Any], manifests: Sequence[dict[str, Any]]) -> None:
    """Write `report.html`, one file that needs nothing else; pictures that are gone are left out."""
    rows = [
        (PAPER[origin], f"{counts['kept']:,}", f"{counts['dropped']:,}", f"{counts['keep_rate']:.1%}")
        for origin, counts in report["texts"].items()
    ]
    parts = [table(("source", "kept", "dropped", "kept, share"), rows)]
    parts.append("<ul>" + "".join(f"<li>{html.escape(x)}" for x in sentences(report)) + "</ul>")
    edges = [float(edge) for bars in report["histogram"].values() for edge in bars]
    for origin, bars in report["histogram"].items():
        drawn = _bars(bars, report["threshold"]["value"], min(edges), max(edges) + BIN)
        parts.append(f"<h2>Scores of {PAPER[origin]}</h2>{drawn}")
    for origin in report["texts"]:
        for kept in (True, False):
            pairs = _pairs(manifests, origin, kept)
            if pairs:
                fate = "kept" if kept else "dropped"
                parts.append(f"<h2>{PAPER[origin]}: <span class={fate}>{fate}</span></h2><div class=pairs>")
                parts += [*pairs, "</div>"]
    if report["bad_pictures"]:
        parts.append("<h2>Bad pictures and texts</h2><table class=bad><tr><th>key<th>shard<th>reason")
        for row in report["bad_pictures"][:200]:
            cells = "<td>".join(html.escape(row[name]) for name in ("key", "shard", "reason"))
            parts.append(f"<tr><td>{cells}")
        parts.append("</table>")
    write_page(out / "report.html", "CapFilt", parts)


def _bars(bars: dict[str, int], threshold: float, low: float, high: float) -> str:
    """A histogram as SVG from score `low` to `high`: texts by score, kept ones in green."""
    width, top, drawn = high - low, max(bars.values()), []
    for label, count in bars.items():
        edge = float(label)
        x, height = 100 * (edge - low) / width, 90 * count / top
        colour = "#2a8c4a" if edge + 1e-9 >= threshold else "#c8503c"
        drawn.append(
            f'<rect x="{x:.2f}" y="{95 - height:.2f}" width="{95 * BIN / width:.2f}" height="{height:.2f}" '
            f'fill="{colour}"><title>{label}: {count:,}</title></rect>'
        )
    at = min(max(100 * (threshold - low) / width, 0), 100)
    line = f'<line x1="{at:.2f}" x2="{at:.2f}" y1="0" y2="95" stroke="#222" stroke-width=".3"/>'
    picture = f'<svg viewBox="0 0 100 95" preserveAspectRatio="none">{"".join(drawn)}{line}</svg>'
    about = f"scores from {low:.2f} to {high:.2f}, {BIN} a bar, {top:,} texts in the highest"
    return f"{picture}<p>{about}; the line is the threshold {threshold:.4f}</p>"


def _pairs(manifests: Sequence[dict[str, Any]], origin: str, kept: bool) -> list[str]:
    """A few pairs, drawn over all shards by their marks."""
    found = [
        (example["mark"], manifest["path"], example)
        for manifest in manifests
        for example in manifest["examples"]
        if example["origin"] == origin and example["kept"] == kept
    ]
    shown = []
    for _, path, example in sorted(found, key=lambda item: item[0])[:SHOWN]:
        picture = _thumbnail(path, example["row"])
        if picture is not None:
            score = f"{example['score']:.3f} " if "score" in example else ""
            where = f"{os.path.basename(path)}/{example['key']}"
            shown.append(figure([picture], [score + html.escape(example["text"])], where))
    return shown


def _thumbnail(path: str, row: int) -> Image.Image | None:
    try:
        return decode(Shards([path], texts=False).image(row), min_side=SIDE)
    except (BadSample, IndexError, UserError):  # UserError: the tar is gone
        return None
