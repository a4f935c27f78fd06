"""The drawings by their names in ten languages: train `clip_emoji_languages`, and measure each language.

    python scripts/languages.py [--out runs/clip_emoji_languages]

Each language: retrieval on the protocol's `combination` and `style`; and from its held-back names, which were
trained on with no picture, to the drawings that were learned under their names in English and others. Beside
the latter stands the same recipe on English names alone, with the same steps. Writes
docs/figures/languages.json. A run is resumed where it was interrupted.
"""

from __future__ import annotations

import argparse
import hashlib
import os
import platform
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from work import FIGURES, train, write

import multiway
from multiway.data.dataset import Dataset, Source
from multiway.data.emoji import LANGUAGES
from multiway.systems.base import System
from multiway.tasks.outcomes import Outcomes, compare
from multiway.tasks.retrieval import measure

RECIPE = "clip_emoji_languages"
RECALLS = ("tr_r1", "tr_r10", "ir_r1", "ir_r10")


def remember(tower: nn.Module) -> None:
    """See each picture through a locked tower once, whatever the language that asks for it."""
    see, seen = tower.forward, {}

    def forward(image: Tensor) -> Tensor:
        keys = [hashlib.sha256(picture.numpy().tobytes()).digest() for picture in image]
        new = [i for i, key in enumerate(keys) if key not in seen]
        if new:
            seen.update(zip((keys[i] for i in new), see(image[new]), strict=True))
        return torch.stack([seen[key] for key in keys])

    tower.forward = forward


def found_in(model: System, split: str) -> tuple[dict[str, Any], Outcomes]:
    """Recalls on the drawings of a split, each beside its interval and that of names dealt to other drawings.

    The bootstrap draws the drawings of a concept together.
    """
    data = Dataset(Source(path="emoji", split=split))
    found = measure(model, data)
    assert found.outcomes is not None
    groups = [data.meta(number)["hexcode"] for number in found.outcomes.numbers.tolist()]
    outcomes = replace(found.outcomes, groups=groups)
    intervals = outcomes.intervals()
    figures = {
        "n_images": found.result["n_images"],
        "n_texts": found.result["n_texts"],
        **{name: found.result["itc"][name] for name in RECALLS},
        "intervals": {name: intervals[name] for name in RECALLS},
        "shuffled": {name: found.shuffled[name] for name in RECALLS},
    }
    return figures, outcomes


def main() -> None:
    """Train, measure, and write the figures."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=Path("runs") / RECIPE)
    args = parser.parse_args()
    alone = args.out.with_name(f"{args.out.name}_english")
    seconds = train(RECIPE, args.out, []), train(RECIPE, alone, ["--data.train.0.split", "train:en"])
    model, english = multiway.load(args.out / "model"), multiway.load(alone / "model")
    english.image_tower = model.image_tower  # locked: the same weights
    remember(model.image_tower)
    results: dict[str, Any] = {
        "recipe": RECIPE,
        "training_seconds": seconds[0],
        "english_training_seconds": seconds[1],
        "languages": {},
        "machine": {
            "cpu": platform.processor() or platform.machine(),
            "cores": os.cpu_count(),
            "threads": torch.get_num_threads(),
        },
        "versions": {"multiway": multiway.__version__, "torch": torch.__version__},
    }
    for language in LANGUAGES:
        rows = {split: found_in(model, f"{split}:{language}")[0] for split in ("combination", "style")}
        if language != "en":
            rows["transfer"], ours = found_in(model, f"transfer:{language}")
            rows["transfer_english"], theirs = found_in(english, f"transfer:{language}")
            rows["transfer"]["over_english"] = compare(theirs, ours)["figures"]["ir_r1"]
        results["languages"][language] = rows
        said = (f"{name} {found['ir_r1']:.1f} / {found['ir_r10']:.1f}" for name, found in rows.items())
        print(f"{language}: text to picture, R@1 / R@10: {'; '.join(said)}")
    write(FIGURES / "languages.json", results)


if __name__ == "__main__":
    main()
