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
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from multiway.core import masks
from multiway.core.block import Block, Stack
from multiway.core.embed import PatchEmbed
from multiway.core.experts import Route
from multiway.core.init import init_bert, init_vit
from multiway.core.ragged import Ragged, Reading, countable
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
from multiway.systems.vlmo_embed import TextEmbed


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
        x = torch.cat([self.cls_token.expand(image.shape[0], -1, -1), self.patches(image)], dim=1)
        if self.positions is not None:
            x = x + self.positions
        return x + self.types.weight[kind]

    # --- passes; only real tokens go through the layers, and the last one computes those that are read

    def text(
        self,
        x: Float[Tensor, "B T D"],
        attention_mask: Int[Tensor, "B T"],
        top: Sequence[str] = ("text",),
        *,
        read: Bool[Tensor, "B T"] | None = None,
    ) -> list[Float[Tensor, "B T D"]]:
        """Embedded texts through their own experts; see `image`."""
        length, grid = x.shape[1], self.config.image.grid

        def index() -> Tensor:
            longest = self.config.relative_positions
            return text_index(length, positions=longest, first=image_rows(grid) + 2, device=x.device)

        bias, known = self._bias(attention_mask, index), countable(attention_mask)
        ragged = Ragged.of(attention_mask) if known and not _whole(attention_mask) else None
        return self._alone(x, "text", bias, top, ragged, read)

    def image(
        self,
        x: Float[Tensor, "B N D"],
        top: Sequence[str] = ("image",),
        *,
        read: Bool[Tensor, "B N"] | None = None,
    ) -> list[Float[Tensor, "B N D"]]:
        """Embedded pictures through their own experts: normalised last hidden states.

        Args:
            top: for each that is wanted, the expert of the layers on top; the layers below are shared.
            read: the tokens whose hidden states are wanted, None: all; elsewhere what comes out is not read.
        """
        bias = self._bias(None, lambda: image_index(self.config.image.grid, x.device))
        return self._alone(x, "image", bias, top, None, read)

    def pair(
        self,
        text: Float[Tensor, "P T D"],
        attention_mask: Int[Tensor, "P T"],
        image: Float[Tensor, "P N D"],
        *,
        read: Bool[Tensor, "P T"] | None = None,
    ) -> Float[Tensor, "P S D"]:
        """Embedded texts with a picture behind each: normalised last hidden states of both, in that order.

        Args:
            read: as in `image`, of the text's tokens; the picture's are not wanted then.
        """
        (length, patches), grid = (text.shape[1], image.shape[1]), self.config.image.grid
        longest = self.config.relative_positions
        seen = F.pad(attention_mask, (0, patches), value=1)
        bias = self._bias(seen, lambda: joint_index(length, grid, positions=longest, device=text.device))
        if not countable(seen) or (read is None and _whole(attention_mask)):
            routes = [("text", length), ("image", patches)], "joint"
            return self.norm(self._layers(torch.cat([text, image], 1), routes, bias, 0, self.config.depth))
        # All words, then all patches: two segments.
        words, place = Ragged.of(attention_mask), torch.arange(seen.numel(), device=seen.device).view_as(seen)
        order = torch.cat([place[:, :length].flatten()[words.index], place[:, length:].flatten()])
        ragged = Ragged(order, *seen.shape)
        x = torch.cat([words.pack(text), image.flatten(0, 1)[None]], dim=1)
        routes = [("text", len(words.index)), ("image", image.shape[0] * patches)], "joint"
        reading = None if read is None else ragged.reading(F.pad(read & attention_mask.bool(), (0, patches)))
        x = self.norm(self._layers(x, routes, bias, 0, self.config.depth, ragged, reading))
        return (ragged if reading is None else reading.tokens).pad(x)

    def rest(self, x: Float[Tensor, "B 3 H W"]) -> Float[Tensor, "B N D"]:
        return self.image(self.embed_image(x))[0]

    def _alone(
        self,
        x: Float[Tensor, "B T D"],
        expert: str,
        bias: LayerMasks | Tensor | None,
        top: Sequence[str],
        ragged: Ragged | None,
        read: Bool[Tensor, "B T"] | None,
    ) -> list[Float[Tensor, "B T D"]]:
        """A modality on its own, packed where there is a `ragged`."""
        shared, depth, out = self.below if len(top) > 1 else 0, self.config.depth, []
        x = x if ragged is None else ragged.pack(x)
        x = self._layers(x, (expert, expert), bias, 0, shared, ragged)
        for route in ((expert, one) for one in top):
            if read is None or not countable(read):
                y = self.norm(self._layers(x, route, bias, shared, depth, ragged))
                out.append(y if ragged is None else ragged.pad(y))
                continue
            y = self._layers(x, route, bias, shared, depth - 1, ragged)
            last = Ragged.of(torch.ones_like(read)) if ragged is None else ragged
            y, reading = y if ragged is not None else last.pack(y), last.reading(read)
            y = self.norm(self._layers(y, route, bias, depth - 1, depth, last, reading))
            out.append(reading.tokens.pad(y))
        return out

    def _layers(
        self,
        x: Tensor,
        routes: tuple[Route, Route],
        bias: LayerMasks | Tensor | None,
        start: int,
        stop: int,
        ragged: Ragged | None = None,
        reading: Reading | None = None,
    ) -> Tensor:
        """Blocks `start` to `stop` - 1; `routes` are those of the layers below, and of those on top."""
        for route, first, last in ((routes[0], 0, self.below), (routes[1], self.below, self.config.depth)):
            first, last = max(first, start), min(last, stop)
            if first < last:
                part = self.blocks[first:last]
                assert isinstance(part, Stack)  # a slice of one
                part.checkpointing = self.blocks.checkpointing
                masks_of = bias[first:last] if isinstance(bias, LayerMasks) else bias
                read = reading if last == self.config.depth else None
                x = part(x, route=route, mask=masks_of, ragged=ragged, reading=read)
        return x

    def _bias(
        self, attention_mask: Int[Tensor, "B S"] | None, index: Callable[[], Int[Tensor, "S S"]]
    ) -> LayerMasks | Tensor | None:
        """What each layer adds to its scores: relative positions, and -inf where there is padding."""
        mask = None
        if attention_mask is not None and not _whole(attention_mask):
            mask = masks.padding(attention_mask)
        return mask if self.relative is None else LayerMasks(self.relative(index()), mask)


def _whole(attention_mask: Int[Tensor, "B T"]) -> bool:
    """Whether it is known that there is no padding."""
    return countable(attention_mask) and bool(attention_mask.all())


def class_tokens(x: Float[Tensor, "B N D"]) -> Bool[Tensor, "B N"]:
    """Which tokens of embedded pictures are class tokens."""
    return (torch.arange(x.shape[1], device=x.device) == 0).expand(x.shape[:2])
