"""What ALBEF and BLIP share: a momentum model, the queue of its features, and ITC against both."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Generic, NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from multiway.batch import Batch
from multiway.core.block import Context
from multiway.core.gather import Gradient, mean_over_ranks, rank
from multiway.core.momentum import ema_update
from multiway.objectives import contrastive, matching
from multiway.systems.candidates import Candidates
from multiway.systems.encoders import Unimodal
from multiway.systems.image_tower import ImageTower
from multiway.systems.looking import Looking
from multiway.systems.momentum_state import E, MomentumState


class Similarities(NamedTuple):
    """ITC's matrices over temperature: this rank's rows against the batch, then the queue, as columns."""

    image_to_text: Float[Tensor, "B N"]
    text_to_image: Float[Tensor, "B N"]
    teacher: tuple[Float[Tensor, "B N"], Float[Tensor, "B N"]] | None
    positive: Bool[Tensor, "B N"]
    batch: int
    """Columns that are the batch: the candidates of hard negatives."""
    first: int
    """The column of row 0's own pair."""


@dataclass(frozen=True)
class Aligned:
    """A step before the modalities meet: both models' features, and ITC."""

    own: Unimodal
    own_m: Unimodal  # the momentum model's; `own` itself without one
    sims: Similarities
    losses: dict[str, Tensor]


class MomentumSystem(Looking, Candidates, Generic[E]):
    """A system with `encoders`, `temperature`, and a `MomentumConfig`."""

    encoders: E
    temperature: nn.Parameter

    @property
    def image_tower(self) -> ImageTower:
        return self.encoders.image_tower

    def init_state(self, *, steps_per_epoch: int = 1) -> MomentumState[E]:
        config = self.config
        encoders = None if config.momentum is None else self.encoders
        ramp = config.alpha_ramp_epochs * steps_per_epoch
        return MomentumState(encoders, config.queue_size, config.embed_dim, config.alpha, ramp).to(
            self.device
        )

    # The official forward clamps, moves the average, computes the losses, then enqueues. Here the enqueue
    # follows the optimizer's step, and the next forward's clamp and average follow it: the same order, once a
    # step.

    @torch.no_grad()
    def begin(self, state: MomentumState[E]) -> None:
        if self.config.temperature_range is not None:
            self.temperature.clamp_(*self.config.temperature_range)
        if state.encoders is not None:
            ema_update(self.encoders, state.encoders, self.config.momentum)

    @torch.no_grad()
    def advance(self, state: MomentumState[E], outputs: Sequence[dict[str, Tensor]]) -> None:
        if state.encoders is not None:
            names = ("enqueue/image", "enqueue/text", "enqueue/ids")
            state.queue.enqueue(*(torch.cat([out[name] for out in outputs]) for name in names))
        state.step += 1
        self.begin(state)

    def align(
        self, batch: Batch, state: MomentumState[E], mlm_input_ids: Int[Tensor, "B T"] | None = None
    ) -> Aligned:
        """Unimodal encoders, and ITC against the batch's momentum features and the queue."""
        (ids, mask), momentum = batch.text(), state.encoders
        prefix = self.encoders.image_tower.batch_prefix(batch)  # frozen: shared with the momentum model
        own = own_m = self.encoders(prefix, ids, mask, mlm_input_ids)
        if momentum is not None:
            with torch.no_grad():
                own_m = momentum(prefix, ids, mask, mlm_input_ids)
        image_m, text_m = own_m.image_features, own_m.text_features
        sims = self.similarities(batch, state, own.image_features, own.text_features, image_m, text_m)
        pair = sims.image_to_text, sims.text_to_image
        options = {"positive": sims.positive, "teacher": sims.teacher, "alpha": state.alpha}
        loss_i2t, loss_t2i = contrastive.itc(*pair, **options)
        losses = {"itc": (loss_i2t + loss_t2i) / 2, "itc_i2t": loss_i2t, "itc_t2i": loss_t2i}
        losses["loss"] = losses["itc"]
        if momentum is not None:
            losses["enqueue/image"], losses["enqueue/text"] = image_m, text_m
            losses["enqueue/ids"] = self.queued_ids(batch)
        return Aligned(own, own_m, sims, losses)

    def similarities(
        self,
        batch: Batch,
        state: MomentumState[E],
        image_features: Float[Tensor, "B E"],
        text_features: Float[Tensor, "B E"],
        image_features_m: Float[Tensor, "B E"],
        text_features_m: Float[Tensor, "B E"],
    ) -> Similarities:
        """Online features against the batch's momentum features and the queue as it was before this step.

        Without a momentum model the candidates are the online features, with gradient to both sides.
        """
        size = len(image_features)
        gradient: Gradient = "none" if state.encoders is not None else "sum"
        images, texts = (
            self.candidates(image_features_m, gradient),
            self.candidates(text_features_m, gradient),
        )
        first = rank() * size if self.wide else 0
        image_all, text_all = torch.cat([images, state.queue.image]), torch.cat([texts, state.queue.text])
        teacher = None
        if state.encoders is not None and self.config.alpha:
            with torch.no_grad():
                teacher = (
                    contrastive.similarity(image_features_m, text_all) / self.temperature,
                    contrastive.similarity(text_features_m, image_all) / self.temperature,
                )
        if self.config.positives == "ids":
            ids = batch.need("ids")
            positive = contrastive.positives(ids, torch.cat([self.candidates(ids, "none"), state.queue.ids]))
        else:
            rows = torch.arange(first, first + size, device=images.device)
            positive = contrastive.positives(rows, torch.arange(len(image_all), device=images.device))
        return Similarities(
            contrastive.similarity(image_features, text_all) / self.temperature,
            contrastive.similarity(text_features, image_all) / self.temperature,
            teacher,
            positive,
            len(images),
            first,
        )

    @torch.no_grad()
    def drawn_by(
        self,
        batch: Batch,
        sims: Similarities,
        image_features: Float[Tensor, "B E"],
        text_features: Float[Tensor, "B E"],
        *,
        online: bool,
        floor: float,
        wide: bool,
    ) -> Similarities:
        """By what BLIP draws hard negatives: log-probabilities over the batch, for `pairs`.

        Args:
            online: compare online features with online ones, not with the momentum model's as ITC does.
            floor: added to every probability. wide: over the batches of all ranks.
        """
        size, first, columns = len(image_features), rank() * len(image_features) if wide else 0, sims.batch
        image_to_text, text_to_image = sims.image_to_text[:, :columns], sims.text_to_image[:, :columns]
        positive = sims.positive[:, :columns]
        if online or wide != self.wide:
            images, texts = (self.candidates(x, "none", wide=wide) for x in (image_features, text_features))
            image_to_text = contrastive.similarity(image_features, texts) / self.temperature
            text_to_image = contrastive.similarity(text_features, images) / self.temperature
            numbers = torch.arange(first, first + size, device=images.device)
            ids = batch.need("ids") if self.config.positives == "ids" else numbers
            positive = contrastive.positives(ids, self.candidates(ids, "none", wide=wide))
        scores = [s.log_softmax(1) for s in (image_to_text, text_to_image)]
        if floor:
            scores = [(s.exp() + floor).log() for s in scores]
        return Similarities(scores[0], scores[1], None, positive, positive.shape[1], first)

    def pairs(
        self,
        sims: Similarities,
        negative_text: Int[Tensor, " B *K"] | None,
        negative_image: Int[Tensor, " B *K"] | None,
        generator: torch.Generator | None,
    ) -> matching.Pairs:
        """ITM's pairs of rows of the batch's candidates; negatives that are None are drawn by `sims`."""
        batch = slice(0, sims.batch)
        config = self.config
        options = {"generator": generator, "hardest": config.hardest, "count": config.hard_negatives}
        forbidden = sims.positive[:, batch]
        if negative_text is None:
            negative_text = matching.hard_negatives(sims.image_to_text[:, batch], forbidden, **options)
        if negative_image is None:
            negative_image = matching.hard_negatives(sims.text_to_image[:, batch], forbidden, **options)
        own = torch.arange(sims.first, sims.first + len(forbidden), device=forbidden.device)
        size = len(own)
        return matching.pairs(own, negative_text.reshape(size, -1), negative_image.reshape(size, -1))

    def labelled(self, labels: Int[Tensor, "..."]) -> Float[Tensor, ""] | None:
        """The all-rank mean number of labels that are not -100; None where each rank's own mean is meant."""
        if self.config.normalisation == "rank":
            return None
        return mean_over_ranks((labels != -100).sum().float())

    def queued_ids(self, batch: Batch) -> Int[Tensor, " B"]:
        """What the queue remembers of each row: its id, or -100 where its only positive is its own pair."""
        if self.config.positives == "ids":
            return batch.need("ids")
        return torch.full((len(batch),), -100, device=self.device)

    def image_context(self, image: Float[Tensor, "B 3 H W"]) -> tuple[Float[Tensor, "B E"], Context]:
        image_embeds = self.encoders.image_tower(image)
        return self.encoders.image_feature(image_embeds), self.encoders.context(image_embeds)

    def contrast_maps(
        self,
        image: Float[Tensor, "B 3 H W"],
        input_ids: Int[Tensor, "B T"],
        attention_mask: Int[Tensor, "B T"],
    ) -> tuple[Float[Tensor, "B B"], list[Tensor]]:
        features, maps = self.encoders.feature_with_maps(image)
        return features @ self.text_context(input_ids, attention_mask)[0].T / self.temperature, maps

    def text_context(
        self, input_ids: Int[Tensor, "B T"], attention_mask: Int[Tensor, "B T"]
    ) -> tuple[Float[Tensor, "B E"], Float[Tensor, "B T D"]]:
        hidden = self.encoders.text(input_ids, attention_mask)
        return self.encoders.text_feature(hidden, attention_mask), hidden
