"""SimVLM: simple visual language model pre-training with weak supervision (Wang et al. 2021,
arXiv:2108.10904), figure 1.

```
                                                    which word comes next?
                                                             |
   +---------------------------------+      +------------------------------------+
   |  encoder: both directions, 2-D  | ---> |  decoder: causal, cross-attention  |
   |  relative positions of patches  |      +------------------------------------+
   +---------------------------------+           [CLS]  on    the   street
       |                 |
   conv stem       [CLS]  a   dog
       |
    picture        a dog | on the street: the prefix is as long as the draw says
```
One loss, prefix language modelling (section 3.1): of a pair the prefix is the picture and some first words,
of a text alone its first half.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from multiway.batch import Batch
from multiway.core.gather import mean_over_ranks
from multiway.errors import UserError
from multiway.generation import Decoding, GenerationConfig, Trie, generate
from multiway.objectives import language
from multiway.systems.answer_tree import Candidates
from multiway.systems.answering import BY_ITSELF, Answering, Asking, Reply, written
from multiway.systems.base import System
from multiway.systems.captioning import Captioning
from multiway.systems.conv_tower import ConvTower
from multiway.systems.prefix_network import (
    Parted,
    PrefixDecoding,
    PrefixNetwork,
    part,
)
from multiway.systems.simvlm_config import SimVLMConfig, VQAConfig


@dataclass(frozen=True, kw_only=True)
class Draws:
    """The random choices of one step; None is drawn.

    Attributes:
        prefix: `[B]`, tokens of the text that belong to the prefix, [CLS] not counted.
    """

    prefix: Int[Tensor, " B"] | None = None


@dataclass(frozen=True)
class Figure:
    """Every box of one step; `logits` are of the M predicted tokens in order."""

    encoded: Float[Tensor, "B S D"]
    parted: Parted
    logits: Float[Tensor, "M V"]
    losses: dict[str, Tensor]


class PrefixSystem(System):
    """What SimVLM and its classifier share: a conv tower and a prefix network.

    Args:
        image_tower: not taken; the tower is a convolutional stem.
    """

    parts = {
        "vision": ("image_tower.",),
        "text": ("network.embed.", "network.head."),
        "interaction": ("network.encoder", "network.decoder", "head."),
    }
    config: Any
    image_tower: ConvTower

    def __init__(self, config: Any, image_tower: nn.Module | None = None):
        super().__init__()
        text = config.text
        self.config = config
        self.image_tower = tower = ConvTower(
            config.image, text.width, layers=text.encoder_layers, heads=text.heads
        )
        self.network = PrefixNetwork(text)
        self.image_size, self.image_mean, self.image_std = tower.image_size, tower.image_mean, tower.image_std

    def encode(
        self, batch: Batch, input_ids: Int[Tensor, "B T"], attention_mask: Int[Tensor, "B T"]
    ) -> tuple[Float[Tensor, "B S D"], Int[Tensor, "B S"]]:
        """Prefixes, and which of their tokens are real: pictures where rows have them, and these words."""
        has, tower, patches, bias = batch.has_image, self.image_tower, None, None
        if batch.image is not None and (has is None or has.any()):
            bias = tower.bias()
            patches = tower(batch.image if has is None else batch.image[has])
            if has is not None:
                patches = patches.new_zeros(len(has), *patches.shape[1:]).index_put((has,), patches)
        return self.network.encode(patches, input_ids, attention_mask, has_image=has, bias=bias)

    def resize(self, name: str, tensor: Tensor, old_grid: tuple[int, int] | None = None) -> Tensor | None:
        return self.image_tower.resized(name.removeprefix("image_tower."), tensor, old_grid)

    def decays(self, name: str, parameter: nn.Parameter) -> bool:
        """Not biases, gains, and pictures' positions; the paper does not say."""
        return super().decays(name, parameter) and not name.endswith((".positions", "relative.table"))


class SimVLM(Answering, PrefixSystem, Captioning):
    """Prefix language modelling; captions and answers by generation."""

    alone = ("texts",)
    inferences = ("generate",)
    config: SimVLMConfig

    # --- the figure

    def losses(
        self, batch: Batch, state: Any, draws: Draws | None = None, generator: torch.Generator | None = None
    ) -> dict[str, Tensor]:
        """`lm` of the suffixes; of a batch with `answer_ids`, `vqa` of the answers alone."""
        if batch.answer_ids is not None:
            return self.answer_losses(batch)
        return self.figure(batch, draws, generator).losses

    def figure(
        self, batch: Batch, draws: Draws | None = None, generator: torch.Generator | None = None
    ) -> Figure:
        """One step, box by box; rows without a picture (`batch.has_image`) are texts alone."""
        ids, mask = batch.text()
        prefix = draws.prefix if draws is not None else None
        parted = part(ids, mask, self.prefixes(batch, generator) if prefix is None else prefix)

        # The encoder reads pictures and first words, in both directions.
        encoded, real = self.encode(batch, ids, parted.prefix)

        # The decoder says the rest, word by word; the head where a word follows.
        context = self.network.context(encoded, real)
        hidden = self.network.decode(parted.input_ids, parted.attention_mask, context)
        known = parted.labels != -100
        logits = self.network.logits(hidden[known])
        loss = language.lm(
            logits,
            parted.labels[known],
            smoothing=self.config.label_smoothing,
            count=mean_over_ranks(known.sum().float()),
        )
        return Figure(encoded, parted, logits, {"loss": loss, "lm": loss})

    def prefixes(self, batch: Batch, generator: torch.Generator | None = None) -> Int[Tensor, " B"]:
        """Prefix lengths: of pairs any that leaves a token, alike likely; of texts alone the first half."""
        _, mask = batch.text()
        length = mask.sum(1) - 1
        drawn = (torch.rand(len(mask), generator=generator, device=mask.device) * length).long()
        if batch.image is None:
            return length // 2
        return drawn if batch.has_image is None else torch.where(batch.has_image, drawn, length // 2)

    def answer_losses(self, batch: Batch) -> dict[str, Tensor]:
        """The same loss where the prefix is a question, and the suffix an answer to it (section 4.4).

        The mean over all tokens of answers, each weighted by its answer's share of the annotators.
        """
        (ids, mask), (answers, real, owner, weights) = batch.text(), batch.answers()
        context = self.network.context(*self.encode(batch, ids, self.question(ids, mask)))
        parted = part(answers, real, torch.zeros_like(owner))
        context = context.shared_by(owner)
        hidden = self.network.decode(parted.input_ids, parted.attention_mask, context)
        known = parted.labels != -100
        each = language.each(
            self.network.logits(hidden[known]), parted.labels[known], smoothing=self.config.label_smoothing
        )
        shares = weights[:, None].expand(known.shape)[known]
        loss = (shares * each).sum() / mean_over_ranks(shares.sum()).clamp_min(1e-6)
        return {"loss": loss, "vqa": loss}

    def fine_tuning(self, task: str, labels: tuple[str, ...] = ()) -> Any:
        """Captions are learned as prefixes are, and bare: no prompt begins them. `vqa` is a classifier;
        to answer by generation, it goes on as it is.
        """
        own = self.config
        if task == "caption":
            return replace(own, prompt="")
        if task != "vqa":
            return super().fine_tuning(task, labels)
        return VQAConfig(image=own.image, text=own.text, tokenizer=own.tokenizer, labels=tuple(labels))

    # --- captions and answers

    def prompt_ids(self, prompt: str | None = None) -> Int[Tensor, "1 P"]:
        ids, _ = self.tokenize(self.config.prompt if prompt is None else prompt)
        return ids[:, :-1]  # without [SEP]: the text goes on

    def decoding(self, image: Any) -> Decoding:
        """A generation over G pictures; each prompt is read by the encoder, beside its picture."""
        batch = Batch(image=image)
        return PrefixDecoding(self.network, lambda ids, mask: self.encode(batch, ids, mask), len(image))

    @property
    def dec_id(self) -> int:
        """What every text begins with, also in the decoder."""
        if self.tokenizer is None:
            raise UserError("this model has no tokenizer: build it with multiway.create or multiway.load")
        return self.tokenizer.cls_id

    def generation_config(self, prompt_length: int) -> GenerationConfig:
        """Beam 3; new tokens are counted, the prompt's are not."""
        least, most = (min(length, self.config.text.positions) for length in self.config.caption_length)
        return self.ending(GenerationConfig(min_length=least, max_length=most))

    def ending(self, config: GenerationConfig) -> GenerationConfig:
        """With the token that ends a text, and what fills up behind it."""
        assert self.tokenizer is not None  # what is written to was tokens already
        return replace(config, eos_id=self.tokenizer.sep_id, pad_id=self.tokenizer.pad_id)

    def question(self, input_ids: Int[Tensor, "G S"], attention_mask: Int[Tensor, "G S"]) -> Tensor:
        """The mask of questions without [SEP]: the text goes on."""
        assert self.tokenizer is not None  # questions are tokens already
        return attention_mask * (input_ids != self.tokenizer.sep_id)

    def reply(
        self,
        image: Float[Tensor, "G 3 H W"],
        input_ids: Int[Tensor, "G S"],
        attention_mask: Int[Tensor, "G S"],
        asking: Asking = BY_ITSELF,
    ) -> list[list[Reply]]:
        """Answers by generation (section 4.4), one of a list if it is given: each question is a prefix."""
        self.way(asking.inference, "generate")
        assert self.tokenizer is not None  # questions are tokens already
        mask, n = self.question(input_ids, attention_mask), asking.n
        longest = min(10, self.config.text.positions)
        own = GenerationConfig(max_length=longest, beams=max(3, n), n_best=n)
        config = asking.config or self.ending(own)
        decode, answers = self.tokenizer.decode, asking.answers
        if answers is not None:
            texts = answers.texts if isinstance(answers, Candidates) else answers
            trie = Trie([self.tokenizer.encode(answer)[1:-1] for answer in texts])
            config = replace(config, trie=trie, max_length=trie.depth + 1)

            def decode(rows: list[list[int]]) -> list[str]:  # as the list writes them
                return [texts[trie.number(row, config.eos_id)] for row in rows]

        return written(decode, generate(self.decoding(image), input_ids, mask, config))
