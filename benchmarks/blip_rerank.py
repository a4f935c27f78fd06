"""Re-ranking captions by image-text matching: BLIP here beside transformers' BLIP, with the same weights.

    python benchmarks/blip_rerank.py [--threads N] [--repeats N] [--pictures N] [--data SHARD.tar]

32 captions a picture, fp32, the pictures' tokens given. transformers is fed a picture at a time, its tokens
repeated for each caption, with the captions padded to the longest of the 32, and padded to 35 as in the
official evaluation. Ours starts from the same tokens and computes the picture's keys and values once. With
`--data` the captions are those of an img2dataset tar; without, random words as long as Flickr8k's captions.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import torch
import torch.nn.functional as F
from beside import ENC, HERE, SEP, SIZES, arguments, interleave, peer, report, write
from torch import Tensor
from transformers import BlipForImageTextRetrieval

from multiway.core.packed import packed
from multiway.data.shards import Shards
from multiway.systems.blip_config import blip_tokenizer
from multiway.text import Tokenizer
from multiway.weights.hf_blip import from_transformers

CAPTIONS, OFFICIAL_LENGTH, TOLERANCE = 32, 35, 1e-4


def captions(data: Path | None, pictures: int) -> list[tuple[Tensor, Tensor]]:
    """Token ids and mask of each picture's candidates, [ENC] first, padded to the longest of them."""
    generator = torch.Generator().manual_seed(2)
    count = pictures * CAPTIONS
    if data is None:
        histogram = json.loads((HERE / "flickr8k_token_lengths.json").read_text())
        weights = torch.tensor(list(histogram.values()), dtype=torch.float)
        drawn = torch.multinomial(weights, count, True, generator=generator)
        lengths = (1 + torch.tensor([int(n) for n in histogram])[drawn]).clamp(max=OFFICIAL_LENGTH)  # [SEP]
        rows = [torch.randint(1000, 30522, (int(n),), generator=generator) for n in lengths]
        for row in rows:
            row[-1] = SEP
    else:
        shards = Shards([str(data)])
        texts = [text for i in range(len(shards)) for text in shards.texts(i)]
        chosen = torch.randperm(len(texts), generator=generator)[:count].tolist()
        ids, mask = Tokenizer.load(blip_tokenizer(OFFICIAL_LENGTH))([texts[i] for i in chosen])
        rows = [row[: int(n)] for row, n in zip(ids, mask.sum(1), strict=True)]
    found = []
    for start in range(0, count, CAPTIONS):
        group = rows[start : start + CAPTIONS]
        ids = torch.nn.utils.rnn.pad_sequence(group, batch_first=True)
        ids[:, 0] = ENC
        lengths = torch.tensor([len(row) for row in group])
        found.append((ids, (torch.arange(ids.shape[1]) < lengths[:, None]).long()))
    return found


def main() -> None:
    """Measure, print a summary, and write the figures."""
    parser = arguments(__doc__.splitlines()[0], repeats=7)
    parser.add_argument("--pictures", type=int, default=8)
    parser.add_argument("--data", type=Path, help="an img2dataset tar whose captions are taken")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    theirs = peer(BlipForImageTextRetrieval, args.size)
    ours = packed(from_transformers(theirs.state_dict(), theirs.config.to_dict()).requires_grad_(False))
    size = SIZES[args.size]["image_size"]
    image = torch.randn(args.pictures, 3, size, size, generator=torch.Generator().manual_seed(1))
    texts = captions(args.data, args.pictures)
    wider = [[F.pad(x, (0, OFFICIAL_LENGTH - x.shape[1])) for x in group] for group in texts]
    with torch.inference_mode():
        tokens = ours.image_tower(image)

    def our_scores() -> Tensor:
        with torch.inference_mode():
            rows = torch.zeros(CAPTIONS, dtype=torch.long)
            return torch.stack(
                [
                    ours.match_pairs(ours.encoders.context(picture[None]).shared_by(rows), ids, mask)
                    for picture, (ids, mask) in zip(tokens, texts, strict=True)
                ]
            )

    def their_scores(groups) -> Tensor:
        with torch.inference_mode():
            found = []
            for picture, (ids, mask) in zip(tokens, groups, strict=True):
                hidden = theirs.text_encoder(
                    input_ids=ids,
                    attention_mask=mask,
                    encoder_hidden_states=picture.expand(CAPTIONS, -1, -1),
                    encoder_attention_mask=torch.ones(CAPTIONS, len(picture), dtype=torch.long),
                ).last_hidden_state
                found.append(theirs.itm_head(hidden[:, 0]))
            return torch.stack(found)

    own, longest, padded = our_scores(), their_scores(texts), their_scores(wider)
    difference = max(float((own - other).abs().max()) for other in (longest, padded))
    paths = {
        "multiway": our_scores,
        "transformers_longest": lambda: their_scores(texts),
        "transformers_35": lambda: their_scores(wider),
    }
    seconds = interleave(paths, args.repeats)
    setting = {
        "size": args.size,
        "pictures": args.pictures,
        "captions": CAPTIONS,
        "text": "captions of a tar" if args.data else "random words",
        "mean_tokens": float(torch.cat([mask.sum(1) for _, mask in texts]).float().mean()),
        "mean_longest": sum(ids.shape[1] for ids, _ in texts) / len(texts),
    }
    figures = report(seconds, "multiway", setting=setting, largest_score_difference=difference)
    write(figures, args.out)
    for name, median in figures["median_seconds"].items():
        print(f"{name:<22}{args.pictures * CAPTIONS / median:8.0f} captions a second")
    speedup = figures["speedup"]
    print(
        f"{speedup['transformers_longest']:.2f} times as fast as padded to the longest, "
        f"{speedup['transformers_35']:.2f} times as padded to {OFFICIAL_LENGTH}; "
        f"scores differ by at most {difference:.1e}"
    )
    if difference > TOLERANCE:
        sys.exit("error: the two do not give the same scores")


if __name__ == "__main__":
    main()
