"""Sources of pairs, and one random-access dataset over several of them."""

from __future__ import annotations

import hashlib
import io
import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, Protocol, runtime_checkable

from PIL import Image

from multiway.data import emoji, prompts, scenes, streams
from multiway.data.annotations import read_annotations
from multiway.data.augment import Augment
from multiway.data.images import decode
from multiway.data.numbered import Keyed, Numbered
from multiway.data.sample import BadSample, Sample, sound
from multiway.data.shards import Shards, expand
from multiway.data.streams import Use
from multiway.data.tables import TABLES, find_table, refuse_layout, refuse_split
from multiway.errors import UserError, refuse_negative


@dataclass(frozen=True, kw_only=True)
class Source:
    """One source of pairs.

    Attributes:
        path: img2dataset tars (one, a folder of them, a glob, brace ranges, an fsspec URL); a folder of
            pictures with a csv or jsonl; a csv, tsv, jsonl, COCO captions or Karpathy json; `emoji` (the
            bundled drawings); `scenes:N` (N drawn pictures; `scenes:N:SEED`); `prompts:TASK:N` (prompts and
            answers about drawn scenes, see `data.prompts`). Pictures alone may lie in a
            folder or in tars without texts, texts alone in a .txt with one a line.
        images: the folder of the pictures that an annotation file names.
        split: of a Karpathy json (`train+restval`), or of the emoji protocol (train, combination, style,
            all; with languages as `train:de+fr`, see `data.emoji`).
        weight: how often each of its pictures is seen in an epoch; 0.5 shows half of them, another half each
            time.
        texts: the first text of each picture only, or all.
        use: its pairs, its pictures alone, or its texts alone (masked data modelling).
        prompt: for a generalist: what each text answers (`what does the picture show?`); one with `{}` has
            the text in that place, and the picture answers it (`draw {}`).

    Raises:
        UserError: `prompt` is blank or holds a tab.
    """

    path: str
    images: str | None = None
    split: str | None = None
    weight: float = 1.0
    texts: Literal["first", "all"] = "all"
    use: Use = "pairs"
    prompt: str | None = None

    def __post_init__(self) -> None:
        if self.prompt is not None and (not self.prompt.strip() or "\t" in self.prompt):
            raise UserError(f"the prompt of {self.path} is {self.prompt!r}: write words, without a tab")


@dataclass(frozen=True, kw_only=True)
class DataConfig:
    """What a run trains on and is validated on.

    Attributes:
        train: sources of the training pairs.
        val: sources of the validation pairs.
        image_size: pixels, one number or (height, width).
        augment: what is done to training pictures.
        max_bad_share: above this share of bad samples a run stops.
        workers: processes that load; 0 loads in the training process. The batches are the same.
        seed: of the order, the choice among a picture's captions, and the augmentation.
        merge_equal_texts: pictures with byte-equal texts share an id, and are positives of each other where
            the system goes by ids.
        cache_views: augmented views of each picture whose features of the image tower's frozen blocks are
            kept on disk; 0 runs the frozen blocks anew each step.
    """

    train: tuple[Source, ...]
    val: tuple[Source, ...] = ()
    image_size: int | tuple[int, int] = 256
    augment: Augment = field(default_factory=Augment)
    max_bad_share: float = 0.05
    workers: int = 0
    seed: int = 0
    merge_equal_texts: bool = False
    cache_views: int = 0

    def __post_init__(self) -> None:
        refuse_negative("data", workers=self.workers, seed=self.seed, cache_views=self.cache_views)


@runtime_checkable
class Store(Keyed, Protocol):
    """What a source must offer: keys, texts and picture files by number."""

    def texts(self, i: int) -> list[str]: ...
    def image(self, i: int) -> Any: ...  # the bytes of a picture file, or a picture
    def meta(self, i: int) -> dict[str, Any]: ...


class Dataset(Numbered[Source, Store]):
    """Random access to the samples of one or several sources, numbered one source after the other."""

    def __init__(
        self, sources: Sequence[Source] | Source, *, min_side: int | None = None, unlabelled: bool = False
    ):
        """Index the sources.

        Args:
            min_side: large JPEGs are decoded smaller, but no side below this (see `images.decode`); None =
                whole.
            unlabelled: pictures without a text are samples too.

        Raises:
            UserError: a source is missing, of unknown layout, or empty.
        """
        self.min_side, self.unlabelled = min_side, unlabelled
        super().__init__(sources, self.open_source)

    def open_source(self, source: Source) -> Store:
        """One source by itself."""
        return _open(source, unlabelled=self.unlabelled)

    def texts(self, i: int) -> list[str]:
        """The texts of sample `i`, without decoding its picture; none where pictures alone are used, or,
        with `unlabelled`, where it has none.

        Raises:
            BadSample: `empty_caption`, `bad_text`, or the shard can't be read.
        """
        number, store, inside = self._place(i)
        source = self.sources[number]
        if source.use == "images":
            return []
        texts = store.texts(inside)
        if not texts and not self.unlabelled:
            raise BadSample("empty_caption")
        texts = sound(texts[:1] if source.texts == "first" else texts)
        return texts if source.prompt is None else [prompts.prompted(source.prompt, text) for text in texts]

    def use(self, i: int) -> Use:
        """What of sample `i` is used."""
        return self.sources[self._place(i)[0]].use

    def image(self, i: int) -> Image.Image:
        """The picture of sample `i`: upright, RGB, 8 bits.

        Raises:
            BadSample: it can't be read or decoded.
        """
        _, store, inside = self._place(i)
        image = store.image(inside)
        return decode(image, min_side=self.min_side) if isinstance(image, bytes) else image

    def file(self, i: int) -> bytes:
        """The picture of sample `i` as it lies in its file; a drawn one as PNG.

        Raises:
            BadSample: it can't be read.
        """
        _, store, inside = self._place(i)
        image = store.image(inside)
        if isinstance(image, bytes):
            return image
        file = io.BytesIO()
        image.save(file, "PNG")
        return file.getvalue()

    def digest(self, i: int) -> bytes:
        """A hash of sample `i`'s picture as it lies in its file."""
        _, store, inside = self._place(i)
        try:
            image = store.image(inside)
        except BadSample as bad:
            return bad.reason.encode()
        return hashlib.sha256(image if isinstance(image, bytes) else image.tobytes()).digest()

    def sample(self, i: int) -> Sample:
        """Sample `i` whole.

        Raises:
            BadSample: it can't be used; the reason says why.
        """
        _, store, inside = self._place(i)
        return Sample(
            key=store.key(inside),
            texts=self.texts(i),
            image=self.image(i),
            source=self.source(i),
            meta=store.meta(inside),
        )


def _open(source: Source, *, unlabelled: bool) -> Store:
    if source.path == "emoji":
        return emoji.open_split(source.split or "all")
    if source.path.startswith("scenes:"):
        refuse_split(source.split, source.path)
        return scenes.parse(source.path)
    if source.path.startswith("prompts:"):
        return prompts.parse(source.path, source.split)
    if source.use == "texts" and source.path.endswith(".txt"):
        refuse_split(source.split, source.path)
        return streams.open_lines(source.path)
    if source.use == "images" and not _names_splits(source):
        refuse_split(source.split, source.path)
        return streams.Pictures(source.path)
    if _is_listed(source.path):
        return read_annotations(source.path, images=source.images, split=source.split, unlabelled=unlabelled)
    if source.split is not None:
        raise UserError(
            f"The tars of {source.path} have no splits: leave `split` out, or name the split's own tars."
        )
    shards = Shards(expand(source.path), texts=not unlabelled)
    if not len(shards):
        if os.path.isfile(source.path) and not source.path.endswith(".tar"):
            refuse_layout(source.path)
        why = (
            ", ".join(f"{reason} {count}" for reason, count in shards.problems.items())
            or "the tars are empty"
        )
        raise UserError(
            f"No picture with a text in {source.path} ({why}): give tars of KEY.jpg with KEY.txt."
        )
    return shards


def _names_splits(source: Source) -> bool:
    """Whether a source of pictures alone is a table, or a split of one in its folder."""
    if Path(source.path).suffix.lower() in TABLES:
        return True
    return source.split is not None and _is_listed(source.path) and find_table(Path(source.path)) is not None


def _is_listed(path: str) -> bool:
    """Whether the pictures of `path` are files of their own, and not in tars."""
    if "://" in path:
        return False
    if os.path.isdir(path):
        return not any(name.endswith(".tar") for name in os.listdir(path))
    return Path(path).suffix.lower() in TABLES
