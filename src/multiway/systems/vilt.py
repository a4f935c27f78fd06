"""ViLT: vision and language in one transformer, without convolution or regions (Kim et al. 2021), figure 3.

```
            ITM           MLM                 WPA
             |             |        words <--------> patches
          pooler         head             transport
             |             |                   |
      +--------------------------------------------------+
      |              transformer (a ViT's)               |
      +--------------------------------------------------+
      [CLS] a stone [MASK] near [SEP] | class token, patches
        words + positions + type 0    | linear map + positions of the picture's own size + type 1

    twice a step: masked words with their own picture; whole texts, half of them with another picture
```
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from multiway.batch import Batch
from multiway.core.heads import WordHead
from multiway.core.init import init_bert
from multiway.core.pooling import pooled_positions
from multiway.objectives import alignment, contrastive, language, matching
from multiway.systems.masking import mask_words
from multiway.systems.vilt_config import ViLTConfig
from multiway.systems.vilt_system import OneTower


@dataclass(frozen=True, kw_only=True)
class Draws:
    """The random choices of one step; None is drawn.

    Attributes:
        mlm_input_ids, mlm_labels: `[B, T]` ids after masking, and labels; -100 where nothing is predicted.
        itm_labels: `[B]`, 1 where a text keeps its picture, 0 where it gets another one.
        false_rows: `[B]`, whose picture a text gets then; -1: there is no other, it keeps its own.
        false_image: `[B, 3, H, W]`, other pictures to be given instead, row by row.
        mlm_patches, itm_patches: `[B, L]`, the patches that are read in each pass, by number on the canvas;
            one that is no patch of the picture is padding.
    """

    mlm_input_ids: Tensor | None = None
    mlm_labels: Tensor | None = None
    itm_labels: Tensor | None = None
    false_rows: Tensor | None = None
    false_image: Tensor | None = None
    mlm_patches: Tensor | None = None
    itm_patches: Tensor | None = None


@dataclass(frozen=True)
class Figure:
    """Every box of one step, so that tests can look at them."""

    losses: dict[str, Tensor]
    itm_logits: Tensor | None = None
    itm_labels: Tensor | None = None
    itm_hidden: Tensor | None = None  # [B, T + 1 + L, D]
    aligned: alignment.Alignment | None = None


class ViLT(OneTower):
    """ViLT's network and losses."""

    config: ViLTConfig

    def __init__(self, config: ViLTConfig, image_tower: nn.Module | None = None):
        super().__init__(config, image_tower)
        width, self.has_itm = config.image.width, bool(config.itm_weight)
        self.mlm_head = self.mlm_decoder = None
        if config.mlm_weight:
            self.mlm_head = WordHead(width, config.text.vocab_size, eps=config.text.eps)
            self.mlm_decoder = nn.Linear(width, config.text.vocab_size, bias=False)
            init_bert(self.mlm_head)
            init_bert(self.mlm_decoder)
        if config.itm_weight:
            self.itm_head = nn.Linear(width, 2)
            init_bert(self.itm_head)

    def losses(
        self,
        batch: Batch,
        state: nn.Module,
        draws: Draws | None = None,
        generator: torch.Generator | None = None,
    ) -> dict[str, Tensor]:
        """`mlm`, `itm`, and `wpa` before its weight."""
        return self.figure(batch, draws, generator).losses

    def figure(
        self, batch: Batch, draws: Draws | None = None, generator: torch.Generator | None = None
    ) -> Figure:
        """One step of objectives.py, box by box; a picture becomes patches once for both passes."""
        config, draws, image = self.config, draws or Draws(), batch.pictures()
        if draws.false_image is not None:
            image = torch.cat([image, draws.false_image])
        patches, own = self.canvas(image)
        losses, figure, size = {}, Figure({}), len(batch)
        if config.mlm_weight:
            losses["mlm"] = self.words_loss(batch, patches[:size], own[:size], draws, generator)
        if config.itm_weight:
            figure = self.match_figure(batch, patches, own, draws, generator)
        losses |= figure.losses
        weights = {"mlm": config.mlm_weight, "itm": config.itm_weight, "wpa": config.wpa_weight}
        losses["loss"] = torch.stack([weights[name] * loss for name, loss in losses.items()]).sum()
        return replace(figure, losses=losses)

    def words_loss(
        self,
        batch: Batch,
        patches: Float[Tensor, "B N D"],
        own: Bool[Tensor, "B N"],
        draws: Draws,
        generator: torch.Generator | None,
    ) -> Float[Tensor, ""]:
        """MLM (`compute_mlm`); the last layer and the head see masked words only."""
        (ids, mask), masked_ids, labels = batch.text(), draws.mlm_input_ids, draws.mlm_labels
        if masked_ids is None:
            masked_ids, labels = mask_words(self.tokenizer, ids, mask, self.config, generator, spare_sep=True)
        assert labels is not None  # they come together
        pictures = self.tokens(patches, own, self.sampled(own, draws.mlm_patches, generator))
        masked = labels != -100
        read = F.pad(masked, (0, pictures.tokens.shape[1]))
        hidden = self.pair(masked_ids, mask, pictures, read=read)[:, : ids.shape[1]]
        return language.mlm(self.words(hidden[masked]), labels[masked])

    def match_figure(
        self,
        batch: Batch,
        patches: Float[Tensor, "P N D"],
        own: Bool[Tensor, "P N"],
        draws: Draws,
        generator: torch.Generator | None,
    ) -> Figure:
        """ITM and WPA of texts, half of them with another picture (`compute_itm_wpa`)."""
        (ids, mask), config = batch.text(), self.config
        labels, rows = self.pictures_of(batch, draws, generator)
        patches, own = patches[rows], own[rows]
        pictures = self.tokens(patches, own, self.sampled(own, draws.itm_patches, generator))
        read = None
        if not config.wpa_weight:
            read = F.pad(pooled_positions(mask, "cls"), (0, pictures.tokens.shape[1]))
        hidden = self.pair(ids, mask, pictures, read=read)
        assert self.itm_head is not None
        logits = self.itm_head(self.pooled(hidden))
        losses = {"itm": matching.itm(logits, labels)}
        if not config.wpa_weight:
            return Figure(losses, logits, labels, hidden)
        length, seen = ids.shape[1], pictures.mask
        assert seen is not None
        aligned = alignment.align(
            hidden[:, :length],
            hidden[:, length + 1 :],
            alignment.without_ends(mask),
            seen[:, 1:],
            beta=config.beta,
            iterations=config.iterations,
        )
        losses["wpa"] = alignment.wpa(aligned.distance, labels)
        return Figure(losses, logits, labels, hidden, aligned)

    def pictures_of(
        self, batch: Batch, draws: Draws, generator: torch.Generator | None
    ) -> tuple[Int[Tensor, " B"], Int[Tensor, " B"]]:
        """Which texts keep their picture, half of them; and the row of the picture that each is read with.

        A false picture is another of the batch, of another `batch.ids`; without any a text keeps its own.
        """
        size, device, labels = len(batch), batch.need("image").device, draws.itm_labels
        rows = torch.arange(size, device=device)
        if labels is None:
            half = (rows < size // 2).long()
            labels = half[torch.randperm(size, generator=generator, device=device)]
        labels, false = labels.long(), draws.false_rows
        if draws.false_image is not None:
            false = rows + size
        elif false is None:
            ids = batch.need("ids")
            alike = contrastive.positives(ids, ids)
            false = matching.hard_negatives(
                torch.zeros_like(alike, dtype=torch.float), alike, generator=generator
            )[:, 0]
        keeps = (labels == 1) | (false < 0)
        return keeps.long(), torch.where(keeps, rows, false)

    def sampled(
        self, own: Bool[Tensor, "B N"], drawn: Int[Tensor, "B L"] | None, generator: torch.Generator | None
    ) -> Int[Tensor, "B L"] | None:
        """The patches that are read: at most `max_patches` of each picture, drawn evenly; None: all.

        Where all pictures have fewer there is nothing to draw: their order is of no account.
        """
        most = self.config.max_patches
        if drawn is not None or most is None or not bool((own.sum(1) > most).any()):
            return drawn
        noise = torch.rand(own.shape, generator=generator, device=own.device)
        return noise.masked_fill(~own, -1.0).topk(most, dim=1).indices

    def words(self, hidden: Float[Tensor, "*P D"]) -> Float[Tensor, "*P V"]:
        """Logits over the vocabulary, by a decoder that is not tied to the word embeddings."""
        assert self.mlm_head is not None
        assert self.mlm_decoder is not None
        return self.mlm_head(hidden, self.mlm_decoder.weight)
