"""What can be asked of a generalist: words, one of some candidates, a place, a picture."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Literal

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor

from multiway.batch import Batch
from multiway.core.pooling import mean_pool
from multiway.data.locations import Box, read
from multiway.errors import UserError
from multiway.generation import Decoding, GenerationConfig, Trie, generate
from multiway.generation.only import Only
from multiway.systems.base import System
from multiway.systems.decoding import StackDecoding
from multiway.systems.pictures import Picture
from multiway.systems.prefix_network import PrefixDecoding, PrefixNetwork
from multiway.systems.vqvae import VQVAE
from multiway.text import Tokenizer

Pictures = Picture | Sequence[Picture] | None


class Asking(System):
    """A system whose prompts are `[CLS] prompt [SEP]`, and whose answers come by generation."""

    network: PrefixNetwork
    pictures: VQVAE

    if TYPE_CHECKING:  # the generalist's own

        def encode(
            self, batch: Batch, input_ids: Tensor, attention_mask: Tensor, seen: Tensor | None = None
        ) -> tuple[Tensor, Tensor]: ...
        def looked(self, batch: Batch, ids: Tensor, seen: Tensor | None) -> Any: ...
        def answer_features(self, answers: Tensor, mask: Tensor) -> Tensor: ...

    @property
    def words(self) -> Tokenizer:
        """The tokenizer.

        Raises:
            UserError: there is none.
        """
        if self.tokenizer is None:
            raise UserError("this model has no tokenizer: build it with multiway.create or multiway.load")
        return self.tokenizer

    @property
    def cls_id(self) -> int:
        return self.words.cls_id

    @property
    def sep_id(self) -> int:
        return self.words.sep_id

    def decoding(self, image: Float[Tensor, "G 3 H W"] | None, groups: int) -> Decoding:
        """A generation over G prompts, each with its picture or all without."""
        batch, network = Batch(image=image), self.network
        if self.config.form == "prefix":
            return PrefixDecoding(network, lambda ids, mask: self.encode(batch, ids, mask), groups)
        first = torch.full((groups, 1), self.cls_id, device=self.device)
        context = self.looked(batch, first, None)
        return StackDecoding(
            network.embed, network.decoder, network.logits, context=context, bidirectional=True
        )

    @torch.inference_mode()
    def answer(  # pyrefly: ignore[bad-override]
        self,
        images: Pictures,
        questions: str | Sequence[str],
        *,
        answers: Sequence[str] | None = None,
        config: GenerationConfig | None = None,
    ) -> list[str]:
        """Answers as text; boxes in them are written `<left><top><right><bottom>`.

        Args:
            images: one a prompt; None: prompts alone.
            answers: of which one must come, as it is written there; None: any words and locations.

        Raises:
            UserError: numbers of pictures and prompts differ, prompt and answer together are longer than the
                model reads, or it has no tokenizer.
        """
        cut = config is None and answers is None
        config = config or GenerationConfig(method="greedy", max_length=30)
        words = slice(self.words.vocab_size)
        if answers is None:
            return self.words.decode(self._written(images, questions, config, words, cut=cut))
        trie = Trie([self.words.encode(answer)[1:-1] for answer in answers])
        config = replace(config, trie=trie, max_length=trie.depth + 1)
        rows = self._written(images, questions, config, words)
        return [answers[trie.number(row, self.sep_id)] for row in rows]

    @torch.inference_mode()
    def locate(self, images: Pictures, questions: str | Sequence[str]) -> list[Box]:
        """A box (left, top, right, bottom in shares of the sides) for each picture and prompt.

        Raises:
            UserError: the model has no location tokens.
        """
        if not self.words.config.locations:
            raise UserError("this model has no location tokens: train it with tokenizer.locations for boxes")
        config = GenerationConfig(method="greedy", max_length=4)
        places = slice(self.words.words, self.words.vocab_size)
        rows = self.words.decode(self._written(images, questions, config, places))
        boxes = [read(row, self.words.config.locations) for row in rows]
        return [box for box in boxes if box is not None]  # four tokens each: none is missing

    @torch.inference_mode()
    def draw(
        self,
        prompts: str | Sequence[str],
        *,
        config: GenerationConfig | None = None,
        keys: Sequence[str] | None = None,
    ) -> Float[Tensor, "B 3 H W"]:
        """Pictures in 0..1 by the VQ-VAE, from tokens that are drawn one after another.

        Args:
            config: how they are drawn; None: at temperature 1, from the likeliest tokens that make up 0.9.
            keys: of the prompts, on which a drawing depends beside the seed; None: their numbers.

        Raises:
            UserError: the VQ-VAE never learned what its tokens look like.
        """
        if not self.pictures.quantizer.started:
            raise UserError(
                "the VQ-VAE of this generalist has learned no pictures: train it with --init.visual-tokenizer"
            )
        down, across = self.pictures.config.grid
        config = replace(
            config or GenerationConfig(method="sample", top_p=0.9), max_length=down * across, min_length=0
        )
        first = self.config.text.vocab_size
        rows = self._written(None, prompts, config, slice(first, first + self.pictures.codes), keys)
        return self.pictures.picture(torch.tensor(rows, device=self.device) - first)

    def _written(
        self,
        images: Pictures,
        prompts: str | Sequence[str],
        config: GenerationConfig,
        allowed: slice,
        keys: Sequence[str] | None = None,
        *,
        cut: bool = False,
    ) -> list[list[int]]:
        """The best sequence of each prompt, of allowed tokens alone; if `cut`, it ends where positions do."""
        image, ids, mask = self._asked(images, prompts)
        may = torch.zeros(self.network.embed.words.num_embeddings, dtype=torch.bool, device=self.device)
        may[allowed] = True
        decoding = Only(self.decoding(image, len(ids)), may)
        room = decoding.room(ids.shape[1])
        if config.trie is not None:
            _refuse_long(config.max_length, room)
        longest = min(config.max_length, room) if cut else config.max_length
        config = replace(config, max_length=longest, eos_id=self.sep_id, pad_id=self.words.pad_id)
        return [group[0] for group in generate(decoding, ids, mask, config, keys=keys).sequences]

    def _asked(
        self, images: Pictures, prompts: str | Sequence[str]
    ) -> tuple[Float[Tensor, "B 3 H W"] | None, Int[Tensor, "B T"], Int[Tensor, "B T"]]:
        ids, mask = self.tokenize(prompts)
        if images is None:
            return None, ids, mask
        image = self.prepare(images)
        if len(image) != len(ids):
            raise UserError(f"answer got {len(image)} pictures, {len(ids)} prompts: give as many of both")
        return image, ids, mask

    @torch.inference_mode()
    def likelihoods(
        self,
        images: Pictures,
        prompts: str | Sequence[str],
        candidates: Sequence[str],
        *,
        by: Literal["words", "cosine"] = "words",
    ) -> Float[Tensor, "B C"]:
        """Log-probabilities of the candidates as answers.

        Args:
            by: `words`: the sum of their tokens', among all texts; `cosine`: among the candidates, by cosine
                with the encoded input (Uni-Perceiver), for a model trained with `cosine_weight`.

        Raises:
            UserError: as `answer` with a list; or there is no candidate, or the model was not trained for
                cosines.
        """
        if not candidates:
            raise UserError("likelihoods are of candidates: give at least one")
        image, ids, mask = self._asked(images, prompts)
        told, real = self.tokenize(list(candidates))
        told, real = told[:, 1:], real[:, 1:]
        if by == "cosine":
            scale = getattr(self, "logit_scale", None)
            if scale is None:
                raise UserError(
                    "this model knows no cosine likelihood: train it with system.cosine_weight, or take the "
                    "likelihood of words"
                )
            inputs = mean_pool(*self.encode(Batch(image=image), ids, mask))
            cosines = F.normalize(inputs, dim=-1) @ self.answer_features(told, real).T
            return (cosines * scale.exp()).log_softmax(-1)
        rows = [tokens[: int(length)] for tokens, length in zip(told, real.sum(1), strict=True)]
        return torch.stack([self._told(image, ids, mask, row) for row in rows], dim=1)

    def _told(
        self,
        image: Float[Tensor, "B 3 H W"] | None,
        ids: Int[Tensor, "B T"],
        mask: Int[Tensor, "B T"],
        answer: Int[Tensor, " S"],
    ) -> Float[Tensor, " B"]:
        """Log-probability of one answer after each prompt, token by token."""
        decoding = self.decoding(image, len(ids))
        _refuse_long(len(answer), decoding.room(ids.shape[1]))
        rows = torch.arange(len(ids), device=ids.device)[:, None]
        logits, total = decoding.start(ids, mask), 0.0
        for i, token in enumerate(answer.tolist()):
            total = total + logits.log_softmax(-1)[:, token]
            if i + 1 < len(answer):
                logits = decoding.step(torch.full_like(rows, token), rows)[:, 0]
        return torch.as_tensor(total)


def _refuse_long(answer: int, room: int) -> None:
    """Refuse an answer of so many tokens, its end included, where fewer places are left after the prompt."""
    if answer > room:
        raise UserError(
            f"an answer has {answer} tokens, and after the prompt {max(room, 0)} places are left: give a "
            "shorter prompt or answer"
        )
