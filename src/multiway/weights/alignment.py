"""Cross-attention started from the alignment that came before it: ALBEF's last layers, and all of BLIP's."""

from __future__ import annotations

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from multiway.core import masks
from multiway.core.block import Block
from multiway.errors import UserError
from multiway.systems.encoders import Encoders

#: Standard deviation of the attention scores that cross-attention from ITC starts with.
SPREAD = 1.5
#: In BLIP, so started, the picture comes in with this share of a word's own size.
LOUDNESS = 0.5


@torch.no_grad()
def fusion_from_itc(
    encoders: Encoders,
    image_embeds: Float[Tensor, "B N C"],
    text_embeds: Float[Tensor, "B T D"],
    attention_mask: Int[Tensor, "B T"],
) -> None:
    """Start cross-attention where alignment ended: a word attends to the patches that it is most similar to.

    Queries start as the text's ITC projection, keys as the picture's (through the pool's value), both
    centred, so that the null token, which starts as the mean patch, scores zero. Fresh cross-attention leaves
    ITM on its plateau for hundreds of steps; so started, it learns from the first one on.

    Args:
        image_embeds, text_embeds, attention_mask: of a batch, to centre by and to set the scores' spread.

    Raises:
        UserError: the model lacks what this starts from.
    """
    alignment = _Alignment(encoders, image_embeds)
    real, hidden = attention_mask.bool(), text_embeds
    for block in encoders.text.fusion:
        hidden = block.norm1(hidden + block.attention(hidden, mask=masks.padding(attention_mask)))
        alignment.start(block, hidden[real])


@torch.no_grad()
def grounding_from_itc(
    encoders: Encoders,
    image_embeds: Float[Tensor, "B N C"],
    input_ids: Int[Tensor, "B T"],
    attention_mask: Int[Tensor, "B T"],
) -> None:
    """Start BLIP's cross-attention where alignment ended, on a text stack that begins by reading as before.

    BLIP cross-attends in every layer. The norms after it start with the size that each layer is used to, so
    that grounding alone changes little; the last layer looks as in `fusion_from_itc`, and what it sees comes
    in as the picture's own ITC projection, where text and picture are alike.

    Args:
        image_embeds, input_ids, attention_mask: of a batch, to measure by.

    Raises:
        UserError: the model lacks what this starts from.
    """
    alignment, real, med = _Alignment(encoders, image_embeds), attention_mask.bool(), encoders.text
    x, last = med.embed(input_ids), len(med.fusion) - 1
    for layer, block in enumerate(med.fusion):
        x = block.norm1(x + block.attention(x, mask=masks.padding(attention_mask)))
        words, norm = x[real], block.norm_cross
        assert norm is not None  # every layer of BLIP's cross-attends
        norm.weight.fill_(words.std(-1, unbiased=False).mean())
        norm.bias.fill_(words.mean())
        if layer == last:
            alignment.start(block, words)
            alignment.show(block, words)
        x = block.norm2["all"](x + block.ffn["all"](x))


class _Alignment:
    """The linear map from a picture's tokens into the space of ITC, and what it makes of a batch.

    Raises:
        UserError: the tower is not pooled, there is no null token, or the widths differ.
    """

    def __init__(self, encoders: Encoders, image_embeds: Float[Tensor, "B N C"]):
        pool, null, width = encoders.pool, encoders.null_token, encoders.text.config.width
        if pool is None or null is None or encoders.text_proj.out_features != width:
            raise UserError(
                "init.fusion itc needs a tower that is pooled, system.null_token, and an embed_dim equal to "
                "the text's width"
            )
        value = pool.attention.key_value
        self.text_proj = encoders.text_proj
        self.project = encoders.image_proj.weight @ pool.attention.out.weight @ value.weight[width:]
        tokens = pool.norm(image_embeds).flatten(0, 1)
        self.mean = tokens.mean(0)
        self.keys = (tokens - self.mean) @ self.project.T
        null.copy_(self.mean.expand_as(null))

    def start(self, block: Block, words: Float[Tensor, "W D"]) -> None:
        """Words attend to the tokens that they are similar to; a mean token scores zero."""
        cross = block.cross
        assert cross is not None  # every fusion layer has one
        width = self.project.shape[0]
        queries = self.text_proj(words)
        centre = queries.mean(0)
        drawn = torch.linspace(0, len(self.keys) - 1, len(queries), device=words.device).long()
        products = ((queries - centre) * self.keys[drawn]).unflatten(-1, (cross.heads, -1)).sum(-1)
        scale = SPREAD * (width / cross.heads) ** 0.5 / products.std()
        cross.query.weight.copy_(self.text_proj.weight * scale)
        cross.query.bias.copy_((self.text_proj.bias - centre) * scale)
        cross.key_value.weight[:width].copy_(self.project)
        cross.key_value.bias[:width].copy_(-self.project @ self.mean)

    def show(self, block: Block, words: Float[Tensor, "W D"]) -> None:
        """What is attended to comes in as it is in the space of ITC, beside words of the given size."""
        cross = block.cross
        assert cross is not None
        width = self.project.shape[0]
        cross.key_value.weight[width:].copy_(self.project)
        cross.key_value.bias[width:].copy_(-self.project @ self.mean)
        nn.init.eye_(cross.out.weight)
        cross.out.weight.mul_(LOUDNESS * words.std() / self.keys.std())
        nn.init.zeros_(cross.out.bias)
