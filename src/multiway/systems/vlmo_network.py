"""VLMo's multiway transformer: shared attention, an expert a modality, a joint expert in the layers on top.

```
        text alone            picture alone              a pair: text first
            |                       |                            |
    layers on top:  text expert | image expert | joint    all through the joint expert
            |                       |                            |
    layers below:   text expert | image expert           each token through its modality's
            |                       |                            |
    words + type 0          patches + type 1             both in a row
```
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from multiway.core import masks
from multiway.core.block import Block, Stack
from multiway.core.embed import PatchEmbed, WordEmbed
from multiway.core.experts import Route
from multiway.core.init import init_bert, init_vit
from multiway.core.relative import (
    LayerMasks,
    RelativeBias,
    image_index,
    image_rows,
    joint_index,
    joint_rows,
    text_index,
)
from multiway.systems.image_tower import ImageTower
from multiway.systems.vlmo_config import MultiwayConfig


class TextEmbed(WordEmbed):
    """BERT's embeddings; where positions are relative, its table of positions is kept and never read.

    The row of [PAD] gets no gradient, as in BERT.
    """

    def __init__(self, config: MultiwayConfig):
        text = config.text
        super().__init__(
            text.vocab_size,
            config.width,
            positions=text.positions,
            types=text.types,
            eps=text.eps,
            dropout=text.dropout,
        )
        self.words.padding_idx = 0
        self.relative = config.positions == "relative"
        self.positions.requires_grad_(not self.relative)

    def forward(
        self, input_ids: Int[Tensor, "B T"], *, start: int | Int[Tensor, " B"] = 0
    ) -> Float[Tensor, "B T D"]:
        if not self.relative:
            return super().forward(input_ids, start=start)
        assert self.types is not None  # BERT has them
        return self.dropout(self.norm(self.words(input_ids) + self.types.weight[0]))


class MultiwayTransformer(ImageTower):
    """The network of every VLMo; as an image tower, it is the path of pictures through their own experts."""

    pooled_index = 0
    frozen = 0

    def __init__(self, config: MultiwayConfig):
        super().__init__()
        self.config, image, width = config, config.image, config.width
        self.width, self.image_size = width, image.image_size
        self.image_mean, self.image_std = image.mean, image.std
        self.text_embed = TextEmbed(config)
        self.patches = PatchEmbed(image.patch_size, width)
        self.cls_token = nn.Parameter(torch.zeros(1, 1, width))
        self.types = nn.Embedding(config.types, width)
        self.positions = self.relative = None
        if config.positions == "absolute":
            self.positions = nn.Parameter(torch.zeros(1, 1 + image.grid[0] * image.grid[1], width))
            nn.init.trunc_normal_(self.positions, std=0.02)
        else:
            rows = joint_rows(image.grid, config.relative_positions)
            self.relative = RelativeBias(rows, config.heads, config.depth)
        self.below = config.depth - config.joint_layers
        self.blocks = Stack(
            Block(
                width,
                config.heads,
                config.hidden,
                experts=("text", "image") if layer < self.below else ("text", "image", "joint"),
                layer_scale=config.layer_scale,
                drop_path=config.drop_path * layer / max(config.depth - 1, 1),
                eps=config.eps,
                key_bias=False,
            )
            for layer in range(config.depth)
        )
        self.norm = nn.LayerNorm(width, eps=config.eps)
        init_bert(self.text_embed)
        init_bert(self.types)
        init_vit(self.blocks)
        nn.init.trunc_normal_(self.cls_token, std=0.02)
        with torch.no_grad():  # a second picture starts as the first (NLVR2)
            self.types.weight[2:] = self.types.weight[1]

    def embed_text(self, input_ids: Int[Tensor, "B T"]) -> Float[Tensor, "B T D"]:
        """Words, and that they are words."""
        return self.text_embed(input_ids) + self.types.weight[0]

    def embed_image(self, image: Float[Tensor, "B 3 H W"], kind: int = 1) -> Float[Tensor, "B N D"]:
        """Class token and patches, and that they are a picture's; a second one's with `kind` 2.

        Raises:
            ValueError: pictures of another size than the config's.
        """
        grid = (image.shape[-2] // self.patches.patch_size, image.shape[-1] // self.patches.patch_size)
        if grid != self.config.image.grid:
            raise ValueError(
                f"a picture of {grid} patches, and positions are for {self.config.image.grid}: load the "
                "model with its image_size"
            )
        x = torch.cat([self.cls_token.expand(len(image), -1, -1), self.patches(image)], dim=1)
        if self.positions is not None:
            x = x + self.positions
        return x + self.types.weight[kind]

    def text(
        self, x: Float[Tensor, "B T D"], attention_mask: Int[Tensor, "B T"], top: Sequence[str] = ("text",)
    ) -> list[Float[Tensor, "B T D"]]:
        """Embedded texts through their own experts; see `image`."""
        longest, first = self.config.relative_positions, image_rows(self.config.image.grid) + 2

        def index() -> Tensor:
            return text_index(x.shape[1], positions=longest, first=first, device=x.device)

        return self._alone(x, "text", self._bias(attention_mask, index), top)

    def image(
        self, x: Float[Tensor, "B N D"], top: Sequence[str] = ("image",)
    ) -> list[Float[Tensor, "B N D"]]:
        """Embedded pictures through their own experts: normalised last hidden states.

        Args:
            top: for each that is wanted, the expert of the layers on top; the layers below are shared.
        """
        bias = self._bias(None, lambda: image_index(self.config.image.grid, x.device))
        return self._alone(x, "image", bias, top)

    def pair(
        self,
        text: Float[Tensor, "P T D"],
        attention_mask: Int[Tensor, "P T"],
        image: Float[Tensor, "P N D"],
    ) -> Float[Tensor, "P S D"]:
        """Embedded texts with a picture behind each: normalised last hidden states of both, in that order."""
        length, patches = text.shape[1], image.shape[1]
        grid, longest = self.config.image.grid, self.config.relative_positions
        seen = torch.cat([attention_mask, attention_mask.new_ones(len(image), patches)], dim=1)
        bias = self._bias(seen, lambda: joint_index(length, grid, positions=longest, device=text.device))
        x = torch.cat([text, image], dim=1)
        x = self._layers(x, [("text", length), ("image", patches)], bias, 0, self.below)
        return self.norm(self._layers(x, "joint", bias, self.below, self.config.depth))

    def rest(self, x: Float[Tensor, "B 3 H W"]) -> Float[Tensor, "B N D"]:
        return self.image(self.embed_image(x))[0]

    def _alone(
        self, x: Float[Tensor, "B T D"], expert: str, bias: LayerMasks | Tensor | None, top: Sequence[str]
    ) -> list[Float[Tensor, "B T D"]]:
        x = self._layers(x, expert, bias, 0, self.below)
        return [self.norm(self._layers(x, one, bias, self.below, self.config.depth)) for one in top]

    def _layers(
        self, x: Tensor, route: Route, bias: LayerMasks | Tensor | None, first: int, last: int
    ) -> Tensor:
        part = self.blocks[first:last]
        assert isinstance(part, Stack)  # a slice of one
        part.checkpointing = self.blocks.checkpointing
        return part(x, route=route, mask=bias[first:last] if isinstance(bias, LayerMasks) else bias)

    def _bias(
        self, attention_mask: Int[Tensor, "B S"] | None, index: Callable[[], Int[Tensor, "S S"]]
    ) -> LayerMasks | Tensor | None:
        """What each layer adds to its scores: relative positions, and -inf where there is padding."""
        mask = None
        if attention_mask is not None and (attention_mask.is_meta or not bool(attention_mask.all())):
            mask = masks.padding(attention_mask)
        return mask if self.relative is None else LayerMasks(self.relative(index()), mask)
