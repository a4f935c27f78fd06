"""CapFilt of one shard (BLIP, section 3.3 and figure 3), a pure function of the shard and the config.

    web picture --+--> captioner --> synthetic text --+
                  |                                   +--> filter --> scores --> what is kept
    web text -----+-----------------------------------+

Batches are cut from the shard as it lies and draws are keyed by (seed, key), so it does not matter who works
on a shard, how often he was killed meanwhile, and what else was worked on at the time.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from PIL import Image

from multiway.bootstrap import journal
from multiway.bootstrap.captioner import Captioner, open_captioner
from multiway.bootstrap.config import LARGEST_SIDE, BootstrapConfig
from multiway.bootstrap.endpoint import EndpointFailed
from multiway.bootstrap.filter import Filter, open_filter
from multiway.bootstrap.writer import Selection, is_written, write
from multiway.data.images import decode
from multiway.data.sample import BadSample
from multiway.data.shards import Shards
from multiway.data.tables import encodable
from multiway.errors import UserError

DIGITS = 6  # of a score, as it is compared and as it is written


@dataclass(frozen=True, kw_only=True)
class Job:
    """One shard of the input.

    Attributes:
        name: of what is written: `00007`, `human-00000`. path: of the tar. human: whether its pairs are taken
            over whole. skip: row in the tar -> why that picture is left out. index: the tar's fingerprint.
    """

    name: str
    path: str
    human: bool = False
    skip: dict[int, str] = field(default_factory=dict)
    index: str = ""


@dataclass(kw_only=True)
class Work:
    """What a worker does to a job; captioner and filter are opened when the first picture needs them.

    Attributes:
        captioner, filter: objects to use instead of those that the config names.
    """

    config: BootstrapConfig
    selection: Selection
    out: Path
    device: str = "auto"
    captioner: Captioner | None = None
    filter: Filter | None = None

    def __call__(self, job: Job) -> str:
        """Do all of a job that is not done; returns its name."""
        if is_written(self.out, job.name, self.selection):
            return job.name
        shard = Shards([job.path], texts=False)
        if job.human:
            write(self.out, job.name, shard, _human_rows(job, shard), self.selection, head(job))
            return job.name
        with journal.opened(self.out / "scores" / f"{job.name}.jsonl", head(job)) as book:
            self._score(job, shard, book)
            write(self.out, job.name, shard, book.rows, self.selection, head(job))
        return job.name

    @cached_property
    def _captioner(self) -> Captioner | None:
        if self.captioner is None and self.config.captioner is not None:
            return open_captioner(self.config, device=self.device)
        return self.captioner

    @cached_property
    def _filter(self) -> Filter:
        return self.filter or open_filter(self.config.filter, device=self.device)

    def _score(self, job: Job, shard: Shards, book: journal.Journal) -> None:
        size = self.config.batch_size
        if book.batches * size >= len(shard):
            return
        _ = self._captioner, self._filter  # opened now, and torch with them
        with threads(self.config.threads):
            for start in range(book.batches * size, len(shard), size):
                book.add(self._batch(job, shard, range(start, min(start + size, len(shard)))))

    def _batch(self, job: Job, shard: Shards, numbers: range) -> list[dict[str, Any]]:
        """A row a picture: its texts with their scores, or why there are none."""
        rows, good, pictures = [], [], []
        for number in numbers:
            row, picture = _opened(job, shard, number)
            rows.append(row)
            if picture is not None:
                row["web"] = _web_texts(shard, number, row)
                good.append(row)
                pictures.append(picture)
        if not good:
            return rows
        stem = os.path.basename(job.path).rpartition(".")[0]
        keys = [f"{stem}/{row['key']}" for row in good]
        captions: list[list[str]] = [[] for _ in keys]
        if self._captioner is not None:
            with blamed("captioner", self.config.captioner, keys):
                captions = checked_captions(self._captioner(pictures, keys), keys)
        texts = [list(dict.fromkeys(row["web"] + own)) for row, own in zip(good, captions, strict=True)]
        with blamed("filter", self.config.filter, keys):
            found = score(self._filter, pictures, texts, keys)
        for row, own, scores in zip(good, captions, found, strict=True):
            row["web"] = [[text, scores[text]] for text in row["web"]]
            row["synthetic"] = [[text, scores[text]] for text in own]
        return rows


class AnswerFailed(RuntimeError):
    """A captioner or filter gave no usable answer; the message says which, where, and what next."""


@contextmanager
def blamed(what: str, name: str | None, keys: Sequence[str]) -> Iterator[None]:
    """Say whose error it is, and at which pictures."""
    try:
        yield
    except (UserError, EndpointFailed):  # they say it themselves
        raise
    except Exception as error:
        raise AnswerFailed(
            f"the {what} {name or ''} failed at the {len(keys)} pictures from {keys[0]} on "
            f"({type(error).__name__}: {error}); mend it and repeat the command, which goes on where it "
            "stopped"
        ) from error


@contextmanager
def threads(number: int) -> Iterator[None]:
    """As many threads in every run: sums of floats depend on it, and with them a draw that is close."""
    torch = sys.modules.get("torch")  # not imported for functions that do without it
    if torch is None:
        yield
        return
    before = torch.get_num_threads()
    torch.set_num_threads(number)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def head(job: Job) -> dict[str, Any]:
    """What would make a shard's batches worthless if it changed: in its journal and in its manifest."""
    skipped = hashlib.sha256(json.dumps(sorted(job.skip.items())).encode()).hexdigest()
    return {"shard": job.path, "index": job.index, "skipped": skipped}


def _opened(job: Job, shard: Shards, number: int) -> tuple[dict[str, Any], Image.Image | None]:
    """A picture's row, and the picture; None where it is left out or bad, and the row says why."""
    row: dict[str, Any] = {"row": number, "key": shard.key(number)}
    if number in job.skip:
        row["skipped"] = job.skip[number]
        return row, None
    try:
        return row, decode(shard.image(number), min_side=LARGEST_SIDE)
    except BadSample as bad:
        row["bad"] = str(bad)
        return row, None


def _web_texts(shard: Shards, number: int, row: dict[str, Any]) -> list[str]:
    """Each different text once."""
    try:
        texts = list(dict.fromkeys(shard.texts(number)))
        if any(text != encodable(text) for text in texts):
            raise BadSample("bad_text", "half a character (a lone surrogate)")
        return texts
    except BadSample as bad:
        row["bad_text"] = str(bad)
        return []


def _human_rows(job: Job, shard: Shards) -> list[dict[str, Any]]:
    rows = []
    for number in range(len(shard)):
        row, picture = _opened(job, shard, number)
        rows.append(row)
        if picture is not None:
            row["human"] = [[text, None] for text in _web_texts(shard, number, row)]
    return rows


def checked_captions(captions: Any, keys: Sequence[str]) -> list[list[str]]:
    """The captions of each picture on one line each and in UTF-8, blank and repeated ones left out.

    Raises:
        TypeError: what the captioner returned is not a list of texts for each picture.
    """
    if captions is None:
        raise TypeError("the captioner gave None: a list of texts for each picture is wanted")
    rows = list(captions)
    if len(rows) != len(keys):
        raise TypeError(f"the captioner answered for {len(rows)} pictures of {len(keys)}: it must for each")
    found = []
    for key, row in zip(keys, rows, strict=True):
        if row is None or isinstance(row, str) or not all(isinstance(text, str) for text in row):
            raise TypeError(f"the captioner gave {row!r:.80} for {key}: a list of texts is wanted")
        lines = (" ".join(encodable(text).split()) for text in row)
        found.append(list(dict.fromkeys(line for line in lines if line)))
    return found


def score(
    scores: Filter, pictures: Sequence[Image.Image], texts: Sequence[Sequence[str]], keys: Sequence[str]
) -> list[dict[str, float]]:
    """text -> score of each picture.

    Raises:
        TypeError, ValueError: the filter gave no scores, too few, or one that is no finite number.
    """
    answer = scores(pictures, texts)
    try:
        rows = [[float(value) for value in row] for row in answer]
    except (TypeError, ValueError):
        said = f"{answer!r:.80}"
        raise TypeError(f"the filter gave {said}: a list of scores for each picture is wanted") from None
    if [len(row) for row in rows] != [len(row) for row in texts]:
        raise ValueError("the filter did not give one score for each text of each picture")
    found = []
    for key, lines, row in zip(keys, texts, rows, strict=True):
        if not all(math.isfinite(value) for value in row):
            raise ValueError(f"the filter's scores for {key} are not finite: {row}")
        found.append({text: round(value, DIGITS) for text, value in zip(lines, row, strict=True)})
    return found
