"""ALBEF's question answering.

```
                  answer, word by word
                          |
                +--------------------+
                | answer decoder x6  |  causal; starts as a copy of the fusion layers
                +--------------------+
                          | cross-attention
                  question's states
                          |
                +--------------------+
                | fusion layers x6   |<--- cross-attention --- picture's tokens
                | text layers x6     |
                +--------------------+
                       question
```
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from multiway.batch import Batch
from multiway.systems.distilled import Distilled, DistilledConfig, DistillState, Reader
from multiway.systems.med import Decoder
from multiway.systems.writing import Writing, summed
from multiway.text import TokenizerConfig

#: A slip of the official code that is mended unless `compat` names it: see docs/compat.md.
Quirk = Literal["first_token_twice"]


@dataclass(frozen=True, kw_only=True)
class VQAConfig(DistilledConfig):
    """Question answering (configs/VQA.yaml).

    Attributes:
        decoder_layers: of the answer decoder, which starts from as many fusion layers.
        labels: the answers that are ranked where no others are given.
        compat: official slips to keep.
    """

    system: Literal["albef_vqa"] = "albef_vqa"
    tokenizer: TokenizerConfig = field(default_factory=lambda: TokenizerConfig(max_length=25))
    decoder_layers: int = 6
    labels: tuple[str, ...] = ()
    compat: tuple[Quirk, ...] = ()


class AnswerNetwork(Reader):
    """Question reader and answer decoder: what the teacher is a copy of."""

    def __init__(self, config: VQAConfig, image_tower: nn.Module | None = None):
        super().__init__(config, image_tower)
        layers = replace(config.text, layers=0, fusion_layers=config.decoder_layers)
        self.decoder = Decoder(layers, context_width=config.text.width)

    def question(
        self,
        image: Float[Tensor, "G 3 H W"],
        input_ids: Int[Tensor, "G S"],
        attention_mask: Int[Tensor, "G S"],
    ) -> Float[Tensor, "G S D"]:
        """Hidden states of questions after they have seen their pictures."""
        context = self.text.fusion.context(self.look(image))
        return self.text.fuse(self.text(input_ids, attention_mask), attention_mask, context)

    def hidden(
        self,
        question: Float[Tensor, "G S D"],
        question_mask: Int[Tensor, "G S"],
        input_ids: Int[Tensor, "A T"],
        attention_mask: Int[Tensor, "A T"],
        owner: Int[Tensor, " A"],
    ) -> Float[Tensor, "A T D"]:
        """Hidden states of answers, read causally over the states of their questions."""
        context = self.decoder.context(question, question_mask.bool()[:, None, None, :])
        return self.decoder(input_ids, attention_mask, context.shared_by(owner))


class AnswerModel(Writing, Distilled[AnswerNetwork]):
    """Ranks or writes answers; with a momentum teacher (models/model_vqa.py)."""

    genome_weight = 0.5  # dataset/vqa_dataset.py
    config: VQAConfig

    def __init__(self, config: VQAConfig, image_tower: nn.Module | None = None):
        super().__init__()
        self.config = config
        self.put(AnswerNetwork(config, image_tower))

    @property
    def writer(self) -> Decoder:
        return self.network.decoder

    @property
    def start_id(self) -> int:
        """[CLS]; that of BERT's vocabulary without a tokenizer."""
        return 101 if self.tokenizer is None else self.tokenizer.cls_id

    @property
    def first_token_twice(self) -> bool:
        """Whether a rank's score counts the first token twice, as officially."""
        return "first_token_twice" in self.config.compat

    def adopt(self, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
        """An ALBEF's tensors; embeddings, fusion layers and head for words start the decoder too (VQA.py)."""
        found = super().adopt(tensors)
        if not any(name.startswith("network.decoder.") for name in found):
            for name in list(found):
                if part := re.match(r"network\.(?:text\.(embed|fusion)|mlm_(head))\.(.*)", name):
                    found[f"network.decoder.{part[1] or part[2]}.{part[3]}"] = found[name]
        return found

    def answer_ids(self, answers: Sequence[str]) -> tuple[Int[Tensor, "A T"], Int[Tensor, "A T"]]:
        """Answers are not cleaned, and end with [SEP], which the tokenizer does not give (VQA.py, `eos`)."""
        ids, mask = self.tokenize(answers, clean=False)
        assert self.tokenizer is not None  # tokenize asked for it
        if self.tokenizer.config.add_sep:
            return ids, mask
        ids, mask = (nn.functional.pad(x, (0, 1)) for x in (ids, mask))
        end = mask.sum(1, keepdim=True)
        return ids.scatter(1, end, self.tokenizer.sep_id), mask.scatter(1, end, 1)

    def question(
        self,
        image: Float[Tensor, "G 3 H W"],
        input_ids: Int[Tensor, "G S"],
        attention_mask: Int[Tensor, "G S"],
    ) -> Float[Tensor, "G S D"]:
        return self.network.question(image, input_ids, attention_mask)

    def losses(
        self,
        batch: Batch,
        state: DistillState[AnswerNetwork] | None = None,
        draws: Any = None,
        generator: torch.Generator | None = None,
    ) -> dict[str, Tensor]:
        """Cross-entropy of answers by their weights; with a teacher, what it expects is a target too."""
        ids, mask, owner, weights = batch.answers()
        own = self.network.question(batch.need("image"), *batch.text())
        hidden = self.network.hidden(own, batch.text()[1], ids, mask, owner)
        options: dict[str, Any] = {}
        if state is not None and state.network is not None:
            options = {"teacher_logits": self.teach(batch, state.network), "alpha": state.alpha}
        each = summed(self.writer, hidden, ids, mask, **options)
        loss = (weights * each).sum() / len(batch)
        return {"loss": loss, "vqa": loss}

    @torch.no_grad()
    def teach(self, batch: Batch, teacher: AnswerNetwork) -> Float[Tensor, "M V"]:
        """The teacher's logits of every token that follows another one in an answer."""
        ids, mask, owner, _ = batch.answers()
        question = teacher.question(batch.need("image"), *batch.text())
        hidden = teacher.hidden(question, batch.text()[1], ids, mask, owner)
        return teacher.decoder.logits(hidden[:, :-1][mask[:, 1:].bool()])
