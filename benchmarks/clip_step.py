"""One training step of CLIP beside open_clip's, with the same weights and the same loss.

    python benchmarks/clip_step.py [--threads N] [--repeats N] [--batch N] [--out FILE.json]

ViT-B/32 at 224 px, a text tower of 12 layers 512 wide, fp32; texts as long as Flickr8k's captions, which
open_clip pads to 77 tokens. A step is losses, backward, AdamW and the clamp; both take it on the same batch,
one after the other, over the same weights, and the losses of the first one must be equal.
"""

from __future__ import annotations

import sys

import open_clip
import torch
from beside import arguments, interleave, report, write
from open_clip_pair import CLIP, Steps, batch_of, pair, versions


def main() -> None:
    """Measure, print a summary, and write the figures."""
    parser = arguments(__doc__.splitlines()[0], repeats=5)
    parser.add_argument("--batch", type=int, default=32, help="pairs a step")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    values = CLIP[args.size]
    loss = open_clip.loss.ClipLoss()
    steps = Steps(
        pair(lambda **sizes: open_clip.CLIP(**sizes, output_dict=True), values),
        lambda out: {"itc": loss(out["image_features"], out["text_features"], out["logit_scale"])},
    )
    image, ids, batch = batch_of(args.batch, values["vision_cfg"]["image_size"], 77, seed=1)
    found = steps.theirs(image, ids), steps.ours(batch)
    difference = abs(found[0]["itc"] - found[1]["itc"])
    paths = {"open_clip": lambda: steps.theirs(image, ids), "multiway": lambda: steps.ours(batch)}
    seconds = interleave(paths, args.repeats)
    tokens = {"open_clip": ids.numel(), "multiway": int(batch.attention_mask.sum())}
    setting = {"size": args.size, "batch": args.batch, "text_tokens": tokens}
    figures = report(
        seconds, "multiway", setting=setting, packages=versions(), largest_loss_difference=difference
    )
    write(figures, args.out)
    print(f"{figures['speedup']['open_clip']:.2f} times as fast, losses equal to {difference:.0e}")
    if difference > 1e-4:
        sys.exit("error: the two do not give the same loss")


if __name__ == "__main__":
    main()
