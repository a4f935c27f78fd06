"""One training step of CoCa beside open_clip's, with the same weights and the same losses.

    python benchmarks/coca_step.py [--threads N] [--repeats N] [--batch N] [--out FILE.json]

ViT-S/16 at 224 px, one pooler of 256 queries, 12 unimodal and 12 multimodal layers 384 wide, 49,408 words,
fp32; texts as long as Flickr8k's captions, which open_clip pads to 76 tokens and [CLS]. A step is losses,
backward, AdamW and the clamp; both take it on the same batch, one after the other, over the same weights, and
both losses of the first one must be equal.
"""

from __future__ import annotations

import sys

import open_clip
import torch
from beside import arguments, interleave, report, write
from open_clip_pair import COCA, Steps, batch_of, pair, versions
from torch import Tensor


def main() -> None:
    """Measure, print a summary, and write the figures."""
    parser = arguments(__doc__.splitlines()[0], repeats=5)
    parser.add_argument("--batch", type=int, default=8, help="pairs a step")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    values = COCA[args.size]
    loss = open_clip.loss.CoCaLoss(caption_loss_weight=2.0, clip_loss_weight=1.0)

    def their_losses(out: dict[str, Tensor]) -> dict[str, Tensor]:
        names = ("image_features", "text_features", "logits", "labels", "logit_scale")
        itc, captions = loss(*(out[name] for name in names))
        return {"itc": itc, "lm": captions}

    steps = Steps(pair(open_clip.CoCa, values), their_losses)
    image, ids, batch = batch_of(args.batch, values["vision_cfg"]["image_size"], 76, seed=1)
    theirs, ours = steps.theirs(image, ids), steps.ours(batch)
    difference = max(abs(theirs["itc"] - ours["itc"]), abs(theirs["lm"] - 2 * ours["lm"]))
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
        sys.exit("error: the two do not give the same losses")


if __name__ == "__main__":
    main()
