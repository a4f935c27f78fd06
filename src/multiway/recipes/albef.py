"""ALBEF's recipes: the official pre-training, and small ones from pretrained towers on the bundled drawings and photos."""

from __future__ import annotations

from multiway.data.augment import Augment
from multiway.data.dataset import DataConfig, Source
from multiway.systems.albef import ALBEFConfig
from multiway.systems.bert import BertConfig
from multiway.systems.towers import BackboneConfig
from multiway.text import TokenizerConfig
from multiway.train.run import Init, Run, TrainConfig
