"""Captions by CoCa beside open_clip's, with the same weights and the same tokens.

    python benchmarks/coca_generate.py [--threads N] [--repeats N] [--batch N] [--out FILE.json]

The model of `coca_step.py`; the likeliest token each time (open_clip's top_k with k = 1), 20 tokens and the
end token that open_clip puts into the last place, no end before that. From pictures to token ids, each as its
users call it; and the writing alone, without what each takes for the pictures. open_clip reads the whole text
again at every token, and computes one token more, whose place it then gives to the end token.

The bound is what nobody can pass who takes as long for the pictures: every token must read the weights and
the pictures' keys and values once, and then the writing takes no less than reading as many numbers.

open_clip needs a class for its beam search that transformers removed in its fifth version, and without it
refuses to generate at all; the classes that top_k needs are still there, and are handed to it here.
"""

from __future__ import annotations

import statistics
import sys
from typing import Any

import open_clip
import torch
import transformers
from beside import arguments, interleave, report, write
from open_clip_pair import COCA, END, START, pair, versions

from multiway.core.packed import packed
from multiway.generation import GenerationConfig, generate
from multiway.systems.coca import CoCa

NEW = 20


def lend_transformers() -> None:
    """Give open_clip the classes of transformers that top_k needs."""
    module = open_clip.coca_model
    for name in ("LogitsProcessorList", "RepetitionPenaltyLogitsProcessor", "MinLengthLogitsProcessor"):
        setattr(module, name, getattr(transformers, name))
    for name in ("MaxLengthCriteria", "StoppingCriteriaList"):
        setattr(module, name, getattr(transformers, name))
    module.GENERATION_TYPES["top_k"] = transformers.TopKLogitsWarper
    module._has_transformers = True


def weights_of_a_token(model: CoCa) -> int:
    """How many numbers of the model every token reads: both halves and the words, without keys and values."""
    parts = (model.text, model.multimodal, model.word_head)
    named = (pair for part in parts for pair in part.named_parameters())
    return sum(p.numel() for name, p in named if ".key_value." not in name)


def main() -> None:
    """Measure, print a summary, and write the figures."""
    parser = arguments(__doc__.splitlines()[0], repeats=5)
    parser.add_argument("--batch", type=int, default=8, help="pictures at once")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    lend_transformers()
    values = COCA[args.size]
    both = pair(open_clip.CoCa, values)
    theirs = both.theirs.eval()
    ours = packed(both.ours.eval().requires_grad_(False))
    size = values["vision_cfg"]["image_size"]
    image = torch.randn(args.batch, 3, size, size, generator=torch.Generator().manual_seed(1))
    prompt = torch.full((args.batch, 1), START)
    config = GenerationConfig(method="greedy", min_length=NEW, max_length=NEW, eos_id=END, pad_id=0)

    def our_captions() -> list[list[int]]:
        with torch.inference_mode():
            found = generate(ours.decoding(image), prompt, config=config)
        return [[START, *texts[0], END] for texts in found.sequences]

    def their_captions() -> list[list[int]]:
        found = theirs.generate(
            image,
            generation_type="top_k",
            top_k=1,
            seq_len=NEW + 2,
            min_seq_len=NEW + 1,
            sot_token_id=START,
            eos_token_id=END,
            pad_token_id=0,
        )
        return found.tolist()

    equal = our_captions() == their_captions()
    whole = {"multiway": our_captions, "open_clip": their_captions}
    pictures = {
        "multiway pictures": torch.inference_mode()(lambda: ours.caption_context(image)),
        "open_clip pictures": torch.inference_mode()(lambda: theirs._encode_image(image)),
    }
    with torch.inference_mode():
        layers = [kv for kv in ours.caption_context(image).layers if kv is not None]
    read = torch.rand(sum(kv.key.numel() + kv.value.numel() for kv in layers) + weights_of_a_token(both.ours))
    memory = {"memory": lambda: [read.sum() for _ in range(NEW)]}
    seconds = interleave(whole | pictures | memory, args.repeats)
    median = {name: statistics.median(times) for name, times in seconds.items()}
    writing = {name: median[name] - median[f"{name} pictures"] for name in whole}
    bound = median["open_clip"] / (median["multiway pictures"] + median["memory"])
    setting = {"size": args.size, "batch": args.batch, "new_tokens": NEW}
    more: dict[str, Any] = {"packages": versions(), "equal_tokens": equal, "writing_seconds": writing}
    more["writing_speedup"] = writing["open_clip"] / writing["multiway"]
    more |= {"pictures_seconds": median["multiway pictures"], "memory_seconds": median["memory"]}
    more["bound"] = bound
    figures = report({name: seconds[name] for name in whole}, "multiway", setting=setting, **more)
    write(figures, args.out)
    print(
        f"{figures['speedup']['open_clip']:.2f} times as fast, the writing alone "
        f"{more['writing_speedup']:.2f} times; at most {bound:.2f} times; the same tokens: {equal}"
    )
    if not equal:
        sys.exit("error: the two do not give the same tokens")


if __name__ == "__main__":
    main()
