"""Videos as a few frames one below the other: folders of frames, or animated pictures, listed in a table.

No decoder of film formats is used: `ffmpeg -i clip.mp4 clip/%06d.jpg` makes a folder of one.
"""

from __future__ import annotations

import io
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from PIL import Image

from multiway.data.images import EXTENSIONS, decode, read_file
from multiway.data.sample import BadSample, Sample
from multiway.data.tables import check_rows, find_column, picture_folder, read_table
from multiway.errors import UserError

VIDEOS, TEXTS = ("video", "image", "file_name", "path"), ("caption", "captions", "text", "sentence")
ANIMATED = ("GIF", "WEBP", "PNG", "AVIF", "TIFF")


class Videos:
    """Random access to videos with their texts; rows of one video are one sample.

    Args:
        path: a table with a video and a text a row, or a list of texts. images: folder of the videos.
        frames: taken from each, at equal distances from its first on (BLIP, eval_retrieval_video.py).
        size: height and width of a frame; a picture is `frames` of them, one below the other.

    Attributes:
        problems: rows that could not be used, by reason.

    Raises:
        UserError: the table is missing, has no such columns, or its videos are not there.
    """

    def __init__(self, path: str | Path, *, frames: int, size: tuple[int, int], images: str | None = None):
        path = Path(path)
        self.frames, self.size = frames, size
        self.root, rows = picture_folder(path, images), check_rows(read_table(path), path)
        video, text = (find_column(rows[0], names, path) for names in (VIDEOS, TEXTS))
        self._rows: dict[str, list[str]] = {}
        self._meta: dict[str, dict[str, Any]] = {}
        self.problems: Counter[str] = Counter()
        for row in rows:
            said = row[text] if isinstance(row[text], list) else [row[text]]
            texts = [str(t).strip() for t in said if t is not None and str(t).strip()]
            if row.get(video) and texts:
                self._rows.setdefault(str(row[video]), []).extend(texts)
                self._meta.setdefault(str(row[video]), row)
            else:
                self.problems["no_text" if row.get(video) else "no_video"] += 1
        self.names = list(self._rows)
        if not any((self.root / name).exists() for name in self.names[:100]):
            raise UserError(
                f"The videos of {path} are not under {self.root}: name their folder with `images`."
            )

    def __len__(self) -> int:
        return len(self.names)

    def image(self, i: int) -> Image.Image:
        """The frames of video `i`, one below the other.

        Raises:
            BadSample: it can't be read or decoded.
        """
        height, width = self.size
        strip = Image.new("RGB", (width, self.frames * height))
        for number, frame in enumerate(read_frames(self.root / self.names[i], self.frames)):
            strip.paste(frame.resize((width, height), Image.Resampling.BICUBIC), (0, number * height))
        return strip

    def meta(self, i: int) -> dict[str, Any]:
        """The first row of video `i`."""
        return self._meta[self.names[i]]

    def sample(self, i: int) -> Sample:
        """Video `i` with its texts.

        Raises:
            BadSample: it can't be read or decoded.
        """
        name = self.names[i]
        return Sample(key=name, image=self.image(i), texts=self._rows[name], source=str(self.root))


def read_frames(path: Path, count: int) -> list[Image.Image]:
    """`count` frames at equal distances from the first on; of fewer, some come twice.

    Raises:
        BadSample: there is no frame, or one can't be decoded.
    """
    if path.is_dir():
        files = sorted(file for file in path.iterdir() if file.suffix.lower().lstrip(".") in EXTENSIONS)
        return [decode(read_file(files[i])) for i in _chosen(len(files), count, path)]
    content, found = read_file(path), []
    try:
        with Image.open(io.BytesIO(content), formats=ANIMATED) as film:
            for i in _chosen(getattr(film, "n_frames", 1), count, path):
                film.seek(i)
                found.append(film.convert("RGB"))
    except (OSError, EOFError, ValueError) as error:
        raise BadSample("undecodable", f"{type(error).__name__}: {error}") from error
    return found


def _chosen(total: int, count: int, path: Path) -> Sequence[int]:
    if not total:
        raise BadSample("no_frames", str(path))
    return [int(i * total / count) for i in range(count)]
