"""Rows of a csv, tsv, jsonl or json file, and the columns that are meant."""

from __future__ import annotations

import csv
import json
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, NoReturn

from multiway.errors import UserError

TABLES = (".csv", ".tsv", ".jsonl", ".json", ".token")
IMAGE_COLUMNS = ("image", "file_name", "filename", "filepath", "image_path", "path", "img", "picture")
TEXT_COLUMNS = ("caption", "captions", "text", "texts", "sentence", "title", "raw", "comment")
#: Where an object in a list of texts says its text: Karpathy's sentences, VQA v2's answers.
SAID = ("raw", "caption", "text", "sentence", "answer")
TRUE, FALSE = ("true", "1", "1.0", "yes", "y", "t"), ("false", "0", "0.0", "no", "n", "f")


def encodable(text: str) -> str:
    """The text with "?" for halves of characters (lone surrogates), which JSON can say and UTF-8 can't."""
    return text.encode("utf-8", "replace").decode()


def read_table(path: Path) -> Any:
    """A list of rows, each a dict; of a .json whatever it holds, or its lines where each is an object.

    A .token is Flickr8k's and Flickr30k's own list, `1000092795.jpg#0<tab>a caption` a line.

    Raises:
        UserError: missing, of another kind, or damaged.
    """
    kind = path.suffix.lower()
    if kind not in TABLES:
        refuse_layout(path)
    if not path.is_file():
        raise UserError(f"There is no file or folder {path}: check the path.")
    try:
        if kind in (".csv", ".tsv"):
            with path.open(encoding="utf-8-sig", newline="") as file:
                head = file.readline()
                file.seek(0)
                others = () if "," in head else ("\t", ";")
                delimiter = "\t" if kind == ".tsv" else next((mark for mark in others if mark in head), ",")
                csv.field_size_limit(2**24)
                reader = csv.DictReader(file, delimiter=delimiter, skipinitialspace=True)
                return _whole(_tabbed(list(file)) if delimiter == "\t" else list(reader), path)
        text = path.read_text(encoding="utf-8-sig")
        if kind == ".token":
            pairs = (line.split("\t", 1) for line in lines_of(text))
            return [{"image": name.rpartition("#")[0], "caption": caption} for name, caption in pairs]
        if kind == ".json" and not _is_lines(text):
            return _json(text)
        return _objects(text)
    except UnicodeDecodeError as error:
        raise UserError(f"{path} is no UTF-8 ({error}): save it as UTF-8.") from error
    except (OSError, ValueError, RecursionError, csv.Error) as error:
        raise UserError(f"{path} can't be read as {kind.lstrip('.')}: {error}.") from error


def refuse_layout(path: str | Path) -> NoReturn:
    """Say what can be read.

    Raises:
        UserError: always.
    """
    raise UserError(
        f"{path} is of no known layout: give tars, csv, tsv, jsonl, a json list, COCO or Karpathy json, or "
        "Flickr's .token, each by the ending of its name."
    )


def _json(text: str) -> Any:
    """What JSON says; pandas writes NaN, which JSON does not know, where a cell is empty."""
    return json.loads(text, parse_constant=lambda _: None)


def _objects(text: str) -> list[Any]:
    """What the lines of a jsonl hold; an error names its line of the file, which JSON itself can't know."""
    found = []
    for number, line in enumerate(re.split(r"[\r\n]", text), 1):
        try:
            if line.strip():
                found.append(_json(line))
        except json.JSONDecodeError as error:
            raise ValueError(f"line {number}, column {error.colno}: {error.msg}") from error
        except (ValueError, RecursionError) as error:  # a number of 5,000 digits, a thousand brackets
            raise ValueError(f"line {number}: {error}") from error
    return found


def _whole(rows: list[dict[str, Any]], path: Path) -> list[dict[str, Any]]:
    """Rows none of which has more cells than the header; empty ones at the end do no harm.

    Raises:
        UserError: one has: most often a text with a comma that is in no quotes.
    """
    for number, row in enumerate(rows, 1):
        more = row.pop(None, None)  # pyrefly: ignore  # where DictReader puts them
        if more and any(cell.strip() for cell in more):
            raise UserError(
                f"{path}, row {number} has {len(row) + len(more)} cells and the header {len(row)}: put a "
                "text that holds the delimiter into quotes."
            )
    return rows


def _tabbed(lines: list[str]) -> list[dict[str, Any]]:
    """Rows between tabs. Most such files know no quoting, and a text of theirs may begin with a quote that
    none closes; quotes count only where a field lies in them, or they hold a tab or a line's end.
    """
    plain = [row for row in csv.reader(lines, delimiter="\t", quoting=csv.QUOTE_NONE) if row]
    whole = any(len(cell) > 1 and cell[0] == cell[-1] == '"' for row in plain for cell in row)
    if whole or any(len(row) != len(plain[0]) for row in plain):
        with suppress(csv.Error):  # a quote that none closes, or that text follows
            return list(csv.DictReader(lines, delimiter="\t", strict=True))
    return list(csv.DictReader(lines, delimiter="\t", quoting=csv.QUOTE_NONE))


def lines_of(text: str) -> list[str]:
    """The lines that say something; a caption may hold U+2028 or U+0085, where `str.splitlines` ends one."""
    return [line for line in re.split(r"[\r\n]", text) if line.strip()]


def stripped(text: str) -> str:
    """A text without the blanks around it. A tab at its end stays: a prompt before it asks for its picture
    (`systems.generalist_turns`).
    """
    kept = text.strip()
    return f"{kept}\t" if kept and "\t" in text[len(text.rstrip()) :] else kept


def read_lines(path: Path, one: str) -> list[str]:
    """The lines of a text file that say something, stripped.

    Args:
        one: what a line is, for the sentence where there is none.

    Raises:
        UserError: it can't be read, or no line says anything.
    """
    try:
        found = [line.strip() for line in lines_of(path.read_text(encoding="utf-8-sig"))]
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{path} can't be read ({error}): give a UTF-8 file with one {one} a line") from None
    if not found:
        raise UserError(f"{path} holds no {one}: write one a line")
    return found


def listed(value: Any) -> list[str]:
    """The texts of a cell, `stripped`, without the blank ones: of one text, of a list, of a list that a csv
    holds as JSON (Flickr30k's on the hub), or of an object that says one of `SAID`.
    """
    if isinstance(value, str) and value.startswith("["):
        with suppress(ValueError, RecursionError):  # or a text that begins so
            value = _json(value)
    values = value if isinstance(value, list) else [value]
    said = [_said(one) if isinstance(one, dict) else one for one in values]
    return [
        text
        for one in said
        if one is not None and not isinstance(one, (dict, list)) and (text := stripped(str(one)))
    ]


def _said(one: dict[str, Any]) -> Any:
    """The text of an object; None where it says none."""
    return next((one[name] for name in SAID if name in one), None)


def truth(value: Any) -> bool | None:
    """What a cell says of true and false, in words or numbers; None: neither."""
    word = str(value).strip().lower()
    return True if word in TRUE else False if word in FALSE else None


def _is_lines(text: str) -> bool:
    """Whether a .json holds an object a line, as NLVR2's files do."""
    first, _, rest = text.lstrip().partition("\n")
    if not (first.startswith("{") and rest.lstrip().startswith("{")):
        return False
    try:
        return isinstance(json.loads(first), dict)
    except ValueError:
        return False


def check_rows(rows: Any, path: Path) -> list[dict[str, Any]]:
    """`rows` as a list of dicts that is not empty.

    Raises:
        UserError: it is something else.
    """
    if not isinstance(rows, list) or not rows or not all(isinstance(row, dict) for row in rows):
        raise UserError(f"{path} holds no rows: give one object or line a picture.")
    return rows


@contextmanager
def reading(path: str | Path) -> Iterator[None]:
    """What code that trusts a file's layout raises on a damaged one, as one sentence.

    Raises:
        UserError: a field is missing or of another kind.
    """
    try:
        yield
    except (LookupError, TypeError, AttributeError, ValueError) as error:
        raise UserError(
            f"{path} lacks what its layout promises ({type(error).__name__}: {error}): "
            "mend it, or take another copy."
        ) from error


def of_split(rows: Sequence[dict[str, Any]], split: str | None, path: Path) -> list[dict[str, Any]]:
    """The rows whose column `split` says so, several splits joined by "+"; all where none is named.

    Raises:
        UserError: there is no such column, or no such split.
    """
    if split is None:
        return list(rows)
    known = splits_of(rows)
    if not known:
        refuse_split(split, path)
    wanted = set(split.split("+"))
    if not wanted <= known:
        raise UserError(f"{path} has no split {split}: choose from {', '.join(sorted(known))}.")
    return [row for row in rows if _split(row) in wanted]


def splits_of(rows: Sequence[dict[str, Any]]) -> set[str]:
    """What the column `split` says; nothing where there is none."""
    return {split for row in rows if (split := _split(row)) is not None}


def _split(row: dict[str, Any]) -> str | None:
    said = row.get("split")
    if said is None:  # however it is capitalised
        said = next((value for key, value in row.items() if str(key).strip().lower() == "split"), None)
    return None if said is None else str(said).strip()


def refuse_split(split: str | None, path: str | Path) -> None:
    """Nothing where no split is named.

    Raises:
        UserError: one is, of data that has none.
    """
    if split is not None:
        raise UserError(f"{path} has no splits: leave `split` out, or name the file of the split.")


def find_column(row: dict[str, Any], names: Sequence[str], path: Path) -> str:
    """The first of `names` that a row has, however it is capitalised.

    Raises:
        UserError: it has none of them; the sentence says what it has.
    """
    lower = {str(key).strip().lower(): key for key in row}
    for name in names:
        if name.lower() in lower:
            return lower[name.lower()]
    found = ", ".join(str(key) for key in row)
    raise UserError(f"{path} has no column {' or '.join(names[:3])} (it has {found}): rename one.")


def find_table(folder: Path) -> Path | None:
    """The one table that lies in a folder; None where there is none.

    Raises:
        UserError: there are several.
    """
    tables = sorted(file for file in folder.iterdir() if file.suffix.lower() in TABLES)
    if len(tables) > 1:
        names = ", ".join(table.name for table in tables[:5])
        raise UserError(f"{folder} holds several annotation files ({names}): name the one to read.")
    return tables[0] if tables else None


def picture_folder(path: Path, images: str | None) -> Path:
    """Where the pictures of an annotation file lie.

    Raises:
        UserError: there is no such folder.
    """
    root = Path(images) if images is not None else path.parent
    if not root.is_dir():
        raise UserError(f"There is no folder of pictures {root}: check `images`.")
    return root
