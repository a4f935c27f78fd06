"""What ViLT and its fine-tuning networks share: one transformer over words and patches.

```
    hidden states of words | of the picture          pooled: Linear, tanh of the first word's, [CLS]
                  |
            the ViT's blocks and last norm
                  |
    words + positions, norm, + type 0 | class token, patches + positions of the picture's own size, + type 1
```
"""

from __future__ import annotations

from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from multiway.core.embed import WordEmbed, padded_positions, resize_positions
from multiway.core.init import init_bert
from multiway.core.pooling import pooled_positions
from multiway.core.relative import Grid
from multiway.data.augment import KeptShape
from multiway.errors import UserError
from multiway.systems.base import System
from multiway.systems.bert import unpadded
from multiway.systems.fused import Tokens
from multiway.systems.resizing import first_rows, fitted
from multiway.systems.vilt_config import NETWORKS, OneTowerConfig
from multiway.systems.vit import VisionTransformer
from multiway.systems.vlmo_config import network_config

#: Names that end so are not decayed; the gain within a classifier is (vilt_utils.py `set_schedule`).
UNDECAYED = ("bias", "norm.weight", "norm1.weight", "norm2.all.weight")


class OneTower(System):
    """Words and patches in one transformer.

    Pictures of different sizes lie in the upper left corner of one canvas of zeros. A patch is a picture's
    own where its first pixel is not zero in all channels, which no normalised 8-bit picture's is.
    """

    config: Any
    image_tower: VisionTransformer

    def __init__(self, config: OneTowerConfig, image_tower: nn.Module | None = None):
        super().__init__()
        if image_tower is not None:
            raise UserError(f"{type(self).__name__} reads pictures itself: leave image_tower out")
        self.config, text, width = config, config.text, config.image.width
        self.image_tower = VisionTransformer(config.image)
        self.text_embed = WordEmbed(
            text.vocab_size,
            width,
            positions=text.positions,
            types=text.types,
            eps=text.eps,
            dropout=text.dropout,
        )
        if config.tokenizer.kind == "wordpiece":  # [PAD] gets no gradient, as in BERT
            self.text_embed.words.padding_idx = 0
        self.types = nn.Embedding(config.types, width)
        self.pooler = nn.Linear(width, width)
        self.dropout = nn.Dropout(config.image.dropout)
        for part in (self.text_embed, self.types, self.pooler):
            init_bert(part)
        with torch.no_grad():  # a second picture starts as the first (NLVR2)
            self.types.weight[2:] = self.types.weight[1]
        self.itm_head: nn.Linear | None = None
        side = config.image.image_size
        assert isinstance(side, int)  # the config says so
        self.image_size = side
        self.kept_shape = KeptShape(side, config.longest_side, config.image.patch_size)
        self.image_mean, self.image_std = config.image.mean, config.image.std
        embeddings = tuple(f"image_tower.{part}" for part in ("patches.", "cls_token", "positions"))
        both = ("image_tower.blocks.", "image_tower.norm.", "types.", "pooler.", "itm_head.")
        self.parts = {
            "vision": embeddings,
            "text": ("text_embed.", "mlm_"),
            "interaction": (*both, "rank_head.", "classifier."),
        }

    # --- what is read

    def canvas(self, image: Float[Tensor, "B 3 H W"]) -> tuple[Float[Tensor, "B N D"], Bool[Tensor, "B N"]]:
        """Patches with the positions of their picture's own size, and which are a picture's own."""
        tower, step = self.image_tower, self.config.image.patch_size
        own = (image[:, :, ::step, ::step] != 0).any(1)
        sizes = torch.stack([own.any(2).sum(1), own.any(1).sum(1)], dim=1)
        assert tower.positions is not None  # the config says so
        grid = self.config.image.grid
        positions = padded_positions(tower.positions, sizes, (own.shape[1], own.shape[2]), old_grid=grid)
        return tower.patches(image) + positions, own.flatten(1)

    def tokens(
        self,
        patches: Float[Tensor, "B N D"],
        own: Bool[Tensor, "B N"],
        chosen: Int[Tensor, "B L"] | None = None,
        *,
        kind: int = 1,
    ) -> Tokens:
        """Class token and patches of a canvas, and that they are a picture's; a second one's with `kind` 2.

        Args:
            chosen: the patches to read, None: all.
        """
        tower = self.image_tower
        if chosen is not None:
            patches, own = patches.take_along_dim(chosen[..., None], dim=1), own.gather(1, chosen)
        assert tower.positions is not None
        first = (tower.cls_token + tower.positions[:, :1]).expand(patches.shape[0], -1, -1)
        x = self.dropout(torch.cat([first, patches], dim=1)) + self.types.weight[kind]
        return Tokens(x, mask=torch.cat([torch.ones_like(own[:, :1]), own], dim=1))

    def look(self, image: Float[Tensor, "B 3 H W"], *, kind: int = 1) -> Tokens:
        """Pictures as the transformer reads them, all of their patches."""
        return self.tokens(*self.canvas(image), kind=kind)

    def pair(
        self,
        input_ids: Int[Tensor, "P T"],
        attention_mask: Int[Tensor, "P T"],
        pictures: Tokens,
        *,
        read: Bool[Tensor, "P S"] | None = None,
    ) -> Float[Tensor, "P S D"]:
        """Normalised last hidden states of texts, and behind each of its picture; S = T + 1 + L.

        Padding of either goes through no layer.

        Args:
            read: the tokens whose states are wanted, None: all.
        """
        own = pictures.copied_mask()
        assert own is not None  # `tokens` gives one
        text = self.text_embed(input_ids) + self.types.weight[0]
        seen = torch.cat([attention_mask, own.to(attention_mask.dtype)], dim=1)
        x = torch.cat([text, pictures.copied()], dim=1)
        return self.image_tower.norm(unpadded(self.image_tower.blocks, x, seen, read=read))

    def pooled(self, hidden: Float[Tensor, "P S D"]) -> Float[Tensor, "P D"]:
        """The vector of a pair: its first token's, [CLS]."""
        return torch.tanh(self.pooler(hidden[:, 0]))

    def read(
        self, input_ids: Int[Tensor, "P T"], attention_mask: Int[Tensor, "P T"], pictures: Tokens
    ) -> Float[Tensor, "P D"]:
        """The vectors of texts and pictures that are read together."""
        first = pooled_positions(attention_mask, "cls")
        rest = first.new_zeros(first.shape[0], pictures.tokens.shape[1])
        return self.pooled(
            self.pair(input_ids, attention_mask, pictures, read=torch.cat([first, rest], dim=1))
        )

    # --- retrieval: there is nothing to compare beforehand, every pair is read

    def match_context(self, image: Float[Tensor, "B 3 H W"]) -> Tokens | None:
        return self.look(image) if self.has_itm else None

    def match_text(
        self, input_ids: Int[Tensor, "B T"], attention_mask: Int[Tensor, "B T"]
    ) -> Int[Tensor, "B T"]:
        return input_ids

    def match_pairs(
        self, context: Tokens, hidden: Int[Tensor, "P T"], attention_mask: Int[Tensor, "P T"]
    ) -> Float[Tensor, "P 2"]:
        if self.itm_head is None:
            return super().match_pairs(context, hidden, attention_mask)
        return self.itm_head(self.read(hidden, attention_mask, context))

    # --- training

    def fine_tuning(self, task: str, labels: tuple[str, ...] = ()) -> OneTowerConfig:
        return network_config(self.config, task, labels, NETWORKS)

    def decays(self, name: str, parameter: nn.Parameter) -> bool:
        return not name.endswith(UNDECAYED)

    def layer_of(self, name: str) -> tuple[int, int]:
        embeds = name.startswith(("text_embed.", "types."))
        return 0 if embeds else self.image_tower.layer_of(name), self.config.image.depth

    def adopt(self, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
        """From another network of ViLT; the ranking head starts from ITM's row for "matched".

        Source: vilt_module.py, the constructor.
        """
        found = dict(tensors)
        for part in ("weight", "bias"):
            if f"itm_head.{part}" in tensors:
                found.setdefault(f"rank_head.{part}", tensors[f"itm_head.{part}"][1:2])
        return fitted(self, found)

    def resize(self, name: str, tensor: Tensor, old_grid: Grid | None = None) -> Tensor | None:
        """Positions of patches as a picture of that size has them; those of words as `first_rows` says, and a
        second picture's type starts as the first's.
        """
        own = self.get_parameter(name)
        if name == "image_tower.positions":
            return resize_positions(tensor, self.config.image.grid, old_grid=old_grid, corners=True)
        if name == "text_embed.positions.weight":
            return first_rows(tensor, own)
        if name == "types.weight":
            return torch.cat([tensor, *[tensor[1:2]] * (len(own) - len(tensor))])[: len(own)]
        return None
