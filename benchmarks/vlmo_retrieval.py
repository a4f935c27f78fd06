"""One VLMo as dual encoder and as fusion encoder: text queries a second, and how often each is right.

    python benchmarks/vlmo_retrieval.py MODEL [--data PATH] [--split NAME] [--k 16]
    python benchmarks/vlmo_retrieval.py [--pictures N]      random weights of a larger size: speed alone

dual      the text through its experts, compared with features of all pictures, which are computed once
reranked  and the k best of these with the text through the fusion encoder
fusion    every picture with the text through the fusion encoder

With a MODEL the pictures are those of the data, and the queries the first text of each. Pictures are
embedded before the clock starts; it counts this process's work alone.
"""

from __future__ import annotations

import time
from typing import Any

import numpy as np
import torch
from beside import HERE, SIZES, VOCABULARY, arguments, interleave, report, write
from torch import Tensor

import multiway
from multiway.data.dataset import Dataset, Source
from multiway.systems.base import System
from multiway.systems.patches import ImageConfig
from multiway.systems.vlmo import VLMo
from multiway.systems.vlmo_config import TextConfig, VLMoConfig
from multiway.tasks import retrieval
from multiway.tasks.two_stage import Pictures, Texts, encode_texts, evaluating, match_pairs

LENGTH = 12  # tokens of a random query, as long as a short caption
BATCH = 32


def random_model(size: str) -> VLMo:
    """Seeded random weights, the sizes of `beside`."""
    sizes = dict(SIZES[size])
    image = ImageConfig(image_size=sizes.pop("image_size"), patch_size=16)
    torch.manual_seed(0)
    text = TextConfig(vocab_size=VOCABULARY)
    return VLMo(VLMoConfig(image=image, text=text, depth=sizes.pop("layers"), **sizes)).requires_grad_(False)


def queries(model: System, names: list[str], count: int) -> tuple[Tensor, Tensor]:
    """Ids and mask of `count` names, evenly taken, or of random words where there are none."""
    if names:
        return model.tokenize([names[i * len(names) // count] for i in range(count)])
    ids = torch.randint(1000, 30522, (count, LENGTH), generator=torch.Generator().manual_seed(2))
    return ids, torch.ones_like(ids)


class Search:
    """Pictures that were encoded, and three ways to order them for a text."""

    def __init__(self, model: System, images: list[Tensor], ids: Tensor, mask: Tensor, k: int):
        self.model, self.ids, self.mask, self.k = model, ids, mask, k
        self.pictures = Pictures(model, lambda numbers: torch.stack([images[i] for i in numbers]))
        self.pictures.row = list(range(len(images)))
        for first in range(0, len(images), BATCH):
            numbers = list(range(first, min(first + BATCH, len(images))))
            self.pictures.add(numbers, self.pictures.load(numbers))
        self.features = self.pictures.features

    def texts(self) -> Texts:
        """The queries, encoded."""
        return encode_texts(self.model, self.ids, self.mask, batch_size=BATCH)

    def dual(self) -> np.ndarray:
        """`[Q, k]`, the best pictures of each query."""
        return np.argpartition(-self.texts().features @ self.features.T, self.k - 1, axis=1)[:, : self.k]

    def reranked(self) -> np.ndarray:
        """Scores of each query's k best pictures."""
        return self.fused(self.dual())

    def fusion(self) -> np.ndarray:
        """Scores of every query and picture."""
        return self.fused(np.tile(np.arange(len(self.features)), (len(self.ids), 1)))

    def fused(self, candidates: np.ndarray) -> np.ndarray:
        """`[Q, K]`, the fusion encoder's score of each query's candidates."""
        texts = self.texts()
        row = np.broadcast_to(texts.row[:, None], candidates.shape).ravel()
        order = np.argsort(candidates.ravel(), kind="stable")
        scores = np.empty(candidates.size, np.float32)
        pictures = candidates.ravel()[order]
        scores[order] = match_pairs(self.model, self.pictures, texts, pictures, row[order])
        return scores.reshape(candidates.shape)


def accuracy(model: System, data: Dataset, k: int) -> dict[str, Any]:
    """Recalls of the three ways, both directions, and of the dual encoder with other pictures' names."""
    some, every = (retrieval.measure(model, data, texts="first", k=n) for n in (k, len(data)))
    found = {"dual": some.result["itc"], "reranked": some.result["itm"], "fusion": every.result["itm"]}
    return found | {"shuffled": some.shuffled}


def main() -> None:
    """Measure, print a summary, and write the figures."""
    parser = arguments(__doc__.splitlines()[0], repeats=3)
    parser.add_argument("model", nargs="?", help="a VLMo of pairs; without it, random weights of --size")
    parser.add_argument("--data", default="scenes:300:77", help="pictures with texts, as data.train.path")
    parser.add_argument("--split", help="of the data, as combination of the bundled drawings")
    parser.add_argument("--pictures", type=int, default=64, help="random ones, for random weights")
    parser.add_argument("--queries", type=int, default=8, help="that are timed")
    parser.add_argument("--k", type=int, default=16, help="pictures that are re-ranked")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    more: dict[str, Any] = {}
    if args.model is None:
        model, names = random_model(args.size), []
        side = SIZES[args.size]["image_size"]
        images = list(torch.randn(args.pictures, 3, side, side, generator=torch.Generator().manual_seed(1)))
    else:
        model, data = multiway.load(args.model), Dataset(Source(path=args.data, split=args.split))
        samples = [data.sample(i) for i in range(len(data))]
        names = list(dict.fromkeys(sample.texts[0] for sample in samples))
        images = list(model.prepare([sample.image for sample in samples]))
        more["accuracy"] = accuracy(model, data, args.k)
        more["queries"] = len(names)
    with evaluating(model):
        began = time.process_time()
        search = Search(model, images, *queries(model, names, args.queries), args.k)
        more["pictures_a_second"] = len(images) / (time.process_time() - began)
        paths = {"dual": search.dual, "reranked": search.reranked, "fusion": search.fusion}
        seconds = interleave(paths, args.repeats, time.process_time)
    setting = {
        "model": args.model or f"random, {args.size}",
        "data": args.data if args.model else None,
        "split": args.split,
        "pictures": len(images),
        "timed_queries": args.queries,
        "k": args.k,
        "tokens": float(search.mask.sum(1).float().mean()),
        "parameters": sum(p.numel() for p in model.parameters()),
    }
    figures = report(seconds, "dual", setting=setting, repeats=args.repeats, **more)
    figures["queries_a_second"] = {n: args.queries / s for n, s in figures["median_seconds"].items()}
    name = "vlmo_retrieval" if args.model else f"vlmo_retrieval_{args.size}"
    write(figures, args.out or HERE.parent / "docs" / "figures" / f"{name}.json")
    for way, rate in figures["queries_a_second"].items():
        right = f", R@1 {more['accuracy'][way]['ir_r1']:.1f} %" if args.model else ""
        print(f"{way:<9}{rate:10.1f} queries a second{right}")


if __name__ == "__main__":
    main()
