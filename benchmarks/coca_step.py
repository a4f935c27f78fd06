"""One training step of CoCa beside open_clip's, with the same weights and the same losses.

    python benchmarks/coca_step.py [--threads N] [--repeats N] [--batch N] [--out FILE.json]

ViT-S/16 at 224 px, one pooler of 256 queries, 12 unimodal and 12 multimodal layers 384 wide, 49,408 words,
fp32; texts as long as Flickr8k's captions, which open_clip pads to 76 tokens and [CLS]. A step is losses,
backward, AdamW and the clamp; both take it on the same batch, one after the other, over the same weights, and
both losses of the first one must be equal.
"""

from __future__ import annotations

import open_clip
import torch
from beside import arguments
from open_clip_pair import COCA, Steps, batch_of, measure, pair
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

    def difference(theirs: dict[str, float], ours: dict[str, float]) -> float:
        return max(abs(theirs["itc"] - ours["itc"]), abs(theirs["lm"] - 2 * ours["lm"]))

    steps = Steps(pair(open_clip.CoCa, values), their_losses)
    given = batch_of(args.batch, values["vision_cfg"]["image_size"], 76, seed=1)
    measure(args, steps, given, difference)


if __name__ == "__main__":
    main()
