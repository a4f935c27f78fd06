"""The multiway transformer of BEiT-3: pictures, texts, and pairs through one stack of blocks."""

from __future__ import annotations

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from multiway.core.block import Block, Stack
from multiway.core.cache import Cache
from multiway.core.embed import PatchEmbed, resize_positions
from multiway.core.experts import Route, each, read_route, through
from multiway.core.init import init_beit, rescale_residual
from multiway.core.ragged import Ragged, countable
from multiway.systems.beit3_config import UNUSED, NetworkConfig
from multiway.systems.beit3_rows import Rows, route

EXPERTS = ("image", "text")


class MultiwayNetwork(nn.Module):
    """Embeddings, blocks, and a last norm.

    Args:
        last_norm: whether the blocks are followed by a norm; VQA and classification have their own.
    """

    def __init__(self, config: NetworkConfig, *, last_norm: bool = True):
        super().__init__()
        self.config, width, doubled = config, config.width, config.form == "release"
        self.joint_from = config.depth if doubled else config.depth - config.joint_layers
        self.words = nn.Embedding(config.text.vocab_size, width)
        self.text_positions = nn.Parameter(torch.empty(config.text.positions, width))
        self.patches = PatchEmbed(config.image.patch_size, width)
        self.cls_token = nn.Parameter(torch.zeros(1, 1, width))
        self.mask_token = nn.Parameter(torch.zeros(1, 1, width))
        patches = config.image.grid[0] * config.image.grid[1]
        self.image_positions = nn.Parameter(torch.empty(UNUSED + 1 + patches, width))
        self.blocks = Stack(
            Block(
                width,
                config.heads,
                config.hidden,
                experts=EXPERTS if i < self.joint_from else (*EXPERTS, "joint"),
                eps=config.eps,
                drop_path=config.drop_path * i / max(config.depth - 1, 1),
                doubled=doubled,
                sub_norm=doubled,
            )
            for i in range(config.depth)
        )
        self.norm = None
        if last_norm:
            self.norm = each(EXPERTS if doubled else None, lambda: nn.LayerNorm(width, eps=config.eps))
        self._init()

    def _init(self) -> None:
        """As the fine-tuning networks begin (recorded case beit3/init): linear maps as BEiT's.

        The patches keep torch's default, and positions a standard deviation of 1.
        """
        init_beit(self.blocks)
        nn.init.normal_(self.words.weight, std=self.config.width**-0.5)
        nn.init.normal_(self.image_positions)
        nn.init.normal_(self.text_positions)

    @torch.no_grad()
    def start_small(self) -> None:
        """As pre-training begins (section 3.1, after BEiT): all of one small size, branches by depth."""
        init_beit(self)
        for table in (self.words.weight, self.image_positions, self.text_positions, self.cls_token):
            nn.init.trunc_normal_(table, std=0.02)
        nn.init.trunc_normal_(self.mask_token, std=0.02)
        rescale_residual(self.blocks)

    # --- embeddings

    def embed_image(
        self, image: Float[Tensor, "B 3 H W"], patch_mask: Bool[Tensor, "B P"] | None = None
    ) -> Float[Tensor, "B N D"]:
        """Class token and patches with their positions; masked patches are one learned token."""
        size, x = self.config.image.patch_size, self.patches(image)
        if patch_mask is not None:
            x = self.mask_token.to(x.dtype).where(patch_mask[..., None], x)
        grid = (image.shape[-2] // size, image.shape[-1] // size)
        positions = self.resized(self.image_positions, grid, self.config.image.grid)[UNUSED:]
        return torch.cat([self.cls_token.expand(x.shape[0], -1, -1), x], dim=1) + positions

    @staticmethod
    def resized(
        positions: Float[Tensor, "R D"], grid: tuple[int, int], old_grid: tuple[int, int] | None = None
    ) -> Float[Tensor, "Q D"]:
        """A picture's table of positions for another grid (utils.py, `load_model_and_may_interpolate`)."""
        return resize_positions(positions[None], grid, prefix=UNUSED + 1, old_grid=old_grid)[0]

    def embed_text(
        self, input_ids: Int[Tensor, "B T"], places: Int[Tensor, "B T"] | None = None
    ) -> Float[Tensor, "B T D"]:
        """Words with their positions: `places`, from 0; None: one after the other."""
        if places is None:
            return self.words(input_ids) + self.text_positions[UNUSED : UNUSED + input_ids.shape[1]]
        return self.words(input_ids) + self.text_positions[places + UNUSED]

    # --- the stack

    def forward(
        self,
        image: Float[Tensor, "B 3 H W"] | None = None,
        input_ids: Int[Tensor, "B T"] | None = None,
        attention_mask: Int[Tensor, "B T"] | None = None,
        *,
        has_image: Bool[Tensor, " B"] | None = None,
        patch_mask: Bool[Tensor, "B P"] | None = None,
        causal: bool = False,
        read: Bool[Tensor, "B S"] | None = None,
    ) -> Float[Tensor, "B S D"]:
        """Last hidden states in rows of `[class token, patches, text]`; what is no token, or not read, is 0.

        Texts alone have no class token of a picture before them: S is then T.

        Args:
            has_image: rows with a picture; what the others hold is left out. None: all, if there are any.
            causal: for captions: pictures see no text, and a word sees the picture and the words before it.
            read: the positions whose states are wanted: the last layer computes no other; not with `causal`.
        """
        if image is None and input_ids is None:
            raise ValueError("the network needs pictures, texts, or both")
        if attention_mask is None or input_ids is None:
            some = image if image is not None else input_ids
            assert some is not None
            attention_mask = some.new_zeros(some.shape[0], 0, dtype=torch.long)
        real = attention_mask.bool()
        if has_image is None or image is None:
            has_image = torch.full((real.shape[0],), image is not None, device=real.device)
            pictures = None if image is None else self.embed_image(image, patch_mask)
        else:
            pictures = self._pictures(image, has_image, patch_mask)
        rows = Rows(has_image, real, 0 if pictures is None else pictures.shape[1])
        if not countable(real):
            wanted = rows.tokens if read is None else rows.tokens & read
            return self._whole(pictures, input_ids, rows, rows.mask(causal=causal)).where(
                wanted[..., None], 0
            )
        alike = pictures is None or len(pictures) == len(real)
        if read is None and alike and bool(real.all()):
            first = Rows(has_image[:1], real[:1], rows.prefix)
            return self._whole(pictures, input_ids, rows, first.mask(causal=True) if causal else None)
        return self._packed(pictures, input_ids, rows, causal=causal, read=read)

    def _pictures(
        self, image: Tensor, has_image: Bool[Tensor, " B"], patch_mask: Bool[Tensor, "B P"] | None
    ) -> Float[Tensor, "I N D"]:
        """Embedded pictures of the rows that have one."""
        if has_image.is_meta or bool(has_image.all()):
            return self.embed_image(image, patch_mask)
        return self.embed_image(image[has_image], None if patch_mask is None else patch_mask[has_image])

    def route(self, lengths: list[int], layer: int) -> Route:
        """Experts of a layer for so many tokens of each kind, see `beit3_rows`."""
        return route(lengths, joint=layer >= self.joint_from)

    def _whole(
        self, pictures: Tensor | None, input_ids: Tensor | None, rows: Rows, mask: Tensor | None
    ) -> Float[Tensor, "B S D"]:
        """All rows alike: nothing needs to be packed where there is no padding, or where it goes along."""
        parts = [] if pictures is None else [pictures]
        texts = input_ids is not None and input_ids.shape[1] > 0
        if texts:
            parts.append(self.embed_text(input_ids))
        x, count = torch.cat(parts, dim=1), 0 if not texts else parts[-1].shape[1]
        pair = pictures is not None and texts
        lengths = [0, rows.prefix, count, 0] if pair else [rows.prefix, 0, 0, count]
        return self._last(self.blocks(x, route=lambda i: self.route(lengths, i), mask=mask), lengths)

    def _packed(
        self,
        pictures: Tensor | None,
        input_ids: Tensor | None,
        rows: Rows,
        *,
        causal: bool,
        read: Bool[Tensor, "B S"] | None,
    ) -> Float[Tensor, "B S D"]:
        """Real tokens alone, in the order of their kinds."""
        index, lengths = rows.order()
        ragged = Ragged(index, len(rows.image), rows.prefix + rows.real.shape[1])
        parts = []
        if pictures is not None:
            with_text = rows.text[rows.image]
            parts += [pictures[~with_text].flatten(0, 1), pictures[with_text].flatten(0, 1)]
        if input_ids is not None and rows.real.shape[1]:
            texts, pair = self.embed_text(input_ids), rows.image[:, None]
            parts += [texts[rows.real & pair], texts[rows.real & ~pair]]
        reading = None if read is None else ragged.reading(read)
        x = self.blocks(
            torch.cat(parts)[None],
            route=lambda i: self.route(lengths, i),
            mask=rows.mask(causal=causal),
            ragged=ragged,
            reading=reading,
        )
        if reading is None:
            return ragged.pad(self._last(x, lengths))
        if self.norm is not None:
            x = through(x, read_route(self.route(lengths, 0), reading), self.norm)
        return reading.tokens.pad(x)

    def _last(self, x: Float[Tensor, "B S D"], lengths: list[int]) -> Float[Tensor, "B S D"]:
        return x if self.norm is None else through(x, self.route(lengths, 0), self.norm)

    # --- step by step

    def start(self, image: Float[Tensor, "B 3 H W"]) -> Cache:
        """Keys and values of pictures, to which captions are written: pictures see no text."""
        cache = Cache(len(self.blocks))
        self.blocks(self.embed_image(image), route=lambda i: self.expert("image", i), cache=cache)
        return cache

    def expert(self, kind: str, layer: int) -> str:
        """The expert of a token of a pair."""
        return "joint" if layer >= self.joint_from else kind

    def write(
        self,
        input_ids: Int[Tensor, "B T"],
        cache: Cache,
        *,
        places: Int[Tensor, "B T"] | None = None,
        mask: Tensor | None = None,
    ) -> Float[Tensor, "B T D"]:
        """Last hidden states of words after what is cached; they are cached in turn.

        Args:
            places: positions in the text; None: from 0 on. mask: see `core.masks`; None: causal.
        """
        x = self.embed_text(input_ids, places)
        x = self.blocks(
            x, route=lambda i: self.expert("text", i), cache=cache, mask=mask, causal=mask is None
        )
        return x if self.norm is None else through(x, "text", self.norm)
