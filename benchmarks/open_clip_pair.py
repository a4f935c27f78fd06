"""What the benchmarks beside open_clip share: one model twice with the same weights, batches, steps."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import open_clip
import torch
from beside import interleave, report, write
from torch import Tensor, nn

from multiway.batch import Batch
from multiway.systems import NETWORKS
from multiway.systems.base import System
from multiway.train.optim import build_optimizer
from multiway.train.run import TrainConfig
from multiway.weights.keymap import to_theirs
from multiway.weights.open_clip import config_of, layout_of

HERE = Path(__file__).parent
START, END = 49406, 49407

#: Both as open_clip's `model_cfg`; `tiny` is for the test of these files.
CLIP: dict[str, dict[str, Any]] = {
    "small": {
        "embed_dim": 512,
        "vision_cfg": {"image_size": 224, "layers": 12, "width": 768, "patch_size": 32},
        "text_cfg": {"context_length": 77, "vocab_size": 49408, "width": 512, "heads": 8, "layers": 12},
    },
    "tiny": {
        "embed_dim": 32,
        "vision_cfg": {"image_size": 32, "layers": 1, "width": 64, "patch_size": 16},
        "text_cfg": {"context_length": 77, "vocab_size": 49408, "width": 32, "heads": 2, "layers": 1},
    },
}


def _coca(image_size: int, width: int, layers: int, heads: int, queries: int) -> dict[str, Any]:
    words = {"context_length": 76, "vocab_size": 49408, "width": width, "heads": heads, "layers": layers}
    vision = {"image_size": image_size, "layers": layers, "width": width, "head_width": width // heads}
    pool = {"attentional_pool": True, "attn_pooler_queries": queries, "attn_pooler_heads": heads}
    return {
        "embed_dim": width,
        "vision_cfg": {**vision, "patch_size": 16, "output_tokens": True, **pool},
        "text_cfg": {**words, "embed_cls": True, "output_tokens": True},
        "multimodal_cfg": words,
    }


COCA = {"small": _coca(224, 384, 12, 6, 256), "tiny": _coca(32, 32, 1, 2, 8)}


@dataclass(frozen=True)
class Pair:
    """open_clip's model and ours."""

    theirs: nn.Module
    ours: System


def pair(kind: Callable[..., nn.Module], values: dict[str, Any]) -> Pair:
    """Both with the same seeded random weights, so wide that scores differ clearly."""
    config = config_of(values)
    torch.manual_seed(0)
    ours = NETWORKS[config.system].network()(config)
    with torch.no_grad():
        for parameter in ours.parameters():
            if parameter.ndim > 1:
                parameter += 0.02 * torch.randn(parameter.shape)
    theirs = kind(**values)
    theirs.load_state_dict(to_theirs(layout_of(config), ours.state_dict()))
    return Pair(theirs, ours)


def batch_of(size: int, image_size: int, length: int, seed: int) -> tuple[Tensor, Tensor, Batch]:
    """Pictures, texts padded to `length` as open_clip's tokenizer pads, and our batch, padded to its longest.

    Texts are as long as Flickr8k's captions: the recorded counts are of BERT's pieces with [CLS]; one more is
    the end token.
    """
    g = torch.Generator().manual_seed(seed)
    histogram = json.loads((HERE / "flickr8k_token_lengths.json").read_text())
    weights = torch.tensor(list(histogram.values()), dtype=torch.float)
    lengths = (
        1 + torch.tensor([int(n) for n in histogram])[torch.multinomial(weights, size, True, generator=g)]
    )
    place = torch.arange(length)
    ids = torch.randint(1, START, (size, length), generator=g)
    ids[:, 0] = START
    ids = ids.masked_fill(place == lengths[:, None] - 1, END).masked_fill(place >= lengths[:, None], 0)
    image = torch.randn(size, 3, image_size, image_size, generator=g)
    own = ids[:, : int(lengths.max())]
    return image, ids, Batch(image=image, input_ids=own, attention_mask=(own != 0).long())


class Steps:
    """Training steps of both, each with its own AdamW: losses, backward, update, clamp."""

    def __init__(self, both: Pair, their_losses: Callable[[dict[str, Tensor]], dict[str, Tensor]]):
        self.both, self.their_losses = both, their_losses
        decayed, others = [], []
        for parameter in both.theirs.parameters():
            (decayed if parameter.ndim >= 2 else others).append(parameter)
        groups = [{"params": others, "weight_decay": 0.0}, {"params": decayed, "weight_decay": 0.2}]
        self.their_optimizer = torch.optim.AdamW(groups, lr=1e-5, betas=(0.9, 0.98), eps=1e-6)
        train = TrainConfig(steps=1, lr=1e-5, betas=(0.9, 0.98), eps=1e-6, weight_decay=0.2)
        self.our_optimizer, self.state = build_optimizer(both.ours, train), both.ours.init_state()
        both.ours.train(), both.theirs.train()

    def theirs(self, image: Tensor, ids: Tensor) -> dict[str, float]:
        """One step of open_clip; the losses before it."""
        self.their_optimizer.zero_grad()
        losses = self.their_losses(self.both.theirs(image, ids))
        sum(losses.values()).backward()
        self.their_optimizer.step()
        with torch.no_grad():
            self.both.theirs.logit_scale.clamp_(0, 4.6052)
        return {name: value.item() for name, value in losses.items()}

    def ours(self, batch: Batch) -> dict[str, float]:
        """One step of ours."""
        self.our_optimizer.zero_grad()
        losses = self.both.ours.losses(batch, self.state)
        losses["loss"].backward()
        self.our_optimizer.step()
        self.both.ours.advance(self.state, [losses])
        return {name: value.item() for name, value in losses.items()}


def versions() -> dict[str, str]:
    """What is compared."""
    return {"open_clip": open_clip.__version__}


def measure(
    args: Any, steps: Steps, given: tuple[Tensor, Tensor, Batch], difference: Callable[..., float]
) -> None:
    """Time both paths' steps, print a summary, and write the figures; exits where losses are not equal.

    Args:
        given: of `batch_of`. difference: their losses and ours of one step -> the largest difference.
    """
    image, ids, batch = given
    found = difference(steps.theirs(image, ids), steps.ours(batch))
    paths = {"open_clip": lambda: steps.theirs(image, ids), "multiway": lambda: steps.ours(batch)}
    seconds = interleave(paths, args.repeats)
    tokens = {"open_clip": ids.numel(), "multiway": int(batch.attention_mask.sum())}
    setting = {"size": args.size, "batch": args.batch, "text_tokens": tokens}
    more = {"packages": versions(), "largest_loss_difference": found}
    figures = report(seconds, "multiway", setting=setting, **more)
    write(figures, args.out)
    print(f"{figures['speedup']['open_clip']:.2f} times as fast, losses equal to {found:.0e}")
    if found > 1e-4:
        sys.exit("error: the two do not give the same losses")
