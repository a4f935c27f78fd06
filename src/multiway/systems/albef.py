"""ALBEF: align before fuse (Li et al. 2021, arXiv:2107.07651), figure 1.

```
                            ITM  MLM
                             |    |
                    +------------------+
                    | fusion layers x6 |<--- cross-attention ---+
                    +------------------+                        |
                             |                                  |
    text features -- ITC --- | ------------ image features      |
          |   (hard negatives by its similarities)    |         |
    +------------------+                    +------------------+
    |  text layers x6  |                    |    image tower   |
    +------------------+                    +------------------+
             |                                       |
        [CLS] a dog ...                           picture

    the whole of it a second time as its own moving average: the momentum model, whose
    features fill the queue and whose predictions are the soft targets of ITC and MLM
```
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal, NamedTuple

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn

from multiway.batch import Batch
from multiway.core.block import Context
from multiway.core.gather import gather, gather_ragged, mean_over_ranks
from multiway.core.heads import WordHead
from multiway.core.pooling import AttentionPool, mean_pool
from multiway.objectives import contrastive, language, matching
from multiway.systems.bert import BertConfig, TextStack
from multiway.systems.momentum import MomentumState, MomentumSystem, Similarities
from multiway.systems.towers import BackboneConfig, build_image_tower
from multiway.systems.vit import ViTConfig
from multiway.text import TokenizerConfig


@dataclass(frozen=True, kw_only=True)
class ALBEFConfig:
    """ALBEF; the defaults are the official pre-training (configs/Pretrain.yaml).

    Attributes:
        embed_dim: width of the ITC features.
        temperature: initial value; `temperature_range` clamps it each step (None in retrieval fine-tuning).
        momentum: EMA decay of the momentum model; None trains without one: ITC is then in-batch, with gradient to
            both sides, and there is no queue and no teacher.
        queue_size: momentum features kept. alpha: weight of the momentum model's soft targets, ramped linearly
            over the first `alpha_ramp_epochs` epochs.
        mlm_weight: 0 for no MLM head (retrieval). mlm_probability: share of masked tokens.
        whole_word: mask whole words.
        positives: `pair`: only a picture's own text; `ids`: all rows with equal `batch.ids` (retrieval fine-tuning).
        hardest: take the most similar negative instead of drawing by similarity.
        negatives: candidates of ITC and ITM from this rank's batch (official) or from all ranks'.
        normalisation: MLM's mean over this rank's masked tokens (official) or over all ranks'.
        text_pooling: the text feature from [CLS] (official) or from the mean of all tokens.
    """

    system: Literal["albef"] = "albef"
    image: ViTConfig | BackboneConfig = field(default_factory=ViTConfig)
    text: BertConfig = field(default_factory=BertConfig)
    tokenizer: TokenizerConfig = field(default_factory=TokenizerConfig)
    embed_dim: int = 256
    temperature: float = 0.07
    temperature_range: tuple[float, float] | None = (0.001, 0.5)
    momentum: float | None = 0.995
    queue_size: int = 65536
    alpha: float = 0.4
    alpha_ramp_epochs: int = 1
    itm_weight: float = 1.0
    mlm_weight: float = 1.0
    mlm_probability: float = 0.15
    whole_word: bool = False
    positives: Literal["pair", "ids"] = "pair"
    hardest: bool = False
    negatives: Literal["local", "global"] = "local"
    normalisation: Literal["rank", "global"] = "rank"
    text_pooling: Literal["cls", "mean"] = "cls"


@dataclass(frozen=True, kw_only=True)
class Draws:
    """The random choices of one step; None is drawn.

    Attributes:
        negative_image: `[B]` for each text, the row of its negative picture; `negative_text` likewise.
            Rows of the global batch with `negatives="global"`; -1 for none.
        mlm_input_ids, mlm_labels: `[B, T]` ids after masking, and labels with -100 where nothing is predicted.
    """

    negative_image: Tensor | None = None
    negative_text: Tensor | None = None
    mlm_input_ids: Tensor | None = None
    mlm_labels: Tensor | None = None


class Figure(NamedTuple):
    """Every box of one pre-training step, so that tests can look at them; `_m` is the momentum model's."""

    image_embeds: Tensor
    image_features: Tensor
    text_embeds: Tensor
    text_features: Tensor
    image_features_m: Tensor
    text_features_m: Tensor
    sims: Similarities
    fused: Tensor  # [3B, T, D]: pairs; texts with negative pictures; negative texts with pictures
    itm_logits: Tensor
    itm_labels: Tensor
    mlm_hidden: Tensor | None  # [B, T, D]
    mlm_hidden_m: Tensor | None
    losses: dict[str, Tensor]


class Encoders(nn.Module):
    """All that the momentum model copies: image tower, text stack, projections and the MLM head."""

    def __init__(self, config: ALBEFConfig, image_tower: nn.Module | None = None):
        super().__init__()
        self.image_tower = build_image_tower(config.image, image_tower)
        width = self.image_tower.width
        self.pool = AttentionPool(width, config.text.width) if self.image_tower.pooled_index is None else None
        self.text = TextStack(config.text, context_width=width)
        self.image_proj = nn.Linear(width if self.pool is None else config.text.width, config.embed_dim)
        self.text_proj = nn.Linear(config.text.width, config.embed_dim)
        self.mlm_head = None
        if config.mlm_weight:
            self.mlm_head = WordHead(config.text.width, config.text.vocab_size, eps=config.text.eps)
            nn.init.normal_(self.mlm_head.dense.weight, std=0.02)
            nn.init.zeros_(self.mlm_head.dense.bias)
        self.text_pooling = config.text_pooling

    def image_feature(self, image_embeds: Float[Tensor, "B N C"]) -> Float[Tensor, "B E"]:
        """The normalised ITC feature of a picture's tokens."""
        pooled = (
            image_embeds[:, self.image_tower.pooled_index] if self.pool is None else self.pool(image_embeds)
        )
        return F.normalize(self.image_proj(pooled), dim=-1)

    def text_feature(
        self, text_embeds: Float[Tensor, "B T D"], attention_mask: Int[Tensor, "B T"]
    ) -> Float[Tensor, "B E"]:
        """The normalised ITC feature of a text's hidden states."""
        pooled = text_embeds[:, 0] if self.text_pooling == "cls" else mean_pool(text_embeds, attention_mask)
        return F.normalize(self.text_proj(pooled), dim=-1)

    def words(self, hidden: Float[Tensor, "*P D"]) -> Float[Tensor, "*P V"]:
        """Logits over the vocabulary, tied to the word embeddings."""
        assert self.mlm_head is not None
        return self.mlm_head(hidden, self.text.embed.words.weight)


class ALBEF(MomentumSystem):
    """ALBEF's networks and pre-training losses; with `mlm_weight=0` and `positives="ids"`, its retrieval fine-tuning.

    Args:
        image_tower: the module, when `config.image.name` is "user".
    """

    has_itm = True
    parts = {
        "vision": ("encoders.image_tower.", "encoders.pool.", "encoders.image_proj."),
        "text": ("encoders.text.embed.", "encoders.text.text.", "encoders.text_proj."),
        "interaction": ("encoders.text.fusion.", "encoders.mlm_head.", "itm_head."),
    }

    def __init__(self, config: ALBEFConfig, image_tower: nn.Module | None = None):
        super().__init__()
        self.config = config
        self.encoders = Encoders(config, image_tower)
        self.itm_head = nn.Linear(config.text.width, 2)
        self.temperature = nn.Parameter(torch.tensor(config.temperature))
        tower = self.encoders.image_tower
        self.image_size, self.image_mean, self.image_std = tower.image_size, tower.image_mean, tower.image_std

    @property
    def image_tower(self) -> nn.Module:
        return self.encoders.image_tower

    # --- the figure

    def losses(
        self, batch: Batch, state: MomentumState, draws: Draws | None = None, generator=None
    ) -> dict[str, Tensor]:
        return self.figure(batch, state, draws, generator).losses

    def figure(
        self, batch: Batch, state: MomentumState, draws: Draws | None = None, generator=None
    ) -> Figure:
        """One forward of models/model_pretrain.py (and model_retrieval.py), box by box."""
        config, enc, m, draws = self.config, self.encoders, state.encoders, draws or Draws()
        ids, attention_mask, size = batch.input_ids, batch.attention_mask, len(batch.input_ids)
        mlm_ids, mlm_labels = self._masked(batch, draws, generator)
        both = (ids, mlm_ids) if config.mlm_weight else (ids,)  # one pass of the text layers over both
        masks = attention_mask.repeat(len(both), 1)

        # Unimodal encoders, and the momentum model's.
        prefix = batch.image_prefix if batch.image is None else enc.image_tower.prefix(batch.image)
        image_embeds = enc.image_tower.rest(prefix)
        image_features = enc.image_feature(image_embeds)
        text_embeds, *mlm_embeds = enc.text(torch.cat(both), masks).chunk(len(both))
        text_features = enc.text_feature(text_embeds, attention_mask)
        image_m, text_m, mlm_embeds_m = image_features, text_features, []
        if m is not None:
            with torch.no_grad():
                image_embeds_m = m.image_tower.rest(prefix)
                image_m = m.image_feature(image_embeds_m)
                text_embeds_m, *mlm_embeds_m = m.text(torch.cat(both), masks).chunk(len(both))
                text_m = m.text_feature(text_embeds_m, attention_mask)

        # ITC against the batch's momentum features and the queue.
        sims = self.similarities(batch, state, image_features, text_features, image_m, text_m)
        alpha = state.alpha
        loss_i2t, loss_t2i = contrastive.itc(
            sims.image_to_text, sims.text_to_image, positive=sims.positive, teacher=sims.teacher, alpha=alpha
        )
        losses = {"itc": (loss_i2t + loss_t2i) / 2, "itc_i2t": loss_i2t, "itc_t2i": loss_t2i}

        # ITM: each picture with its text, each text with a hard negative picture, each picture with a hard negative text.
        negative_image, negative_text = draws.negative_image, draws.negative_text
        forbidden, options = (
            sims.positive[:, : sims.batch],
            {"generator": generator, "hardest": config.hardest},
        )
        if negative_text is None:
            negative_text = matching.hard_negatives(sims.image_to_text[:, : sims.batch], forbidden, **options)
        if negative_image is None:
            negative_image = matching.hard_negatives(
                sims.text_to_image[:, : sims.batch], forbidden, **options
            )
        pictures, texts, text_masks = image_embeds, text_embeds, attention_mask
        if self.wide:
            pictures, texts = gather(image_embeds), gather_ragged(text_embeds)
            text_masks = gather_ragged(attention_mask, "none")
        context = enc.text.fusion.context(pictures)
        own = torch.arange(sims.first, sims.first + size, device=ids.device)
        text_rows = torch.cat([own, own, negative_text.where(negative_text >= 0, own)])
        image_rows = torch.cat([own, negative_image.where(negative_image >= 0, own), own])
        queries, query_masks = texts[text_rows], text_masks[text_rows]
        if config.mlm_weight:  # the masked texts join the same pass of the fusion layers
            pad = queries.shape[1] - ids.shape[1]
            queries = torch.cat([queries, F.pad(mlm_embeds[0], (0, 0, 0, pad))])
            query_masks = torch.cat([query_masks, F.pad(attention_mask, (0, pad))])
            image_rows = torch.cat([image_rows, own])
        hidden = enc.text.fuse(queries, query_masks, context.select(image_rows))
        fused, mlm_hidden = hidden[: 3 * size], hidden[3 * size :, : ids.shape[1]]
        itm_logits = self.itm_head(fused[:, 0])
        missing = torch.cat([own.new_zeros(size).bool(), negative_image < 0, negative_text < 0])
        itm_labels = torch.cat([own.new_ones(size), own.new_zeros(2 * size)]).masked_fill(missing, -100)
        losses["itm"] = matching.itm(itm_logits, itm_labels)
        losses["loss"] = losses["itc"] + config.itm_weight * losses["itm"]

        # MLM, the head on masked positions only; the momentum model reads the same masked text with its own picture.
        mlm_hidden_m = None
        if config.mlm_weight:
            masked = mlm_labels != -100
            logits, logits_m = enc.words(mlm_hidden[masked]), None
            if m is not None and config.alpha:
                with torch.no_grad():
                    context_m = m.text.fusion.context(image_embeds_m)
                    mlm_hidden_m = m.text.fuse(mlm_embeds_m[0], attention_mask, context_m)
                    logits_m = m.words(mlm_hidden_m[masked])
            count = mean_over_ranks(masked.sum().float()) if config.normalisation == "global" else None
            losses["mlm"] = language.mlm(
                logits, mlm_labels[masked], teacher_logits=logits_m, alpha=alpha, count=count
            )
            losses["loss"] = losses["loss"] + config.mlm_weight * losses["mlm"]

        if m is not None:
            losses["enqueue/image"], losses["enqueue/text"] = image_m, text_m
            losses["enqueue/ids"] = self.queued_ids(batch)
        return Figure(
            image_embeds, image_features, text_embeds, text_features, image_m, text_m, sims, fused, itm_logits,
            itm_labels, mlm_hidden, mlm_hidden_m, losses,
        )  # fmt: skip

    def _masked(self, batch: Batch, draws: Draws, generator) -> tuple[Tensor | None, Tensor | None]:
        """Masked ids and labels; [PAD] and [CLS] are spared, [SEP] is not (xbert.py, `mask`)."""
        if not self.config.mlm_weight or draws.mlm_input_ids is not None:
            return draws.mlm_input_ids, draws.mlm_labels
        tokenizer, ids = self.tokenizer, batch.input_ids
        maskable = batch.attention_mask.bool() & (ids != tokenizer.cls_id)
        return language.mask_tokens(
            ids,
            maskable,
            mask_id=tokenizer.mask_id,
            vocab_size=self.config.text.vocab_size,
            probability=self.config.mlm_probability,
            word_starts=tokenizer.word_starts(ids) if self.config.whole_word else None,
            generator=generator,
        )

    # --- two-stage retrieval

    def image_context(self, image: Float[Tensor, "B 3 H W"]) -> tuple[Float[Tensor, "B E"], Context]:
        image_embeds = self.encoders.image_tower(image)
        return self.encoders.image_feature(image_embeds), self.encoders.text.fusion.context(image_embeds)

    def text_context(self, input_ids, attention_mask) -> tuple[Float[Tensor, "B E"], Float[Tensor, "B T D"]]:
        hidden = self.encoders.text(input_ids, attention_mask)
        return self.encoders.text_feature(hidden, attention_mask), hidden

    def match_pairs(self, context: Context, hidden, attention_mask) -> Float[Tensor, "P 2"]:
        return self.itm_head(self.encoders.text.fuse(hidden, attention_mask, context)[:, 0])
