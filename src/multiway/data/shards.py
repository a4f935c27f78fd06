"""img2dataset tars: finding them, reading samples by offset, writing them."""

from __future__ import annotations

import glob
import hashlib
import io
import itertools
import json
import os
import re
import tarfile
from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import fsspec
import numpy as np

from multiway.data.sample import BadSample
from multiway.data.tables import lines_of, stripped
from multiway.data.tar_index import PARTS, TarIndex, build_index, load_index
from multiway.errors import UserError

MAX_OPEN = 64  # files a process keeps open


def expand(path: str) -> list[str]:
    """The tars that `path` names: a tar, a folder of tars, a glob, brace ranges (`{00000..00099}.tar`), or a
    URL.

    Raises:
        UserError: nothing there, or not all that a brace range names.
    """
    found = {one: _expand_one(one) for one in _braces(path)}
    missing = [one for one, tars in found.items() if not tars]
    if len(missing) == len(found):
        raise UserError(
            f"No tar at {path}: give a .tar, a folder of tars, a glob or a range like 'x-{{000..009}}.tar'."
        )
    if missing:
        named = ", ".join(missing[:3]) + (f" and {len(missing) - 3} more" if len(missing) > 3 else "")
        raise UserError(f"{path} names what is not there ({named}): fetch it, or name a smaller range.")
    return [tar for tars in found.values() for tar in tars]


def _expand_one(path: str) -> list[str]:
    if "://" in path:
        return _expand_remote(path)
    if os.path.isdir(path):
        return sorted(glob.glob(os.path.join(glob.escape(path), "*.tar")))
    return [path] if os.path.exists(path) else sorted(glob.glob(path, recursive=True))


def _expand_remote(url: str) -> list[str]:
    if url.endswith(".tar") and not any(letter in url for letter in "*?["):
        return [url]
    try:
        filesystem, inside = fsspec.core.url_to_fs(url)
        pattern = inside if any(letter in inside for letter in "*?[") else inside.rstrip("/") + "/*.tar"
        return [filesystem.unstrip_protocol(name) for name in sorted(filesystem.glob(pattern))]
    except (OSError, ValueError, ImportError) as error:
        raise UserError(f"Can't list {url}: {error}; check the address.") from error


def _braces(path: str) -> list[str]:
    """`a{08..10}{x,y}` -> a08x a08y a09x ...: the shell's rule, with its zero padding."""
    pieces = re.split(r"\{([^{}]*)\}", path)
    choices = []
    for i, piece in enumerate(pieces):
        bounds = re.fullmatch(r"(\d+)\.\.(\d+)", piece)
        if i % 2 == 0:
            choices.append([piece])
        elif bounds:
            first, last = bounds.groups()
            choices.append([str(n).zfill(len(first)) for n in range(int(first), int(last) + 1)])
        else:
            choices.append(piece.split(",") if "," in piece else ["{" + piece + "}"])
    return ["".join(parts) for parts in itertools.product(*choices)]


class Shards:
    """Random access to the samples of many tars."""

    def __init__(self, paths: Iterable[str], *, texts: bool = True):
        """Index the tars (from their caches where they are).

        Args:
            texts: False: pictures that have none are samples too.

        Raises:
            UserError: a tar is missing or compressed.
        """
        self.paths = list(paths)
        indexes: list[TarIndex] = [
            load_index(path) if texts else build_index(path, texts=False) for path in self.paths
        ]
        self.problems: Counter[str] = sum((Counter(index.problems) for index in indexes), Counter())
        self._keys = [index.keys for index in indexes]
        self._spans = [index.spans for index in indexes]
        self._starts = np.cumsum([0, *(len(index) for index in indexes)])
        self._open: dict[int, int] = {}  # number of the tar -> file descriptor
        self._pid = os.getpid()

    def __len__(self) -> int:
        return int(self._starts[-1])

    def _place(self, i: int) -> tuple[int, int]:
        shard = int(np.searchsorted(self._starts, i, side="right")) - 1
        return shard, i - int(self._starts[shard])

    def key(self, i: int) -> str:
        """The key of sample `i`."""
        shard, row = self._place(i)
        return bytes(self._keys[shard][row]).decode()

    def fingerprint(self) -> str:
        """SHA-256 over the keys and the places and sizes of all files."""
        digest = hashlib.sha256()
        for keys, spans in zip(self._keys, self._spans, strict=True):
            digest.update(keys.tobytes() + spans.tobytes())
        return digest.hexdigest()

    def image(self, i: int) -> bytes:
        """The picture file of sample `i`."""
        content = self._read(i, "image")
        if not content:
            raise BadSample("not_an_image", "the file is empty")
        return content

    def texts(self, i: int) -> list[str]:
        """The lines of the .txt that are not blank; without a .txt, the `caption` of the .json."""
        content = self._read(i, "txt")
        if content is None:
            captions = self.meta(i).get("caption") or []
            captions = captions if isinstance(captions, list) else [captions]
            return [line for line in (stripped(str(caption)) for caption in captions) if line]
        return split_lines(content)

    def meta(self, i: int) -> dict[str, Any]:
        """The .json of sample `i`, and its .cls as `cls`."""
        meta: dict[str, Any] = {}
        if (content := self._read(i, "json")) is not None:
            try:
                read = json.loads(content)
            except (ValueError, RecursionError) as error:
                raise BadSample("bad_json", str(error)) from error
            meta = read if isinstance(read, dict) else {}
        if (content := self._read(i, "cls")) is not None:
            meta["cls"] = content.decode("utf-8", "replace").strip()
        return meta

    def _read(self, i: int, part: str) -> bytes | None:
        shard, row = self._place(i)
        column = 2 * PARTS.index(part)
        offset, size = (int(n) for n in self._spans[shard][row, column : column + 2])
        if offset == -1:
            return None
        try:
            content = self._pread(shard, offset, size)
        except (OSError, ValueError) as error:
            raise BadSample("unreadable", f"{self.paths[shard]}: {error}") from error
        if len(content) != size:
            raise BadSample("truncated_tar", f"{self.paths[shard]} is shorter than when it was indexed")
        return content

    def _pread(self, shard: int, offset: int, size: int) -> bytes:
        path = self.paths[shard]
        if "://" in path:
            filesystem, inside = fsspec.core.url_to_fs(path)
            return filesystem.cat_file(inside, start=offset, end=offset + size)
        if self._pid != os.getpid():  # a worker process opens its own files
            self._open, self._pid = {}, os.getpid()
        if shard not in self._open:
            if len(self._open) >= MAX_OPEN:
                os.close(self._open.pop(next(iter(self._open))))
            self._open[shard] = os.open(path, os.O_RDONLY | getattr(os, "O_BINARY", 0))
        if hasattr(os, "pread"):
            return os.pread(self._open[shard], size, offset)
        os.lseek(self._open[shard], offset, os.SEEK_SET)
        return os.read(self._open[shard], size)

    def __getstate__(self) -> dict[str, Any]:
        return {**self.__dict__, "_open": {}, "_pid": -1}

    def __del__(self) -> None:
        if getattr(self, "_pid", None) == os.getpid():
            for descriptor in self._open.values():
                os.close(descriptor)


def refuse_inputs_in(folder: Path, files: Iterable[str]) -> None:
    """Nothing where tars are written elsewhere than they are read from: they have the same names.

    Raises:
        UserError: a file lies in `folder`.
    """
    for file in files:
        if "://" not in file and os.path.realpath(os.path.dirname(file)) == os.path.realpath(folder):
            raise UserError(f"{file} is read, and tars would be written over it: choose another --out")


def split_lines(content: bytes) -> list[str]:
    """The lines of a caption file, `stripped`, without the blank ones.

    Raises:
        BadSample: `bad_text`: not UTF-8.
    """
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise BadSample("bad_text", "not UTF-8") from error
    return [stripped(line) for line in lines_of(text.replace("\0", " "))]


def write_shards(
    folder: str | Path, samples: Iterable[dict[str, Any]], *, name: str = "", shard_size: int = 10_000
) -> list[Path]:
    """Write samples as img2dataset tars `NAME00000.tar`, `NAME00001.tar`, ... in `folder`.

    Args:
        samples: dicts with `__key__` and, by extension, bytes, str (utf-8) or a JSON value (`json`), of which
            one is held at a time:
            `{"__key__": "0001", "jpg": b"...", "txt": "a cat", "json": {"caption": "a cat"}}`.
        shard_size: samples in a tar.

    Returns:
        the tars written, each aside and then renamed.
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    samples, written = iter(samples), []
    for number in itertools.count():
        first = next(samples, None)
        if first is None:
            return written
        path = folder / f"{name}{number:05d}.tar"
        write_tar(path, itertools.chain([first], itertools.islice(samples, shard_size - 1)))
        written.append(path)
    return written


def write_tar(path: Path, samples: Iterable[dict[str, Any]]) -> None:
    """Write one tar of samples as `write_shards` takes them, aside, on disk, and then renamed.

    Equal samples give equal bytes: no time, owner or machine is written.
    """
    aside = path.with_name(f"{path.name}.{os.getpid()}.part")
    try:
        with open(aside, "wb") as file:
            with tarfile.open(fileobj=file, mode="w", format=tarfile.PAX_FORMAT) as tar:
                for sample in samples:
                    for extension, value in sample.items():
                        if extension != "__key__":
                            _add(tar, f"{sample['__key__']}.{extension}", value)
            file.flush()
            os.fsync(file.fileno())
        aside.replace(path)
    finally:
        aside.unlink(missing_ok=True)  # of a sample that can't be written


def _add(tar: tarfile.TarFile, name: str, value: Any) -> None:
    if name.endswith(".json"):
        # half an emoji, which UTF-8 has not, stays the escape that JSON writes it as
        value = json.dumps(value, ensure_ascii=False).encode(errors="backslashreplace")
    content = value.encode() if isinstance(value, str) else value
    info = tarfile.TarInfo(name)
    info.size = len(content)
    tar.addfile(info, io.BytesIO(content))
