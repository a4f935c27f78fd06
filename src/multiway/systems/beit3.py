"""BEiT-3: image as a foreign language (Wang et al. 2022, arXiv:2208.10442), figure 2 and section 2.2.

```
        which visual token?       which visual token, which word?       which word?
                |                       |             |                     |
    +------------------------------------------------------------------------------+
    |  multiway transformer: attention over a row's own tokens, experts by modality |
    +------------------------------------------------------------------------------+
                |                       |             |                     |
         picture, 40 % of        picture, 40 %   its text, 50 %        text, 15 % of
         patches masked          masked          masked                tokens masked

                    one objective, masked data modelling, on three streams
```
Pre-training was never published: what is masked and how much is the paper's; the four losses have one weight.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from multiway.batch import Batch
from multiway.core.gather import mean_over_ranks
from multiway.core.heads import PlainWordHead
from multiway.objectives import language, masked_image
from multiway.systems.beit3_config import BEiT3Config
from multiway.systems.beit3_masks import Kinds, masked_patches, masked_words
from multiway.systems.beit3_system import MultiwaySystem
from multiway.systems.teacher import FrozenState
from multiway.systems.visual_tokens import PredictsTokens


@dataclass(frozen=True, kw_only=True)
class Draws:
    """The random choices of one step, and the pictures' codes; None is drawn, or asked of the tokenizer.

    Attributes:
        patch_mask: `[B, P]` bool, the masked patches. codes: `[B, P]`, the visual token of each patch.
        input_ids, labels: `[B, T]` ids after masking, and labels; -100 where nothing is predicted.
    """

    patch_mask: Bool[Tensor, "B P"] | None = None
    codes: Int[Tensor, "B P"] | None = None
    input_ids: Int[Tensor, "B T"] | None = None
    labels: Int[Tensor, "B T"] | None = None


@dataclass(frozen=True)
class Figure:
    """Every box of one step; `mim_logits` are of the M masked patches in order, `mlm_logits` of masked words.

    Attributes:
        of_pair: for each of them, whether it belongs to a pair: of patches, and of words.
    """

    hidden: Float[Tensor, "B S D"]
    mim_logits: Float[Tensor, "M K"]
    mlm_logits: Float[Tensor, "L V"]
    of_pair: tuple[Bool[Tensor, " M"], Bool[Tensor, " L"]]
    losses: dict[str, Tensor]


class BEiT3(PredictsTokens, MultiwaySystem):
    """Masked data modelling on pictures, texts and pairs, in one step."""

    alone = ("images", "texts")
    config: BEiT3Config

    def __init__(self, config: BEiT3Config, image_tower: nn.Module | None = None):
        super().__init__(config)
        self.mlm_head = PlainWordHead(config.width, config.text.vocab_size)
        self.mim_head = nn.Linear(config.width, config.codes)
        self.network.start_small()
        self.begin_heads(self.mlm_head, self.mim_head)

    # --- the figure

    def losses(
        self,
        batch: Batch,
        state: FrozenState,
        draws: Draws | None = None,
        generator: torch.Generator | None = None,
    ) -> dict[str, Tensor]:
        return self.figure(batch, state, draws, generator).losses

    def figure(
        self,
        batch: Batch,
        state: FrozenState,
        draws: Draws | None = None,
        generator: torch.Generator | None = None,
    ) -> Figure:
        """One step; a row is a picture, a text, or a pair of both.

        Raises:
            UserError: there is neither a tokenizer of pictures nor their codes.
        """
        draws, kinds = draws or Draws(), Kinds.of(batch)

        # What is masked: patches in blocks, words one by one and more of them where a picture helps.
        ids, labels = draws.input_ids, draws.labels
        if ids is None or labels is None:
            ids = labels = kinds.attention_mask
            if batch.input_ids is not None:
                ids, labels = masked_words(self.config, self.tokenizer, batch.input_ids, kinds, generator)
        patches, codes = kinds.image.new_zeros(len(kinds.image), 0), kinds.attention_mask[:, :0]
        if batch.image is not None:
            patches = draws.patch_mask
            patches = masked_patches(self.config, kinds, generator) if patches is None else patches
            patches = patches & kinds.image[:, None]
            codes = self.codes(batch.image, kinds.image, state) if draws.codes is None else draws.codes

        # One pass over all three streams, whose last layer computes only what was masked.
        first = int(batch.image is not None)  # the class token's place
        words = labels != -100
        hidden = self.network(
            batch.image,
            ids,
            kinds.attention_mask,
            has_image=kinds.image,
            patch_mask=patches if first else None,
            read=torch.cat([patches.new_zeros(len(patches), first), patches, words], dim=1),
        )
        start = first + patches.shape[1]
        mim_logits = self.mim_head(hidden[:, first:start][patches])
        mlm_logits = self.mlm_head(hidden[:, start:][words])

        # Four means, of masked patches and of masked words, alone and in pairs.
        paired = kinds.pair[:, None]
        of_pair = (paired.expand_as(patches)[patches], paired.expand_as(words)[words])
        of = {"mim": ~of_pair[0], "pair_mim": of_pair[0], "pair_mlm": of_pair[1], "mlm": ~of_pair[1]}
        counts, targets, losses = self._counts(of), (codes[patches], labels[words]), {}
        for name in ("mim", "pair_mim"):
            rows = of[name]
            losses[name] = masked_image.mim(mim_logits[rows], targets[0][rows], count=counts[name])
        for name in ("pair_mlm", "mlm"):
            rows = of[name]
            losses[name] = language.mlm(mlm_logits[rows], targets[1][rows], count=counts[name])
        total = torch.stack(list(losses.values())).sum()
        return Figure(hidden, mim_logits, mlm_logits, of_pair, {"loss": total, **losses})

    def _counts(self, of: dict[str, Bool[Tensor, " M"]]) -> dict[str, Tensor | None]:
        """The normaliser of each loss: the all-rank mean number of masked positions, or None: this rank's."""
        if self.config.normalisation == "rank":
            return dict.fromkeys(of)
        counts = mean_over_ranks(torch.stack([rows.sum().float() for rows in of.values()]))
        return dict(zip(of, counts, strict=True))

    @torch.no_grad()
    def codes(
        self, image: Float[Tensor, "B 3 H W"], has_image: Bool[Tensor, " B"], state: FrozenState
    ) -> Int[Tensor, "B P"]:
        """The visual tokens of whole pictures, zeros where there is none.

        Raises:
            UserError: there is no tokenizer.
        """
        found = self.visual_tokens(image[has_image], state)
        return found.new_zeros(len(image), found.shape[1]).masked_scatter(has_image[:, None], found)
