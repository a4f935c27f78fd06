"""Captions of real pictures: train `blip_emoji` or `blip_photos`, and measure them beside two controls.

    python scripts/captions.py emoji [--out runs/blip_emoji]
    python scripts/captions.py photos FLICKR8K [--out runs/blip_photos]

`emoji`: exact names and CIDEr on the protocol's `combination` and `style`. `photos`: BLEU-4, ROUGE-L, CIDEr
on the official dev photographs; FLICKR8K holds the shard folders `train` and `val`, and figures alone leave
this command. Beside each stand the nearest neighbour (the first text of the training picture whose feature,
by the same model, is most similar) and the same captions dealt to other pictures; and the same model's
retrieval in two stages. Writes docs/figures/captions_emoji.json or captions_photos.json. A run is resumed
where it was interrupted.
"""

from __future__ import annotations

import argparse
import os
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from work import FIGURES, train, write

import multiway
from multiway.data.dataset import Dataset, Source
from multiway.data.sample import BadSample
from multiway.systems.base import System
from multiway.tasks.caption import compare, measure, nearest
from multiway.tasks.retrieval import evaluate

BATCH = 32
RERANKED = 16
Texts = Literal["first", "all"]


def features(model: System, data: Dataset) -> tuple[np.ndarray, list[int]]:
    """Normalised features of all pictures that can be read, and their numbers."""
    found, numbers = [], []
    for first in range(0, len(data), BATCH):
        pictures = []
        for number in range(first, min(first + BATCH, len(data))):
            try:
                pictures.append(data.image(number))
            except BadSample:
                continue
            numbers.append(number)
        if pictures:
            found.append(model.encode_image(pictures).cpu().numpy())
    return np.concatenate(found), numbers


def figures(model: System, train_data: Dataset, data: Dataset, texts: Texts) -> dict[str, Any]:
    """Scores of the model's captions, of captions dealt to other pictures, and of nearest neighbours'; and
    the model's retrieval.
    """
    found = measure(model, data, texts=texts)
    print(found.sentence())
    known, known_numbers = features(model, train_data)
    asked, numbers = features(model, data)
    copied = [train_data.texts(known_numbers[i])[0] for i in nearest(asked, known)]
    given = [data.texts(number)[:1] if texts == "first" else data.texts(number) for number in numbers]
    result = {**found.result, "nearest": compare(copied, given)}
    result["nearest"].pop("shuffled")
    result["pictures_per_second"] = round(result["n_images"] / found.seconds, 2)
    result["retrieval"] = evaluate(model, data, texts=texts, k=RERANKED)
    for label, scores in (
        ("model", result),
        ("nearest", result["nearest"]),
        ("shuffled", result["shuffled"]),
    ):
        names = ("exact", "bleu_4", "rouge_l", "cider")
        print(f"  {label:<8}  " + "  ".join(f"{name} {scores[name]:.1f}" for name in names))
    return result


def main() -> None:
    """Train, measure, and write the figures."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("kind", choices=("emoji", "photos"))
    parser.add_argument("data", type=Path, nargs="?", help="for photos: the folder with train and val")
    parser.add_argument("--out", type=Path, help="of the training; runs/blip_emoji or runs/blip_photos")
    args = parser.parse_args()
    recipe = f"blip_{args.kind}"
    out = args.out or Path("runs") / recipe
    if args.kind == "photos":
        if args.data is None:
            parser.error("photos needs FLICKR8K, the folder with the shard folders train and val")
        seconds = train(recipe, out, ["--data.train.0.path", str(args.data / "train")])
        known = Dataset(Source(path=str(args.data / "train")))
        splits = {"flickr8k/val": Dataset(Source(path=str(args.data / "val")))}
        texts: Texts = "all"
    else:
        seconds = train(recipe, out, [])
        known = Dataset(Source(path="emoji", split="train"))
        splits = {name: Dataset(Source(path="emoji", split=name)) for name in ("combination", "style")}
        texts = "first"
    model = multiway.load(out / "model")
    results = {
        "recipe": recipe,
        "training_seconds": seconds,
        "parameters": sum(p.numel() for p in model.parameters()),
        "splits": {name: figures(model, known, data, texts) for name, data in splits.items()},
        "machine": {"cores": os.cpu_count(), "threads": torch.get_num_threads()},
        "versions": {"multiway": multiway.__version__, "torch": torch.__version__},
    }
    write(FIGURES / f"captions_{args.kind}.json", results)


if __name__ == "__main__":
    main()
