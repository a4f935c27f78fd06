"""What MAE makes of pictures of which it sees a quarter: a page of three columns, for a person to look at.

    python scripts/reconstruct.py MODEL OUT.png [PICTURE ...] [--count N] [--seed N]

Each row is a picture without its removed patches, as the model draws it, and as it was. Without pictures:
bundled drawings of `combination`, which training never saw.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import torch
from einops import rearrange
from PIL import Image

import multiway
from multiway.data import emoji
from multiway.data.images import decode
from multiway.data.sample import BadSample
from multiway.errors import UserError
from multiway.systems.mae import MAE
from multiway.systems.patch_dropping import drawn_noise
from multiway.systems.teacher import pixels

GAP = 4  # white pixels between pictures


def grid(model: MAE, images: list[Image.Image], seed: int) -> Image.Image:
    """The page."""
    image = model.prepare(images)
    noise = drawn_noise(image, model.config.image.patch_size, torch.Generator().manual_seed(seed))
    seen, drawn = model.reconstruct(image, noise)
    rows = torch.stack([pixels(x, model.image_mean, model.image_std) for x in (seen, drawn, image)], dim=1)
    rows = torch.nn.functional.pad(rows, (GAP,) * 4, value=1.0)
    page = rearrange((255 * rows).round(), "n k c h w -> (n h) (k w) c").numpy().astype(np.uint8)
    return Image.fromarray(page)


def main() -> None:
    """Read the arguments, write the page."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("model", help="folder of a MAE, hub id or checkpoint")
    parser.add_argument("out", type=Path)
    parser.add_argument("pictures", nargs="*", type=Path)
    parser.add_argument("--count", type=int, default=12, help="bundled drawings, where no picture is named")
    parser.add_argument("--seed", type=int, default=0, help="of the drawings and of the removed patches")
    args = parser.parse_args()
    try:
        model = multiway.load(args.model)
        if not isinstance(model, MAE):
            raise UserError(
                f"{args.model} is a {type(model).__name__}: give a MAE, as recipe mae_emoji makes"
            )
        images = [decode(path.read_bytes()) for path in args.pictures]
    except BadSample as bad:
        parser.error(f"a picture can't be decoded ({bad.reason}): leave it out")
    except (UserError, OSError) as error:
        parser.error(str(error))
    if not images:
        split = emoji.open_split("combination")
        chosen = np.random.default_rng(args.seed).choice(len(split), args.count, replace=False)
        images = [decode(split.image(int(i))) for i in chosen]
    try:
        grid(model, images, args.seed).save(args.out)
    except (OSError, ValueError) as error:
        parser.error(f"{args.out} can't be written ({error}): give a path as page.png")
    print(f"{len(images)} pictures in {args.out}: what is seen, what is drawn, what was there")


if __name__ == "__main__":
    main()
