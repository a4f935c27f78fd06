"""BEiT-3's captioner: words masked in a caption that is read causally, and written one [MASK] after another.

```
 training     [picture] <s> a dog [M] on  [M] </s>     which words were masked? a word sees the picture
                            |      ?       ?           and the words before it, pictures see no word
 writing      [picture] <s> a dog [M]                  the next word; then its [M] is forgotten
```
Source: modeling_finetune.py, BEiT3ForCaptioning; engine_for_finetuning.py, CaptioningHandler.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from multiway.batch import Batch
from multiway.core.block import Context
from multiway.core.heads import PlainWordHead
from multiway.errors import UserError
from multiway.generation import Decoding, GenerationConfig
from multiway.objectives.masked_caption import masked_caption
from multiway.systems.beit3_config import UNUSED, CaptionerConfig
from multiway.systems.beit3_decoding import MaskDecoding
from multiway.systems.beit3_masks import mask_captions
from multiway.systems.beit3_system import MultiwaySystem
from multiway.systems.captioning import Captioning


@dataclass(frozen=True, kw_only=True)
class Draws:
    """Masked captions; None is drawn.

    Attributes:
        input_ids, labels: `[B, T]` ids after masking, and labels; -100 where nothing is predicted.
    """

    input_ids: Int[Tensor, "B T"] | None = None
    labels: Int[Tensor, "B T"] | None = None


class State(nn.Module):
    """How many steps were taken: after some of them the worst words count no more."""

    def __init__(self) -> None:
        super().__init__()
        self.step: Tensor
        self.register_buffer("step", torch.zeros((), dtype=torch.long))


class Captioner(MultiwaySystem, Captioning):
    """Writes what a picture shows."""

    config: CaptionerConfig

    def __init__(self, config: CaptionerConfig, image_tower: nn.Module | None = None):
        super().__init__(config)
        self.mlm_head = PlainWordHead(config.width, config.text.vocab_size)
        self.begin_heads(self.mlm_head)

    def init_state(self, *, steps_per_epoch: int = 1) -> State:
        return State()

    @torch.no_grad()
    def advance(self, state: State, outputs: Sequence[dict[str, Tensor]]) -> None:
        state.step += 1

    def hidden(self, batch: Batch, input_ids: Int[Tensor, "B T"]) -> Float[Tensor, "B T D"]:
        """Last hidden states of captions, each word seeing the picture and the words before it."""
        _, mask = batch.text()
        whole = self.network(batch.pictures(), input_ids, mask, causal=True)
        return whole[:, whole.shape[1] - mask.shape[1] :]

    def losses(
        self,
        batch: Batch,
        state: State,
        draws: Draws | None = None,
        generator: torch.Generator | None = None,
    ) -> dict[str, Tensor]:
        """KL divergence from the smoothed target at the masked words."""
        draws = draws or Draws()
        ids, labels = draws.input_ids, draws.labels
        if ids is None or labels is None:
            ids, labels = mask_captions(self.tokenizer, *batch.text(), self.config.mask, generator)
        masked = labels != -100
        logits = self.mlm_head(self.hidden(batch, ids)[masked])
        dropping = int(state.step) > self.config.drop_worst_after
        loss = masked_caption(
            logits,
            labels[masked],
            smoothing=self.config.label_smoothing,
            drop_worst=self.config.drop_worst if dropping else 0.0,
        )
        return {"loss": loss, "mlm": loss}

    # --- writing

    def prompt_ids(self, prompt: str | None = None) -> Int[Tensor, "1 P"]:
        """The first token and the prompt's; None: the config's prompt."""
        if self.tokenizer is None:
            raise UserError("this model has no tokenizer: build it with multiway.create or multiway.load")
        ids, _ = self.tokenizer([self.config.prompt if prompt is None else prompt], clean=False)
        return (ids[:, :-1] if self.tokenizer.config.add_sep else ids).to(self.device)

    def decoding(self, image: Float[Tensor, "G 3 H W"] | Context) -> Decoding:
        """A generation over G pictures."""
        tokenizer = self.tokenizer
        if isinstance(image, Context):
            raise UserError("BEiT-3 reads pictures together with their captions: give pictures, no context")
        if tokenizer is None or tokenizer.mask_id is None:
            raise UserError("captions are written with a tokenizer that has a mask token: take another one")
        return MaskDecoding(self.network, self.mlm_head, image, mask_id=tokenizer.mask_id)

    def generation_config(self, prompt_length: int) -> GenerationConfig:
        """The official captioner's: beam 3, length penalty 0.6, its rule of length."""
        assert self.tokenizer is not None  # prompt_ids asked for it
        longest = self.config.text.positions - UNUSED
        least, most = (min(length, longest) for length in self.config.caption_length)
        return GenerationConfig(
            min_length=max(least - prompt_length, 0),
            max_length=max(most - prompt_length, 1),
            length_penalty=0.6,
            length_rule="beit3",
            eos_id=self.tokenizer.sep_id,
            pad_id=self.tokenizer.pad_id,
        )
