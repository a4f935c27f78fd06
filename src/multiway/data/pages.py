"""A page of pictures in one HTML file that needs nothing else: no network, no folder beside it."""

from __future__ import annotations

import base64
import html
import io
from collections.abc import Iterable
from pathlib import Path

from PIL import Image

from multiway.data import files

SIDE = 144  # pixels
STYLE = """
body { font: 15px/1.4 system-ui, sans-serif; max-width: 72rem; margin: 2rem auto; padding: 0 1rem; color: #222
} table { border-collapse: collapse } td, th { padding: .2rem .9rem .2rem 0; text-align: right }
td:first-child, th:first-child, .bad td, .bad th { text-align: left }
.pairs { display: grid; grid-template-columns: repeat(auto-fill, minmax(11rem, 1fr)); gap: 1rem }
figure { margin: 0 } img { max-width: 100%; border: 1px solid #ddd } figcaption { font-size: 13px }
.kept { color: #176d2f } .dropped { color: #a3271e } svg { width: 100%; height: 9rem }
"""


def write_page(path: Path, title: str, parts: Iterable[str]) -> None:
    """Write a page of HTML parts, aside and then renamed."""
    head = f"<!doctype html><meta charset=utf-8><title>{html.escape(title)}</title><style>{STYLE}</style>"
    files.write(path, "\n".join([head, f"<h1>{html.escape(title)}</h1>", *parts]) + "\n")


def embedded(picture: Image.Image, side: int = SIDE) -> str:
    """A small copy of a picture, as the address of an <img>."""
    small = picture.copy()
    small.thumbnail((side, side))
    file = io.BytesIO()
    small.save(file, "PNG")
    return f"data:image/png;base64,{base64.b64encode(file.getvalue()).decode()}"


def figure(pictures: Iterable[Image.Image], lines: Iterable[str], name: str = "") -> str:
    """Pictures over lines of HTML; `name` is plain text that shows where the mouse rests."""
    images = "".join(f'<img src="{embedded(picture)}" alt="">' for picture in pictures)
    said = "<br>".join(lines)
    return f'<figure title="{html.escape(name)}">{images}<figcaption>{said}</figcaption></figure>'


def table(head: Iterable[str], rows: Iterable[Iterable[str]]) -> str:
    """A table of plain texts."""
    lines = ["<tr><th>" + "<th>".join(map(html.escape, head))]
    lines += ["<tr><td>" + "<td>".join(map(html.escape, row)) for row in rows]
    return "<table>" + "".join(lines) + "</table>"
