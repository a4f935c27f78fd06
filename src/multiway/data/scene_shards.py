"""Drawn scenes as img2dataset tars, with the truth in each .json."""

from __future__ import annotations

import io
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from multiway.data.scene_text import NEAR_MISSES, NearMiss, make_pair, questions
from multiway.data.scenes import boxes, draw_scene
from multiway.data.shards import write_shards as write_tars


def write_shards(
    folder: str | Path,
    n: int,
    *,
    seed: int = 0,
    image_size: int = 96,
    shard_size: int = 10_000,
    swapped: float = 0.0,
    near_miss: float = 0.0,
    kinds: Sequence[NearMiss] = NEAR_MISSES,
) -> list[Path]:
    """Write scenes 0 to n - 1 as tars of KEY.png, KEY.txt and KEY.json; returns the tars.

    The .json holds `caption`, `truth`, `noise` (none, swapped, colour, shape, size, count, relation),
    `groups`, `relation`, `boxes` (pixels) and `questions`.

    Args:
        image_size: pixels a side.
        swapped: share of pictures with another scene's caption.
        near_miss: share of captions with one thing wrong, of `kinds`.
        kinds: without `relation` captions do not say how two groups lie, but `and`.
    """

    def samples() -> Iterator[dict[str, Any]]:
        for index in range(n):
            pair = make_pair(seed, index, swapped=swapped, near_miss=near_miss, kinds=kinds)
            png = io.BytesIO()
            draw_scene(pair.scene, image_size).save(png, "PNG")
            truth = {
                "caption": pair.caption,
                "truth": pair.truth,
                "noise": pair.noise,
                "groups": [asdict(group) for group in pair.scene.groups],
                "relation": pair.scene.relation,
                "boxes": boxes(pair.scene, image_size),
                "questions": questions(pair.scene),
            }
            yield {"__key__": f"{index:08d}", "png": png.getvalue(), "txt": pair.caption, "json": truth}

    return write_tars(folder, samples(), name=f"scenes-{seed}-", shard_size=shard_size)
