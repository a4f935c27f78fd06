"""Where captions go: a jsonl, the metadata of an ImageFolder, a text beside each picture, or tars.

All of them resume alike. A journal beside the output gets a line a batch as it is made (`bootstrap.journal`);
what was made before a kill is read back from it, never made again. Files are written aside and renamed; the
journal goes when all is done. Pictures without a caption are named, with the reason, in a file of their own.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from PIL import Image

from multiway.bootstrap import journal
from multiway.data.images import decode, extension
from multiway.data.pictures import Files, Folder, Tars
from multiway.data.sample import BadSample
from multiway.data.shards import refuse_inputs_in, write_tar
from multiway.data.tables import encodable
from multiway.errors import UserError
from multiway.tasks.caption_many import Captioned

FORMATS = ("jsonl", "imagefolder", "txt", "tar")
METADATA = "metadata.jsonl"  # what `datasets` calls the table of an ImageFolder


@dataclass
class Output:
    """Captions on their way to where they belong.

    Attributes:
        pictures: what there is to caption; `numbers` says which of it are captioned.
        format: one of `FORMATS`.
        out: the jsonl, or the folder of tars or texts; texts lie beside their pictures where it is None, and
            an ImageFolder's table always does.
        shard_size: pictures in a tar.
        overwrite: replace what is there.

    Raises:
        UserError: the format does not fit the pictures, or there is an output already.
    """

    pictures: Folder | Tars
    format: str
    out: Path | None = None
    shard_size: int = 1000
    overwrite: bool = False
    numbers: list[int] = field(init=False)
    folder: Path = field(init=False)

    def __post_init__(self):
        if self.shard_size < 1:
            raise UserError(f"--shard-size is {self.shard_size}: give at least 1 picture a tar")
        if self.format in ("txt", "imagefolder"):
            if isinstance(self.pictures, Tars):
                raise UserError(
                    f"--format {self.format} is for a folder of pictures: take tar or jsonl for tars"
                )
            self.folder = self.out or self.pictures.path
            if self.format == "imagefolder" and (self.out or isinstance(self.pictures, Files)):
                raise UserError(
                    f"--format imagefolder writes {METADATA} into a folder of pictures: give that folder "
                    "without --out"
                )
        elif self.out is None:
            raise UserError(f"--format {self.format} needs --out: name a file x.jsonl, or a folder of tars")
        else:
            self.folder = self.out if self.format == "tar" else self.out.parent
            if self.format == "tar" and isinstance(self.pictures, Tars):
                refuse_inputs_in(self.folder, self.pictures.files)
        self.numbers = list(range(len(self.pictures.keys)))
        if self.format == "txt":
            self._choose()
        elif self._there() and not self.overwrite and not self._begun():
            raise UserError(f"{self._there()[0]} exists already: choose another --out, or --overwrite it")

    @property
    def target(self) -> Path:
        """What holds the captions in the end."""
        if self.format == "imagefolder":
            return self.folder / METADATA
        return self.folder if self.out is None or self.format != "jsonl" else self.out

    @property
    def journal(self) -> Path:
        """A hidden file beside the output, or in its folder."""
        if self.format in ("jsonl", "imagefolder"):
            return self.target.with_name(f".{self.target.name}.part")
        return self.folder / ".captions.part"

    @property
    def skipped(self) -> Path:
        """The file that names pictures without captions."""
        stem = self.target.stem if self.format == "jsonl" else "captions"
        return self.folder / f"{stem}.skipped.jsonl"

    @property
    def keys(self) -> list[str]:
        """Of the pictures to caption."""
        return [self.pictures.keys[number] for number in self.numbers]

    def run(
        self, settings: dict[str, Any], make: Callable[[int], Iterator[list[Captioned]]]
    ) -> Iterator[list[Captioned]]:
        """What an interrupted run had made (maybe nothing), then batch after batch; then all is written.

        Args:
            settings: all that captions and batches depend on; a run with others, or of other pictures or
                files, is not gone on with.
            make: batches from the given one on.

        Raises:
            UserError: the journal is of other settings or pictures; or no picture could be used.
        """
        settings = {**settings, **self._settings()}
        if self.overwrite and not self._interrupted(settings):
            self.journal.unlink(missing_ok=True)
        with journal.opened(self.journal, settings) as book:
            rows = [Captioned(**row) for row in book.rows]
            if [row.key for row in rows] != self.keys[: len(rows)]:
                raise UserError(f"the pictures have changed since {self.journal} was begun: --overwrite it")
            self._write(rows, new=len(rows))
            yield list(rows)
            for batch in make(book.batches):
                if not book.batches:  # not before a caption is made: a wrong option costs no old tar
                    self._clear()
                book.add([asdict(row) for row in batch])
                rows += batch
                self._write(rows, new=len(batch))
                yield batch
            if len(rows) == len(self.pictures.keys) and all(row.error is not None for row in rows):
                reasons = ", ".join(sorted({row.error or "" for row in rows}))
                self.journal.unlink()
                raise UserError(f"no picture can be used ({reasons}): give JPEG, PNG or WebP files")
            self._finish(rows)
            self.journal.unlink()

    def _there(self) -> list[Path]:
        """Output that is there already."""
        if self.format == "tar":
            return sorted(self.folder.glob("[0-9][0-9][0-9][0-9][0-9].tar"))
        return [self.target] if self.target.exists() else []

    def _clear(self) -> None:
        for old in self._there() if self.format == "tar" else ():
            old.unlink()

    def _begun(self) -> bool:
        """Whether a run was interrupted after its first batch; what lies there is then of that run."""
        return self.journal.exists() and bool(journal.read(self.journal))

    def _settings(self) -> dict[str, Any]:
        """What a resumed run must have in common with the one before, beside how captions are made."""
        source = hashlib.sha256("\n".join(self.pictures.files).encode("utf-8", "surrogateescape"))
        sizes = {"shard_size": self.shard_size} if self.format == "tar" else {}
        return {"source": source.hexdigest(), "format": self.format, **sizes}

    def _interrupted(self, settings: dict[str, Any]) -> bool:
        """Whether the journal there is of the same command and pictures."""
        try:
            with open(self.journal, "rb") as file:
                same = json.loads(file.readline()) == settings
            keys = [row["key"] for row in journal.read(self.journal)]
        except (OSError, ValueError):
            return False
        return same and keys == self.keys[: len(keys)]

    def _write(self, rows: Sequence[Captioned], *, new: int) -> None:
        """What can be written before the end, of the last `new` rows."""
        if self.format == "txt":
            for row in rows[len(rows) - new :]:
                if row.error is None:
                    _replace(self._sidecar(row.key), "\n".join(row.captions) + "\n")
        elif self.format == "tar":
            for number in range((len(rows) - new) // self.shard_size, len(rows) // self.shard_size):
                self._write_shard(number, rows)

    def _finish(self, rows: Sequence[Captioned]) -> None:
        if self.format == "jsonl":
            _replace(self.target, _lines(plain(row) for row in rows if row.error is None))
        elif self.format == "imagefolder":
            _replace(self.target, _lines(_metadata(row) for row in rows if row.error is None))
        elif self.format == "tar":
            for number in range(-(-len(rows) // self.shard_size)):
                self._write_shard(number, rows)
        bad = [{"key": row.key, "error": row.error} for row in rows if row.error is not None]
        if bad:
            _replace(self.skipped, _lines(bad))
        else:
            self.skipped.unlink(missing_ok=True)

    def _sidecar(self, key: str) -> Path:
        name = Path(key).name if self.out is not None and isinstance(self.pictures, Files) else key
        return (self.folder / name).with_suffix(".txt")

    def _choose(self) -> None:
        """Leave out pictures that have a text; two that would share one are refused."""
        owner: dict[Path, str] = {}
        begun = {row["key"] for row in journal.read(self.journal)} if self._begun() else set()
        self.numbers = []
        for number, key in enumerate(self.pictures.keys):
            text = self._sidecar(key)
            if (other := owner.setdefault(text, key)) != key:
                raise UserError(f"{other} and {key} would share one .txt: rename one, or take --format jsonl")
            if self.overwrite or key in begun or not text.exists():
                self.numbers.append(number)

    def _write_shard(self, number: int, rows: Sequence[Captioned]) -> None:
        path = self.folder / f"{number:05d}.tar"
        if not path.exists():
            first = number * self.shard_size
            write_tar(path, self._samples(first, rows[first : first + self.shard_size]))

    def _samples(self, first: int, rows: Sequence[Captioned]) -> Iterator[dict[str, Any]]:
        for number, row in enumerate(rows, first):
            if row.error is not None:
                continue
            content = self.pictures.read(self.numbers[number])
            about = {"file": row.key}
            if isinstance(self.pictures, Tars):
                try:
                    about = self.pictures.about(self.numbers[number])
                except BadSample:  # the picture is good, what the tar says of it is not
                    about = {}
            yield {
                "__key__": row.key if isinstance(self.pictures, Tars) else f"{number:09d}",
                extension(content): content,
                "txt": "\n".join(row.captions),
                "json": json.loads(encodable(json.dumps({**about, **plain(row)}, ensure_ascii=False))),
            }


def opener(pictures: Folder | Tars, numbers: Sequence[int]) -> Callable[[int], Image.Image]:
    """A function that decodes the n-th of the numbered pictures, for `caption_pictures`."""
    return lambda n: decode(pictures.read(numbers[n]))


def plain(row: Captioned) -> dict[str, Any]:
    """A row as JSON: `key`, `caption`, `logprob`; and all of them under `captions`, `logprobs` if several."""
    found: dict[str, Any] = {"key": row.key, "caption": row.captions[0], "logprob": row.logprobs[0]}
    if len(row.captions) > 1:
        found |= {"captions": row.captions, "logprobs": row.logprobs}
    return found


def _metadata(row: Captioned) -> dict[str, Any]:
    """A row of an ImageFolder: `text` is the column that text-to-image fine-tuning reads."""
    several = {"texts": row.captions} if len(row.captions) > 1 else {}
    return {"file_name": row.key, "text": row.captions[0], **several}


def _lines(rows: Iterator[dict[str, Any]] | Sequence[dict[str, Any]]) -> str:
    return "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)


def _replace(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    aside = path.with_name(f".{path.name}.{os.getpid()}")
    aside.write_text(text, encoding="utf-8")
    os.replace(aside, path)
