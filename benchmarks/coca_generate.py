"""Captions by CoCa beside open_clip's, with the same weights and the same tokens.

    python benchmarks/coca_generate.py [--search SEARCH] [--threads N] [--repeats N] [--batch N] [--out FILE]

The model of `coca_step.py`; 20 tokens, no end before them. From pictures to token ids, each as its users call
it; and the writing alone, without what each takes for the pictures. open_clip reads the whole text again at
every token.

    beam_search   what open_clip's `generate` does unless it is told otherwise: 6 beams in 3 groups that do
                  not differ, which is one search of 2 beams, and each beam's picture is encoded anew
    top_k         the likeliest token each time (k = 1); the end token is put into the last place, for which
                  open_clip computes one token more

The bound is what nobody can pass who takes as long for the pictures: every token must read the weights and
the pictures' keys and values once, and then the writing takes no less than reading as many numbers.

The beam search needs a class that transformers had up to its version 4.49, beside the environment's own:

    pip install --target runs/transformers-4.49 transformers==4.49.0
    PYTHONPATH=runs/transformers-4.49 python benchmarks/coca_generate.py --search beam_search

Without that class open_clip refuses to generate at all; the classes that top_k needs are still there, and are
handed to it here.
"""

from __future__ import annotations

import statistics
import sys
from typing import Any

import open_clip
import torch
import transformers
from beside import HERE, arguments, interleave, report, write
from open_clip_pair import COCA, END, START, pair, versions

from multiway.core.packed import packed
from multiway.generation import GenerationConfig, generate
from multiway.systems.coca import CoCa

FIGURES = HERE.parent / "docs" / "figures"
NEW = 20
#: How open_clip is asked, and how we are: 20 new tokens, and the same.
SEARCHES: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "beam_search": (
        {"seq_len": NEW + 1, "min_seq_len": NEW},
        {"min_length": NEW - 1, "beams": 2, "beam_scores": "logits", "length_rule": "open_clip"},
    ),
    "top_k": (
        {"seq_len": NEW + 2, "min_seq_len": NEW + 1, "top_k": 1},
        {"min_length": NEW, "method": "greedy"},
    ),
}
BEAMS = {"beam_search": 6, "top_k": 1}  # rows of a picture in open_clip


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
    parser.add_argument("--search", choices=SEARCHES, default="top_k")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    if args.search == "top_k":
        lend_transformers()
    elif not hasattr(transformers, "BeamSearchScorer"):
        parser.error(f"transformers {transformers.__version__} has no BeamSearchScorer: see the file's head")
    values = COCA[args.size]
    both = pair(open_clip.CoCa, values)
    theirs = both.theirs.eval()
    ours = packed(both.ours.eval().requires_grad_(False))
    size = values["vision_cfg"]["image_size"]
    image = torch.randn(args.batch, 3, size, size, generator=torch.Generator().manual_seed(1))
    prompt = torch.full((args.batch, 1), START)
    asked, own = SEARCHES[args.search]
    config = GenerationConfig(max_length=NEW, eos_id=END, pad_id=0, **own)
    end = [END] * (args.search == "top_k")

    def our_captions() -> list[list[int]]:
        with torch.inference_mode():
            found = generate(ours.decoding(image), prompt, config=config)
        return [[START, *texts[0], *end] for texts in found.sequences]

    def their_captions() -> list[list[int]]:
        named = {"sot_token_id": START, "eos_token_id": END, "pad_token_id": 0}
        return theirs.generate(image, generation_type=args.search, **asked, **named).tolist()

    rows = image.repeat_interleave(BEAMS[args.search], dim=0)
    equal = our_captions() == their_captions()
    whole = {"multiway": our_captions, "open_clip": their_captions}
    pictures = {
        "multiway pictures": torch.inference_mode()(lambda: ours.caption_context(image)),
        "open_clip pictures": torch.inference_mode()(lambda: theirs._encode_image(rows)),
    }
    with torch.inference_mode():
        layers = [kv for kv in ours.caption_context(image).layers if kv is not None]
    read = torch.rand(sum(kv.key.numel() + kv.value.numel() for kv in layers) + weights_of_a_token(both.ours))
    memory = {"memory": lambda: [read.sum() for _ in range(NEW)]}
    seconds = interleave(whole | pictures | memory, args.repeats)
    median = {name: statistics.median(times) for name, times in seconds.items()}
    writing = {name: median[name] - median[f"{name} pictures"] for name in whole}
    bound = median["open_clip"] / (median["multiway pictures"] + median["memory"])
    setting = {"size": args.size, "batch": args.batch, "new_tokens": NEW, "search": args.search}
    more: dict[str, Any] = {"packages": versions(), "equal_tokens": equal, "writing_seconds": writing}
    more["writing_speedup"] = writing["open_clip"] / writing["multiway"]
    more |= {"pictures_seconds": median["multiway pictures"], "memory_seconds": median["memory"]}
    more["bound"] = bound
    figures = report({name: seconds[name] for name in whole}, "multiway", setting=setting, **more)
    write(figures, args.out or FIGURES / f"coca_generate_{args.search}.json")
    print(
        f"{figures['speedup']['open_clip']:.2f} times as fast, the writing alone "
        f"{more['writing_speedup']:.2f} times; at most {bound:.2f} times; the same tokens: {equal}"
    )
    if not equal:
        sys.exit("error: the two do not give the same tokens")


if __name__ == "__main__":
    main()
