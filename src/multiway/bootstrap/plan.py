"""Which shards there are to work on, and which of their pictures are left out before anything looks at
them.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace
from multiprocessing import get_context
from pathlib import Path

import numpy as np
from jaxtyping import Int

from multiway.bootstrap import journal
from multiway.bootstrap.config import BootstrapConfig
from multiway.bootstrap.duplicates import Marks, earlier_twins
from multiway.bootstrap.pipeline import Job, head
from multiway.bootstrap.watch import Progress, silent
from multiway.bootstrap.writer import read_manifest, written
from multiway.data.images import decode
from multiway.data.pictures import open_pictures
from multiway.data.sample import BadSample
from multiway.data.shards import Shards, expand
from multiway.errors import UserError

MARK_SIDE = 64  # pixels; a JPEG is decoded small, as the hash needs no more


def plan(
    config: BootstrapConfig, out: Path, *, workers: int = 1, progress: Progress = silent
) -> tuple[list[Job], dict[str, int]]:
    """The jobs, human shards first, and how many pictures each has.

    Raises:
        UserError: no tar, no picture in them, two tars of one name, or nothing to keep out.
    """
    for path in config.keep_out:
        open_pictures(path)  # asked now, before any process is started for it
    jobs = []
    for human, paths in ((True, config.human), (False, config.data)):
        found = [tar for path in paths for tar in expand(path)]
        if len(set(found)) < len(found):
            raise UserError(f"a tar is named twice among {', '.join(paths)}: name each once")
        digits = max(5, len(str(len(found) - 1)))
        prefix = "human-" if human else ""
        jobs += [Job(name=f"{prefix}{i:0{digits}d}", path=path, human=human) for i, path in enumerate(found)]
    shards = {job.name: Shards([job.path], texts=False) for job in jobs}
    sizes = {name: len(shard) for name, shard in shards.items()}
    jobs = [replace(job, index=shards[job.name].fingerprint()) for job in jobs]
    if not sum(sizes[job.name] for job in jobs if not job.human):
        raise UserError(f"no picture in {', '.join(config.data)}: give tars with pictures")
    if config.drop_duplicates or config.keep_out:
        jobs = _leave_out(config, jobs, out / "marks", workers, progress)
    return jobs, sizes


def check_input(jobs: Sequence[Job], out: Path) -> None:
    """Refuse to go on where a finished shard is of another tar, or of pictures that have changed.

    Raises:
        UserError: it is; the sentence names the shard.
    """
    by_name = {job.name: job for job in jobs}
    for name in written(out):
        manifest = read_manifest(out, name)
        if manifest is None:  # torn, and so written anew
            continue
        if name not in by_name:
            raise UserError(
                f"{out / name}.tar is of {manifest['path']}, which is not read any more: the input has "
                "changed since this run began; choose another output folder"
            )
        if (old := manifest.get("of")) != (now := head(by_name[name])):
            raise UserError(journal.other_input(out / f"{name}.json", old, now))


def _leave_out(
    config: BootstrapConfig, jobs: list[Job], folder: Path, workers: int, progress: Progress
) -> list[Job]:
    """The jobs with what is skipped: pictures of the evaluation set, and near-duplicates of earlier ones."""
    kept_out = [path for path in config.keep_out]
    names = [f"keep-out-{i}" for i in range(len(kept_out))] + [job.name for job in jobs]
    places = [folder / f"{name}.npz" for name in names]
    paths = kept_out + [job.path for job in jobs]
    folder.mkdir(parents=True, exist_ok=True)
    with ProcessPoolExecutor(workers, mp_context=get_context("spawn")) as pool:
        for done, _ in enumerate(pool.map(mark, paths, places), 1):
            progress("hashes", done, len(paths))
    marks, rows = zip(*map(_read, places), strict=True)
    starts = np.cumsum([0, *map(len, rows)])
    free = int(starts[len(kept_out)])  # these are the evaluation set's
    twins = earlier_twins(Marks.join(marks), free=free)
    skip: dict[str, dict[int, str]] = {job.name: {} for job in jobs}
    for i, twin in twins.items():
        if twin >= free and not config.drop_duplicates:
            continue
        n, m = (int(np.searchsorted(starts, x, side="right")) - 1 for x in (i, twin))
        row = int(rows[m][twin - starts[m]])
        why = f"kept out: like {paths[m]}" if twin < free else f"duplicate of row {row} of {names[m]}"
        skip[names[n]][int(rows[n][i - starts[n]])] = why
    return [replace(job, skip=skip[job.name]) for job in jobs]


def mark(path: str, place: Path) -> None:
    """Write the marks of a tar's pictures (or of a folder's) to `place`, if they do not stand there yet."""
    stamp = f"{path} {os.path.getsize(path)}" if os.path.isfile(path) else ""
    if place.exists() and str(np.load(place)["stamp"]) == stamp != "":
        return
    pictures = open_pictures(path)
    marks, rows = [], []
    for row in range(len(pictures.keys)):
        try:
            marks.append(Marks.of([decode(pictures.read(row), min_side=MARK_SIDE)]))
        except BadSample:
            continue  # named when its turn comes
        rows.append(row)
    all_marks = Marks.join(marks)
    aside = place.with_suffix(f".{os.getpid()}.part")
    with open(aside, "wb") as file:
        np.savez(
            file, bits=all_marks.bits, thumbs=all_marks.thumbs, rows=np.array(rows, np.int64), stamp=stamp
        )
    aside.replace(place)


def _read(place: Path) -> tuple[Marks, Int[np.ndarray, " N"]]:
    with np.load(place) as saved:
        return Marks(saved["bits"], saved["thumbs"]), saved["rows"]
