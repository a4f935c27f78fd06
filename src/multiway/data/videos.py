"""Videos as a few frames one below the other: folders of frames, or animated pictures, listed in a table.

No decoder of film formats is used: `ffmpeg -i clip.mp4 clip/%06d.jpg` makes a folder of one.
"""

from __future__ import annotations

import io
from collections.abc import Sequence
from pathlib import Path

from PIL import Image

from multiway.data.annotations import Files, read_annotations
from multiway.data.dataset import Dataset, Source
from multiway.data.images import EXTENSIONS, MAX_PIXELS, decode, read_file, to_rgb
from multiway.data.sample import BadSample
from multiway.data.tables import IMAGE_COLUMNS

COLUMNS = ("video", *IMAGE_COLUMNS)
ANIMATED = ("GIF", "WEBP", "PNG", "AVIF", "TIFF")


class Videos(Dataset):
    """Random access to videos with their texts; rows of one video are one sample.

    A source is a table with a video and a text (or a list of them) a row; `images` is the videos' folder.
    """

    def __init__(self, sources: Sequence[Source] | Source, *, frames: int, size: tuple[int, int]):
        """Read the tables.

        Args:
            frames: taken from each, at equal distances from its first on (BLIP, eval_retrieval_video.py).
            size: height and width of a frame; a picture is `frames` of them, one below the other.

        Raises:
            UserError: a table is missing or damaged, has no such columns, or its videos are not there.
        """
        self.frames, self.size = frames, size
        super().__init__(sources)

    def open_source(self, source: Source) -> Files:
        """The videos of one table."""
        return read_annotations(
            source.path, images=source.images, split=source.split, columns=COLUMNS, read=self._strip
        )

    def _strip(self, path: Path) -> Image.Image:
        height, width = self.size
        strip = Image.new("RGB", (width, self.frames * height))
        for number, frame in enumerate(read_frames(path, self.frames)):
            strip.paste(frame.resize((width, height), Image.Resampling.BICUBIC), (0, number * height))
        return strip


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
            if film.width * film.height > MAX_PIXELS:
                raise BadSample("bomb", f"{film.width}x{film.height} pixels")
            for i in _chosen(getattr(film, "n_frames", 1), count, path):
                film.seek(i)
                found.append(to_rgb(film.copy()))
    except BadSample:
        raise
    except Image.DecompressionBombError as error:
        raise BadSample("bomb", str(error)) from error
    except Exception as error:  # as `images.decode`: Pillow raises a dozen kinds on hostile files
        raise BadSample("undecodable", f"{type(error).__name__}: {error}") from error
    return found


def _chosen(total: int, count: int, path: Path) -> Sequence[int]:
    if not total:
        raise BadSample("no_frames", str(path))
    return [int(i * total / count) for i in range(count)]
