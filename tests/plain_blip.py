"""BLIP's step in the official code's schedule of work: what the fast step must equal.

Same modules, weights, losses and gradients; but every pass on its own, on padded texts, with attention maps:
pairs, negatives and captions each project keys and values of their own pictures, the head reads every
position, and ITC's soft targets are dense over the queue. Source: models/blip_pretrain.py.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from multiway.batch import Batch
from multiway.core import masks
from multiway.core.block import Stack
from multiway.systems.blip import BLIP, Draws, State


class PlainBLIP(BLIP):
    """One process, local negatives, `positives="pair"`, given draws."""

    def losses(
        self, batch: Batch, state: State, draws: Draws | None = None, generator: torch.Generator | None = None
    ) -> dict[str, Tensor]:
        encoders, momentum, text, decoder = self.encoders, state.encoders, self.encoders.med, self.decoder
        (ids, mask), alpha, size = batch.text(), state.alpha.to(self.temperature), len(batch)

        image_embeds = encoders.image_tower.rest(batch.need("image"), maps=[])
        image_feature = encoders.image_feature(image_embeds)
        text_feature = encoders.text_feature(read(text.embed, text.fusion, ids, mask), mask)
        with torch.no_grad():
            image_feature_m = momentum.image_feature(momentum.image_tower.rest(batch.image, maps=[]))
            hidden_m = read(momentum.text.embed, momentum.text.fusion, ids, mask)
            text_feature_m = momentum.text_feature(hidden_m, mask)
            image_all = torch.cat([image_feature_m.T, state.queue.image.T], dim=1)
            text_all = torch.cat([text_feature_m.T, state.queue.text.T], dim=1)
            own = torch.zeros(size, image_all.shape[1]).fill_diagonal_(1)
            targets = [
                alpha * (feature @ others / self.temperature).softmax(1) + (1 - alpha) * own
                for feature, others in ((image_feature_m, text_all), (text_feature_m, image_all))
            ]
        sims = image_feature @ text_all / self.temperature, text_feature @ image_all / self.temperature
        i2t, t2i = (-(s.log_softmax(1) * t).sum(1).mean() for s, t in zip(sims, targets, strict=True))
        itc = (i2t + t2i) / 2

        enc_ids = ids.clone()
        enc_ids[:, 0] = self.enc_id
        n_text, n_image = draws.negative_text, draws.negative_image

        def grounded(texts: Tensor, rows: Tensor, pictures: Tensor) -> Tensor:
            return read(text.embed, text.fusion, texts, rows, text.fusion.context(pictures))[:, 0]

        matched = grounded(enc_ids, mask, image_embeds)
        other = grounded(
            torch.cat([enc_ids, enc_ids[n_text]]),
            torch.cat([mask, mask[n_text]]),
            torch.cat([image_embeds[n_image], image_embeds]),
        )
        labels = torch.cat([torch.ones(size), torch.zeros(2 * size)]).long()
        itm = F.cross_entropy(self.itm_head(torch.cat([matched, other])), labels)

        dec_ids = ids.clone()
        dec_ids[:, 0] = self.dec_id
        context = decoder.fusion.context(image_embeds)
        hidden = read(decoder.embed, decoder.fusion, dec_ids, mask, context, causal=True)
        targets = dec_ids.masked_fill(mask == 0, -100)[:, 1:]
        logits = decoder.logits(hidden)[:, :-1]
        smoothing = self.config.label_smoothing
        lm = F.cross_entropy(logits.flatten(0, 1), targets.flatten(), label_smoothing=smoothing)

        return {
            "itc": itc,
            "itc_i2t": i2t,
            "itc_t2i": t2i,
            "itm": itm,
            "lm": lm,
            "loss": itc + itm + lm,
            "enqueue/image": image_feature_m,
            "enqueue/text": text_feature_m,
            "enqueue/ids": self.queued_ids(batch),
        }


def read(embed, stack: Stack, ids: Tensor, mask: Tensor, context=None, *, causal: bool = False) -> Tensor:
    """A stack on padded texts, with its attention maps formed."""
    seen = masks.padding(mask)
    if causal:
        seen = seen & masks.causal(ids.shape[1])
    return stack(embed(ids), mask=seen, context=context, maps=[])
