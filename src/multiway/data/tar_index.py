"""Where each sample lies inside a tar: read once from the headers, kept beside the tar.

With offsets at hand a shard is a random-access file: true shuffle, rank split and exact resume are then
arithmetic. The headers are read by our own few lines instead of `tarfile`, because what is readable of a
broken tar is used: a cut-off end loses only the cut sample, and after a damaged header the next sound one is
looked for.
"""

from __future__ import annotations

import hashlib
import io
import json
import os
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import fsspec
import numpy as np

from multiway.data.images import EXTENSIONS
from multiway.errors import UserError

BLOCK = 512
CHUNK = 2**20
PARTS = ("image", "txt", "json", "cls")  # what a sample may hold; columns 2k and 2k + 1 of `spans`
VERSION = 3
#: What a file system may say of a file when it changes, beside its size.
CHANGES = ("ETag", "Last-Modified", "LastModified", "mtime", "created")
SMALL = 16 * 2**20  # a tar this small is indexed faster than it is worth a second file


@dataclass(frozen=True, kw_only=True)
class TarIndex:
    """The samples of one tar.

    Attributes:
        keys: `[N]` bytes strings, the member name up to the first dot of its last part.
        spans: `[N, 8]` int64, (offset, size) in bytes of the picture, the .txt, the .json and the .cls; -1 =
            none.
        problems: what could not be used, by reason: `truncated_tar`, `corrupt_tar`, `no_image`, `no_text`.
    """

    keys: np.ndarray
    spans: np.ndarray
    problems: dict[str, int] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.keys)


def load_index(path: str) -> TarIndex:
    """The index of the tar at `path` (a local path or an fsspec URL), from its cache or by reading the
    headers.

    Raises:
        UserError: the file is missing, can't be read, or is compressed.
    """
    stamp, size = _stamp(path)
    if size < SMALL and "://" not in path:
        return build_index(path)
    places = _cache_places(path)
    for place in places:
        if (found := _read_cache(place, stamp)) is not None:
            return found
    index = build_index(path)
    for place in places:
        if _write_cache(place, index, stamp):
            break
    return index


def split_name(name: str) -> tuple[str, str]:
    """A member's key, up to the first dot of the last part of its name, and what follows that dot."""
    folder, _, last = name.rpartition("/")
    stem, _, extension = last.partition(".")
    return (f"{folder}/{stem}" if folder else stem), extension


def forget_index(path: str) -> None:
    """Delete the cached indexes of the tar at `path`."""
    for place in _cache_places(path):
        place.unlink(missing_ok=True)


def build_index(path: str, *, texts: bool = True) -> TarIndex:
    """Read every header of the tar at `path`; without `texts`, pictures that have none are samples too."""
    rows: dict[str, list[int]] = {}
    problems: Counter[str] = Counter()
    dotted: Counter[str] = Counter()  # pictures behind a second dot: 0.seg.png is of 0, v1.2.png of none
    with _open(path) as file:
        for name, offset, size in _members(file, path, problems):
            key, extension = split_name(name)
            part = _part(extension.lower())
            stem = key.rpartition("/")[2]
            if not stem or stem.startswith("._"):  # "._": droppings of macOS
                continue
            if part is None:
                dotted[key] += extension.lower().rpartition(".")[2] in EXTENSIONS
                continue
            row = rows.setdefault(key, [-1] * (2 * len(PARTS)))
            if row[2 * part] == -1:  # of a.jpg and a.png the first counts
                row[2 * part : 2 * part + 2] = offset, size
    good = {}
    for key, row in rows.items():
        if row[0] == -1:
            problems["no_image"] += 1
        elif texts and row[2] == -1 and row[4] == -1:
            problems["no_text"] += 1
        else:
            good[key] = row
    if lost := sum(count for key, count in dotted.items() if key not in rows):
        problems["dotted_name"] = lost
    keys = np.array([key.encode() for key in good], dtype=np.bytes_)
    spans = np.array(list(good.values()), dtype=np.int64).reshape(-1, 2 * len(PARTS))
    return TarIndex(keys=keys, spans=spans, problems=dict(problems))


def _open(path: str) -> io.IOBase:
    try:
        if "://" not in path:
            return open(path, "rb")
        filesystem, inside = fsspec.core.url_to_fs(path)
        return filesystem.open(inside, "rb")
    except (OSError, ValueError, ImportError) as error:
        raise UserError(f"Can't read the shard {path}: {error}; check the path.") from error


def _part(extension: str) -> int | None:
    if extension in EXTENSIONS:
        return 0
    return PARTS.index(extension) if extension in PARTS[1:] else None


def _members(file: io.IOBase, path: str, problems: Counter[str]) -> Iterator[tuple[str, int, int]]:
    """(name, offset of the content, size) of every whole regular file in the tar."""
    end = file.seek(0, os.SEEK_END)
    at, longname, lost, first = 0, None, False, True
    while True:
        file.seek(at)
        header = file.read(BLOCK)
        if first and header[:2] in (b"\x1f\x8b", b"BZ", b"\xfd7", b"(\xb5"):
            raise UserError(
                f"{path} is a compressed tar, which can't be read at random: unpack it to a plain .tar."
            )
        first = False
        if len(header) < BLOCK:
            problems["truncated_tar"] += 1  # no end-of-archive block was met
            return
        after = at + BLOCK
        if not any(header):
            after = _after_zeros(file, at)
            if after == end:
                return
        size = _size(header)
        if size is None:
            if not lost:
                problems["corrupt_tar"] += 1
            at, lost, longname = after, True, None
            continue
        lost, content = False, at + BLOCK
        at = content + -(-size // BLOCK) * BLOCK
        if content + size > end:
            problems["truncated_tar"] += 1
            return
        kind = header[156:157]
        if kind in (b"L", b"x"):  # the next member's long name: GNU's way, or POSIX's
            longname = _long_name(kind, file.read(size)) or longname
            continue
        if kind in (b"0", b"\0", b"7"):
            yield longname or _short_name(header), content, size
        if kind != b"g":
            longname = None


def _after_zeros(file: io.IOBase, at: int) -> int:
    """Where the first block from `at` on begins that is not of zeros; the file's end where there is none.

    A tar ends with two such blocks. One between members is damage, two are where tars were joined.
    """
    file.seek(at)
    while piece := file.read(CHUNK):
        if rest := piece.lstrip(b"\0"):
            return at + (len(piece) - len(rest)) // BLOCK * BLOCK
        at += len(piece)
    return at


def _size(header: bytes) -> int | None:
    """The size that a sound header names; None for a block that is no header."""
    try:
        checksum = int(header[148:156].rstrip(b"\0 ").strip() or b"-1", 8)
        if checksum != sum(header[:148]) + sum(header[156:]) + 8 * ord(" "):
            return None
        if header[124] & 0x80:  # base 256: files over 8 GB
            return int.from_bytes(header[125:136], "big")
        size = int(header[124:136].rstrip(b"\0 ").strip() or b"0", 8)
        return size if size >= 0 else None
    except ValueError:
        return None


def _short_name(header: bytes) -> str:
    name = header[:100].split(b"\0", 1)[0]
    prefix = header[345:500].split(b"\0", 1)[0] if header[257:263] == b"ustar\0" else b""
    return (prefix + b"/" + name if prefix else name).decode("utf-8", "replace")


def _long_name(kind: bytes, content: bytes) -> str | None:
    if kind == b"L":
        return content.rstrip(b"\0").decode("utf-8", "replace")
    at = 0
    while at < len(content):  # records of POSIX: "LENGTH KEY=VALUE\n"
        digits, _, _ = content[at : at + 20].partition(b" ")
        if not digits.isdigit() or int(digits) == 0:
            return None
        record = content[at + len(digits) + 1 : at + int(digits) - 1]
        if record.startswith(b"path="):
            return record[5:].decode("utf-8", "replace")
        at += int(digits)
    return None


def _stamp(path: str) -> tuple[str, int]:
    """What changes when the file changes, and its size in bytes."""
    try:
        if "://" not in path:
            stat = os.stat(path)
            return f"{VERSION} {stat.st_size} {stat.st_mtime_ns}", stat.st_size
        filesystem, inside = fsspec.core.url_to_fs(path)
        info = filesystem.info(inside)
        told = [str(info[name]) for name in CHANGES if info.get(name)]
        if not told and path.startswith("http"):  # its key is of the address alone: no index is kept
            told = [str(time.time_ns())]
        size = int(info.get("size") or 0)
        return f"{VERSION} {filesystem.ukey(inside)} {size} {told}", size
    except (OSError, ValueError, ImportError) as error:
        raise UserError(f"Can't read the shard {path}: {error}; check the path.") from error


def _cache_places(path: str) -> list[Path]:
    """Beside a local tar; else, or where that is read-only, in the user's cache folder."""
    home = os.environ.get("XDG_CACHE_HOME") or os.path.join(os.path.expanduser("~"), ".cache")
    name = hashlib.sha256(os.path.abspath(path).encode() if "://" not in path else path.encode()).hexdigest()
    cached = Path(home) / "multiway" / "index" / f"{name}.npz"
    return [cached] if "://" in path else [Path(path + ".index.npz"), cached]


def _read_cache(place: Path, stamp: str) -> TarIndex | None:
    try:
        with np.load(place, allow_pickle=False) as saved:
            if saved["stamp"].item() != stamp:
                return None
            return TarIndex(
                keys=saved["keys"], spans=saved["spans"], problems=json.loads(saved["problems"].item())
            )
    except Exception:  # missing, cut off, or not ours: the tar itself is the truth
        return None


def _write_cache(place: Path, index: TarIndex, stamp: str) -> bool:
    aside = place.with_name(f"{place.name}.{os.getpid()}.part")
    try:
        place.parent.mkdir(parents=True, exist_ok=True)
        with aside.open("wb") as file:
            np.savez(
                file,
                keys=index.keys,
                spans=index.spans,
                problems=np.array(json.dumps(index.problems)),
                stamp=np.array(stamp),
            )
        aside.replace(place)
    except OSError:
        aside.unlink(missing_ok=True)
        return False
    return True
