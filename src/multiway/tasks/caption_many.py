"""Captions of many pictures, and how good they are.

pictures --> batches of a fixed size --> generate --> captions, or why a picture has none
captions, references --> BLEU, ROUGE-L, CIDEr, exact; the same for captions dealt to other pictures
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from typing import Any, Literal

from PIL import Image

from multiway.core.packed import packed
from multiway.data.sample import BadSample
from multiway.errors import UserError
from multiway.generation import GenerationConfig
from multiway.systems.base import System
from multiway.systems.captioning import Captioning
from multiway.tasks.two_stage import evaluating


@dataclass(frozen=True)
class Captioned:
    """One picture's captions, best first, with their log-probabilities; or why it has none.

    Attributes:
        error: `undecodable`, `not_an_image`, ...; captions and logprobs are then empty.
    """

    key: str
    captions: list[str] = field(default_factory=list)
    logprobs: list[float] = field(default_factory=list)
    error: str | None = None


@dataclass(frozen=True, kw_only=True)
class Options:
    """How captions are made; what is None is the model's own.

    Attributes:
        method: `beam` or `greedy` for the likeliest caption, `sample` to draw.
        number: captions a picture. beams: of beam search, at least `number`.
        prompt: what every caption continues.
        min_length, max_length: new tokens, the end token included and the prompt not.
        top_p, top_k, temperature, seed: of `sample`; draws depend on the seed and a picture's key alone.
        repetition_penalty: above 1 discourages words that are there already.
    """

    method: Literal["beam", "greedy", "sample"] = "beam"
    number: int = 1
    beams: int | None = None
    prompt: str | None = None
    min_length: int | None = None
    max_length: int | None = None
    top_p: float | None = None
    top_k: int | None = None
    temperature: float | None = None
    repetition_penalty: float | None = None
    seed: int = 0

    def config(self, model: Captioning) -> GenerationConfig:
        """These over the model's own settings; sampling has BLIP's nucleus of 0.9 where nothing is said.

        Raises:
            UserError: a value is out of its range, or greedy search is asked for several captions.
        """
        if self.method == "greedy" and self.number > 1:
            raise UserError("greedy search gives one caption a picture: take beam or sample for several")
        own = model.generation_config(model.prompt_ids(self.prompt).shape[1])
        settings: dict[str, Any] = {"method": self.method, "seed": self.seed}
        if self.method == "sample":
            settings |= {"samples": self.number, "top_p": 0.9}
        elif self.method == "beam":
            settings |= {"n_best": self.number, "beams": max(self.number, own.beams)}
        names = ("beams", "min_length", "max_length", "top_p", "top_k", "temperature", "repetition_penalty")
        settings |= {name: value for name in names if (value := getattr(self, name)) is not None}
        if settings.get("min_length") is None and settings.get("max_length", own.max_length) < own.min_length:
            settings["min_length"] = 0  # the model's own least length does not bind a shorter one asked for
        return replace(own, **settings)


#: The model's own settings of beam search.
DEFAULTS = Options()


def captioning(model: System) -> Captioning:
    """The model, if it generates text.

    Raises:
        UserError: it does not.
    """
    if not isinstance(model, Captioning):
        raise UserError(
            f"{type(model).__name__} does not generate text: take a captioning model, such as "
            "Salesforce/blip-image-captioning-base"
        )
    return model


def caption_pictures(
    model: System,
    keys: Sequence[str],
    load: Callable[[int], Image.Image],
    *,
    options: Options = DEFAULTS,
    batch_size: int = 8,
    start: int = 0,
) -> Iterator[list[Captioned]]:
    """Captions of pictures, a batch at a time, in order; the next batch is decoded meanwhile.

    Args:
        keys: the pictures' names: a sampled caption depends on its picture's.
        load: the picture of a number; raises BadSample where there is none.
        batch_size: pictures at a time. Batches lie at its multiples, whatever `start` says.
        start: the first batch.

    Raises:
        UserError: the model does not generate text, or an option is out of its range.
    """
    captioner = packed(captioning(model))
    config = options.config(captioner)
    firsts = range(start * batch_size, len(keys), batch_size)

    def decode(first: int) -> list[Image.Image | str]:
        found: list[Image.Image | str] = []
        for number in range(first, min(first + batch_size, len(keys))):
            try:
                found.append(load(number))
            except BadSample as bad:
                found.append(bad.reason)
        return found

    with ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(decode, firsts[0]) if firsts else None
        for first in firsts:
            assert waiting is not None  # it was submitted in the round before
            pictures = waiting.result()
            if first != firsts[-1]:
                waiting = pool.submit(decode, first + batch_size)
            names = keys[first : first + batch_size]
            good = [
                (key, image) for key, image in zip(names, pictures, strict=True) if not isinstance(image, str)
            ]
            made = iter(_generate(captioner, good, options.prompt, config))
            yield [
                Captioned(key, error=image) if isinstance(image, str) else next(made)
                for key, image in zip(names, pictures, strict=True)
            ]


def _generate(
    model: Captioning, pictures: list[tuple[str, Image.Image]], prompt: str | None, config: GenerationConfig
) -> list[Captioned]:
    if not pictures:
        return []
    keys = [key for key, _ in pictures]
    with evaluating(model):
        found = model.generate([image for _, image in pictures], prompt=prompt, config=config, keys=keys)
        texts = model.texts(found, prompt)
    return [
        Captioned(key, lines, [round(value, 4) for value in logprobs])
        for key, lines, logprobs in zip(keys, texts, found.logprobs, strict=True)
    ]
