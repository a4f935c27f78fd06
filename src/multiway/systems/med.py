"""MED, BLIP's mixture of encoder and decoder: one text stack in three modes (BLIP, section 3.1).

    text encoder            self-attention                    feed-forward
    grounded encoder        self-attention  cross-attention   feed-forward
    grounded decoder    causal self-attention' cross-attention   feed-forward

Between encoder and decoder all is shared but the self-attention.
"""

from __future__ import annotations

from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from multiway.core.attention import CrossAttention, KeyValue, SelfAttention
from multiway.core.block import Block, Context, Stack
from multiway.core.embed import WordEmbed
from multiway.core.heads import WordHead
from multiway.core.init import init_bert
from multiway.systems.bert import BertConfig, TextStack, unpadded
from multiway.systems.encoders import Encoders
from multiway.systems.image_tower import ImageTower


class MED(TextStack):
    """A text stack whose every layer can cross-attend, and does where it is given a context.

    Args:
        config: with `layers` 0; `fusion_layers` counts the layers.
    """

    def forward(
        self,
        input_ids: Int[Tensor, "B T"],
        attention_mask: Int[Tensor, "B T"],
        context: Context | None = None,
        *,
        causal: bool = False,
        read: Bool[Tensor, "B T"] | None = None,
    ) -> Float[Tensor, "B T D"]:
        """Hidden states of the text alone, or of the text grounded in `context`; `read` as in `fuse`."""
        x = self.embed(input_ids)
        return unpadded(self.fusion, x, attention_mask, causal=causal, context=context, read=read)


class MEDEncoders(Encoders):
    """`Encoders` whose text stack is a `MED`: called without a context, it is the text encoder of ITC."""

    def __init__(self, image_tower: ImageTower, text: BertConfig, embed_dim: int, **options: Any):
        super().__init__(image_tower, text, embed_dim, stack=MED, **options)

    @property
    def med(self) -> MED:
        """The text stack, by its own type."""
        assert isinstance(self.text, MED)
        return self.text


#: What a tied block takes from another one: all but self-attention.
_SHARED = (
    *("cross", "norm_cross", "ffn_middle", "norm_middle", "ffn", "norm2"),
    *("gamma1", "gamma2", "drop_path", "dropout"),
)


class TiedBlock(Block):
    """A block with a self-attention of its own; cross-attention and feed-forward are another block's.

    What is shared is not registered here: it is the other block's, stored and counted there.
    """

    def __init__(self, block: Block, config: BertConfig):
        nn.Module.__init__(self)
        self.pre_norm = block.pre_norm
        self.norm1 = nn.LayerNorm(config.width, eps=config.eps)
        self.attention = SelfAttention(config.width, config.heads, dropout=config.dropout)
        for name in _SHARED:
            self.__dict__[name] = getattr(block, name)


class Decoder(nn.Module):
    """A causal language model over a context, its head tied to its word embeddings.

    Args:
        context_width: width of the tokens that it cross-attends to.
        tied_to: the encoder with which it shares all but self-attention and head; None: nothing is shared.
    """

    embed: WordEmbed
    fusion: Stack

    def __init__(self, config: BertConfig, *, context_width: int, tied_to: MED | None = None):
        super().__init__()
        self.head = WordHead(config.width, config.vocab_size, eps=config.eps)
        if tied_to is None:
            own = MED(config, context_width=context_width)
            self.embed, self.fusion = own.embed, own.fusion
        else:
            self.__dict__["embed"] = tied_to.embed  # not registered, as in `TiedBlock`
            self.fusion = Stack(TiedBlock(block, config) for block in tied_to.fusion)
            init_bert(self.fusion)
        init_bert(self.head)

    def context(self, tokens: Float[Tensor, "B N C"], mask: Tensor | None = None) -> Context:
        """Keys and values of what it looks at; a tied decoder's are the encoder's own."""
        return self.fusion.context(tokens, mask)

    def forward(
        self, input_ids: Int[Tensor, "B T"], attention_mask: Int[Tensor, "B T"], context: Context
    ) -> Float[Tensor, "B T D"]:
        """Hidden states, each token seeing itself and what came before it."""
        return unpadded(self.fusion, self.embed(input_ids), attention_mask, causal=True, context=context)

    def logits(self, hidden: Float[Tensor, "*P D"]) -> Float[Tensor, "*P V"]:
        """Logits of the next token."""
        return self.head(hidden, self.embed.words.weight)

    @torch.no_grad()
    def start_from(self, text: MED) -> None:
        """Start self-attention from the encoder's, as when both are loaded from one BERT."""
        for own, other in zip(self.fusion, text.fusion, strict=True):
            own.attention.load_state_dict(other.attention.state_dict())
            own.norm1.load_state_dict(other.norm1.state_dict())


class TwinCross(nn.Module):
    """Cross-attention to two pictures at once, each with projections of its own.

    What both give is averaged, or merged by a linear map. Source: models/nlvr_encoder.py. It stands in the
    place of a block's `CrossAttention`: a context of 2B rows, first pictures first.
    """

    def __init__(self, config: BertConfig, *, context_width: int, merge: bool):
        super().__init__()
        options = {"context_width": context_width, "dropout": config.dropout}
        self.first = CrossAttention(config.width, config.heads, **options)
        self.second = CrossAttention(config.width, config.heads, **options)
        self.merge = nn.Linear(2 * config.width, config.width) if merge else None

    def context(self, tokens: Float[Tensor, "B2 N C"]) -> KeyValue:
        """Keys and values of first and second pictures, one after the other."""
        one, two = tokens.chunk(2)
        first, second = self.first.context(one), self.second.context(two)
        return KeyValue(torch.cat([first.key, second.key]), torch.cat([first.value, second.value]))

    def forward(self, x: Float[Tensor, "B T D"], context: KeyValue, **options: Any) -> Float[Tensor, "B T D"]:
        """Arguments as in `CrossAttention`."""
        keys, values = context.key.chunk(2), context.value.chunk(2)
        first = self.first(x, KeyValue(keys[0], values[0]), **options)
        second = self.second(x, KeyValue(keys[1], values[1]), **options)
        return (first + second) / 2 if self.merge is None else self.merge(torch.cat([first, second], dim=-1))


def shift(
    input_ids: Int[Tensor, "B T"], attention_mask: Int[Tensor, "B T"], *, ignored: int = 0
) -> Int[Tensor, "B S"]:
    """Labels of the first T - 1 positions: the next token, -100 at padding and for `ignored` first ones."""
    labels = input_ids[:, 1:].masked_fill(attention_mask[:, 1:] == 0, -100)
    labels[:, : max(ignored - 1, 0)] = -100
    return labels
