"""ALBEF's answer decoder (VQA); `albef_nlvr.py` has the networks for two pictures."""

from __future__ import annotations

from dataclasses import replace

from jaxtyping import Float, Int
from torch import Tensor, nn

from multiway.core.heads import WordHead
from multiway.systems.albef import ALBEFConfig
from multiway.systems.bert import TextStack
from multiway.systems.towers import build_image_tower


class AnswerModel(nn.Module):
    """Question and picture are fused; a causal decoder writes the answer over them.

    The decoder has as many layers as there are fusion layers, all with cross-attention, and starts from their
    weights. Source: models/model_vqa.py.
    """

    def __init__(self, config: ALBEFConfig):
        super().__init__()
        self.image_tower = build_image_tower(config.image)
        self.text = TextStack(config.text, context_width=self.image_tower.width)
        self.decoder = TextStack(replace(config.text, layers=0), context_width=config.text.width)
        self.head = WordHead(config.text.width, config.text.vocab_size, eps=config.text.eps)

    def question(
        self,
        image: Float[Tensor, "B 3 H W"],
        input_ids: Int[Tensor, "B T"],
        attention_mask: Int[Tensor, "B T"],
    ) -> Float[Tensor, "B T D"]:
        """Hidden states of the question after it has seen the picture."""
        context = self.text.fusion.context(self.image_tower(image))
        return self.text.fuse(self.text(input_ids, attention_mask), attention_mask, context)

    def answer_logits(
        self,
        question: Float[Tensor, "B S D"],
        question_mask: Int[Tensor, "B S"],
        input_ids: Int[Tensor, "B T"],
        attention_mask: Int[Tensor, "B T"],
    ) -> Float[Tensor, "B T V"]:
        """Next-token logits of answers, read causally."""
        context = self.decoder.fusion.context(question, question_mask.bool()[:, None, None, :])
        hidden = self.decoder(input_ids, attention_mask, causal=True)
        hidden = self.decoder.fuse(hidden, attention_mask, context, causal=True)
        return self.head(hidden, self.decoder.embed.words.weight)
