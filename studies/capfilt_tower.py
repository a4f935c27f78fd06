"""What the scene models' image tower starts from: a ViT that was taught classes, as BLIP's was on ImageNet.

The pictures hold one group of like things, of worlds that no arm sees; the class is their size, colour and
shape (128 classes). How many there are, where, and every sentence is left to the arms.
"""

from __future__ import annotations

import json
import os
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.nn import functional as F

from multiway.core.init import init_mae
from multiway.data import scenes
from multiway.systems.vit import VisionTransformer, ViTConfig
from multiway.weights.keymap import Layout, to_theirs
from multiway.weights.parts import timm_vit

SEED, TEST_SEED = 900, 901
CLASSES = [(s, c, f) for s in scenes.SIZES for c in scenes.COLOURS for f in scenes.SHAPES]
BATCH, LR = 64, 1e-3


def drawn(seed: int, count: int, side: int) -> tuple[Tensor, Tensor]:
    """uint8 pictures `[N, 3, side, side]` of one group each, and their classes `[N]`."""
    pictures, classes, index = [], [], 0
    while len(pictures) < count:
        scene = scenes.make_scene(seed, index)
        index += 1
        if scene.relation is None:
            group = scene.groups[0]
            pictures.append(torch.from_numpy(np.array(scenes.draw_scene(scene, side))).permute(2, 0, 1))
            classes.append(CLASSES.index((group.size, group.colour, group.shape)))
    return torch.stack(pictures), torch.tensor(classes)


def taught(config: ViTConfig, folder: Path, *, steps: int, pictures: int) -> Path:
    """The tower's weights in timm's layout, trained once: `folder`/tower.safetensors, figures beside it."""
    path = folder / "tower.safetensors"
    if path.exists():
        return path
    torch.manual_seed(SEED)
    tower, head = VisionTransformer(config), nn.Linear(config.width, len(CLASSES))
    init_mae(tower)
    weights = [*tower.parameters(), *head.parameters()]
    optimizer = torch.optim.AdamW(weights, lr=LR, betas=(0.9, 0.98), weight_decay=0.05)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, LR, steps, pct_start=0.1)
    images, classes = drawn(SEED, pictures, config.image_size)
    mean, std = (torch.tensor(v)[:, None, None] for v in (config.mean, config.std))

    def logits(image: Tensor) -> Tensor:
        return head(tower.pooled(tower((image / 255 - mean) / std)))

    for step in range(steps):
        rows = torch.randint(len(images), (BATCH,))
        loss = F.cross_entropy(logits(images[rows]), classes[rows])
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(weights, 1.0)
        optimizer.step()
        schedule.step()
        if step % 100 == 99:
            print(f"tower: step {step + 1:,}/{steps:,}: loss {loss.item():.3f}", flush=True)
    tower.eval()
    images, classes = drawn(TEST_SEED, 1000, config.image_size)
    parts = zip(images.split(BATCH), classes.split(BATCH), strict=True)
    with torch.no_grad():
        right = sum((logits(image).argmax(1) == row).sum().item() for image, row in parts)
    folder.mkdir(parents=True, exist_ok=True)
    about = {"steps": steps, "pictures": pictures, "classes": len(CLASSES), "top1": right / 10}
    (folder / "tower.json").write_text(json.dumps(about, indent=1) + "\n")
    aside = path.with_suffix(".part")
    save_file(to_theirs(Layout(tuple(timm_vit("", "", config))), tower.state_dict()), aside)
    os.replace(aside, path)
    return path
