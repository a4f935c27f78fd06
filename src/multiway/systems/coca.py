"""CoCa: contrastive captioners (Yu et al. 2022, arXiv:2205.01917), figure 2.

```
                                      captioning loss
                                            |
 contrastive loss               +------------------------+
   |          |                 | multimodal half x12    |<-- pooled tokens [B, Q, D], cross-attention
   |          |                 | causal                 |                 |
   |          |                 +------------------------+                 |
   |          +------- [CLS] ---------+     |                              |
   |                            +------------------------+                 |
   |                            | unimodal half x12      |                 |
   |                            | causal                 |                 |
   |                            +------------------------+                 |
   |                            <start> a dog <end> [CLS]                  |
   +---- one vector [B, D] ---- attentional pooling -----------------------+
                                            |
                                       image tower
```
One forward gives both losses: no word sees [CLS], which stands last.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn

from multiway.batch import Batch
from multiway.core import masks
from multiway.core.block import Context, Stack
from multiway.errors import UserError
from multiway.generation import Decoding, GenerationConfig
from multiway.objectives import language
from multiway.systems.bert import unpadded
from multiway.systems.captioning import Captioning
from multiway.systems.coca_config import CoCaConfig
from multiway.systems.coca_decoding import PaddedDecoding
from multiway.systems.coca_heads import network_config
from multiway.systems.coca_network import (
    Pooled,
    Pooler,
    Words,
    init_tower,
    multimodal,
    projection,
    search,
    unimodal,
)
from multiway.systems.contrast import MAX_SCALE, contrast
from multiway.systems.decoding import StackDecoding
from multiway.systems.image_tower import ImageTower
from multiway.systems.med import shift
from multiway.systems.towers import build_image_tower
from multiway.systems.vit import VisionTransformer


@dataclass(frozen=True)
class Figure:
    """Every box of one step, so that tests can look at them."""

    pooled: Pooled
    image_features: Float[Tensor, "B E"]
    text_embeds: Float[Tensor, "B S D"]  # after the unimodal half, [CLS] last
    text_features: Float[Tensor, "B E"]
    hidden: Float[Tensor, "B U D"]  # after the multimodal half, U = T - 1
    labels: Int[Tensor, "B U"]
    losses: dict[str, Tensor]


class CoCa(Captioning):
    """CoCa's networks and losses.

    Args:
        image_tower: the module, when `config.image.name` is "user".

    Raises:
        UserError: widths that must be equal are not.
    """

    parts = {
        "vision": ("image_tower.", "pooler.", "image_proj."),
        "text": ("words.", "text.", "text_norm.", "text_proj."),
        "interaction": ("multimodal.", "norm.", "word_head."),
    }

    image_tower: ImageTower
    decoder = None  # the halves are this system's own

    def __init__(self, config: CoCaConfig, image_tower: nn.Module | None = None):
        super().__init__()
        self.config = config
        self.image_tower = tower = build_image_tower(config.image, image_tower)
        width = config.text.width
        if tower.width != width and (config.experts or config.pooler.form == "none"):
            raise UserError(
                f"the image tower is {tower.width} wide and the text {width}: with experts, or without a "
                "pooler, they must be as wide"
            )
        if isinstance(tower, VisionTransformer):
            init_tower(tower)
        self.pooler = Pooler(config.pooler, tower.width, width)
        self.words, self.text, self.multimodal = Words(config.text), unimodal(config), multimodal(config)
        self.text_norm, self.norm = nn.LayerNorm(width, eps=1e-5), nn.LayerNorm(width, eps=1e-5)
        self.image_proj = projection(width, config.embed_dim, std=tower.width**-0.5)
        self.text_proj = projection(width, config.embed_dim, std=width**-0.5)
        self.word_head = projection(width, config.text.vocab_size, std=width**-0.5)
        self.logit_scale = nn.Parameter(torch.tensor(config.logit_scale))
        self.image_size, self.image_mean, self.image_std = tower.image_size, tower.image_mean, tower.image_std

    # --- the figure

    def losses(
        self, batch: Batch, state: nn.Module, draws: None = None, generator: torch.Generator | None = None
    ) -> dict[str, Tensor]:
        """`itc` and `lm`, weighted by equation 4; there is nothing to draw."""
        return self.figure(batch).losses

    def figure(self, batch: Batch) -> Figure:
        """Both losses of one forward, box by box."""
        config = self.config
        ids, mask = batch.text()

        # The picture, for the contrast and for captions.
        tokens = self.image_tower.rest(self.image_tower.batch_prefix(batch))
        pooled = self.pool(tokens)

        # The text alone: [CLS], after all words, is the text.
        image, embeds = self.image_features(pooled), self.read(ids, mask)
        text = self.text_features(embeds)

        # The words go on and look at the picture; each predicts the next one, and [CLS] none.
        hidden, labels = self.caption_hidden(embeds, mask, self.context(pooled)), self.labels(ids, mask)
        known = labels != -100
        losses = {
            "itc": contrast(config, batch, image, text, self.logit_scale),
            "lm": language.lm(self.logits(hidden[known]), labels[known]),
        }
        losses["loss"] = config.contrastive_weight * losses["itc"] + config.caption_weight * losses["lm"]
        return Figure(pooled, image, embeds, text, hidden, labels, losses)

    # --- its boxes

    def pool(self, tokens: Float[Tensor, "B N C"]) -> Pooled:
        """The image tower's tokens pooled; with experts, after the layers that pictures share with texts."""
        return self.pooler(self.text(tokens, route="image") if self.config.experts else tokens)

    def read(
        self, input_ids: Int[Tensor, "B T"], attention_mask: Int[Tensor, "B T"]
    ) -> Float[Tensor, "B S D"]:
        """Hidden states of the unimodal half, [CLS] at S - 1 = T; a word sees what came before it."""
        compat, length = self.config.compat, input_ids.shape[1]
        # open_clip's mask is one place late: [CLS] sees the first padding, and itself in the longest texts.
        late = "shifted_padding_mask" in compat
        if late and length < self.config.text.positions:  # so that no text of a batch lacks that padding
            input_ids, attention_mask = F.pad(input_ids, (0, 1)), F.pad(attention_mask, (0, 1))
        last = attention_mask.new_ones(attention_mask.shape[0], 1)
        seen = attention_mask * (input_ids != 0) if "zero_is_padding" in compat else attention_mask
        seen = torch.cat([last, seen] if late else [seen, last], dim=1)
        computed = torch.cat([attention_mask, last], dim=1)
        mask = masks.padding(seen) & masks.causal(seen.shape[1], seen.device)
        x = self.words.ended(input_ids)
        x = unpadded(self.text, x, computed | seen if late else computed, mask=mask, route=self.route)
        return x if x.shape[1] == length + 1 else torch.cat([x[:, :length], x[:, -1:]], dim=1)

    def caption_hidden(
        self, embeds: Float[Tensor, "B S D"], attention_mask: Int[Tensor, "B T"], context: Context
    ) -> Float[Tensor, "B U D"]:
        """Hidden states of the multimodal half, of the words that another one follows."""
        return unpadded(self.multimodal, embeds[:, :-2], attention_mask[:, 1:], causal=True, context=context)

    def labels(self, input_ids: Int[Tensor, "B T"], attention_mask: Int[Tensor, "B T"]) -> Tensor:
        """The next token of each but the last, -100 at padding."""
        labels = shift(input_ids, attention_mask)
        return labels.masked_fill(labels == 0, -100) if "zero_is_padding" in self.config.compat else labels

    def image_features(self, pooled: Pooled) -> Float[Tensor, "B E"]:
        """Normalised features of pictures."""
        return F.normalize(self.image_proj(pooled.vector), dim=-1)

    def text_features(self, embeds: Float[Tensor, "B S D"]) -> Float[Tensor, "B E"]:
        """Normalised features of texts."""
        return F.normalize(self.text_proj(self.text_norm(embeds[:, -1])), dim=-1)

    def logits(self, hidden: Float[Tensor, "*P D"]) -> Float[Tensor, "*P V"]:
        """Logits of the next word."""
        return self.word_head(self.norm(hidden))

    @property
    def route(self) -> str:
        """The expert of words in the unimodal half."""
        return "text" if self.config.experts else "all"

    # --- state, features, captions

    @torch.no_grad()
    def advance(self, state: nn.Module, outputs: Sequence[dict[str, Tensor]]) -> None:
        self.logit_scale.clamp_(0, MAX_SCALE)

    def decays(self, name: str, parameter: nn.Parameter) -> bool:
        """open_clip's rule: not to gains, biases, the class tokens and `logit_scale`."""
        return parameter.ndim >= 2 and not name.endswith("cls_token")

    def image_context(self, image: Float[Tensor, "B 3 H W"]) -> tuple[Float[Tensor, "B E"], None]:
        return self.image_features(self.pool(self.image_tower(image))), None

    def text_context(
        self, input_ids: Int[Tensor, "B T"], attention_mask: Int[Tensor, "B T"]
    ) -> tuple[Float[Tensor, "B E"], Float[Tensor, "B S D"]]:
        embeds = self.read(input_ids, attention_mask)
        return self.text_features(embeds), embeds

    def context(self, pooled: Pooled) -> Context:
        """Keys and values of pictures for every multimodal layer."""
        return self.multimodal.context(pooled.tokens)

    def caption_context(self, image: Float[Tensor, "B 3 H W"]) -> Context:
        return self.context(self.pool(self.image_tower(image)))

    @property
    def dec_id(self) -> int:
        """The token that begins every text."""
        return 0 if self.tokenizer is None else self.tokenizer.cls_id

    def decoding(self, image: Float[Tensor, "G 3 H W"] | Context) -> Decoding:
        """Both halves in a row, one cache over both; [CLS] is not needed to write."""
        context = image if isinstance(image, Context) else self.caption_context(image)
        below, compat = len(self.text), self.config.compat
        parts = self.words, Stack([*self.text, *self.multimodal]), self.logits
        options: dict[str, Any] = {
            "context": Context((None,) * below + context.layers, context.mask),
            "route": lambda layer: self.route if layer < below else "all",
        }
        if "zero_is_padding" in compat:
            return PaddedDecoding(*parts, layers=below, late="shifted_padding_mask" in compat, **options)
        return StackDecoding(*parts, **options)

    def generation_config(self, prompt_length: int) -> GenerationConfig:
        """See `coca_network.search`."""
        assert self.tokenizer is not None  # prompt_ids asked for it
        return search(self.config, self.tokenizer, prompt_length)

    def fine_tuning(self, task: str, labels: tuple[str, ...] = ()) -> Any:
        found = network_config(self.config, task, labels, self.image_tower.width)
        return super().fine_tuning(task, labels) if found is None else found
