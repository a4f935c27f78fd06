"""BLIP's fine-tuning networks: captioner, answers, two pictures with one text, and bare features.

Image-text matching and retrieval are `BLIP` itself with `lm_weight=0`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from multiway.batch import Batch
from multiway.core import masks
from multiway.core.block import Context
from multiway.errors import UserError
from multiway.generation import Decoding
from multiway.objectives import language
from multiway.systems.blip_config import CaptionerConfig, FeaturesConfig, NLVRConfig, VQAConfig
from multiway.systems.captioning import Captioning, FineTuned
from multiway.systems.encoders import seen
from multiway.systems.med import MED, Decoder, TwinCross, shift
from multiway.systems.two_pictures import TwoPictures
from multiway.systems.writing import Writing


class Captioner(FineTuned, Captioning):
    """Writes what a picture shows (models/blip.py, BLIP_Decoder)."""

    def __init__(self, config: CaptionerConfig, image_tower: nn.Module | None = None):
        super().__init__(config, image_tower)
        self.decoder = Decoder(config.text, context_width=self.image_tower.width)

    def fine_tuning(self, task: str, labels: tuple[str, ...] = ()) -> Any:
        return self.config if task == "caption" else super().fine_tuning(task, labels)

    def caption_context(self, image: Float[Tensor, "B 3 H W"]) -> Context:
        return self.writer().context(self.look(image))

    def losses(
        self, batch: Batch, state: Any = None, draws: Any = None, generator: torch.Generator | None = None
    ) -> dict[str, Tensor]:
        """LM of bare captions behind the prompt, which is put before them here."""
        ids, mask = batch.text()
        prompt = self.prompt_ids().expand(len(ids), -1)
        ids = torch.cat([prompt, ids[:, 1:]], dim=1)
        mask = torch.cat([torch.ones_like(prompt), mask[:, 1:]], dim=1)
        longest = self.config.tokenizer.max_length  # of prompt and caption together (models/blip.py)
        if ids.shape[1] > longest:
            assert self.tokenizer is not None  # the prompt was tokenized
            cut, last = mask[:, longest : longest + 1] > 0, ids[:, longest - 1 : longest]
            ids = torch.cat([ids[:, : longest - 1], torch.where(cut, self.tokenizer.sep_id, last)], dim=1)
            mask = mask[:, :longest]
        embeds = self.image_tower.rest(self.image_tower.batch_prefix(batch))
        tokens = seen(embeds, self.image_norm, self.null_token)
        _, _, loss = self.figure(tokens, ids, mask, prompt.shape[1])
        return {"lm": loss, "loss": loss}

    def figure(
        self,
        image_embeds: Float[Tensor, "B N C"],
        input_ids: Int[Tensor, "B T"],
        attention_mask: Int[Tensor, "B T"],
        prompt_length: int,
    ) -> tuple[Float[Tensor, "B T D"], Int[Tensor, "B S"], Float[Tensor, ""]]:
        """Hidden states, labels and loss of captions that begin with `prompt_length` tokens of prompt."""
        ids, decoder = self.started(input_ids), self.writer()
        hidden = decoder(ids, attention_mask, decoder.context(image_embeds))
        labels = shift(ids, attention_mask, ignored=prompt_length)
        known = labels != -100
        logits = decoder.logits(hidden[:, :-1][known])
        return hidden, labels, language.lm(logits, labels[known], smoothing=self.config.label_smoothing)


class AnswerModel(FineTuned, Writing):
    """A question is read grounded in the picture; a decoder writes the answer over the question's states.

    Encoder and decoder share nothing. Source: models/blip_vqa.py.
    """

    genome_weight = 0.2  # data/vqa_dataset.py

    def __init__(self, config: VQAConfig, image_tower: nn.Module | None = None):
        super().__init__(config, image_tower)
        self.text = MED(config.text, context_width=self.image_tower.width)
        self.decoder = Decoder(config.text, context_width=config.text.width)

    @property
    def writer(self) -> Decoder:
        return self.decoder

    @property
    def start_id(self) -> int:
        """[DEC]."""
        return self.dec_id

    @property
    def smoothing(self) -> float:
        """Of the answers' cross-entropy, also where they are ranked."""
        return self.config.label_smoothing

    def answer_ids(self, answers: Sequence[str]) -> tuple[Int[Tensor, "A T"], Int[Tensor, "A T"]]:
        """As they are: the rule of questions is not theirs (data/vqa_dataset.py)."""
        return self.tokenize(answers, clean=False)

    def question(
        self,
        image: Float[Tensor, "G 3 H W"],
        input_ids: Int[Tensor, "G S"],
        attention_mask: Int[Tensor, "G S"],
    ) -> Float[Tensor, "G S D"]:
        """Hidden states of questions, [ENC] first, after they have seen their pictures."""
        context = self.text.fusion.context(self.look(image))
        ids = self.first(input_ids, self.enc_id)
        if "question_padding" in self.config.compat:  # then the states at padding are looked at
            return self.text.fusion(self.text.embed(ids), mask=masks.padding(attention_mask), context=context)
        return self.text(ids, attention_mask, context)

    def decoding(self, question: Float[Tensor, "G S D"], attention_mask: Int[Tensor, "G S"]) -> Decoding:
        """A generation of answers over G questions."""
        if "question_padding" in self.config.compat:
            attention_mask = torch.ones_like(attention_mask)
        return super().decoding(question, attention_mask)


class PairModel(TwoPictures, FineTuned):
    """Says whether a text is true of two pictures (models/blip_nlvr.py)."""

    def __init__(self, config: NLVRConfig, image_tower: nn.Module | None = None):
        super().__init__(config, image_tower)
        text, width = config.text, self.image_tower.width
        self.text = MED(text, context_width=width)
        for i, block in enumerate(self.text.fusion):
            twin = TwinCross(text, context_width=width, merge=i >= config.merge_from)
            block.register_module("cross", twin)
        self.head = nn.Sequential(nn.Linear(text.width, text.width), nn.ReLU(), nn.Linear(text.width, 2))

    def adopt(self, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
        """A BLIP's tensors; its cross-attention becomes both of the twins (blip_nlvr.py, load_checkpoint)."""
        found = super().adopt(tensors)
        for name in [name for name in found if name.startswith("text.") and ".cross." in name]:
            for half in ("first", "second"):
                found[name.replace(".cross.", f".cross.{half}.")] = found[name]
        return found

    def judge(
        self,
        image: Float[Tensor, "B2 3 H W"],
        input_ids: Int[Tensor, "B T"],
        attention_mask: Int[Tensor, "B T"],
    ) -> tuple[Float[Tensor, "B T D"], Float[Tensor, "B 2"]]:
        """Hidden states and logits (false, true); `image` holds all first pictures, then all second ones."""
        context = self.text.fusion.context(self.look(image))
        hidden = self.text(self.first(input_ids, self.enc_id), attention_mask, context)
        return hidden, self.head(hidden[:, 0])


class FeatureExtractor(FineTuned):
    """Hidden states of pictures, of texts, and of both (models/blip.py, BLIP_Base)."""

    def __init__(self, config: FeaturesConfig, image_tower: nn.Module | None = None):
        super().__init__(config, image_tower)
        self.text = MED(config.text, context_width=self.image_tower.width)

    def features(
        self,
        image: Float[Tensor, "B 3 H W"] | None = None,
        input_ids: Int[Tensor, "B T"] | None = None,
        attention_mask: Int[Tensor, "B T"] | None = None,
    ) -> Float[Tensor, "B N D"]:
        """Last hidden states: of pictures, of texts, or, where both are given, of texts grounded in them.

        Raises:
            UserError: neither pictures nor texts were given.
        """
        if input_ids is None or attention_mask is None:
            if image is None:
                raise UserError("features needs pictures, texts with their mask, or both")
            return self.image_tower(image)
        if image is None:
            return self.text(input_ids, attention_mask)
        context = self.text.fusion.context(self.look(image))
        return self.text(self.first(input_ids, self.enc_id), attention_mask, context)
