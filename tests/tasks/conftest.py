"""A tiny ALBEF with random weights, and drawn pictures with a few captions each."""

import numpy as np
import pytest
import torch
from PIL import Image

import multiway
from multiway.data.sample import BadSample, Sample
from multiway.systems.bert import BertConfig
from multiway.systems.vit import ViTConfig

CAPTIONS = [
    ["a red dog", "a dog that runs through the tall wet grass"],
    ["two cats", "two cats", "a red dog"],  # equal within a picture, and across pictures
    ["a small blue car near the house"],
    ["grass"],
    ["A red dog."],  # another text, but the same tokens
    ["three people play with a ball on the beach", "a ball"],
    ["a horse"],
]


class Listed:
    """Samples in a list; None is a picture that can't be decoded."""

    def __init__(self, captions):
        rng = np.random.default_rng(0)
        self.captions = captions
        self.images = [Image.fromarray(rng.integers(0, 255, (40, 48, 3), np.uint8)) for _ in captions]

    def __len__(self):
        return len(self.captions)

    def sample(self, i):
        if self.captions[i] is None:
            raise BadSample("undecodable")
        return Sample(key=str(i), image=self.images[i], texts=self.captions[i], source="drawn")


@pytest.fixture(scope="session")
def samples():
    return Listed(CAPTIONS)


@pytest.fixture(scope="session")
def listed():
    return Listed


@pytest.fixture(scope="session")
def albef():
    torch.manual_seed(0)
    model = multiway.create(
        "albef",
        image=ViTConfig(image_size=32, patch_size=16, width=32, depth=2, heads=2, hidden=64),
        text=BertConfig(width=32, layers=2, fusion_layers=2, heads=2, hidden=64, dropout=0.1),
        embed_dim=16,
        queue_size=8,
    )
    for parameter in model.parameters():  # official initialisation is so small that all pairs look alike
        parameter.data += 0.1 * torch.randn_like(parameter)
    return model
