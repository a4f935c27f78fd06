"""The default engine: processes of this machine."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from multiprocessing import connection, get_context, parent_process

from multiway.bootstrap.pipeline import Job, Work

_work: Work | None = None  # what a worker process holds


def run(jobs: Sequence[Job], work: Work, *, workers: int) -> Iterator[str]:
    """Do the jobs; yields the name of each as it is done. One worker is this process itself."""
    if workers == 1:
        yield from map(work, jobs)
        return
    pool = ProcessPoolExecutor(workers, mp_context=get_context("spawn"), initializer=_begin, initargs=(work,))
    try:
        for future in as_completed([pool.submit(_do, job) for job in jobs]):
            yield future.result()
    except BaseException:
        pool.shutdown(wait=False, cancel_futures=True)
        for process in list(
            (pool._processes or {}).values()
        ):  # a batch may take minutes: it is not waited for
            process.terminate()
        raise
    pool.shutdown()


def _begin(work: Work) -> None:
    global _work
    _work = work
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is the parent's to answer
    end_with_parent()


def end_with_parent() -> None:
    """A worker whose parent was killed must not go on: the resumed run would wait for it."""
    parent = parent_process()
    if parent is not None:
        threading.Thread(target=_watch, args=(parent.sentinel,), daemon=True).start()


def _watch(sentinel: int) -> None:
    connection.wait([sentinel])
    os._exit(1)


def _do(job: Job) -> str:
    assert _work is not None  # _begin ran first
    return _work(job)
