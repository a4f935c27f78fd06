"""An encoder-decoder whose prefix is read in both directions and whose suffix is written word by word.

```
       encoder: everything sees everything          decoder: causal, and looks at the whole prefix
   +----------------------------------------+      +----------------------------------------------+
   |              self-attention            |      |  causal self-attention, cross-attention      |
   +----------------------------------------+      +----------------------------------------------+
     picture's tokens   [CLS] words of a prefix       [CLS] words of the suffix, shifted by one
```
As one sequence it is the prefix mask (`core.masks.prefix`): SimVLM, section 3.1; also T5, PaLI, Unified-IO.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from multiway.core import masks
from multiway.core.block import Block, Context, Stack
from multiway.core.embed import WordEmbed
from multiway.core.heads import WordHead
from multiway.core.init import init_bert
from multiway.core.ragged import countable
from multiway.core.relative import LayerMasks
from multiway.systems.bert import unpadded
from multiway.systems.decoding import StackDecoding
from multiway.systems.sizes import check_heads


@dataclass(frozen=True, kw_only=True)
class PrefixConfig:
    """Encoder and decoder; the defaults are SimVLM's base model.

    Attributes:
        vocab_size: words, and whatever else has a row in the table of words.
        hidden: width of the feed-forward's middle. positions: longest text, of a prefix or a suffix.
        dropout: in embeddings, attention and residual branches.
    """

    vocab_size: int = 30522
    width: int = 768
    encoder_layers: int = 12
    decoder_layers: int = 12
    heads: int = 12
    hidden: int = 3072
    positions: int = 256
    eps: float = 1e-6
    dropout: float = 0.0

    def __post_init__(self) -> None:
        check_heads(self.heads, self.width, of="system.text.heads")


class Parted(NamedTuple):
    """Texts cut into prefix and suffix."""

    prefix: Int[Tensor, "B T"]
    """1 for the tokens of the prefix, [CLS] among them."""
    input_ids: Int[Tensor, "B S"]
    """What the decoder reads: [CLS], then the suffix without its last token."""
    attention_mask: Int[Tensor, "B S"]
    """1 for its real tokens."""
    labels: Int[Tensor, "B S"]
    """The suffix; -100 behind it."""


def part(
    input_ids: Int[Tensor, "B T"], attention_mask: Int[Tensor, "B T"], prefix_length: Int[Tensor, " B"]
) -> Parted:
    """Cut texts after [CLS] and `prefix_length[b]` tokens: only what follows is predicted."""
    place = torch.arange(input_ids.shape[1], device=input_ids.device)
    prefix = attention_mask * (place <= prefix_length[:, None])
    count = attention_mask.sum(1) - 1 - prefix_length
    place = place[: max([1, *count.tolist()])]  # no row at all: nobody answered
    real = place < count[:, None]
    index = (1 + prefix_length[:, None] + place).clamp(max=input_ids.shape[1] - 1)
    suffix = input_ids.gather(1, index)
    shifted = torch.cat([input_ids[:, :1], suffix[:, :-1]], dim=1)
    return Parted(prefix, shifted, real.long(), suffix.masked_fill(~real, -100))


class PrefixNetwork(nn.Module):
    """Words, encoder, decoder, and a head that is tied to the words."""

    def __init__(self, config: PrefixConfig):
        super().__init__()
        width = config.width

        def stack(layers: int, context_width: int | None) -> Stack:
            return Stack(
                Block(
                    width,
                    config.heads,
                    config.hidden,
                    context_width=context_width,
                    dropout=config.dropout,
                    eps=config.eps,
                )
                for _ in range(layers)
            )

        self.embed = WordEmbed(
            config.vocab_size,
            width,
            positions=config.positions,
            types=0,
            eps=config.eps,
            dropout=config.dropout,
        )
        self.encoder, self.encoder_norm = (
            stack(config.encoder_layers, None),
            nn.LayerNorm(width, eps=config.eps),
        )
        self.decoder, self.decoder_norm = (
            stack(config.decoder_layers, width),
            nn.LayerNorm(width, eps=config.eps),
        )
        self.head = WordHead(width, config.vocab_size, eps=config.eps)
        init_bert(self)

    def encode(
        self,
        patches: Float[Tensor, "B N D"] | None,
        input_ids: Int[Tensor, "B T"],
        attention_mask: Int[Tensor, "B T"],
        *,
        has_image: Bool[Tensor, " B"] | None = None,
        bias: Float[Tensor, "L H N N"] | None = None,
    ) -> tuple[Float[Tensor, "B S D"], Int[Tensor, "B S"]]:
        """Normalised hidden states of prefixes, and which of them are real; S is N and the longest prefix.

        Args:
            attention_mask: 1 for the prefix of each text, which it begins with.
            patches: tokens of pictures; rows without one (`has_image`) are not looked at.
            bias: what relative positions of patches add to the scores of each layer.
        """
        if countable(attention_mask):  # what follows the longest prefix is not read here
            longest = max(int(attention_mask.sum(1).max()), 1)
            input_ids, attention_mask = input_ids[:, :longest], attention_mask[:, :longest]
        x, real = self.embed(input_ids), attention_mask
        if patches is not None:
            seen = attention_mask.new_ones(patches.shape[:2])
            if has_image is not None:
                seen = seen * has_image[:, None]
            x, real = torch.cat([patches, x], dim=1), torch.cat([seen, real], dim=1)
        mask = None
        if bias is not None:
            words = input_ids.shape[1]
            mask = LayerMasks(nn.functional.pad(bias, (0, words, 0, words)), masks.padding(real))
        return self.encoder_norm(unpadded(self.encoder, x, real, mask=mask)), real

    def context(self, hidden: Float[Tensor, "B S D"], real: Int[Tensor, "B S"]) -> Context:
        """Keys and values of encoded prefixes, which the decoder looks at."""
        return self.decoder.context(hidden, masks.padding(real))

    def decode(
        self,
        input_ids: Int[Tensor, "B T"],
        attention_mask: Int[Tensor, "B T"],
        context: Context,
        *,
        mask: Bool[Tensor, "B 1 T T"] | None = None,
    ) -> Float[Tensor, "B T D"]:
        """Last hidden states, each token seeing what came before it, or what `mask` says."""
        x = self.embed(input_ids)
        return unpadded(self.decoder, x, attention_mask, causal=mask is None, mask=mask, context=context)

    def logits(self, hidden: Float[Tensor, "*P D"]) -> Float[Tensor, "*P V"]:
        """Logits of the next token."""
        return self.head(self.decoder_norm(hidden), self.embed.words.weight)


Encode = Callable[[Tensor, Tensor], tuple[Tensor, Tensor]]


class PrefixDecoding:
    """`generation.Decoding` whose prompt is a prefix: read by the encoder, together with the picture.

    Args:
        encode: (prompts, their mask) to what `PrefixNetwork.encode` gives.
        groups: G.
    """

    def __init__(self, network: PrefixNetwork, encode: Encode, groups: int):
        self.network, self.encode, self.groups = network, encode, groups
        self.vocab_size = network.embed.words.num_embeddings
        self._decoding: StackDecoding | None = None

    def room(self, prompt_length: int) -> int:
        """All positions: the encoder reads the prompt, and the last new token is read by nobody."""
        return self.network.embed.positions.num_embeddings

    def start(
        self, input_ids: Int[Tensor, "G P"], attention_mask: Int[Tensor, "G P"] | None = None
    ) -> Float[Tensor, "G V"]:
        """See `generation.Decoding`; the decoder begins with the prompt's first token, [CLS]."""
        real = torch.ones_like(input_ids) if attention_mask is None else attention_mask
        network = self.network
        context = network.context(*self.encode(input_ids, real))
        self._decoding = StackDecoding(network.embed, network.decoder, network.logits, context=context)
        return self._decoding.start(input_ids[:, :1])

    def step(self, tokens: Int[Tensor, "G K"], rows: Int[Tensor, "G K"]) -> Float[Tensor, "G K V"]:
        """See `generation.Decoding`."""
        if self._decoding is None:
            raise ValueError("step comes after start")
        logits = self._decoding.step(tokens, rows)
        self.groups = self._decoding.groups
        return logits
