"""A tiny ALBEF with random weights, and a folder of drawn pictures."""

import numpy as np
import pytest
import torch
from PIL import Image

import multiway
from multiway.systems.bert import BertConfig
from multiway.systems.vit import ViTConfig


@pytest.fixture(scope="session")
def albef():
    torch.manual_seed(0)
    model = multiway.create(
        "albef",
        image=ViTConfig(image_size=32, patch_size=16, width=32, depth=1, heads=2, hidden=64),
        text=BertConfig(width=32, layers=1, fusion_layers=1, heads=2, hidden=64),
        embed_dim=16,
        queue_size=8,
    )
    for parameter in model.parameters():  # official initialisation is so small that all pairs look alike
        parameter.data += 0.1 * torch.randn_like(parameter)
    return model


@pytest.fixture
def folder(tmp_path):
    rng = np.random.default_rng(0)
    root = tmp_path / "pictures"
    (root / "deep" / "er").mkdir(parents=True)
    names = ["a.png", "b.jpg", "C.PNG", "deep/d.webp", "deep/er/e f.png", "g.png", "h.png"]
    for name in names:
        Image.fromarray(rng.integers(0, 255, (36, 30, 3), np.uint8)).save(root / name)
    (root / "notes.txt").write_text("no picture")
    (root / ".hidden.png").write_bytes((root / "a.png").read_bytes())
    return root


@pytest.fixture
def encoded(albef, monkeypatch):
    """How many pictures the model has encoded so far."""
    counts = []
    inside = type(albef).image_context

    def counting(self, image):
        counts.append(len(image))
        return inside(self, image)

    monkeypatch.setattr(type(albef), "image_context", counting)
    return counts
