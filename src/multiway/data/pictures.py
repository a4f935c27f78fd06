"""Where pictures lie that are searched or captioned: files, a folder (and the folders in it), or tars."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path, PurePath
from typing import Any

from multiway.data.images import EXTENSIONS
from multiway.data.sample import BadSample
from multiway.data.shards import Shards, expand
from multiway.errors import UserError


def is_hidden(name: PurePath) -> bool:
    """Whether a file, named from the folder that was given, or a folder that it lies in begins with a dot:
    a program's own, such as `.ipynb_checkpoints` and macOS's `._picture.jpg`.
    """
    return any(part.startswith(".") for part in name.parts)


class Folder:
    """Picture files below a folder; a key is the path from there, with forward slashes."""

    def __init__(self, path: Path):
        self.path = path
        found = []
        for root, folders, names in os.walk(path):
            folders[:] = [name for name in folders if not name.startswith(".")]
            found += [
                (Path(root) / name).relative_to(path).as_posix()
                for name in names
                if not name.startswith(".") and name.rpartition(".")[2].lower() in EXTENSIONS
            ]
        self.keys = sorted(found)

    @property
    def files(self) -> list[str]:
        """What the pictures lie in, on this machine or beyond."""
        return [os.path.abspath(self.path)]

    def stamp(self, i: int) -> tuple[int, int] | None:
        """Size and time of change: where both are as before, the file is taken as unchanged, unread."""
        try:
            status = (self.path / self.keys[i]).stat()
        except OSError:
            return None
        return status.st_size, status.st_mtime_ns

    def read(self, i: int) -> bytes:
        """The picture file.

        Raises:
            BadSample: `unreadable`.
        """
        try:
            return (self.path / self.keys[i]).read_bytes()
        except OSError as error:
            raise BadSample("unreadable", str(error)) from error


class Files(Folder):
    """Picture files one by one; a key is the path as it was given."""

    def __init__(self, paths: Sequence[str]):
        self.path, self.keys = Path(), list(dict.fromkeys(paths))

    @property
    def files(self) -> list[str]:
        """See `Folder`."""
        return [os.path.abspath(key) for key in self.keys]


class Tars:
    """The pictures of img2dataset tars, whatever their texts, and without; a key that comes again gets its
    number.
    """

    def __init__(self, path: str):
        self._shards = Shards(expand(path), texts=False)
        seen: set[str] = set()
        self.keys: list[str] = []
        for i in range(len(self._shards)):
            key = self._shards.key(i)
            self.keys.append(f"{key}#{i}" if key in seen else key)
            seen.add(key)

    @property
    def files(self) -> list[str]:
        """See `Folder`."""
        return [path if "://" in path else os.path.abspath(path) for path in self._shards.paths]

    def stamp(self, i: int) -> None:
        """None: a picture in a tar has no time of its own and is always read."""

    def about(self, i: int) -> dict[str, Any]:
        """What the tar says of a picture beside its file: the fields of its .json, and `texts`.

        Raises:
            BadSample: the tar can't be read there.
        """
        texts = self._shards.texts(i)
        return {**self._shards.meta(i), **({"texts": texts} if texts else {})}

    def read(self, i: int) -> bytes:
        """The picture file.

        Raises:
            BadSample: the tar can't be read there.
        """
        return self._shards.image(i)


def open_pictures(*sources: str) -> Folder | Tars:
    """The pictures at `sources`: picture files, or one folder of pictures, or tars (one, a folder of them, a
    glob, brace ranges).

    Raises:
        UserError: nothing there, no picture in it, or several sources that are not all files.
    """
    for source in sources:
        if "://" not in source and not Path(source).exists() and not set("*?[{") & set(source):
            raise UserError(f"there is no {source}: give a folder of pictures, picture files, or tars")
    files = [source for source in sources if Path(source).is_file() and not source.endswith(".tar")]
    if files:
        if len(files) < len(sources):
            other = next(source for source in sources if source not in files)
            raise UserError(f"{other} is no picture file: give files alone, or one folder, or tars")
        return Files(files)
    if len(sources) > 1:
        raise UserError(f"{sources[1]} is one source too many: give picture files, or one folder, or tars")
    (source,) = sources
    path = Path(source)
    pictures = Folder(path) if path.is_dir() and not any(path.glob("*.tar")) else Tars(source)
    if not pictures.keys:
        raise UserError(
            f"no picture in {source}: give a folder with {', '.join(EXTENSIONS[:4])} files, or tars"
        )
    return pictures
