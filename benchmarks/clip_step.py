"""One training step of CLIP beside open_clip's, with the same weights and the same loss.

    python benchmarks/clip_step.py [--threads N] [--repeats N] [--batch N] [--out FILE.json]

ViT-B/32 at 224 px, a text tower of 12 layers 512 wide, fp32; texts as long as Flickr8k's captions, which
open_clip pads to 77 tokens. A step is losses, backward, AdamW and the clamp; both take it on the same batch,
one after the other, over the same weights, and the losses of the first one must be equal.
"""

from __future__ import annotations

import open_clip
import torch
from beside import arguments
from open_clip_pair import CLIP, Steps, batch_of, measure, pair


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
    given = batch_of(args.batch, values["vision_cfg"]["image_size"], 77, seed=1)
    measure(args, steps, given, lambda theirs, ours: abs(theirs["itc"] - ours["itc"]))


if __name__ == "__main__":
    main()
