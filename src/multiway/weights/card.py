"""The model card: what a model is, what made it, from which data on what terms, how well, and its limits."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path

from multiway.data import files
from multiway.errors import UserError
from multiway.systems import NETWORKS

NOTHING = (
    "None measured yet: `multiway evaluate TASK --model THIS_FOLDER --data GOLD --card` writes them here."
)
LIMITS = (
    "It knows what its data shows, with its data's biases, and was not examined for any use beyond research."
)
USE = """```python
import multiway

model = multiway.load("this folder")
```"""


def card(
    system: str,
    *,
    title: str,
    about: str,
    use: str = USE,
    training: str = "Not stated.",
    data: Sequence[tuple[str, str]] = (),
    limits: str = LIMITS,
) -> str:
    """README.md of a model folder.

    Args:
        system: the network's name. about: a sentence. use: how it is called. training: what made it.
        data: sources, each with its licence.
    """
    rows = "".join(f"| `{source}` | {licence} |\n" for source, licence in data)
    listed = f"| source | licence |\n| --- | --- |\n{rows}" if rows else "Not stated.\n"
    return f"""---
library_name: multiway
license: other
tags: [multiway, {system}]
---
# {title}

{about} System `{system}`: {NETWORKS[system].paper}.

{use}

## Training
{training}

## Data
{listed}
## Metrics
{NOTHING}

## Limits
{limits}

## Licence
Of these weights: whoever trained them names it (`multiway push --licence`); what their data's licences ask
for stays. multiway itself is Apache-2.0.
"""


def add_metrics(folder: Path, name: str, figures: Mapping[str, str], command: str) -> None:
    """Put figures and the command that measured them into a folder's card, in place of older ones of it."""
    path = folder / "README.md"
    text = path.read_text(encoding="utf-8") if path.exists() else ""
    line = f"- {name}: {', '.join(f'{key} {value}' for key, value in figures.items())}. `{command}`"
    if "## Metrics\n" not in text:
        text = f"{text.rstrip()}\n\n## Metrics\n{NOTHING}\n"
    before, _, rest = text.partition("## Metrics\n")
    body, end, after = rest.partition("\n\n## ")
    kept = [old for old in body.strip().splitlines() if old.startswith("- ") and f"`{command}`" not in old]
    files.write(path, before + "## Metrics\n" + "\n".join([*kept, line]) + (end + after if end else "\n"))


def set_licence(folder: Path, licence: str) -> None:
    """Name the weights' licence, by its identifier on the hub (`apache-2.0`, `cc-by-nc-4.0`).

    Raises:
        UserError: it is no identifier.
    """
    if not re.fullmatch(r"[\w.+-]+", licence):
        raise UserError(f"the licence is {licence!r}: give its identifier on the hub, as apache-2.0")
    path = folder / "README.md"
    text = path.read_text(encoding="utf-8") if path.exists() else ""
    head = f"---\nlibrary_name: multiway\nlicense: {licence}\n---\n"
    if text.startswith("---\n"):
        text, found = re.subn(r"(?m)^license: .*$", f"license: {licence}", text, count=1)
        text = text if found else text.replace("---\n", f"---\nlicense: {licence}\n", 1)
    else:
        text = head + text
    files.write(
        path,
        re.sub(r"(## Licence\n).*?\n(?=\n## |\Z)", rf"\1Of these weights: {licence}.\n", text, flags=re.S),
    )
