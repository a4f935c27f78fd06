"""Exact retrieval ranks of pictures by texts in both directions, with shortlists: seconds and peak memory.

    python benchmarks/retrieval_ranks.py [--pictures 5000] [--texts 25000] [--k 256] [--threads N]

Features are synthetic: a picture's five texts lie near it. The peak is the process's, over what it held
before ranking; the whole float32 matrix would be `matrix_bytes`. The first 500 queries of each direction are
ranked again from their whole rows by sorting, and must agree.
"""

from __future__ import annotations

import argparse
import os
import resource
import time
from pathlib import Path

import numpy as np
import torch
from beside import report, write

from multiway.metrics.retrieval import Positives, rank_by_similarity, summary

CHECKED = 500


def features(pictures: int, texts: int, width: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Normalised features of pictures and texts, and each text's picture."""
    rng = np.random.default_rng(0)
    image = rng.normal(size=(pictures, width)).astype(np.float32)
    owner = np.arange(texts) % pictures
    text = image[owner] + 3 * rng.normal(size=(texts, width)).astype(np.float32)
    return (*(x / np.linalg.norm(x, axis=1, keepdims=True) for x in (image, text)), owner)


def peak() -> int:
    """Bytes that this process has held at most."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def slow(queries: np.ndarray, gallery: np.ndarray, right: list[np.ndarray]) -> np.ndarray:
    """Ranks by sorting whole rows."""
    scores = (queries.astype(np.float64) @ gallery.astype(np.float64).T).astype(np.float32)
    rows = zip(scores, right, strict=True)
    return np.array([int(np.argsort(np.argsort(-row, kind="stable"))[own].min()) + 1 for row, own in rows])


def main() -> None:
    """Rank, check and write the figures."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--pictures", type=int, default=5000)
    parser.add_argument("--texts", type=int, default=25_000)
    parser.add_argument("--width", type=int, default=256, help="of the features")
    parser.add_argument("--k", type=int, default=256, help="of the shortlists")
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument("--out", type=Path, help="default: docs/figures/retrieval_ranks.json")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)

    image, text, owner = features(args.pictures, args.texts, args.width)
    numbers = np.arange(args.texts)
    sides = {
        "tr": (image, text, Positives.from_pairs(owner, numbers, args.pictures)),
        "ir": (text, image, Positives.from_pairs(numbers, owner, args.texts)),
    }
    before, seconds, recalls = peak(), {}, {}
    for name, (queries, gallery, positives) in sides.items():
        began = time.perf_counter()
        ranks, _ = rank_by_similarity(queries, gallery, positives, k=args.k)
        seconds[name] = [time.perf_counter() - began]
        recalls[name] = (ranks, summary(ranks, name))
    over = peak() - before
    for name, (queries, gallery, positives) in sides.items():
        few = min(CHECKED, len(queries))
        right = [positives.items[positives.starts[q] : positives.starts[q + 1]] for q in range(few)]
        assert (slow(queries[:few], gallery, right) == recalls[name][0][:few]).all(), name
    figures = report(
        seconds,
        "tr",
        setting={name: getattr(args, name) for name in ("pictures", "texts", "width", "k")},
        both_seconds=sum(times[0] for times in seconds.values()),
        peak_bytes_over_features=over,
        matrix_bytes=4 * args.pictures * args.texts,
        recalls={name: values for name, (_, values) in recalls.items()},
        checked_queries=CHECKED,
    )
    figures.pop("speedup")
    write(figures, args.out)
    both, held = figures["both_seconds"], over / 2**20
    print(f"{both:.1f} s for both directions, {held:.0f} MiB at the peak over the features")


if __name__ == "__main__":
    main()
