"""VLMo: a mixture of modality experts (Bao et al. 2021, arXiv:2111.02358), figures 1 and 2.

```
          ITC (dual encoder)                        ITM        MLM
           |              |                          |          |
      +---------+   +-----------+    ITC twice  +---------------------+
      | text    |   | image     |    -- and --> | joint expert, x2    |
      | expert  |   | expert    |    of joint   +---------------------+
      +---------+   +-----------+    branches   | text     | image    |
      |   x12   |   |    x12    |               | expert   | expert   | x10
      +---------+   +-----------+               +---------------------+
           |              |                          |          |
      [CLS] a dog     picture               [CLS] a [MASK]   picture

    one network three times: attention is shared by all, a token's expert is its modality's;
    the third time also with hard negatives, drawn from all ranks by the similarities of the first
```
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from multiway.batch import Batch
from multiway.core.heads import WordHead
from multiway.core.init import init_bert
from multiway.core.pooling import pooled_positions
from multiway.objectives import language, matching
from multiway.systems.candidates import under_each_other
from multiway.systems.masking import mask_words
from multiway.systems.vlmo_config import VLMoConfig
from multiway.systems.vlmo_network import class_tokens
from multiway.systems.vlmo_system import Contrast, Multiway


@dataclass(frozen=True, kw_only=True)
class Draws:
    """The random choices of one step; None is drawn.

    Attributes:
        negative_image: `[B]`, rows of each text's negative pictures in the batch of all ranks, or of this one
            with `negatives="local"`; -1 for none. `negative_text` likewise.
        mlm_input_ids, mlm_labels: `[B, T]` ids after masking, and labels; -100 where nothing is predicted.
    """

    negative_image: Tensor | None = None
    negative_text: Tensor | None = None
    mlm_input_ids: Tensor | None = None
    mlm_labels: Tensor | None = None


class Features(NamedTuple):
    """Normalised features of the dual encoder, and of the branches where there are joint experts."""

    image: Float[Tensor, "B D"]
    text: Float[Tensor, "B D"]
    image_joint: Float[Tensor, "B D"] | None = None
    text_joint: Float[Tensor, "B D"] | None = None


@dataclass(frozen=True)
class Figure:
    """Every box of one step, so that tests can look at them."""

    losses: dict[str, Tensor]
    features: Features | None = None
    dual: Contrast | None = None
    joint: Contrast | None = None
    itm_logits: Tensor | None = None
    itm_labels: Tensor | None = None
    mlm_hidden: Tensor | None = None  # [B, T, D]


class VLMo(Multiway):
    """VLMo's networks and losses."""

    config: VLMoConfig

    def __init__(self, config: VLMoConfig, image_tower: nn.Module | None = None):
        super().__init__(config, image_tower)
        width, pairs = config.width, config.stage == "pairs"
        self.has_image, self.has_itm = pairs, pairs and bool(config.itm_weight)
        self.mlm_head = self.mlm_decoder = None
        if config.mlm_weight or not pairs:
            self.mlm_head = WordHead(width, config.text.vocab_size, eps=config.text.eps)
            self.mlm_decoder = nn.Linear(width, config.text.vocab_size, bias=False)
            init_bert(self.mlm_head)
            init_bert(self.mlm_decoder)
        if self.has_itm:
            self.itm_head = nn.Linear(width, 2)
            init_bert(self.itm_head)
        if pairs:
            self.add_projections(config.logit_scale)
        if pairs and config.joint_layers:
            self.joint_image_proj = nn.Linear(width, width, bias=False)
            self.joint_text_proj = nn.Linear(width, width, bias=False)
            self.joint_logit_scale = nn.Parameter(torch.tensor(config.logit_scale))
            init_bert(self.joint_image_proj)
            init_bert(self.joint_text_proj)

    # --- the figure

    def losses(
        self,
        batch: Batch,
        state: nn.Module,
        draws: Draws | None = None,
        generator: torch.Generator | None = None,
    ) -> dict[str, Tensor]:
        """`itc` (the mean of `itc_dual` and `itc_joint`), `itm`, `mlm`; in the stage of texts `mlm` alone.

        Without joint layers ITC is the dual encoder's.
        """
        return self.figure(batch, draws, generator).losses

    def figure(
        self, batch: Batch, draws: Draws | None = None, generator: torch.Generator | None = None
    ) -> Figure:
        """One step of objectives.py, box by box."""
        config, draws = self.config, draws or Draws()
        (ids, mask), mlm_ids, mlm_labels = batch.text(), draws.mlm_input_ids, draws.mlm_labels
        if self.mlm_head is None:
            mlm_ids = mlm_labels = None
        elif mlm_ids is None:
            mlm_ids, mlm_labels = mask_words(self.tokenizer, ids, mask, config, generator, spare_sep=True)
        if config.stage == "text":
            return self.text_figure(mlm_ids, mask, mlm_labels)

        # The dual encoder; ITC of it and of the branches through the joint experts.
        image = batch.pictures()
        features = self.features(image, ids, mask)
        dual = self.contrast(features.image, features.text, self.logit_scale, batch)
        losses, joint = {"itc": dual.loss, "itc_dual": dual.loss}, None
        if features.image_joint is not None and features.text_joint is not None:
            joint = self.contrast(features.image_joint, features.text_joint, self.joint_logit_scale, batch)
            losses |= {"itc": (dual.loss + joint.loss) / 2, "itc_joint": joint.loss}
        losses["loss"] = losses["itc"]

        # What the fusion encoder reads, in one pass: for ITM each text with its picture and with a hard
        # negative one, each picture with a hard negative text; for MLM each masked text with its picture.
        texts, seen, pictures, labels = [], [], [], ids.new_empty(0)
        if self.itm_head is not None:
            pairs = self.pairs(dual, draws, generator)
            texts.append(self.candidates(ids, "none", ragged=True)[pairs.text])
            seen.append(self.candidates(mask, "none", ragged=True)[pairs.text])
            pictures.append(pairs.image)
            labels = pairs.labels
        if mlm_ids is not None:
            texts.append(mlm_ids)
            seen.append(mask)
            pictures.append(self.own_rows(len(ids)))
        if not texts:
            return Figure(losses, features, dual, joint)
        read = [pooled_positions(s, "cls") for s in seen]
        if mlm_labels is not None:
            read[-1] = mlm_labels != -100
        texts, seen, read = (under_each_other(parts) for parts in (texts, seen, read))
        hidden = self.fused(texts, seen, image, torch.cat(pictures), read)

        itm_logits = mlm_hidden = None
        if self.itm_head is not None:
            itm_logits = self.itm_head(self.pooled(hidden[: len(labels)]))
            losses["itm"] = matching.itm(itm_logits, labels)
            losses["loss"] = losses["loss"] + config.itm_weight * losses["itm"]
        if mlm_labels is not None:
            mlm_hidden = hidden[len(labels) :, : ids.shape[1]]
            losses["mlm"] = self.words_loss(mlm_hidden, mlm_labels)
            losses["loss"] = losses["loss"] + config.mlm_weight * losses["mlm"]
        return Figure(losses, features, dual, joint, itm_logits, labels, mlm_hidden)

    def text_figure(self, mlm_ids: Tensor | None, mask: Tensor, mlm_labels: Tensor | None) -> Figure:
        """The stage of texts: MLM by the text experts, its loss unweighted (`compute_textonly_mlm`)."""
        assert mlm_ids is not None  # this stage has a head for words
        assert mlm_labels is not None
        embedded, masked = self.transformer.embed_text(mlm_ids), mlm_labels != -100
        (hidden,) = self.transformer.text(embedded, mask, read=masked)
        loss = self.words_loss(hidden, mlm_labels)
        return Figure({"mlm": loss, "loss": loss}, mlm_hidden=hidden)

    def features(
        self, image: Float[Tensor, "B 3 H W"], ids: Int[Tensor, "B T"], mask: Int[Tensor, "B T"]
    ) -> Features:
        """Each modality alone: class tokens of the dual encoder, and of the branches; projected."""
        network, tops = self.transformer, ("joint",) if self.config.joint_layers else ()
        embedded, first = network.embed_image(image), pooled_positions(mask, "cls")
        pictures = network.image(embedded, ("image", *tops), read=class_tokens(embedded))
        texts = network.text(network.embed_text(ids), mask, ("text", *tops), read=first)
        heads = [self.image_proj, self.text_proj]
        if tops:
            heads += [self.joint_image_proj, self.joint_text_proj]
        hidden = [x for pair in zip(pictures, texts, strict=True) for x in pair]
        return Features(*(F.normalize(head(x[:, 0]), dim=-1) for head, x in zip(heads, hidden, strict=True)))

    def pairs(self, sims: Contrast, draws: Draws, generator: torch.Generator | None) -> matching.Pairs:
        """Rows of the candidates that ITM is asked about; negatives that are None are drawn by `sims`."""
        found = []
        for drawn, similarity in (
            (draws.negative_text, sims.image_to_text),
            (draws.negative_image, sims.text_to_image),
        ):
            if drawn is None:
                drawn = matching.hard_negatives(similarity, sims.positive, generator=generator)
            found.append(drawn.reshape(len(similarity), -1))
        return matching.pairs(self.own_rows(len(sims.positive)), *found)

    def fused(
        self,
        ids: Int[Tensor, "P T"],
        mask: Int[Tensor, "P T"],
        image: Float[Tensor, "B 3 H W"],
        rows: Int[Tensor, " P"],
        read: Bool[Tensor, "P T"] | None = None,
    ) -> Float[Tensor, "P S D"]:
        """Hidden states of texts and pictures read together; a picture is embedded once.

        Args:
            image: this rank's. rows: each text's picture among all candidates. read: wanted, None: all.
        """
        needed, place = rows.unique(return_inverse=True)
        pictures = self.transformer.embed_image(self.candidates(image, "none")[needed])
        return self.transformer.pair(self.transformer.embed_text(ids), mask, pictures[place], read=read)

    def words_loss(self, hidden: Float[Tensor, "B T D"], labels: Int[Tensor, "B T"]) -> Float[Tensor, ""]:
        """MLM; the head sees masked positions only."""
        masked = labels != -100
        return language.mlm(self.words(hidden[masked]), labels[masked])

    def words(self, hidden: Float[Tensor, "*P D"]) -> Float[Tensor, "*P V"]:
        """Logits over the vocabulary, by a decoder that is not tied to the word embeddings."""
        assert self.mlm_head is not None
        assert self.mlm_decoder is not None
        return self.mlm_head(hidden, self.mlm_decoder.weight)
