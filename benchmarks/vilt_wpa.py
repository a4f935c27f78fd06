"""What word-patch alignment costs: a step of ViLT with and without it, batched and pair by pair.

    python benchmarks/vilt_wpa.py --threads 1

One network, one batch and one set of draws for all paths, interleaved; pictures of four shapes. `pair by
pair` is the same solver over each pair alone, without its padding. Seconds are of the processor, so that
other work on the machine is of little account. Written to docs/figures/vilt_wpa.json.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import replace
from typing import Any
from unittest import mock

import beside
import torch
from torch import Tensor

from multiway.batch import Batch
from multiway.objectives import alignment
from multiway.systems.vilt import Draws, ViLT
from multiway.systems.vilt_config import ViLTConfig, vilt_vit
from multiway.systems.vlmo_config import TextConfig

SHAPES = (12, 16), (16, 12), (12, 12), (12, 19)  # patches down and across, at 384 pixels
TOKENS = 14  # of a caption, on average


def system(size: str) -> ViLT:
    """ViT-S/32 (or tiny) without dropout, so that paths can be compared."""
    sizes = beside.SIZES[size]
    image = vilt_vit(
        image_size=384 if size == "small" else 48,
        patch_size=32 if size == "small" else 4,
        width=sizes["width"],
        depth=sizes["layers"],
        heads=sizes["heads"],
        hidden=sizes["hidden"],
        dropout=0.0,
    )
    torch.manual_seed(0)
    return ViLT(ViLTConfig(image=image, text=TextConfig(dropout=0.0)))


def inputs(model: ViLT, count: int) -> tuple[Batch, Draws]:
    """Noise in four shapes, captions of 8 to 20 tokens, and every choice that a step draws."""
    g, step = torch.Generator().manual_seed(0), model.config.image.patch_size
    height, width = (max(side[axis] for side in SHAPES) for axis in (0, 1))
    image = torch.zeros(count, 3, height * step, width * step)
    for row in range(count):
        down, across = (side * step for side in SHAPES[row % len(SHAPES)])
        image[row, :, :down, :across] = torch.randn(3, down, across, generator=g)
    lengths = torch.randint(TOKENS - 6, TOKENS + 7, (count,), generator=g)
    mask = (torch.arange(int(lengths.max())) < lengths[:, None]).long()
    ids = torch.randint(1000, 30000, mask.shape, generator=g) * mask
    masked = (torch.rand(mask.shape, generator=g) < 0.15) & mask.bool()
    masked[:, 1] = True
    batch = Batch(image=image, input_ids=ids, attention_mask=mask, ids=torch.arange(count))
    draws = Draws(
        mlm_input_ids=ids.masked_fill(masked, 103),
        mlm_labels=ids.masked_fill(~masked, -100),
        itm_labels=(torch.arange(count) % 2),
        false_rows=(torch.arange(count) + 1) % count,
    )
    return batch, draws


def pair_by_pair(
    words: Tensor, patches: Tensor, word_mask: Tensor, patch_mask: Tensor, **options: Any
) -> alignment.Alignment:
    """`alignment.align` of each pair alone, cut to its own words and patches."""
    whole = alignment_of_all
    found = [
        whole(w[a][None], p[b][None], a[a][None], b[b][None], **options)
        for w, p, a, b in zip(words, patches, word_mask, patch_mask, strict=True)
    ]
    return found[0]._replace(distance=torch.cat([one.distance for one in found]))


alignment_of_all = alignment.align


def main() -> None:
    parser = beside.arguments(__doc__, repeats=5)
    parser.add_argument("--batch", type=int, default=8)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    model = system(args.size)
    batch, draws = inputs(model, args.batch)
    state, losses = model.init_state(), {}

    def step(name: str, align: Callable[..., alignment.Alignment], weight: float) -> Callable[[], None]:
        def run() -> None:
            model.zero_grad()
            model.config = replace(model.config, wpa_weight=weight)
            with mock.patch.object(alignment, "align", align):
                out = model.losses(batch, state, draws, torch.Generator().manual_seed(0))
            out["loss"].backward()
            losses[name] = out["loss"].item()

        return run

    seconds = beside.interleave(
        {
            "without": step("without", alignment_of_all, 0.0),
            "batched": step("batched", alignment_of_all, 0.1),
            "pair by pair": step("pair by pair", pair_by_pair, 0.1),
        },
        args.repeats,
        clock=time.process_time,
    )
    solver = beside.interleave(solvers(model, batch), max(args.repeats, 3), clock=time.process_time)
    figures = beside.report(
        seconds,
        "batched",
        size=args.size,
        batch=args.batch,
        patches_and_words=[int(sum(a * b for a, b in SHAPES) / len(SHAPES)), TOKENS],
        loss_difference=abs(losses["batched"] - losses["pair by pair"]),
        alignment_seconds=solver,
    )
    beside.write(figures, args.out)
    print({name: round(value, 3) for name, value in figures["median_seconds"].items()}, figures["speedup"])


def solvers(model: ViLT, batch: Batch) -> dict[str, Callable[[], None]]:
    """Alignment alone, forwards and backwards, on hidden states of the batch's size."""
    (ids, mask), width = batch.text(), model.config.image.width
    own = model.canvas(batch.need("image"))[1]
    g = torch.Generator().manual_seed(1)
    states = [torch.randn(*x.shape, width, generator=g, requires_grad=True) for x in (ids, own)]
    words = alignment.without_ends(mask)

    def run(align: Callable[..., alignment.Alignment]) -> Callable[[], None]:
        return lambda: align(*states, words, own).distance.sum().backward()

    return {"batched": run(alignment_of_all), "pair by pair": run(pair_by_pair)}


if __name__ == "__main__":
    main()
