"""A training step of FLIP's picture tower by the share of patches that it does not see.

    python benchmarks/flip_step.py [--threads N] [--repeats N] [--batch N] [--out FILE.json]

ViT-S/16 at 224 px, fp32: pictures to features and the gradients of all weights back, with none, half and
three quarters of the patches left out; interleaved in one process. The draw of the patches is part of it.
"""

from __future__ import annotations

import torch
from beside import SIZES, arguments, interleave, report, write
from torch import Tensor

from multiway.core.flops import counted
from multiway.systems.flip import flip_vit
from multiway.systems.patch_dropping import drawn_noise, split
from multiway.systems.vit import VisionTransformer

SHARES = (0.0, 0.5, 0.75)
#: What is asked for, as many times as fast as whole pictures.
GOALS = {"0.5": 1.8, "0.75": 3.2}


def main() -> None:
    """Measure, print a summary, and write the figures."""
    parser = arguments(__doc__.splitlines()[0], repeats=7)
    parser.add_argument("--batch", type=int, default=8, help="pictures at once")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    sizes = {"depth" if name == "layers" else name: value for name, value in SIZES[args.size].items()}
    config = flip_vit(**sizes)
    torch.manual_seed(0)
    tower, size = VisionTransformer(config), config.image_size
    image = torch.randn(args.batch, 3, size, size)
    grad = torch.randn(args.batch, config.width)

    def step(share: float) -> Tensor:
        if share:
            kept = split(drawn_noise(image, config.patch_size, None), share).kept
            tokens = tower.partly(image, kept)
        else:
            tokens = tower(image)
        tower.pooled(tokens).backward(grad)
        tower.zero_grad()
        return tokens

    flops, tokens = {}, {}
    for share in SHARES:
        with counted() as counter:
            tokens[str(share)] = step(share).shape[1]
        flops[str(share)] = counter.get_total_flops()
    paths = {str(share): lambda share=share: step(share) for share in SHARES}
    seconds = interleave(paths, args.repeats)
    setting = {"size": args.size, "batch": args.batch, "image_size": size}
    found = report(seconds, "0.0", setting=setting, repeats=args.repeats, flops=flops, tokens=tokens)
    found["speedup"] = {share: 1 / slower for share, slower in found["speedup"].items()}
    found["goals"] = GOALS
    write(found, args.out)
    for share, faster in found["speedup"].items():
        print(f"{float(share):.0%} left out: {faster:.2f} times as fast (goal {GOALS[share]})")


if __name__ == "__main__":
    main()
