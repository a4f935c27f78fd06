"""What a momentum model copies: image tower, text stack, projections into one space, and a head for words."""

from __future__ import annotations

from typing import Literal, NamedTuple

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from multiway.core.block import Context
from multiway.core.heads import WordHead
from multiway.core.pooling import AttentionPool, pool_text
from multiway.errors import UserError
from multiway.systems.bert import BertConfig, TextStack
from multiway.systems.image_tower import ImageTower, image_feature
from multiway.systems.vit import VisionTransformer


class Unimodal(NamedTuple):
    """What a batch is before the modalities meet."""

    image_embeds: Float[Tensor, "B N C"]
    image_features: Float[Tensor, "B E"]
    text_embeds: Float[Tensor, "B T D"]
    text_features: Float[Tensor, "B E"]
    mlm_embeds: Float[Tensor, "B T D"] | None
    """The hidden states of the masked text."""


class Encoders(nn.Module):
    """An image tower and a text stack, each projected and normalised for ITC; with `mlm`, a head for words.

    Args:
        embed_dim: width E of the ITC features.
        text_pooling: the text feature from [CLS], or from the mean of all tokens.
        null_token: see `context`.
        stack: the class of the text stack.
    """

    def __init__(
        self,
        image_tower: ImageTower,
        text: BertConfig,
        embed_dim: int,
        text_pooling: Literal["cls", "mean"] = "cls",
        *,
        mlm: bool = False,
        null_token: bool = False,
        stack: type[TextStack] = TextStack,
    ):
        super().__init__()
        self.image_tower = image_tower
        width = image_tower.width
        self.pool = AttentionPool(width, text.width) if image_tower.pooled_index is None else None
        self.text = stack(text, context_width=width)
        self.image_proj = nn.Linear(width if self.pool is None else text.width, embed_dim)
        self.text_proj = nn.Linear(text.width, embed_dim)
        self.mlm_head = None
        if mlm:
            self.mlm_head = WordHead(text.width, text.vocab_size, eps=text.eps)
            nn.init.normal_(self.mlm_head.dense.weight, std=0.02)
            nn.init.zeros_(self.mlm_head.dense.bias)
        self.text_pooling = text_pooling
        self.null_token = nn.Parameter(torch.zeros(1, 1, width)) if null_token else None

    def forward(
        self,
        prefix: Tensor,
        input_ids: Int[Tensor, "B T"],
        attention_mask: Int[Tensor, "B T"],
        mlm_input_ids: Int[Tensor, "B T"] | None = None,
    ) -> Unimodal:
        """Both towers; the text layers read the masked texts, where there are any, in the same pass.

        Args:
            prefix: what the image tower's frozen prefix made of the pictures (`ImageTower.batch_prefix`).
        """
        image_embeds = self.image_tower.rest(prefix)
        if mlm_input_ids is None:
            text_embeds, mlm_embeds = self.text(input_ids, attention_mask), None
        else:
            both = self.text(torch.cat([input_ids, mlm_input_ids]), attention_mask.repeat(2, 1))
            text_embeds, mlm_embeds = both.chunk(2)
        text_features = self.text_feature(text_embeds, attention_mask)
        return Unimodal(
            image_embeds, self.image_feature(image_embeds), text_embeds, text_features, mlm_embeds
        )

    def image_feature(self, image_embeds: Float[Tensor, "B N C"]) -> Float[Tensor, "B E"]:
        """The normalised ITC feature of a picture's tokens."""
        return image_feature(image_embeds, self.image_tower, self.pool, self.image_proj)

    def context(self, image_embeds: Float[Tensor, "B N C"]) -> Context:
        """What the fusion layers look at: a picture's tokens, normalised where its tower does not do it.

        With `null_token` there is one more that belongs to no picture: where a word finds nothing of its own
        in the picture, its attention can rest there instead of on patches that it does not name.
        """
        norm = None if self.pool is None else self.pool.norm
        return self.text.fusion.context(seen(image_embeds, norm, self.null_token))

    def fused_with_maps(
        self,
        image: Float[Tensor, "B 3 H W"],
        hidden: Float[Tensor, "B T D"],
        attention_mask: Int[Tensor, "B T"],
    ) -> tuple[Float[Tensor, "B T D"], list[Tensor]]:
        """Texts that have seen their pictures, and the cross-attention `[B, H, T, N]` of each layer."""
        maps: list[Tensor] = []
        context = self.context(self.image_tower(image))
        fused = self.text.fuse(hidden, attention_mask, context, maps=maps)
        return fused, maps[1::2]  # each layer's self-attention lies before it

    def feature_with_maps(self, image: Float[Tensor, "B 3 H W"]) -> tuple[Float[Tensor, "B E"], list[Tensor]]:
        """The ITC feature of pictures, and the attention `[B, H, N, N]` of each block that is trained.

        Raises:
            UserError: the image tower has no attention.
        """
        tower, maps = self.image_tower, list[Tensor]()
        if not isinstance(tower, VisionTransformer):
            raise UserError("this model's image tower has no attention to look at: take one with a ViT")
        return self.image_feature(tower.rest(tower.prefix(image), maps=maps)), maps

    def fused_masked(
        self,
        unimodal: Unimodal,
        attention_mask: Int[Tensor, "B T"],
        read: Bool[Tensor, "B T"] | None = None,
    ) -> Float[Tensor, "B T D"]:
        """Hidden states of the masked texts after they have seen their own pictures; only with `mlm`.

        Args:
            read: as in `TextStack.fuse`.
        """
        if unimodal.mlm_embeds is None:
            raise ValueError("there is no masked text in these hidden states")
        context = self.context(unimodal.image_embeds)
        return self.text.fuse(unimodal.mlm_embeds, attention_mask, context, read=read)

    def text_feature(
        self, text_embeds: Float[Tensor, "B T D"], attention_mask: Int[Tensor, "B T"]
    ) -> Float[Tensor, "B E"]:
        """The normalised ITC feature of a text's hidden states."""
        pooled = pool_text(text_embeds, attention_mask, self.text_pooling)
        return F.normalize(self.text_proj(pooled), dim=-1)

    def words(self, hidden: Float[Tensor, "*P D"]) -> Float[Tensor, "*P V"]:
        """Logits over the vocabulary, tied to the word embeddings; only with `mlm`."""
        if self.mlm_head is None:
            raise ValueError("these encoders were built without a head for words (mlm=False)")
        return self.mlm_head(hidden, self.text.embed.words.weight)


def seen(
    image_embeds: Float[Tensor, "B N C"], norm: nn.Module | None, null_token: Float[Tensor, "1 1 C"] | None
) -> Float[Tensor, "B M C"]:
    """A picture's tokens as cross-attention sees them: normalised, beside a null token, where there are."""
    tokens = image_embeds if norm is None else norm(image_embeds)
    if null_token is None:
        return tokens
    return torch.cat([null_token.expand(len(tokens), -1, -1), tokens], dim=1)
