"""Two-stage matching: encode each side once, shortlist by ITC, score the shortlisted pairs by ITM.

    pictures --> features, contexts --+                    +--> ITC: all pairs, a dot product
                                      +--> two stages -----+
    texts -----> features, hidden  ---+                    +--> ITM: chosen pairs, the fusion layers

A pair is scored once, whichever direction asked for it; a picture's cross-attention keys and values are
computed once for all its texts, which are scored together. All of it is exact.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, fields, is_dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from multiway.systems.base import System

#: Called as progress(stage, done, total).
Progress = Callable[[str, int, int], None]

KEPT_BYTES = 1 << 30  # contexts held between the stages; beyond, pictures are encoded again
NOTHING_TO_COMPARE = "{} has neither contrastive features nor a matching head: take a model with one of them"
PASS_PAIRS = 256  # in one pass of the fusion layers


def silent(stage: str, done: int, total: int) -> None:
    """No progress."""


@contextmanager
def evaluating(model: System) -> Iterator[None]:
    """Evaluation mode without gradient; the mode from before is put back, of each part its own."""
    before = [(part, part.training) for part in model.modules()]
    model.eval()
    try:
        with torch.inference_mode():
            yield
    finally:
        for part, mode in before:
            part.training = mode


@dataclass
class Pictures:
    """Encoded pictures, in batches; equal pictures are encoded once.

    Attributes:
        features: `[N, E]` float32, normalised.
        load: numbers of pictures -> `[B, 3, H, W]`, to encode them again when their context was not kept.
        batches: numbers of the U different pictures, in the order in which they were added.
        row: `[N]` which of the U different pictures a picture is.
    """

    model: System
    load: Callable[[Sequence[int]], Tensor]
    batches: list[list[int]] = field(default_factory=list)
    row: list[int] = field(default_factory=list)
    _features: list[np.ndarray] = field(default_factory=list)
    _contexts: list[Any] = field(default_factory=list)
    _kept: int = 0

    def add(self, numbers: Sequence[int], image: Float[Tensor, "B 3 H W"]) -> None:
        """Encode one batch of pictures."""
        features, context = encode_pictures(self.model, image)
        self._features.append(as_array(features, "pictures"))
        size = tensor_bytes(context)
        keep = self.model.has_itm and self._kept + size <= KEPT_BYTES
        self._kept += size * keep
        self._contexts.append(context if keep else None)
        self.batches.append(list(numbers))

    @property
    def different(self) -> Float[np.ndarray, "U E"]:
        """Features of the different pictures."""
        return np.concatenate(self._features)

    @property
    def features(self) -> Float[np.ndarray, "N E"]:
        return self.different[self.row]

    def context(self, batch: int) -> Any:
        """The context of a batch, kept or computed again."""
        kept = self._contexts[batch]
        return self.model.match_context(self.load(self.batches[batch])) if kept is None else kept


def encode_pictures(model: System, image: Float[Tensor, "B 3 H W"]) -> tuple[Float[Tensor, "B E"], Any]:
    """Features, E = 0 where the model has none, and what `match_pairs` looks at."""
    if model.has_itc:
        return model.image_context(image)
    return image.new_zeros(len(image), 0), model.match_context(image)


def encode_words(
    model: System, input_ids: Int[Tensor, "B T"], attention_mask: Int[Tensor, "B T"]
) -> tuple[Float[Tensor, "B E"], Tensor]:
    """Features, E = 0 where the model has none, and what `match_pairs` continues from."""
    if model.has_itc:
        return model.text_context(input_ids, attention_mask)
    none = torch.zeros(len(input_ids), 0, device=input_ids.device)
    return none, model.match_text(input_ids, attention_mask)


@dataclass
class Texts:
    """Encoded texts; texts of equal tokens are encoded once.

    Attributes:
        features: `[M, E]` float32, normalised.
        row: `[M]` which of the U different token sequences a text is.
        hidden: U tensors `[T, D]` of their own lengths (empty without an ITM head).
    """

    features: np.ndarray
    row: np.ndarray
    hidden: list[Tensor]


def encode_texts(
    model: System,
    input_ids: Int[Tensor, "M T"],
    attention_mask: Int[Tensor, "M T"],
    *,
    batch_size: int,
    progress: Progress = silent,
) -> Texts:
    """Encode tokenized texts, shortest first, each batch cut to its longest."""
    tokens = torch.where(attention_mask.bool(), input_ids, -1).cpu().numpy()
    _, first, row = np.unique(tokens, axis=0, return_index=True, return_inverse=True)
    lengths = attention_mask.sum(1)[torch.as_tensor(first)]
    order = lengths.argsort(stable=True).tolist()
    features: list[Tensor] = [torch.empty(0)] * len(first)
    hidden: list[Tensor] = [torch.empty(0)] * len(first) if model.has_itm else []
    for start in range(0, len(order), batch_size):
        batch = order[start : start + batch_size]
        longest = int(lengths[batch[-1]])
        texts = torch.as_tensor(first[batch])
        ids, mask = (x[texts, :longest].to(model.device) for x in (input_ids, attention_mask))
        batch_features, batch_hidden = encode_words(model, ids, mask)
        for b, u in enumerate(batch):
            features[u] = batch_features[b]
            if model.has_itm:
                hidden[u] = batch_hidden[b, : int(lengths[u])].cpu()
        progress("texts", start + len(batch), len(order))
    row = row.reshape(-1)
    return Texts(as_array(torch.stack(features), "texts")[row], row, hidden)


def match_pairs(
    model: System,
    pictures: Pictures,
    texts: Texts,
    picture: Int[np.ndarray, " P"],
    row: Int[np.ndarray, " P"],
    *,
    progress: Progress = silent,
) -> Float[np.ndarray, " P"]:
    """`System.rerank_score` of pairs of a picture and a token sequence, sorted by picture.

    Args:
        picture: which of the U different pictures, ascending.
        row: which of the different token sequences.
    """
    scores = np.empty(len(picture), np.float32)
    _, first = np.unique(texts.row, return_index=True)
    cosine = (pictures.different[picture] * texts.features[first[row]]).sum(-1)
    starts = np.cumsum([0, *map(len, pictures.batches)])
    for batch in range(len(pictures.batches)):
        low, high = np.searchsorted(picture, starts[batch : batch + 2])
        if low == high:
            continue
        context = pictures.context(batch)
        for start in range(low, high, PASS_PAIRS):
            chosen = slice(start, min(start + PASS_PAIRS, high))
            rows = [texts.hidden[u] for u in row[chosen]]
            hidden = pad_sequence(rows, batch_first=True).to(model.device)
            lengths = torch.tensor([len(h) for h in rows])
            mask = (torch.arange(hidden.shape[1]) < lengths[:, None]).to(model.device, torch.int64)
            index = torch.as_tensor(picture[chosen] - starts[batch], device=model.device)
            seen, place = index.unique(return_inverse=True)
            shared = context.select(seen).shared_by(place)
            logits = model.match_pairs(shared, hidden, mask).float()
            similar = torch.as_tensor(cosine[chosen], device=model.device)
            scores[chosen] = model.rerank_score(logits, similar).cpu().numpy()
        progress("pairs", int(high), len(picture))
    return scores


def as_array(features: Tensor, what: str) -> Float[np.ndarray, "B E"]:
    """Features or logits as float32 on the CPU.

    Raises:
        FloatingPointError: some are not finite; ranks and classes would mean nothing.
    """
    array = features.float().cpu().numpy()
    if not np.isfinite(array).all():
        raise FloatingPointError(f"what the model makes of {what} is not finite: its weights are broken")
    return array


def tensor_bytes(value: Any) -> int:
    """Bytes of all tensors in a nest of dataclasses and sequences."""
    if isinstance(value, Tensor):
        return value.numel() * value.element_size()
    if is_dataclass(value):
        return sum(tensor_bytes(getattr(value, f.name)) for f in fields(value))
    return sum(map(tensor_bytes, value)) if isinstance(value, list | tuple) else 0
