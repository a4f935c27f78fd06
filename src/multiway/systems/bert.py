"""BERT-style text stacks: text layers, then fusion layers that cross-attend to another modality."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from multiway.core import masks
from multiway.core.block import Block, Context, Stack
from multiway.core.embed import WordEmbed
from multiway.core.experts import Route
from multiway.core.init import init_bert
from multiway.core.ragged import Ragged, countable
from multiway.errors import UserError
from multiway.systems.sizes import check_heads


@dataclass(frozen=True, kw_only=True)
class BertConfig:
    """A text stack; the defaults are bert-base-uncased cut in two as in ALBEF.

    Attributes:
        layers: layers that see text alone. fusion_layers: layers with cross-attention after them.
        hidden: width of the feed-forward's middle. positions: longest text in tokens.
        types: rows of the token-type table (0: none).
        dropout: in embeddings, attention and residual branches.
    """

    vocab_size: int = 30522
    width: int = 768
    layers: int = 6
    fusion_layers: int = 6
    heads: int = 12
    hidden: int = 3072
    positions: int = 512
    types: int = 2
    eps: float = 1e-12
    dropout: float = 0.1

    def __post_init__(self) -> None:
        check_heads(self.heads, self.width, of="system.text.heads")


def check_fusion(text: BertConfig) -> None:
    """Refuse a text stack that never looks at its context.

    Raises:
        UserError: there is no such layer.
    """
    if text.fusion_layers < 1:
        raise UserError("system.text.fusion_layers is 0: give 1 or more layers that look at pictures")


class TextStack(nn.Module):
    """Word embeddings, `text` layers, and `fusion` layers over a context of width `context_width`."""

    def __init__(self, config: BertConfig, *, context_width: int):
        super().__init__()
        self.config = config
        self.embed = WordEmbed(
            config.vocab_size,
            config.width,
            positions=config.positions,
            types=config.types,
            eps=config.eps,
            dropout=config.dropout,
        )

        def block(context_width: int | None) -> Block:
            return Block(
                config.width,
                config.heads,
                config.hidden,
                context_width=context_width,
                pre_norm=False,
                dropout=config.dropout,
                eps=config.eps,
            )

        self.text = Stack(block(None) for _ in range(config.layers))
        self.fusion = Stack(block(context_width) for _ in range(config.fusion_layers))
        init_bert(self)

    def forward(
        self, input_ids: Int[Tensor, "B T"], attention_mask: Int[Tensor, "B T"], *, causal: bool = False
    ) -> Float[Tensor, "B T D"]:
        """The text layers over token ids; `causal` for a decoder."""
        return unpadded(self.text, self.embed(input_ids), attention_mask, causal=causal)

    def fuse(
        self,
        hidden: Float[Tensor, "B T D"],
        attention_mask: Int[Tensor, "B T"],
        context: Context,
        *,
        causal: bool = False,
        read: Bool[Tensor, "B T"] | None = None,
        maps: list[Tensor] | None = None,
    ) -> Float[Tensor, "B T D"]:
        """The fusion layers.

        Args:
            read: the positions whose hidden states are wanted, None: all; not with `causal`.
            maps: receives the self- and cross-attention maps of every layer.
        """
        if maps is not None:
            return self.fusion(hidden, mask=_mask(attention_mask, causal), context=context, maps=maps)
        return unpadded(self.fusion, hidden, attention_mask, causal=causal, context=context, read=read)


def unpadded(
    stack: Stack,
    x: Float[Tensor, "B T D"],
    attention_mask: Int[Tensor, "B T"],
    *,
    causal: bool = False,
    mask: Tensor | Sequence[Tensor] | None = None,
    context: Context | None = None,
    read: Bool[Tensor, "B T"] | None = None,
    route: Route = "all",
) -> Float[Tensor, "B T D"]:
    """The stack on real tokens only, where there is padding; what comes out at padding is zero then.

    With `read`, the last layer computes only the real tokens among those, and zero comes out elsewhere.

    Args:
        mask: who sees whom in the padded batch, padding left out, one or one a layer; None: all real tokens,
            or with `causal` those before.
    """
    mask = _mask(attention_mask, causal) if mask is None else mask
    if not countable(attention_mask):
        wanted = attention_mask.bool() if read is None else attention_mask.bool() & read
        return stack(x, mask=mask, context=context, route=route).where(wanted[..., None], 0)
    ragged = Ragged.of(attention_mask)
    if read is not None:
        reading = ragged.reading(read)
        y = stack(ragged.pack(x), mask=mask, context=context, route=route, ragged=ragged, reading=reading)
        return reading.tokens.pad(y)
    shared = context is not None and context.rows is not None
    if len(ragged.index) == attention_mask.numel() and not shared:
        return stack(x, mask=mask, context=context, route=route)
    return ragged.pad(stack(ragged.pack(x), mask=mask, context=context, route=route, ragged=ragged))


def _mask(attention_mask: Int[Tensor, "B T"], causal: bool) -> Tensor:
    mask = masks.padding(attention_mask)
    return mask & masks.causal(attention_mask.shape[1], mask.device) if causal else mask
