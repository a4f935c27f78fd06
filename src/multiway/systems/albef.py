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

from dataclasses import dataclass, field, replace
from typing import Any, Literal

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from multiway.batch import Batch
from multiway.core.block import Context
from multiway.core.pooling import pool_text, pooled_positions
from multiway.objectives import language, matching
from multiway.systems.bert import BertConfig, check_fusion
from multiway.systems.candidates import under_each_other
from multiway.systems.encoders import Encoders
from multiway.systems.mae_heads import tower_classifier
from multiway.systems.masking import mask_words
from multiway.systems.momentum import Aligned, MomentumSystem
from multiway.systems.momentum_state import MomentumConfig, MomentumState
from multiway.systems.sizes import longer
from multiway.systems.towers import BackboneConfig, build_image_tower
from multiway.systems.vit import ViTConfig
from multiway.text import TokenizerConfig


@dataclass(frozen=True, kw_only=True)
class ALBEFConfig(MomentumConfig):
    """ALBEF; the defaults are the official pre-training (configs/Pretrain.yaml).

    Attributes:
        mlm_weight: 0 leaves MLM out. In retrieval fine-tuning `temperature_range` is None too.
        mlm_probability: share of masked tokens. whole_word: mask whole words.
        rerank: by the ITM logit (official), or its log-odds plus the ITC logit: with negatives drawn by ITC,
            the head learns what is left to say after it.
    """

    system: Literal["albef"] = "albef"
    image: ViTConfig | BackboneConfig = field(default_factory=ViTConfig)
    text: BertConfig = field(default_factory=BertConfig)
    tokenizer: TokenizerConfig = field(default_factory=TokenizerConfig)
    mlm_weight: float = 1.0
    mlm_probability: float = 0.15
    whole_word: bool = False
    rerank: Literal["itm", "itm+itc"] = "itm"

    def __post_init__(self) -> None:
        super().__post_init__()
        check_fusion(self.text)


@dataclass(frozen=True, kw_only=True)
class Draws:
    """The random choices of one step; None is drawn.

    Attributes:
        negative_image: `[B]` or `[B, K]`, rows of each text's negative pictures; `negative_text` likewise.
            Rows of the global batch with `negatives="global"`; -1 for none.
        mlm_input_ids, mlm_labels: `[B, T]` ids after masking, and labels; -100 where nothing is predicted.
    """

    negative_image: Tensor | None = None
    negative_text: Tensor | None = None
    mlm_input_ids: Tensor | None = None
    mlm_labels: Tensor | None = None


@dataclass(frozen=True)
class Figure(Aligned):
    """Every box of one pre-training step, so that tests can look at them; `_m` is the momentum model's."""

    fused: Tensor | None = None  # [P, T, D], pairs in the order of `matching.pairs`
    itm_logits: Tensor | None = None
    itm_labels: Tensor | None = None
    mlm_hidden: Tensor | None = None  # [B, T, D]
    mlm_hidden_m: Tensor | None = None


State = MomentumState[Encoders]


class ALBEF(MomentumSystem[Encoders]):
    """ALBEF's networks and losses; with `mlm_weight=0` and `positives="ids"` its retrieval fine-tuning.

    Args:
        image_tower: the module, when `config.image.name` is "user".
    """

    parts = {
        "vision": ("encoders.image_tower.", "encoders.pool.", "encoders.image_proj."),
        "text": ("encoders.text.embed.", "encoders.text.text.", "encoders.text_proj."),
        "interaction": ("encoders.text.fusion.", "encoders.mlm_head.", "itm_head."),
    }

    def __init__(self, config: ALBEFConfig, image_tower: nn.Module | None = None):
        super().__init__()
        self.config, self.has_itm = config, bool(config.itm_weight)
        tower, mlm = build_image_tower(config.image, image_tower), bool(config.mlm_weight)
        self.encoders = Encoders(
            tower, config.text, config.embed_dim, config.text_pooling, mlm=mlm, null_token=config.null_token
        )
        self.itm_head = nn.Linear(config.text.width, 2)
        self.temperature = nn.Parameter(torch.tensor(config.temperature))
        self.image_size, self.image_mean, self.image_std = tower.image_size, tower.image_mean, tower.image_std

    # --- the figure

    def losses(
        self, batch: Batch, state: State, draws: Draws | None = None, generator: torch.Generator | None = None
    ) -> dict[str, Tensor]:
        return self.figure(batch, state, draws, generator).losses

    def figure(
        self, batch: Batch, state: State, draws: Draws | None = None, generator: torch.Generator | None = None
    ) -> Figure:
        """One forward of models/model_pretrain.py (and model_retrieval.py), box by box."""
        config, encoders, momentum, draws = self.config, self.encoders, state.encoders, draws or Draws()
        (ids, mask), alpha = batch.text(), state.alpha
        mlm_ids, mlm_labels = draws.mlm_input_ids, draws.mlm_labels
        if config.mlm_weight and mlm_ids is None:
            mlm_ids, mlm_labels = mask_words(self.tokenizer, ids, mask, config, generator)

        # Unimodal encoders, the momentum model's too; ITC with its soft targets and its queue.
        aligned = self.align(batch, state, mlm_ids)
        own, sims, losses = aligned.own, aligned.sims, aligned.losses
        if not (config.itm_weight or config.mlm_weight):
            return Figure(own, aligned.own_m, sims, losses)

        # ITM: each picture with its text, each text with a hard negative picture, each picture with a hard
        # negative text; they and the masked texts are one pass, whose last layer computes what is read alone.
        queries, seen, read, pictures, labels = [], [], [], [], ids.new_empty(0)
        if config.itm_weight:
            pairs = self.pairs(sims, draws.negative_text, draws.negative_image, generator)
            queries.append(self.candidates(own.text_embeds, ragged=True)[pairs.text])
            seen.append(self.candidates(mask, "none", ragged=True)[pairs.text])
            read.append(pooled_positions(seen[0], config.match_pooling))
            pictures.append(pairs.image)
            labels = pairs.labels
        if own.mlm_embeds is not None and mlm_labels is not None:
            queries.append(own.mlm_embeds)
            seen.append(mask)
            read.append(mlm_labels != -100)
            pictures.append(self.own_rows(len(ids)))
        queries, seen, read = (under_each_other(parts) for parts in (queries, seen, read))
        context = encoders.context(self.candidates(own.image_embeds)).shared_by(torch.cat(pictures))
        hidden = encoders.text.fuse(queries, seen, context, read=read)
        fused, itm_logits = hidden[: len(labels)], None
        if config.itm_weight:
            itm_logits = self._match(fused, seen[: len(labels)])
            losses["itm"] = matching.itm(itm_logits, labels, count=self.labelled(labels))
            losses["loss"] = losses["loss"] + config.itm_weight * losses["itm"]

        # MLM, the head on masked positions only; the momentum model reads the same with its own pictures.
        mlm_hidden = mlm_hidden_m = logits_m = None
        if mlm_labels is not None:
            mlm_hidden = hidden[len(labels) :, : ids.shape[1]]
            masked = mlm_labels != -100
            if momentum is not None and config.alpha:
                with torch.no_grad():
                    mlm_hidden_m = momentum.fused_masked(aligned.own_m, mask, read=masked)
                    logits_m = momentum.words(mlm_hidden_m[masked])
            count = self.labelled(mlm_labels)
            logits, targets = encoders.words(mlm_hidden[masked]), mlm_labels[masked]
            losses["mlm"] = language.mlm(logits, targets, teacher_logits=logits_m, alpha=alpha, count=count)
            losses["loss"] = losses["loss"] + config.mlm_weight * losses["mlm"]

        matched = (fused, itm_logits, labels)
        return Figure(own, aligned.own_m, sims, losses, *matched, mlm_hidden, mlm_hidden_m)

    def fine_tuning(self, task: str, labels: tuple[str, ...] = ()) -> Any:
        """Retrieval, VQA, entailment and NLVR2, without a teacher where pre-training had none.

        Retrieval is ITC and ITM without MLM (models/model_retrieval.py). And `assignment`, from which NLVR2
        starts; of classes the image tower alone learns.
        """
        from multiway.systems.albef_assignment import AssignmentConfig
        from multiway.systems.albef_heads import EntailmentConfig
        from multiway.systems.albef_nlvr import NLVRConfig
        from multiway.systems.albef_vqa import VQAConfig

        config = self.config
        if task == "classify":
            return tower_classifier(config.image, labels)
        if task == "retrieval":
            words = longer(config.tokenizer, 30, config.text.positions)
            return replace(config, mlm_weight=0.0, positives="ids", temperature_range=None, tokenizer=words)
        same: dict[str, Any] = {name: getattr(config, name) for name in ("image", "tokenizer", "null_token")}
        same["pooling"] = config.match_pooling
        twice = replace(config.text, fusion_layers=2 * config.text.fusion_layers)
        if task == "assignment":
            return AssignmentConfig(text=twice, embed_dim=config.embed_dim, **same)
        same |= {name: getattr(config, name) for name in ("momentum", "alpha", "alpha_ramp_epochs")}
        whole = longer(config.tokenizer, 60, config.text.positions)  # officially texts are cut by words alone
        if task == "nlvr2":
            return NLVRConfig(text=twice, **(same | {"tokenizer": whole}))
        if task == "vqa":
            layers = config.text.fusion_layers
            return VQAConfig(text=config.text, decoder_layers=layers, labels=labels, **same)
        if task == "entailment":
            return EntailmentConfig(text=config.text, **(same | {"alpha_ramp_epochs": 0, "tokenizer": whole}))
        return super().fine_tuning(task, labels)

    # --- two-stage retrieval

    def match_pairs(
        self, context: Context, hidden: Float[Tensor, "P T D"], attention_mask: Int[Tensor, "P T"]
    ) -> Float[Tensor, "P 2"]:
        read = pooled_positions(attention_mask, self.config.match_pooling)
        fused = self.encoders.text.fuse(hidden, attention_mask, context, read=read)
        return self._match(fused, attention_mask)

    def match_maps(
        self,
        image: Float[Tensor, "B 3 H W"],
        input_ids: Int[Tensor, "B T"],
        attention_mask: Int[Tensor, "B T"],
    ) -> tuple[Float[Tensor, "B 2"], list[Tensor]]:
        hidden = self.encoders.text(input_ids, attention_mask)
        fused, maps = self.encoders.fused_with_maps(image, hidden, attention_mask)
        return self._match(fused, attention_mask), maps

    def rerank_score(self, logits: Float[Tensor, "P 2"], cosine: Float[Tensor, " P"]) -> Float[Tensor, " P"]:
        if self.config.rerank == "itm":
            return logits[:, 1]
        return logits[:, 1] - logits[:, 0] + cosine / self.temperature.detach()

    def _match(self, fused: Float[Tensor, "P T D"], mask: Int[Tensor, "P T"]) -> Float[Tensor, "P 2"]:
        return self.itm_head(pool_text(fused, mask, self.config.match_pooling))
