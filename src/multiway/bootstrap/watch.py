"""How far a run is, seen from its files, so that it does not matter who works: processes, or Ray
elsewhere.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

from multiway.bootstrap.pipeline import Job

#: Called as progress(stage, done, total).
Progress = Callable[[str, int, int], None]
EVERY = 1.0  # seconds between two looks


def silent(stage: str, done: int, total: int) -> None:
    """No progress."""


class Watch:
    """Counts pictures that are done: of finished shards all, of others what their journals hold."""

    def __init__(
        self, out: Path, jobs: Sequence[Job], sizes: Mapping[str, int], todo: Sequence[Job], batch_size: int
    ):
        self.folder, self.sizes, self.batch_size = out / "scores", sizes, batch_size
        self.done = {job.name for job in jobs} - {job.name for job in todo}
        self.total = sum(sizes.values())
        self._seen: dict[str, tuple[int, int]] = {}  # name -> bytes read, batches in them

    def finished(self, name: str) -> None:
        """A shard is done."""
        self.done.add(name)

    def pictures(self) -> int:
        """Pictures done so far."""
        journals = self.folder.glob("*.jsonl") if self.folder.is_dir() else ()
        parts = {path.stem: self._batches(path) * self.batch_size for path in journals}
        open_shards = (
            min(parts[name], self.sizes[name])
            for name in parts
            if name in self.sizes and name not in self.done
        )
        return sum(self.sizes[name] for name in self.done) + sum(open_shards)

    def _batches(self, path: Path) -> int:
        at, batches = self._seen.get(path.stem, (0, -1))  # the first line is the head
        if path.stem not in self.done and path.stat().st_size > at:
            with open(path, "rb") as file:
                file.seek(at)
                new = file.read()
            at, batches = at + len(new), batches + new.count(b"\n")
            self._seen[path.stem] = at, batches
        return max(batches, 0)


@contextmanager
def watching(
    out: Path,
    jobs: Sequence[Job],
    sizes: Mapping[str, int],
    todo: Sequence[Job],
    batch_size: int,
    progress: Progress,
) -> Iterator[Watch]:
    """A watch that tells `progress` every second, from a thread beside the work, and once at the end."""
    watch, stop = Watch(out, jobs, sizes, todo, batch_size), threading.Event()

    def look() -> None:
        while not stop.wait(EVERY):
            progress("pictures", watch.pictures(), watch.total)

    progress("pictures", watch.pictures(), watch.total)
    thread = threading.Thread(target=look, daemon=True)
    thread.start()
    try:
        yield watch
    finally:
        stop.set()
        thread.join()
    progress("pictures", watch.pictures(), watch.total)
