"""A recipe of seconds, on drawn scenes."""

from __future__ import annotations

from multiway.data.dataset import DataConfig, Source
from multiway.systems.albef import ALBEFConfig
from multiway.systems.bert import BertConfig
from multiway.systems.vit import ViTConfig
from multiway.train.run import Run, TrainConfig


def tiny() -> Run:
    """ALBEF of a few weights, four steps."""
    image = ViTConfig(image_size=32, patch_size=16, width=32, depth=1, heads=2, hidden=64)
    text = BertConfig(width=32, layers=1, fusion_layers=1, heads=2, hidden=64)
    data = DataConfig(train=(Source(path="scenes:32"),), val=(Source(path="scenes:8:1"),), image_size=32)
    train = TrainConfig(steps=4, batch_size=8, save_every=2, lr=1e-3)
    return Run(name="tiny", system=ALBEFConfig(image=image, text=text, queue_size=16), data=data, train=train)
