"""A bootstrapping run from end to end: what `multiway bootstrap` does, for Python.

OUT/  run.json        what runs, and what made it
      marks/          hashes of the pictures, where near-duplicates are looked for
      scores/         captions and scores, a file a shard (`journal.py`)
      00000.tar ...   the new data set; 00000.json its manifest (`writer.py`)
      report.json, report.html
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal

from multiway.bootstrap import journal, local, named, on_ray
from multiway.bootstrap.captioner import Captioner
from multiway.bootstrap.config import BootstrapConfig, check_same, plain
from multiway.bootstrap.filter import Filter, open_filter, threshold_of
from multiway.bootstrap.pipeline import Work
from multiway.bootstrap.plan import check_input, plan
from multiway.bootstrap.sheet import write_report
from multiway.bootstrap.threshold import choose, score_labelled
from multiway.bootstrap.watch import Progress, silent, watching
from multiway.bootstrap.writer import Selection, is_written, written
from multiway.data.shards import expand, refuse_inputs_in
from multiway.errors import UserError
from multiway.train.run import provenance, read_json

Engine = Literal["local", "ray"]


def bootstrap(
    config: BootstrapConfig,
    out: str | Path,
    *,
    engine: Engine = "local",
    workers: int | None = None,
    device: str = "auto",
    labelled: str | None = None,
    precision: float | None = None,
    captioner: Captioner | None = None,
    filter: Filter | None = None,
    progress: Progress = silent,
) -> dict[str, Any]:
    """Caption, score and select `config.data` into the folder `out`; the same call goes on where one stopped.

    Engine, workers and interruptions do not change a byte of the shards, on machines that compute alike.

    Args:
        workers: processes; None is one a core, and one on a GPU.
        labelled: a labelled sample (`threshold.py`) that sets the threshold. precision: what it aims at; None
            is the best F1.
        captioner, filter: objects to use instead of opening what the config names; with several workers, or
            under Ray, they must be picklable.
        progress: called as progress(stage, done, total).

    Returns:
        the report, as it is written to `out/report.json`.

    Raises:
        UserError: nothing to read, a model that can't, or `out` holds another run or one that is running.
    """
    out = Path(out)
    workers = workers if workers is not None else _workers(config, device)
    if workers < 1:
        raise UserError(f"workers is {workers}: give at least 1")
    refuse_inputs_in(out, (tar for path in (*config.human, *config.data) for tar in expand(path)))
    with _alone(out):
        begun = _begun(out)
        check_same(config, out, begun=begun)
        for left in [*out.glob("*.part"), *out.glob(".*.part")]:
            left.unlink()
        _write_run(config, out, begun)
        jobs, sizes = plan(config, out, workers=workers, progress=progress)
        check_input(jobs, out)
        opened, chosen = _threshold(config, out, labelled, precision, filter, device)
        selection = Selection(
            threshold=chosen["value"],
            captions=config.captions,
            best_of=config.best_of,
            keep=config.keep,
            source=config.source,
            licence=config.licence,
            made_by=(config.captioner or "", config.filter),
        )
        if filter is None and engine == "local" and workers == 1:
            filter = opened  # where others do the work they open their own
        work = Work(
            config=config, selection=selection, out=out, device=device, captioner=captioner, filter=filter
        )
        began, todo = time.monotonic(), [job for job in jobs if not is_written(out, job.name, selection)]
        with watching(out, jobs, sizes, todo, config.batch_size, progress) as watch:
            before = watch.pictures()
            for name in {"local": local, "ray": on_ray}[engine].run(todo, work, workers=workers):
                watch.finished(name)
        speed = {"engine": engine, "workers": workers, "seconds": round(time.monotonic() - began, 3)}
        speed["pictures"] = watch.pictures() - before
        return write_report(out, jobs, chosen, speed)


def _workers(config: BootstrapConfig, device: str) -> int:
    from multiway.train.parallel import choose_device

    if choose_device(device).type != "cpu":
        return 1
    return max((os.cpu_count() or 1) // config.threads, 1)


@contextmanager
def _alone(out: Path) -> Iterator[None]:
    """Two runs in one folder would do the same work twice."""
    try:
        out.mkdir(parents=True, exist_ok=True)
    except (FileExistsError, NotADirectoryError):
        raise UserError(f"{out} is no folder, or lies in a file: choose another output folder") from None
    with open(out / ".lock", "ab") as file:
        if not journal.lock(file, wait=False):
            raise UserError(f"another run is working in {out}: wait for it, or choose another output folder")
        yield


def _begun(out: Path) -> bool:
    """Whether anything stands here that depends on the config: a mistyped command leaves none of it."""
    return bool(written(out)) or any(journal.read(path) for path in (out / "scores").glob("*.jsonl"))


def _write_run(config: BootstrapConfig, out: Path, begun: bool) -> None:
    """`run.json`, aside and renamed; the models' fingerprints must be those of the run that is gone on
    with.
    """
    marks = {name: named.fingerprint(name) for name in (config.captioner, config.filter) if name}
    path = out / "run.json"
    if begun and path.exists() and (old := read_json(path).get("fingerprints", marks)) != marks:
        changed = ", ".join(name for name in marks if old.get(name) != marks[name])
        raise UserError(f"{changed} has changed since {out} was begun: choose another output folder")
    content = {"bootstrap": plain(config), "fingerprints": marks, **provenance()}
    aside = out / ".run.json.part"
    aside.write_text(json.dumps(content, indent=2) + "\n")
    os.replace(aside, path)


def _threshold(
    config: BootstrapConfig,
    out: Path,
    labelled: str | None,
    precision: float | None,
    scores: Filter | None,
    device: str,
) -> tuple[Filter | None, dict[str, Any]]:
    """The filter where it had to be opened, and the threshold with what it is known by."""
    if precision is not None and (labelled is None or not 0 < precision <= 1):
        raise UserError(
            f"a precision of {precision} is aimed at: give a share above 0 and at most 1, and a labelled "
            "sample"
        )
    if config.threshold is not None and labelled is None:
        return scores, {"value": config.threshold, "from": "given"}
    if config.threshold is not None:
        raise UserError("both a threshold and a labelled sample are given: give one of them")
    if labelled is None:
        scores = scores or open_filter(config.filter, device=device)
        return scores, {"value": threshold_of(scores, None), "from": "the filter's own"}
    marks = {"labelled": named.fingerprint(labelled), "by": named.fingerprint(config.filter)}
    known, path = {**marks, "aim": precision}, out / "threshold.json"
    if path.exists() and (saved := json.loads(path.read_text())).items() >= known.items():
        return scores, saved
    scores = scores or open_filter(config.filter, device=device)
    found = choose(*score_labelled(labelled, scores), precision=precision)
    saved = {**found.plain(), "from": found.sentence(), **known}
    aside = out / ".threshold.json.part"
    aside.write_text(json.dumps(saved, indent=2) + "\n")
    os.replace(aside, path)
    return scores, saved
