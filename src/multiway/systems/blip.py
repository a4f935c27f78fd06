"""BLIP: bootstrapping language-image pre-training (Li et al. 2022, arXiv:2201.12086), figure 2.

```
       ITC                        ITM                           LM
        |                          |                             |
+----------------+      +--------------------+      +------------------------+
| feed-forward   |      | feed-forward       |      | feed-forward           |
|                |      | cross-attention <--|------| cross-attention <-- image tokens
| self-attention |      | self-attention     |      | causal self-attention  |
+----------------+      +--------------------+      +------------------------+
        |                          |                             |
 [CLS] a dog ...            [ENC] a dog ...               [DEC] a dog ...

text encoder = grounded encoder; the decoder has a self-attention of its own and shares all the rest.
The image tower and the text encoder a second time as their own moving average: the momentum model, whose
features fill the queue and whose similarities are the soft targets of ITC.
```
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from multiway.batch import Batch
from multiway.core.block import Context
from multiway.core.gather import rank, world_size
from multiway.core.init import init_bert
from multiway.core.pooling import pool_text, pooled_positions
from multiway.objectives import language, matching
from multiway.systems.blip_config import BLIPConfig, network_config
from multiway.systems.captioning import Captioning
from multiway.systems.mae_heads import tower_classifier
from multiway.systems.med import Decoder, MEDEncoders, shift
from multiway.systems.momentum import Aligned, MomentumSystem, Similarities
from multiway.systems.momentum_state import MomentumState
from multiway.systems.towers import build_image_tower


@dataclass(frozen=True, kw_only=True)
class Draws:
    """The random choices of one step: rows of negatives, as ALBEF's; None is drawn."""

    negative_image: Tensor | None = None
    negative_text: Tensor | None = None


@dataclass(frozen=True)
class Figure(Aligned):
    """Every box of one step, so that tests can look at them."""

    drawn_by: Similarities | None = None  # log-probabilities of the candidates
    fused: Tensor | None = None  # [P, T, D], pairs in the order of `matching.pairs`
    itm_logits: Tensor | None = None
    itm_labels: Tensor | None = None
    lm_hidden: Tensor | None = None  # [B, T, D]
    lm_labels: Tensor | None = None  # [B, T - 1]


State = MomentumState[MEDEncoders]


class BLIP(Captioning, MomentumSystem[MEDEncoders]):
    """BLIP's networks and losses.

    Args:
        image_tower: the module, when `config.image.name` is "user".
    """

    def __init__(self, config: BLIPConfig, image_tower: nn.Module | None = None):
        super().__init__()
        self.config, self.has_itm = config, bool(config.itm_weight)
        tower, text = build_image_tower(config.image, image_tower), config.text
        self.encoders = MEDEncoders(
            tower, text, config.embed_dim, text_pooling=config.text_pooling, null_token=config.null_token
        )
        self.decoder = None
        if config.lm_weight:
            self.decoder = Decoder(text, context_width=tower.width, tied_to=self.encoders.med)
        self.itm_head = nn.Linear(text.width, 2)
        self.temperature = nn.Parameter(torch.tensor(config.temperature))
        self.image_size, self.image_mean, self.image_std = tower.image_size, tower.image_mean, tower.image_std
        layers = [f"encoders.text.fusion.{i}." for i in range(text.fusion_layers)]
        cross = tuple(layer + part for layer in layers for part in ("cross.", "norm_cross."))
        alone = tuple(layer + part for layer in layers for part in ("attention.", "norm1.", "ffn.", "norm2."))
        self.parts = {
            "vision": ("encoders.image_tower.", "encoders.pool.", "encoders.image_proj."),
            "text": ("encoders.text.embed.", "encoders.text_proj.", *alone),
            "interaction": ("decoder.", "itm_head.", *cross),
        }

    def fine_tuning(self, task: str, labels: tuple[str, ...] = ()) -> Any:
        if task == "classify":
            return tower_classifier(self.config.image, labels)
        found = network_config(self.config, task, labels)
        return super().fine_tuning(task, labels) if found is None else found

    # --- the figure

    def losses(
        self, batch: Batch, state: State, draws: Draws | None = None, generator: torch.Generator | None = None
    ) -> dict[str, Tensor]:
        return self.figure(batch, state, draws, generator).losses

    def figure(
        self, batch: Batch, state: State, draws: Draws | None = None, generator: torch.Generator | None = None
    ) -> Figure:
        """One forward of models/blip_pretrain.py (and blip_retrieval.py), box by box."""
        config, encoders, draws = self.config, self.encoders, draws or Draws()
        ids, mask = batch.text()

        # Text encoder and image tower, the momentum model's too; ITC with its soft targets and its queue.
        aligned = self.align(batch, state)
        own, sims, losses = aligned.own, aligned.sims, aligned.losses
        if not (config.itm_weight or config.lm_weight):
            return Figure(own, aligned.own_m, sims, losses)

        # What the texts look at: keys and values of each picture, once for ITM's three pairs and for LM.
        wide = self.wide or (config.negative_all_rank and world_size() > 1)
        context = encoders.context(self.candidates(own.image_embeds, wide=wide))

        # ITM: texts are read again, grounded, with [ENC] first: the pairs, and hard negatives of each side.
        drawn_by = fused = logits = labels = None
        if config.itm_weight:
            features, online = (own.image_features, own.text_features), config.negatives_by == "batch"
            drawn_by = self.drawn_by(
                batch, sims, *features, online=online, floor=config.negative_floor, wide=wide
            )
            pairs = self.pairs(drawn_by, draws.negative_text, draws.negative_image, generator)
            texts = self.candidates(self.grounded(ids), "none", ragged=True, wide=wide)[pairs.text]
            masks = self.candidates(mask, "none", ragged=True, wide=wide)[pairs.text]
            read = pooled_positions(masks, config.match_pooling)
            fused = encoders.med(texts, masks, context.shared_by(pairs.image), read=read)
            logits, labels = self._match(fused, masks), pairs.labels
            losses["itm"] = matching.itm(logits, labels, count=self.labelled(labels))
            losses["loss"] = losses["loss"] + config.itm_weight * losses["itm"]

        # LM: the decoder reads its own pictures' texts causally; the head where a word follows.
        lm_hidden = lm_labels = None
        if self.decoder is not None:
            if wide:
                context = context.select(rank() * len(ids) + torch.arange(len(ids), device=ids.device))
            lm_hidden, lm_labels = self.decoder(self.started(ids), mask, context), shift(ids, mask)
            known = lm_labels != -100
            losses["lm"] = language.lm(
                self.decoder.logits(lm_hidden[:, :-1][known]),
                lm_labels[known],
                smoothing=config.label_smoothing,
                count=self.labelled(lm_labels),
            )
            losses["loss"] = losses["loss"] + config.lm_weight * losses["lm"]

        matched = (drawn_by, fused, logits, labels)
        return Figure(own, aligned.own_m, sims, losses, *matched, lm_hidden, lm_labels)

    # --- tokens, state, and two-stage retrieval

    def grounded(self, input_ids: Int[Tensor, "B T"]) -> Int[Tensor, "B T"]:
        """Token ids as the grounded encoder reads them, [ENC] first."""
        return input_ids if "itm_reads_cls" in self.config.compat else self.first(input_ids, self.enc_id)

    #: Parts of the momentum model that the official code drew apart from the online one's.
    _tied: tuple[str, ...] = ("words", "positions", "types", "norm", "cross", "norm_cross", "ffn", "norm2")

    def init_state(self, *, steps_per_epoch: int = 1) -> State:
        state = super().init_state(steps_per_epoch=steps_per_epoch)
        if "momentum_before_tying" in self.config.compat and state.encoders is not None:
            for part in (state.encoders.text.embed, *state.encoders.text.fusion):
                for name, module in part.named_children():
                    if name in self._tied:
                        init_bert(module)
        return state

    def adopt(self, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
        """A related system's tensors; where it had no decoder, the encoder's self-attention begins one."""
        self._tied = ()  # a checkpoint's network has its own moving average
        if self.decoder is None or any(name.startswith("decoder.") for name in tensors):
            return tensors
        text = {n: t for n, t in tensors.items() if n.startswith("encoders.text.fusion.")}
        own = {n: t for n, t in text.items() if ".attention." in n or ".norm1." in n}
        return tensors | {n.replace("encoders.text.", "decoder."): t for n, t in own.items()}

    def start_from_text(self) -> None:
        self._tied = ("cross", "norm_cross")  # of the rest the tied networks have the same weights
        if self.decoder is not None:
            self.decoder.start_from(self.encoders.med)

    def decays(self, name: str, parameter: nn.Parameter) -> bool:
        """All of them, biases and gains too (BLIP, pretrain.py)."""
        return True

    def text_context(
        self, input_ids: Int[Tensor, "B T"], attention_mask: Int[Tensor, "B T"]
    ) -> tuple[Float[Tensor, "B E"], Int[Tensor, "B T"]]:
        """ITC features, and the ids themselves: matching reads the text again, grounded."""
        hidden = self.encoders.med(input_ids, attention_mask)
        return self.encoders.text_feature(hidden, attention_mask), input_ids

    def match_pairs(
        self, context: Context, hidden: Int[Tensor, "P T"], attention_mask: Int[Tensor, "P T"]
    ) -> Float[Tensor, "P 2"]:
        """`hidden` are token ids, as `text_context` gave them."""
        read = pooled_positions(attention_mask, self.config.match_pooling)
        fused = self.encoders.med(self.grounded(hidden), attention_mask, context, read=read)
        return self._match(fused, attention_mask)

    def match_maps(
        self,
        image: Float[Tensor, "B 3 H W"],
        input_ids: Int[Tensor, "B T"],
        attention_mask: Int[Tensor, "B T"],
    ) -> tuple[Float[Tensor, "B 2"], list[Tensor]]:
        words = self.encoders.med.embed(self.grounded(input_ids))
        fused, maps = self.encoders.fused_with_maps(image, words, attention_mask)
        return self._match(fused, attention_mask), maps

    def rerank_score(self, logits: Float[Tensor, "P 2"], cosine: Float[Tensor, " P"]) -> Float[Tensor, " P"]:
        if self.config.rerank == "itm+itc":
            return logits[:, 1] - logits[:, 0] + cosine / self.temperature.detach()
        return logits[:, 1] + cosine if self.config.rerank == "itm+cosine" else logits[:, 1]

    def _match(self, fused: Float[Tensor, "P T D"], mask: Int[Tensor, "P T"]) -> Float[Tensor, "P 2"]:
        return self.itm_head(pool_text(fused, mask, self.config.match_pooling))

    # --- captions

    def caption_context(self, image: Float[Tensor, "B 3 H W"]) -> Context:
        return self.encoders.context(self.image_tower(image))
