"""The multiway block, and a stack of them.

```
   which expert?      who may attend to whom?      what else is in sight?
     `route`              `mask`, `causal`               `context`
        |                       |                            |
x -> self-attention ------> [cross-attention] ------> feed-forward(expert) -> x
```
Every system of the line is a stack of these. Nothing about a call is set from outside: it all travels in
arguments.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from multiway.core.attention import Cache, CrossAttention, KeyValue, SelfAttention
from multiway.core.experts import Route, each, per_expert, read_route, through
from multiway.core.feedforward import DropPath, FeedForward, SubNormFeedForward
from multiway.core.ragged import Ragged, Reading


@dataclass(frozen=True)
class Context:
    """What cross-attention looks at.

    Attributes:
        layers: keys and values of each layer; None where a layer has no cross-attention.
        mask: bool, True = may be attended to, broadcastable to `[B, H, T, N]`; None: everything.
        rows: the row of the context that text p looks at; None: row p.
    """

    layers: tuple[KeyValue | None, ...]
    mask: Tensor | None = None
    rows: Int[Tensor, " P"] | None = None

    def __len__(self) -> int:
        """B, the rows of keys and values."""
        return next((len(kv.key) for kv in self.layers if kv is not None), 0)

    def shared_by(self, rows: Int[Tensor, " P"]) -> Context:
        """Text p looks at row `rows[p]`: as `select`, but keys and values are not copied.

        The mask must be the same for all queries of a row.
        """
        return Context(self.layers, self.mask, rows if self.rows is None else self.rows[rows])

    def copied(self) -> Context:
        """A row for every text, where rows were shared."""
        if self.rows is None:
            return self
        return Context(self.layers, self.mask).select(self.rows)

    def select(self, index: Int[Tensor, " P"]) -> Context:
        """Rows `index` of the context's batch."""
        if self.rows is not None:
            return self.shared_by(index)
        mask = None if self.mask is None else self.mask.index_select(0, index)
        return Context(tuple(kv if kv is None else kv.select(index) for kv in self.layers), mask)


class Block(nn.Module):
    """One transformer layer: self-attention, optional cross-attention, one feed-forward an expert.

    Args:
        width: D. heads: H. hidden: width of the feed-forward's middle.
        experts: names of the feed-forwards; each has its own norm before (pre-norm) or after it (post-norm).
        doubled: self-attention has experts too: of its norm and of every projection; all tokens still see
            each other (BEiT-3 as released).
        sub_norm: one more LayerNorm before the last map of attention and of the feed-forward (Magneto).
        key_bias: whether keys have a bias (BEiT and VLMo: not).
        context_width: width C of the cross-attended tokens, or None for no cross-attention.
        context_norm: the cross-attended tokens are normalised first (CoCa).
        middle: a feed-forward of its own follows self-attention, before cross-attention (open_clip's CoCa).
        pre_norm: x + f(norm(x)) as in ViT, else norm(x + f(x)) as in BERT.
        layer_scale: initial value of a learned gain on each residual branch, or None.
        drop_path: probability of dropping a residual branch of a sample.
        dropout: probability in attention weights and on every residual branch (BERT).
        quick_gelu, tanh_gelu: the feed-forward's approximation of GELU (CLIP's; FLIP's).
        attention_dropout: of the attention weights where it is another (timm's ViT: 0).
    """

    def __init__(
        self,
        width: int,
        heads: int,
        hidden: int,
        *,
        experts: Sequence[str] = ("all",),
        context_width: int | None = None,
        context_norm: bool = False,
        middle: bool = False,
        pre_norm: bool = True,
        layer_scale: float | None = None,
        drop_path: float = 0.0,
        dropout: float = 0.0,
        attention_dropout: float | None = None,
        eps: float = 1e-6,
        quick_gelu: bool = False,
        tanh_gelu: bool = False,
        doubled: bool = False,
        sub_norm: bool = False,
        key_bias: bool = True,
    ):
        super().__init__()
        self.pre_norm = pre_norm
        attending = tuple(experts) if doubled else None
        self.norm1 = each(attending, lambda: nn.LayerNorm(width, eps=eps))
        self.attention = SelfAttention(
            width,
            heads,
            dropout=dropout if attention_dropout is None else attention_dropout,
            experts=attending,
            norm_eps=eps if sub_norm else None,
            key_bias=key_bias,
        )
        self.cross = self.norm_cross = None
        if context_width is not None:
            self.norm_cross = nn.LayerNorm(width, eps=eps)
            context_eps = eps if context_norm else None
            self.cross = CrossAttention(
                width, heads, context_width=context_width, dropout=dropout, context_eps=context_eps
            )
        self.norm2 = per_expert(experts, lambda: nn.LayerNorm(width, eps=eps))
        gelu = {"quick_gelu": quick_gelu, "tanh_gelu": tanh_gelu}
        if sub_norm:
            self.ffn = per_expert(experts, lambda: SubNormFeedForward(width, hidden, eps=eps))
        else:
            self.ffn = per_expert(experts, lambda: FeedForward(width, hidden, **gelu))
        self.norm_middle = self.ffn_middle = None
        if middle:
            self.norm_middle = per_expert(experts, lambda: nn.LayerNorm(width, eps=eps))
            self.ffn_middle = per_expert(experts, lambda: FeedForward(width, hidden, **gelu))
        self.gamma1 = self.gamma2 = None
        if layer_scale is not None:
            self.gamma1 = nn.Parameter(torch.full((width,), layer_scale))
            self.gamma2 = nn.Parameter(torch.full((width,), layer_scale))
        self.drop_path = DropPath(drop_path)
        self.dropout = nn.Dropout(dropout)

    def forward(
        self,
        x: Float[Tensor, "B T D"],
        *,
        route: Route = "all",
        mask: Tensor | None = None,
        causal: bool = False,
        context: KeyValue | None = None,
        context_mask: Tensor | None = None,
        cache: Cache | None = None,
        layer: int = 0,
        ragged: Ragged | None = None,
        crossing: Ragged | None = None,
        reading: Reading | None = None,
        maps: list[Tensor] | None = None,
    ) -> Float[Tensor, "B R D"]:
        """One layer; R is T, or what `reading` says.

        Args:
            route: the expert of all tokens, or (expert, length) segments in order.
            mask: see `core.masks`; `causal` is its fast special case.
            context: keys and values for cross-attention; None skips it, also in a block that has it.
            ragged: `x` is its packed tokens `[1, N, D]`; masks and maps are of the padded batch.
            crossing: how packed tokens are laid out in cross-attention; None: as `ragged`.
            reading: the packed tokens to compute, `[1, R, D]`; `crossing` is then theirs.
            maps: receives the self-attention map and, after it, the cross-attention map (slow path).
        """

        def attention(y: Tensor) -> Tensor:
            options = {"cache": cache, "layer": layer, "ragged": ragged, "maps": maps}
            return self.attention(y, route=route, mask=mask, causal=causal, reading=reading, **options)

        layout = ragged if reading is None else reading.tokens
        x = self._residual(x, attention, self.norm1, self.gamma1, route, layout, reading)
        route = read_route(route, reading)
        if self.ffn_middle is not None:
            x = self._feed(x, self.norm_middle, self.ffn_middle, None, route, layout)
        if self.cross is not None and context is not None:
            crossed = ragged if crossing is None else crossing
            cross = partial(self.cross, context=context, mask=context_mask, ragged=crossed, maps=maps)
            x = self._residual(x, cross, self.norm_cross, None, route, layout)
        return self._feed(x, self.norm2, self.ffn, self.gamma2, route, layout)

    def _feed(self, x, norm, ffn, gamma, route: Route, layout: Ragged | None):
        """A feed-forward's branch, each token through its own expert."""

        def branch(y: Tensor) -> Tensor:
            return through(y, route, ffn)

        if isinstance(route, str) or isinstance(self.norm1, nn.ModuleDict):
            return self._residual(x, branch, norm, gamma, route, layout)
        # Where attention is shared, each modality drops its own branch of a sample.
        lengths = [length for _, length in route]
        layouts = [None] * len(lengths) if layout is None else layout.split(lengths)
        parts = [
            self._residual(part, ffn[expert], norm[expert], gamma, expert, own)
            for (expert, _), part, own in zip(route, x.split(lengths, dim=1), layouts, strict=True)
        ]
        return torch.cat(parts, dim=1)

    def _residual(self, x, branch, norm, gamma, route, layout=None, reading: Reading | None = None):
        y = self.dropout(branch(through(x, route, norm) if self.pre_norm else x))
        if gamma is not None:
            y = gamma * y
        x = (x if reading is None else reading.take(x)) + self.drop_path(y, layout)
        return x if self.pre_norm else through(x, route, norm)


class Stack(nn.ModuleList):
    """Blocks in a row. `checkpointing` recomputes each block in the backward pass to save memory."""

    checkpointing: bool = False

    if TYPE_CHECKING:  # nn.ModuleList only says that they are modules

        def __iter__(self) -> Iterator[Block]: ...

    def context(self, tokens: Float[Tensor, "B N C"], mask: Tensor | None = None) -> Context:
        """Keys and values of `tokens` for every layer that cross-attends, to be shared by all passes."""
        return Context(tuple(None if b.cross is None else b.cross.context(tokens) for b in self), mask)

    def forward(
        self,
        x: Float[Tensor, "B T D"],
        *,
        route: Route | Callable[[int], Route] = "all",
        mask: Tensor | Sequence[Tensor | None] | None = None,
        causal: bool = False,
        context: Context | None = None,
        cache: Cache | None = None,
        ragged: Ragged | None = None,
        reading: Reading | None = None,
        maps: list[Tensor] | None = None,
    ) -> Float[Tensor, "B R D"]:
        """All blocks; arguments as in `Block.forward`, with one `context` for all layers.

        Args:
            route: one for all layers, or a function of the layer's number (joint experts on top).
            mask: one for all layers, or one a layer (relative positions; CoCa's halves).
            reading: the last block computes these tokens alone, `[1, R, D]`.
        """
        last, crossing, crossing_last = len(self) - 1, ragged, ragged if reading is None else reading.queries
        if context is not None and context.rows is not None:
            if crossing is None or crossing_last is None or maps is not None:
                context = context.copied()
            else:
                crossing = crossing.by(context.rows, len(context))
                crossing_last = crossing_last.by(context.rows, len(context))
        for i, block in enumerate(self):
            options = {
                "route": route(i) if callable(route) else route,
                "mask": mask if mask is None or isinstance(mask, Tensor) else mask[i],
                "causal": causal,
                "context": None if context is None else context.layers[i],
                "context_mask": None if context is None else context.mask,
                "cache": cache,
                "layer": i,
                "ragged": ragged,
                "crossing": crossing if i < last else crossing_last,
                "reading": reading if i == last else None,
                "maps": maps,
            }
            if self.checkpointing and self.training and torch.is_grad_enabled():
                x = checkpoint(block, x, use_reentrant=False, **options)
            else:
                x = block(x, **options)
        return x
