"""What every system is fed: one batch of pictures, texts, or pairs."""

from __future__ import annotations

from dataclasses import dataclass, fields, replace

import torch
from jaxtyping import Float, Int
from torch import Tensor

from multiway.errors import UserError


class Missing(UserError):
    """A batch has not what a system reads of it."""


@dataclass(frozen=True, kw_only=True)
class Batch:
    """Pictures, texts or pairs; row b of every field belongs to the same sample.

    Attributes:
        image: `[B, 3, H, W]` float, normalised by the image tower's mean and std; `[B, 2, 3, H, W]` where a
            sample has two pictures.
        image_prefix: `[B, ...]` cached output of the image tower's frozen prefix; `image` is then None.
        has_image: `[B]` bool, which rows have a picture; the others' are zeros. None: all, if there are any.
        input_ids: `[B, T]` int64 token ids; a row without a text is padding alone.
        attention_mask: `[B, T]` int64, 1 = real token.
        ids: `[B]` int64; rows with equal ids are positives of each other.
        labels: `[B]` int64, the class of each sample.
        targets: `[B, C]` float, the share of agreement with each class, 0..1 (VQA).
        weights: `[B]` float, weight of each sample in a task's loss.
        answer_ids, answer_mask: `[B, K, T]` up to K answers to each question, start and end token included;
            a row without an answer is padding alone. answer_weights: `[B, K]` their shares of the annotators.
        keys: the samples' keys in their source.
        source: the name of each sample's source.
    """

    image: Tensor | None = None
    image_prefix: Tensor | None = None
    has_image: Tensor | None = None
    input_ids: Tensor | None = None
    attention_mask: Tensor | None = None
    ids: Tensor | None = None
    labels: Tensor | None = None
    targets: Tensor | None = None
    weights: Tensor | None = None
    answer_ids: Tensor | None = None
    answer_mask: Tensor | None = None
    answer_weights: Tensor | None = None
    keys: tuple[str, ...] = ()
    source: tuple[str, ...] = ()

    def __len__(self) -> int:
        return next(len(t) for t in self._tensors().values())

    def need(self, name: str) -> Tensor:
        """A field that its user can't do without.

        Raises:
            Missing: the batch has none.
        """
        value = getattr(self, name)
        if value is None:
            raise Missing(
                f"this batch has no {name}, which the system's losses need: name sources in data.train that "
                "have it"
            )
        return value

    def pictures(self) -> Tensor:
        """The pictures of all rows.

        Raises:
            UserError: the batch has none, or rows without one.
        """
        if self.has_image is not None:
            raise UserError(
                "some rows have no picture, and these losses need one of each: leave texts alone out of "
                "data.train"
            )
        return self.need("image")

    def text(self) -> tuple[Int[Tensor, "B T"], Int[Tensor, "B T"]]:
        """Token ids and attention mask.

        Raises:
            UserError: the batch has no texts.
        """
        return self.need("input_ids"), self.need("attention_mask")

    def answers(
        self,
    ) -> tuple[Int[Tensor, "A T"], Int[Tensor, "A T"], Int[Tensor, " A"], Float[Tensor, " A"]]:
        """Ids and mask of all answers one after the other, the row that each belongs to, and its weight.

        Raises:
            UserError: the batch has no answers.
        """
        ids, mask = self.need("answer_ids"), self.need("answer_mask")
        real = mask.any(-1)
        return ids[real], mask[real], real.nonzero()[:, 0], self.need("answer_weights")[real]

    def _tensors(self) -> dict[str, Tensor]:
        values = {f.name: getattr(self, f.name) for f in fields(self)}
        return {name: value for name, value in values.items() if isinstance(value, Tensor)}

    def to(self, device: torch.device | str) -> Batch:
        """The same batch on `device`."""
        return replace(self, **{k: v.to(device) for k, v in self._tensors().items()})

    def split(self, parts: int) -> list[Batch]:
        """`parts` equal micro-batches for gradient accumulation, each text cut to its part's longest.

        Raises:
            ValueError: `parts` does not divide the batch.
        """
        size, rest = divmod(len(self), parts)
        if rest:
            raise ValueError(f"a batch of {len(self)} can't be split into {parts} equal parts")
        return [self._rows(slice(i * size, (i + 1) * size)) for i in range(parts)]

    def _rows(self, rows: slice) -> Batch:
        values = {k: v[rows] for k, v in self._tensors().items()}
        if self.attention_mask is not None and self.input_ids is not None:
            longest = max(int(values["attention_mask"].sum(1).max()), 1)
            values["input_ids"] = values["input_ids"][:, :longest]
            values["attention_mask"] = values["attention_mask"][:, :longest]
        return replace(self, **values, keys=self.keys[rows], source=self.source[rows])
