"""What systems with a MED share: special tokens, weights from a BLIP, and captions of pictures."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from multiway.core.block import Context
from multiway.errors import UserError
from multiway.generation import Decoding, Generated, GenerationConfig, generate
from multiway.systems.base import Picture, System
from multiway.systems.decoding import StackDecoding
from multiway.systems.encoders import seen
from multiway.systems.image_tower import ImageTower
from multiway.systems.med import Decoder
from multiway.systems.towers import build_image_tower


class SpecialTokens(System):
    """A system whose texts begin with [CLS], [ENC] or [DEC], by what reads them."""

    @property
    def dec_id(self) -> int:
        """[DEC], with which a decoder begins; the last row but one of the word table, as officially."""
        return self._special("dec_id", 2)

    @property
    def enc_id(self) -> int:
        """[ENC], with which a grounded text begins; the last row of the word table."""
        return self._special("enc_id", 1)

    def _special(self, name: str, from_last: int) -> int:
        rows, tokenizer = self.config.text.vocab_size, self.tokenizer
        if tokenizer is None or getattr(tokenizer, name) is None:
            if tokenizer is not None and len(tokenizer) > rows - 2:
                raise UserError(
                    f"[DEC] and [ENC] would be words of the {len(tokenizer)} that the tokenizer has: set "
                    f"system.text.vocab_size, now {rows}, to {len(tokenizer) + 2}"
                )
            return rows - from_last
        return getattr(tokenizer, name)

    @staticmethod
    def first(input_ids: Int[Tensor, "B T"], token: int) -> Int[Tensor, "B T"]:
        """The same texts with another first token."""
        return torch.cat([torch.full_like(input_ids[:, :1], token), input_ids[:, 1:]], dim=1)

    def started(self, input_ids: Int[Tensor, "B T"]) -> Int[Tensor, "B T"]:
        """Token ids as the decoder reads them, [DEC] first."""
        return self.first(input_ids, self.dec_id)


class FineTuned(SpecialTokens):
    """A fine-tuning network: an image tower of its own, and weights taken from a BLIP."""

    image_tower: ImageTower

    def __init__(self, config: Any, image_tower: nn.Module | None = None):
        super().__init__()
        self.config = config
        self.image_tower = tower = build_image_tower(config.image, image_tower)
        self.image_size, self.image_mean, self.image_std = tower.image_size, tower.image_mean, tower.image_std
        # Tokens of a tower that normalises none are normalised for cross-attention, as in `Encoders`.
        self.image_norm = nn.LayerNorm(tower.width) if tower.pooled_index is None else None
        self.null_token = nn.Parameter(torch.zeros(1, 1, tower.width)) if config.null_token else None

    def adopt(self, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
        """A BLIP's tensors under this network's names: a tied decoder becomes one of its own.

        Of a BLIP without a decoder it has all that the encoder has, self-attention too.
        """
        encoder = {n.removeprefix("encoders."): t for n, t in tensors.items()}
        encoder |= {
            n.replace("pool.norm.", "image_norm."): t for n, t in encoder.items() if "pool.norm." in n
        }
        shared = {n.replace("text.", "decoder.", 1): t for n, t in encoder.items() if n.startswith("text.")}
        return shared | encoder  # a decoder's own self-attention counts

    def look(self, image: Float[Tensor, "B 3 H W"]) -> Float[Tensor, "B N C"]:
        """Pictures as cross-attention sees them."""
        return seen(self.image_tower(image), self.image_norm, self.null_token)

    def decays(self, name: str, parameter: nn.Parameter) -> bool:
        """All of them, biases and gains too, as BLIP's own fine-tunings."""
        return True


class Captioning(SpecialTokens):
    """Captions by the system's `decoder`, over what its `caption_context` makes of pictures.

    Source: models/blip.py, `BLIP_Decoder.generate`.
    """

    decoder: Decoder | None

    def caption_context(self, image: Float[Tensor, "B 3 H W"]) -> Context:
        """Keys and values of pictures for the decoder."""
        # Not asked for where `decoding` is the system's own.
        raise NotImplementedError(f"{type(self).__name__} does not say what its decoder looks at")

    def prompt_ids(self, prompt: str | None = None) -> Int[Tensor, "1 P"]:
        """[DEC] and the prompt's tokens; None: the config's prompt."""
        if self.tokenizer is None:
            raise UserError("this model has no tokenizer: build it with multiway.create or multiway.load")
        text = self.config.prompt if prompt is None else prompt
        ids, _ = self.tokenizer([text], clean=False)
        words = ids[:, 1:-1] if self.tokenizer.ends_with_sep else ids[:, 1:]
        return torch.cat([torch.full((1, 1), self.dec_id), words], dim=1).to(self.device)

    def writer(self) -> Decoder:
        """The decoder.

        Raises:
            UserError: the system was built without one.
        """
        if self.decoder is None:
            raise UserError(f"this {type(self).__name__} has no decoder: take a model trained with captions")
        return self.decoder

    def decoding(self, image: Float[Tensor, "G 3 H W"] | Context) -> Decoding:
        """A generation over G pictures, or over their context."""
        decoder = self.writer()
        context = image if isinstance(image, Context) else self.caption_context(image)
        return StackDecoding(decoder.embed, decoder.fusion, decoder.logits, context=context)

    def generation_config(self, prompt_length: int) -> GenerationConfig:
        """The official captioner's: beam 3, `config.caption_length`, its rule of length."""
        assert self.tokenizer is not None  # prompt_ids asked for it
        longest = self.config.text.positions + 1  # the last token is read by nobody
        least, most = (min(length, longest) for length in self.config.caption_length)
        return GenerationConfig(
            min_length=max(least - prompt_length, 0),
            max_length=max(most - prompt_length, 1),
            length_rule="official",
            eos_id=self.tokenizer.sep_id,
            pad_id=self.tokenizer.pad_id,
        )

    @torch.inference_mode()
    def generate(
        self,
        images: Picture | Sequence[Picture],
        *,
        prompt: str | None = None,
        config: GenerationConfig | None = None,
        keys: Sequence[str] | None = None,
    ) -> Generated:
        """Captions as token ids, with their scores and log-probabilities.

        Args:
            prompt: what every caption begins with; None: the config's.
            config: None: `generation_config`.
            keys: of the pictures, on which a sampled caption depends beside the seed; None: their numbers.

        Raises:
            UserError: the model has no decoder or no tokenizer, a picture can't be read, or captions may get
                longer than there are positions.
        """
        ids = self.prompt_ids(prompt)
        config, image = config or self.generation_config(ids.shape[1]), self.prepare(images)
        mask = torch.ones_like(ids)
        return generate(
            self.decoding(image),
            ids.expand(len(image), -1),
            mask.expand(len(image), -1),
            config,
            keys=keys,
        )

    def caption(
        self,
        images: Picture | Sequence[Picture],
        *,
        prompt: str | None = None,
        config: GenerationConfig | None = None,
        keys: Sequence[str] | None = None,
    ) -> list[str]:
        """The best caption of each picture, without its prompt: see `generate`."""
        found = self.generate(images, prompt=prompt, config=config, keys=keys)
        return [texts[0] for texts in self.texts(found, prompt)]

    def texts(self, generated: Generated, prompt: str | None = None) -> list[list[str]]:
        """Every candidate of `generate` as text, without the prompt that it continued."""
        assert self.tokenizer is not None  # generate asked for it
        start = self.prompt_ids(prompt)[0].tolist()
        (said,) = self.tokenizer.decode([start])
        found = []
        for group in generated.sequences:
            rows = self.tokenizer.decode([start + tokens for tokens in group])
            found.append([row.removeprefix(said).strip() for row in rows])
        return found
