"""The demonstration's page: one file, no script, nothing from elsewhere; pictures are inside."""

from __future__ import annotations

import base64
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class Answer:
    """One hit: its picture (None where a text is the answer), its text, match probability, and truth."""

    picture: Path | None
    text: str
    probability: float
    right: bool


@dataclass(frozen=True)
class Question:
    """A query and its answers, best first; `known` where the right answers are known."""

    text: str
    answers: Sequence[Answer]
    known: bool = True
    picture: Path | None = None
    split: str = ""


STYLE = """
:root{--ink:#1d2430;--soft:#667085;--line:#e4e7ec;--card:#fff;--page:#f7f8fa;--good:#12805c;--mark:#3559e0}
@media(prefers-color-scheme:dark){:root{--ink:#e8eaf0;--soft:#98a2b3;--line:#2b313d;--card:#1b2029;--page:#12161d;
--good:#3fc08f;--mark:#8aa2ff}}
*{box-sizing:border-box}
body{margin:0;background:var(--page);color:var(--ink);font:16px/1.5 system-ui,sans-serif}
main{max-width:1000px;margin:0 auto;padding:40px 20px 80px}
h1{font-size:30px;margin:0 0 8px}h2{font-size:21px;margin:44px 0 6px}p{margin:0 0 14px;max-width:70ch}
.soft{color:var(--soft)}.numbers{display:flex;gap:12px;flex-wrap:wrap;margin:22px 0}
.number{background:var(--card);border:1px solid var(--line);border-radius:10px;padding:12px 18px;
min-width:120px}
.number b{display:block;font-size:24px}.number span{color:var(--soft);font-size:13px}
table{border-collapse:collapse;background:var(--card);border:1px solid var(--line);border-radius:10px;
margin:10px 0;width:100%;font-variant-numeric:tabular-nums}
th,td{padding:8px 12px;text-align:right;border-top:1px solid var(--line)}
thead th{border-top:0;color:var(--soft);font-weight:500;font-size:14px}
th:first-child,td:first-child,td:nth-child(2),th:nth-child(2){text-align:left}
td.better{color:var(--good);font-weight:600}
.scroll{overflow-x:auto}td:nth-child(2){white-space:nowrap}
.query{background:var(--card);border:1px solid var(--line);border-radius:10px;padding:14px 16px;margin:10px 0}
.query>h3{margin:0 0 10px;font-size:16px}.hits{display:flex;gap:12px;flex-wrap:wrap}
figure{margin:0;width:132px;font-size:13px;line-height:1.3}
.thumb{width:132px;height:104px;background:#fff;border:2px solid var(--line);border-radius:8px;display:flex;
align-items:center;justify-content:center}.thumb img{width:80px;height:80px}
.right .thumb{border-color:var(--good)}figcaption{margin-top:5px}.right figcaption{color:var(--good)}
.tick{color:var(--good);font-weight:600}
.grid{display:grid;grid-template-columns:repeat(auto-fill,minmax(300px,1fr));gap:10px}
.card{background:var(--card);border:1px solid var(--line);border-radius:10px;padding:12px;display:flex;
gap:14px}
.card .thumb{flex:0 0 96px;width:96px;height:96px}.card ol{margin:0;padding-left:20px;font-size:14px}
.card .soft{font-size:13px}
svg{width:100%;height:auto;background:var(--card);border:1px solid var(--line);border-radius:10px}
"""


def write_page(
    path: Path,
    results: Mapping[str, Any],
    splits: Mapping[str, str],
    searches: Sequence[Question],
    namings: Sequence[Question],
) -> None:
    """Write the page.

    Args:
        results: what the demonstration measured. splits: name -> what it asks.
        searches: texts and the pictures found. namings: pictures and the names found.
    """
    minutes = results["training_seconds"] / 60
    cards = [
        (f"{results['parameters'] / 1e6:.1f} M", "parameters"),
        (f"{minutes:.1f} min", "of training"),
        (f"{results['rest_seconds']:.0f} s", "evaluation, search and this page"),
    ]
    parts = [
        "<h1>multiway: what ALBEF learned from drawings</h1>",
        f"<p class=soft>Recipe <code>{escape(results['recipe'])}</code>. {_seen(results)}</p>",
        "<div class=numbers>",
        *(f"<div class=number><b>{value}</b><span>{what}</span></div>" for value, what in cards),
        "</div>",
        *(_table(results, splits) if results["splits"] else ()),
        "<h2>Text to pictures</h2>",
        "<p>Words find drawings: the nearest 16 by contrast, put in order by the matching head. Free queries "
        "first; then names drawn by lot, whose right answers have a green frame.</p>",
        *map(_search, searches),
        "<h2>Pictures to names</h2>",
        "<p>Drawings taken by lot, and the three best of all names of their split. Mistakes are left in.</p>",
        "<div class=grid>",
        *map(_naming, namings),
        "</div>",
        "<h2>Training</h2>",
        *(_stage(name, points) for name, points in results["curves"].items()),
        "<p class=soft>Drawings: Noto Emoji (Apache-2.0), Twemoji (CC-BY 4.0), Fluent Emoji (MIT).</p>",
    ]
    page = (
        "<!doctype html><html lang=en><meta charset=utf-8><meta name=viewport content='width=device-width'>"
        f"<title>multiway demo</title><style>{STYLE}</style><main>{''.join(parts)}</main></html>\n"
    )
    path.write_text(page, encoding="utf-8")


def _seen(results: Mapping[str, Any]) -> str:
    if results["splits"]:
        return "None of the drawings below were seen in training."
    return "It was trained on all bundled drawings, those below included: none is left to measure it with."


def _table(results: Mapping[str, Any], splits: Mapping[str, str]) -> list[str]:
    names = [f"{way}_r{k}" for way in ("tr", "ir") for k in (1, 5, 10)]
    head = "".join(f"<th>{way} R@{k}</th>" for way in ("image→text", "text→image") for k in (1, 5, 10))
    rows = []
    for split, found in results["splits"].items():
        for stage, label in (("itc", "contrast"), ("itm", "re-ranked")):
            first, values = found["itc"], found[stage]
            better = {name: " class=better" if values[name] > first[name] else "" for name in names}
            cells = "".join(f"<td{better[name]}>{values[name]:.1f}</td>" for name in names)
            title = (
                f"{split} ({found['n_images']} drawings, {found['n_texts']} names)" if stage == "itc" else ""
            )
            rows.append(f"<tr><td>{title}</td><td>{label}</td>{cells}</tr>")
    about = " ".join(f"<b>{escape(name)}</b>: {escape(text)}." for name, text in splits.items())
    return [
        "<h2>Retrieval on drawings it never saw</h2>",
        f"<p>{about} Recall in percent; the {results['k']} best are re-ranked; green where that helps.</p>",
        f"<div class=scroll><table><thead><tr><th>split</th><th>stage</th>{head}</tr></thead>",
        f"<tbody>{''.join(rows)}</tbody></table></div>",
    ]


def _search(question: Question) -> str:
    hits = "".join(
        f"<figure class={'right' if answer.right else 'other'}>{_thumb(answer.picture)}"
        f"<figcaption>{'✓ ' if answer.right else ''}{escape(answer.text)}"
        f"<br><span class=soft>{answer.probability:.2f}</span></figcaption></figure>"
        for answer in question.answers
    )
    return f"<section class=query><h3>“{escape(question.text)}”</h3><div class=hits>{hits}</div></section>"


def _naming(question: Question) -> str:
    rows = "".join(
        f"<li{' class=tick' if answer.right else ''}>{escape(answer.text)} "
        f"<span class=soft>{answer.probability:.2f}</span></li>"
        for answer in question.answers
    )
    truth = "" if any(answer.right for answer in question.answers) else f"It is: {escape(question.text)}. "
    return (
        f"<div class=card>{_thumb(question.picture)}<div><ol>{rows}</ol>"
        f"<span class=soft>{truth}({escape(question.split)})</span></div></div>"
    )


def _thumb(path: Path | None) -> str:
    if path is None:
        return ""
    data = base64.b64encode(path.read_bytes()).decode()
    return f"<div class=thumb><img alt='' src='data:image/jpeg;base64,{data}'></div>"


def _stage(name: str, points: Sequence[tuple[int, float]]) -> str:
    return f"<p class=soft>{escape(name)}: total loss by step.</p>{_curve(points)}"


def _curve(points: Sequence[tuple[int, float]], width: int = 960, height: int = 240, pad: int = 46) -> str:
    if len(points) < 2:
        return ""
    steps, losses = [p[0] for p in points], [p[1] for p in points]
    low, high = min(losses), max(losses)
    span = (high - low) or 1.0

    def place(step: float, loss: float) -> tuple[float, float]:
        x = pad + (width - 2 * pad) * (step - steps[0]) / max(steps[-1] - steps[0], 1)
        return x, pad / 2 + (height - 1.5 * pad) * (high - loss) / span

    line = " ".join("{:.1f},{:.1f}".format(*place(*point)) for point in points)
    marks = []
    for i in range(4):
        loss = low + span * i / 3
        _, y = place(steps[0], loss)
        marks.append(f"<line x1={pad} x2={width - pad} y1={y:.1f} y2={y:.1f} stroke='var(--line)'/>")
        marks.append(f"<text x={pad - 8} y={y + 4:.1f} text-anchor=end>{loss:.1f}</text>")
        step = steps[0] + (steps[-1] - steps[0]) * i // 3
        marks.append(f"<text x={place(step, low)[0]:.1f} y={height - 12} text-anchor=middle>{step:,}</text>")
    return (
        f"<svg viewBox='0 0 {width} {height}' role=img aria-label='training loss' font-size=12 "
        f"fill='var(--soft)'>{''.join(marks)}"
        f"<polyline points='{line}' fill=none stroke='var(--mark)' stroke-width=2 /></svg>"
    )
