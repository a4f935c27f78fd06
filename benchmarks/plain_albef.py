"""ALBEF's pre-training step in the official code's schedule of work: the yardstick of the fast step.

Same modules, weights, losses and gradients; but every pass on its own, as in models/model_pretrain.py:

- attention forms its maps, on padded texts;
- pairs, negatives and masked texts go through the fusion layers one after the other, each projecting keys and
  values of its own pictures;
- the head for words reads every position;
- ITC's soft targets are dense over the queue;
- the momentum model moves parameter by parameter.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from multiway.batch import Batch
from multiway.core import masks
from multiway.systems.albef import ALBEF, Draws, State
from multiway.systems.encoders import Encoders
from multiway.systems.masking import mask_words


class Forgetful(list):
    """Asks attention for its maps, and keeps none of them."""

    def append(self, item: Tensor) -> None:
        pass


class PlainALBEF(ALBEF):
    """One process, local negatives, `positives="pair"`."""

    def losses(
        self, batch: Batch, state: State, draws: Draws | None = None, generator: torch.Generator | None = None
    ) -> dict[str, Tensor]:
        encoders, momentum, config, draws = self.encoders, state.encoders, self.config, draws or Draws()
        (ids, mask), alpha = batch.text(), state.alpha.to(self.temperature)

        image_embeds = encoders.image_tower.rest(batch.need("image"), maps=Forgetful())
        image_feature = encoders.image_feature(image_embeds)
        text_embeds = read(encoders, ids, mask)
        text_feature = encoders.text_feature(text_embeds, mask)

        with torch.no_grad():
            image_embeds_m = momentum.image_tower.rest(batch.need("image"), maps=Forgetful())
            image_feature_m = momentum.image_feature(image_embeds_m)
            text_feature_m = momentum.text_feature(read(momentum, ids, mask), mask)
            image_all = torch.cat([image_feature_m.T, state.queue.image.T], dim=1)
            text_all = torch.cat([text_feature_m.T, state.queue.text.T], dim=1)
            sim_i2t_m = image_feature_m @ text_all / self.temperature
            sim_t2i_m = text_feature_m @ image_all / self.temperature
            own = torch.zeros_like(sim_i2t_m).fill_diagonal_(1)
            i2t_targets = alpha * sim_i2t_m.softmax(1) + (1 - alpha) * own
            t2i_targets = alpha * sim_t2i_m.softmax(1) + (1 - alpha) * own

        sim_i2t = image_feature @ text_all / self.temperature
        sim_t2i = text_feature @ image_all / self.temperature
        loss_i2t = -(sim_i2t.log_softmax(1) * i2t_targets).sum(1).mean()
        loss_t2i = -(sim_t2i.log_softmax(1) * t2i_targets).sum(1).mean()
        itc = (loss_i2t + loss_t2i) / 2

        negative_text, negative_image = draws.negative_text, draws.negative_image
        size = len(ids)
        with torch.no_grad():
            if negative_text is None:
                weights = sim_i2t[:, :size].softmax(1).fill_diagonal_(0)
                negative_text = torch.multinomial(weights, 1, generator=generator).squeeze(1)
            if negative_image is None:
                weights = sim_t2i[:, :size].softmax(1).fill_diagonal_(0)
                negative_image = torch.multinomial(weights, 1, generator=generator).squeeze(1)
        positive = fuse(encoders, text_embeds, mask, image_embeds)
        negative = fuse(
            encoders,
            torch.cat([text_embeds, text_embeds[negative_text]]),
            torch.cat([mask, mask[negative_text]]),
            torch.cat([image_embeds[negative_image], image_embeds]),
        )
        pairs = torch.cat([positive[:, 0], negative[:, 0]])
        labels = torch.cat([ids.new_ones(size), ids.new_zeros(2 * size)])
        itm = F.cross_entropy(self.itm_head(pairs), labels)

        mlm_ids, mlm_labels = draws.mlm_input_ids, draws.mlm_labels
        if mlm_ids is None:
            mlm_ids, mlm_labels = mask_words(self.tokenizer, ids, mask, config, generator)
        with torch.no_grad():
            logits_m = momentum.words(fuse(momentum, read(momentum, mlm_ids, mask), mask, image_embeds_m))
        logits = encoders.words(fuse(encoders, read(encoders, mlm_ids, mask), mask, image_embeds))
        hard = F.cross_entropy(logits.flatten(0, 1), mlm_labels.flatten())
        soft = -(logits.log_softmax(-1) * logits_m.softmax(-1)).sum(-1)[mlm_labels != -100].mean()
        mlm = (1 - alpha) * hard + alpha * soft

        return {
            "itc": itc,
            "itc_i2t": loss_i2t,
            "itc_t2i": loss_t2i,
            "itm": itm,
            "mlm": mlm,
            "loss": itc + config.itm_weight * itm + config.mlm_weight * mlm,
            "enqueue/image": image_feature_m,
            "enqueue/text": text_feature_m,
            "enqueue/ids": self.queued_ids(batch),
        }

    @torch.no_grad()
    def begin(self, state: State) -> None:
        if self.config.temperature_range is not None:
            self.temperature.clamp_(*self.config.temperature_range)
        pairs = zip(self.encoders.parameters(), state.encoders.parameters(), strict=True)
        for parameter, average in pairs:
            average.copy_(average * self.config.momentum + parameter * (1 - self.config.momentum))


def read(encoders: Encoders, ids: Tensor, mask: Tensor) -> Tensor:
    """The text layers on padded texts."""
    text = encoders.text
    return text.text(text.embed(ids), mask=masks.padding(mask), maps=Forgetful())


def fuse(encoders: Encoders, hidden: Tensor, mask: Tensor, image_embeds: Tensor) -> Tensor:
    """The fusion layers on padded texts, keys and values projected from a picture for every text."""
    text = encoders.text
    return text.fuse(hidden, mask, text.fusion.context(image_embeds), maps=Forgetful())
