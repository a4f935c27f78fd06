"""A captioning system that says the colour of a picture: no weights, the interface of a real one."""

from __future__ import annotations

import zlib

import torch

from multiway.generation import Generated, GenerationConfig
from multiway.systems.captioning import Captioning

WORDS = ("red", "green", "blue")


class FakeCaptioner(Captioning):
    """Says the strongest channel of a picture's mean colour, or, sampled, a word drawn by seed and key.

    Attributes:
        calls: the keys of each batch. stop_after: raise KeyboardInterrupt in the batch after so many.
    """

    def __init__(self, stop_after: int | None = None):
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(1))
        self.image_size, self.image_mean, self.image_std = 16, (0.0, 0.0, 0.0), (1.0, 1.0, 1.0)
        self.calls, self.stop_after, self.configs = [], stop_after, []

    def prompt_ids(self, prompt=None):
        return torch.zeros(1, 1 + len((prompt or "").split()), dtype=torch.int64)

    def generation_config(self, prompt_length):
        return GenerationConfig(min_length=5 - prompt_length, max_length=20 - prompt_length)

    def generate(self, images, *, prompt=None, config=None, keys=None):
        if self.stop_after is not None and len(self.calls) == self.stop_after:
            raise KeyboardInterrupt
        self.calls.append(list(keys))
        self.configs.append(config)
        number = config.samples if config.method == "sample" else config.n_best
        best = self.prepare(images).mean((2, 3)).argmax(1).tolist()
        if config.method == "sample":
            best = [zlib.crc32(f"{config.seed} {key}".encode()) % 3 for key in keys]
        found = [[[(one + n) % 3] for n in range(number)] for one in best]
        scores = [[-float(n + 1) for n in range(number)] for _ in best]
        return Generated(found, scores, [[[s] for s in row] for row in scores], scores)

    def texts(self, generated, prompt=None):
        return [[f"a {WORDS[tokens[0]]} picture" for tokens in group] for group in generated.sequences]
