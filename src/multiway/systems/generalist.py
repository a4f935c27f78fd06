"""A generalist: every task is a prompt and an answer, and an answer is words, locations or a picture.

```
                     words            <4><1><11><8>         picture tokens --> VQ-VAE --> pixels
                       |                    |                     |
   +-----------------------------+      +-------------------------------------------+
   |  encoder: both directions   | ---> |  decoder: causal, cross-attention         |
   +-----------------------------+      +-------------------------------------------+
      |                 |                   [CLS]  answer
   image tower      [CLS] prompt [SEP]
      |
   picture, if the prompt has one
```
One loss: the answer's next token, after its prompt. What distinguishes the sources is an option of it:
Unified-IO's tokens for boxes (`tokenizer.locations`) and for pictures (`pictures`, arXiv:2206.08916), PaLI's
mixture of tasks (the weights of a run's sources, arXiv:2209.06794), MetaLM's spans (`form="semi_causal"`,
arXiv:2206.06336), Uni-Perceiver's candidates by cosine likelihood (`cosine_weight`, arXiv:2112.01522).
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from multiway.batch import Batch
from multiway.core import masks
from multiway.core.block import Context
from multiway.core.gather import mean_over_ranks
from multiway.core.init import init_bert
from multiway.core.pooling import mean_pool
from multiway.errors import UserError
from multiway.objectives import contrastive, language
from multiway.systems.asking import Asking
from multiway.systems.generalist_config import GeneralistConfig
from multiway.systems.generalist_turns import Turns
from multiway.systems.image_tower import ImageTower
from multiway.systems.prefix_network import PrefixNetwork, part
from multiway.systems.teacher import frozen, pixels
from multiway.systems.towers import build_image_tower
from multiway.systems.vqvae import VQVAE


@dataclass(frozen=True, kw_only=True)
class Draws:
    """The random choices of one step; None is drawn.

    Attributes:
        span: `[B, 2]`, places within each answer, from 0: its span begins at the first and ends before the
            second. Only in the semi-causal form.
    """

    span: Int[Tensor, "B 2"] | None = None


@dataclass(frozen=True)
class Figure:
    """Every box of one step; `logits` and `labels` are of the M predicted tokens in order."""

    turns: Turns
    logits: Float[Tensor, "M V"]
    labels: Int[Tensor, " M"]
    losses: dict[str, Tensor]


class Generalist(Asking):
    """One network for all tasks.

    Args:
        image_tower: the module, when `config.image.name` is "user".

    Attributes:
        pictures: the VQ-VAE, frozen and saved with the model.
    """

    parts = {
        "vision": ("image_tower.", "image_proj.", "pictures."),
        "text": ("network.embed.", "network.head.", "logit_scale"),
        "interaction": ("network.encoder", "network.decoder"),
    }
    alone = ("texts",)
    config: GeneralistConfig
    image_tower: ImageTower

    def __init__(self, config: GeneralistConfig, image_tower: nn.Module | None = None):
        super().__init__()
        self.config, text = config, config.text
        self.image_tower = tower = build_image_tower(config.image, image_tower)
        self.image_proj = nn.Linear(tower.width, text.width)
        init_bert(self.image_proj)
        self.network = PrefixNetwork(replace(text, vocab_size=text.vocab_size + config.pictures.codes))
        self.pictures = frozen(VQVAE(config.pictures))
        self.logit_scale = None
        if config.cosine_weight:
            self.logit_scale = nn.Parameter(torch.tensor(config.logit_scale))
        self.image_size, self.image_mean, self.image_std = tower.image_size, tower.image_mean, tower.image_std

    def train(self, mode: bool = True) -> Generalist:
        super().train(mode)
        self.pictures.eval()
        return self

    def learn_from(self, model: nn.Module) -> None:
        """Take a VQ-VAE, whose tokens pictures are written in.

        Raises:
            UserError: it is none, or another one than `config.pictures`.
        """
        if not isinstance(model, VQVAE) or model.config != self.config.pictures:
            raise UserError(
                f"the generalist's pictures are those of {self.config.pictures}: give "
                "--init.visual-tokenizer a VQ-VAE of that config"
            )
        self.pictures.load_state_dict(model.state_dict())

    # --- the figure

    def losses(
        self, batch: Batch, state: Any, draws: Draws | None = None, generator: torch.Generator | None = None
    ) -> dict[str, Tensor]:
        return self.figure(batch, draws, generator).losses

    def figure(
        self, batch: Batch, draws: Draws | None = None, generator: torch.Generator | None = None
    ) -> Figure:
        """One step, box by box; texts are `prompt TAB answer`, and for an empty one the picture answers."""
        config, turns = self.config, self.turns(batch)

        # Encoder and decoder; which tokens are predicted, and by which states.
        if config.form == "prefix":
            parted = part(turns.input_ids, turns.attention_mask, turns.prompt)
            encoded, real = self.encode(batch, turns.input_ids, parted.prefix, turns.seen)
            hidden = self.network.decode(
                parted.input_ids, parted.attention_mask, self.network.context(encoded, real)
            )
            labels = parted.labels
        else:
            given = None if draws is None else draws.span
            hidden, labels = self.read(
                batch, turns, turns.spans(config.span, generator) if given is None else given
            )
            encoded = real = None

        # Which token comes next? Words and locations, and picture tokens, each as a mean of their own.
        known = labels != -100
        logits, wanted = self.network.logits(hidden[known]), labels[known]
        of_picture = wanted >= config.text.vocab_size
        losses = {
            name: language.lm(logits[rows], wanted[rows], count=mean_over_ranks(rows.sum().float()))
            for name, rows in (("say", ~of_picture), ("draw", of_picture))
        }
        total = losses["say"] + config.draw_weight * losses["draw"]

        # Which of the batch's answers is nearest?
        if self.logit_scale is not None:
            if encoded is None or real is None:
                encoded, real = self.encode(batch, turns.input_ids, turns.prompt_mask, turns.seen)
            losses["cosine"] = self.nearest(turns, mean_pool(encoded, real))
            total = total + config.cosine_weight * losses["cosine"]
        return Figure(turns, logits, wanted, {"loss": total, **losses})

    # --- its boxes

    def turns(self, batch: Batch) -> Turns:
        """Prompts and answers, with picture tokens where the picture is the answer.

        Raises:
            UserError: the batch has features in place of pictures, or as `Turns.of`.
        """
        if batch.image_prefix is not None:
            raise UserError("a generalist learns to draw the pictures: leave data.cache_views at 0")

        def codes(image: Tensor) -> Tensor:
            found = self.pictures.visual_tokens(pixels(image, self.image_mean, self.image_std))
            return found + self.config.text.vocab_size

        def said(ids: Tensor) -> str:
            return self.words.decode(ids[None])[0]

        return Turns.of(batch, self.sep_id, codes, said)

    def encode(
        self,
        batch: Batch,
        input_ids: Int[Tensor, "B T"],
        attention_mask: Int[Tensor, "B T"],
        seen: Bool[Tensor, " B"] | None = None,
    ) -> tuple[Float[Tensor, "B S D"], Int[Tensor, "B S"]]:
        """Pictures of the rows that see theirs, and words, read in both directions."""
        patches = None
        if batch.image is not None and seen is None:
            patches = self.image_proj(self.image_tower(batch.image))
        elif batch.image is not None and seen is not None and (seen.any() or self.training):
            shown = seen.clone()
            shown[0] |= ~seen.any()  # one that no row looks at: under FSDP2 every rank runs every block
            patches = self.image_proj(self.image_tower(batch.image[shown]))
            patches = patches.new_zeros(len(seen), *patches.shape[1:]).index_put((shown,), patches)
        return self.network.encode(patches, input_ids, attention_mask, has_image=seen)

    def read(
        self, batch: Batch, turns: Turns, spans: Int[Tensor, "B 2"]
    ) -> tuple[Float[Tensor, "B T D"], Int[Tensor, "B T"]]:
        """MetaLM's form (section 2.2): the decoder reads prompt and answer, spans of them in both directions.

        Returns:
            Hidden states, and the label of each: the next token, or -100.
        """
        ids, mask = turns.input_ids[:, :-1], turns.attention_mask[:, :-1]
        number, labels = turns.semi_causal(spans)
        seen = masks.semi_causal(number[:, :-1]) & masks.padding(mask)
        return self.network.decode(ids, mask, self.looked(batch, ids, turns.seen), mask=seen), labels[:, 1:]

    def looked(self, batch: Batch, ids: Int[Tensor, "B T"], seen: Bool[Tensor, " B"] | None) -> Context:
        """What a decoder sees that reads the prompt itself: [CLS], and the picture."""
        return self.network.context(*self.encode(batch, ids[:, :1], torch.ones_like(ids[:, :1]), seen))

    def nearest(self, turns: Turns, inputs: Float[Tensor, "B D"]) -> Float[Tensor, ""]:
        """Uni-Perceiver's likelihood (section 3.2): cosines with the batch's answers, equal ones as one."""
        assert self.logit_scale is not None  # asked for only then
        told = ~turns.drawn
        if not told.any():  # all are drawn; under FSDP2 every rank runs the encoder as often
            alone = self.answer_features(turns.input_ids[:1, :1], turns.attention_mask[:1, :1])
            return (inputs.sum() + alone.sum() + self.logit_scale) * 0
        parted = part(turns.input_ids[told], turns.attention_mask[told], turns.prompt[told])
        answers, which = parted.labels.unique(dim=0, return_inverse=True)
        features = self.answer_features(answers.clamp(min=0), (answers != -100).long())
        cosines = contrastive.similarity(F.normalize(inputs[told], dim=-1), features)
        return F.cross_entropy(cosines * self.logit_scale.exp(), which)

    def answer_features(self, answers: Int[Tensor, "A S"], mask: Int[Tensor, "A S"]) -> Float[Tensor, "A D"]:
        """Normalised features of answers alone, by the same encoder: the mean of [CLS] and their tokens."""
        first = torch.full_like(answers[:, :1], self.cls_id)
        ids, mask = torch.cat([first, answers], 1), torch.cat([torch.ones_like(first), mask], 1)
        return F.normalize(mean_pool(*self.network.encode(None, ids, mask)), dim=-1)

    def decays(self, name: str, parameter: nn.Parameter) -> bool:
        """Not class tokens and positions either."""
        return super().decays(name, parameter) and not name.endswith(
            ("cls_token", "positions", "logit_scale")
        )
