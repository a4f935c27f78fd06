"""Train and measure `albef_photos` on Flickr8k: figures alone leave this command, no picture, text or weight.

    python scripts/photos.py FLICKR8K [--out runs/photos]

FLICKR8K holds the shard folders `train` and `val`. Writes docs/figures/albef_photos.json. The run is resumed
where it was interrupted.
"""

from __future__ import annotations

import argparse
import json
import os
from pathlib import Path

import torch
from work import FIGURES, train, write

import multiway
from multiway.data.dataset import Dataset, Source
from multiway.tasks.retrieval import measure


def main() -> None:
    """Train, measure on the official dev photographs, and write the figures."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("data", type=Path, help="folder with the shard folders train and val")
    parser.add_argument("--out", type=Path, default=Path("runs/photos"))
    parser.add_argument("--k", type=int, default=16, help="candidates that are re-ranked")
    args = parser.parse_args()
    seconds = train("albef_photos", args.out, ["--data.train.0.path", str(args.data / "train")])
    kept = args.out / "best" if (args.out / "best").exists() else args.out / "model"
    model = multiway.load(kept)
    found = measure(model, Dataset(Source(path=str(args.data / "val"))), k=args.k)
    print(json.dumps(found.result, indent=1))
    figures = {
        "recipe": "albef_photos",
        "training_seconds": seconds,
        "parameters": sum(p.numel() for p in model.parameters()),
        "k": args.k,
        "splits": {"flickr8k/val": found.result},
        "pairs_per_second": round(found.pairs / max(found.seconds, 1e-9), 1),
        "machine": {"cores": os.cpu_count(), "threads": torch.get_num_threads()},
        "versions": {"multiway": multiway.__version__, "torch": torch.__version__},
    }
    write(FIGURES / "albef_photos.json", figures)


if __name__ == "__main__":
    main()
