"""Captioning by beam search: BLIP here beside transformers' BLIP, with the same weights and the same tokens.

    python benchmarks/blip_caption.py [--threads N] [--repeats N] [--batch N] [--out FILE.json]

ViT-S/16 at 224 px and a 12-layer decoder of 30,524 words, fp32; beam 3, a prompt of 4 tokens and 20 new ones
with the end token suppressed, so that both do the same number of steps. From pictures to token ids, each as
its users call it. For the share of the machine's rate two more things are timed in every repeat: a large
matrix product, and PyTorch's own products of this run alone: the same weights, as many rows, nothing between.
"""

from __future__ import annotations

import sys

import torch
from beside import DEC, SEP, Matrix, Products, arguments, interleave, peer, report, write
from transformers import BlipForConditionalGeneration

from multiway.core.flops import counted
from multiway.core.packed import packed
from multiway.generation import GenerationConfig, generate
from multiway.weights.hf_blip import from_transformers

BEAMS, NEW = 3, 20


def main() -> None:
    """Measure, print a summary, and write the figures."""
    parser = arguments(__doc__.splitlines()[0], repeats=7)
    parser.add_argument("--batch", type=int, default=8, help="pictures at once")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    theirs = peer(BlipForConditionalGeneration, args.size)
    plain = from_transformers(theirs.state_dict(), theirs.config.to_dict()).requires_grad_(False)
    ours = packed(plain)
    size = theirs.config.vision_config.image_size
    image = torch.randn(args.batch, 3, size, size, generator=torch.Generator().manual_seed(1))
    prompt = torch.tensor([[DEC, 1037, 3861, 1997]]).repeat(args.batch, 1)  # "a picture of"
    ended = torch.cat([prompt, torch.full_like(prompt[:, :1], SEP)], dim=1)  # transformers takes the last off
    config = GenerationConfig(beams=BEAMS, min_length=NEW, max_length=NEW)

    def our_captions(model=ours) -> list[list[int]]:
        with torch.inference_mode():
            found = generate(model.decoding(image), prompt, config=config)
        return [texts[0] for texts in found.sequences]

    def their_captions() -> list[list[int]]:
        found = theirs.generate(
            pixel_values=image,
            input_ids=ended.clone(),  # it writes into them
            attention_mask=torch.ones_like(ended),
            num_beams=BEAMS,
            min_new_tokens=NEW,
            max_new_tokens=NEW,
            do_sample=False,
        )
        return found[:, prompt.shape[1] :].tolist()

    with counted() as counter:  # it knows no packed products
        expected = our_captions(plain)
    flops = counter.get_total_flops()
    with Products() as products:
        our_captions(plain)
    equal = expected == our_captions() == their_captions()
    matrix = Matrix()
    paths = {
        "multiway": our_captions,
        "transformers": their_captions,
        "matrix": matrix,
        "products": products,
    }
    seconds = interleave(paths, args.repeats)
    setting = {"size": args.size, "batch": args.batch, "beams": BEAMS, "prompt": 4, "new_tokens": NEW}
    figures = report(seconds, "multiway", setting=setting, flops=flops, equal_tokens=equal)
    median = figures["median_seconds"]
    figures["pictures_a_second"] = {name: args.batch / median[name] for name in ("multiway", "transformers")}
    figures["matrix_flops_a_second"] = matrix.flops / median["matrix"]
    figures["products_flops_a_second"] = products.flops / median["products"]
    rate = flops / median["multiway"]
    figures["share_of_matrix_rate"] = rate / figures["matrix_flops_a_second"]
    figures["share_of_products_rate"] = rate / figures["products_flops_a_second"]
    write(figures, args.out)
    for name, pictures in figures["pictures_a_second"].items():
        print(f"{name:<13}{pictures:7.2f} pictures a second")
    print(
        f"{figures['speedup']['transformers']:.2f} times as fast; "
        f"{100 * figures['share_of_matrix_rate']:.0f} % of the rate of a large matrix product, "
        f"{100 * figures['share_of_products_rate']:.0f} % of that of PyTorch's products of these shapes"
    )
    if not equal:
        sys.exit("error: the two do not give the same tokens")


if __name__ == "__main__":
    main()
