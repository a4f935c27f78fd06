"""The sheet of errors: what a model got most wrong, with pictures, in one HTML file."""

from __future__ import annotations

import html
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from multiway.data.pages import figure, table, write_page
from multiway.data.sample import BadSample
from multiway.tasks.outcomes import Outcomes, between

SHOWN = 60  # samples


def write_sheet(
    path: Path,
    title: str,
    outcomes: Outcomes,
    picture: Callable[[int], Image.Image | Sequence[Image.Image]],
    *,
    sliced: Sequence[dict[str, Any]] = (),
) -> None:
    """Write the figures, their slices, and the worst samples.

    Args:
        picture: number of a sample -> its picture, or pictures.
        sliced: from `slices`.
    """
    values, spread = outcomes.values(), outcomes.intervals()
    rows = [(n, f"{values[n]:.2f}", between(spread[n], 2)) for n in values]
    parts = [table(("figure", "value", "95 % interval"), rows)]
    if sliced:
        lines = [(s["value"], f"{s['n']:,}", f"{s['figure']:.2f}", between(s["interval"], 2)) for s in sliced]
        parts.append(table(("slice", "samples", outcomes.main, "95 % interval"), lines))
    order = np.argsort(outcomes.score, kind="stable")
    worst = [row for row in order.tolist() if outcomes.wrong[row]]
    parts.append(
        f"<h2>The worst {min(len(worst), SHOWN)} of {len(worst):,} wrong, of {len(outcomes):,}</h2>"
        "<div class=pairs>"
    )
    for row in worst[:SHOWN]:
        try:
            shown = picture(int(outcomes.numbers[row]))
        except BadSample:  # it was read a moment ago
            continue
        pictures = [shown] if isinstance(shown, Image.Image) else [*shown]
        parts.append(figure(pictures, _lines(outcomes, row), outcomes.keys[row]))
    write_page(path, title, [*parts, "</div>"])


def _lines(outcomes: Outcomes, row: int) -> list[str]:
    said = (("", outcomes.asked), ("dropped", outcomes.said), ("kept", outcomes.expected))
    return [f'<span class="{kind}">{html.escape(text[row])}</span>' for kind, text in said if text]
