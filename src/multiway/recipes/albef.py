"""ALBEF's recipes: the official pre-training, and small ones that start from pretrained towers.

The small ones align first and fuse later, as two stages: contrast tunes the towers; then, on towers that
stand still, the fusion layer learns from what alignment confuses. Where they leave the paper: no momentum
model and no queue (the batch is the whole contrast), the text feature is the mean of all tokens (MiniLM was
trained so), no MLM, the fusion layer starts from the alignment, with a null token, and re-ranking adds the
ITC logit.
"""

from __future__ import annotations

from dataclasses import replace

from multiway.data.augment import Augment
from multiway.data.dataset import DataConfig, Source
from multiway.systems.albef import ALBEFConfig
from multiway.systems.bert import BertConfig
from multiway.systems.towers import BackboneConfig
from multiway.train.run import Init, Run, TrainConfig

#: MiniLM-L6's sizes, with one fusion layer that starts from its last.
MINILM = BertConfig(width=384, layers=6, fusion_layers=1, heads=12, hidden=1536)
#: All that stands still while the fusion layers learn.
ALIGNED = (
    "encoders.image_tower",
    "encoders.pool",
    "encoders.image_proj",
    "encoders.text.embed",
    "encoders.text.text",
    "encoders.text_proj",
    "temperature",
)
#: A drawing's name three times out of four, else its tags.
EMOJI_TRAIN = "train"
MILD = Augment(
    crop_scale=None,
    flip=0.0,
    rand_n=0,
    rotate=8.0,
    translate=0.05,
    zoom=(0.85, 1.1),
    shear=0.05,
    fill=255,
    brightness=0.1,
    contrast=0.1,
    saturation=0.2,
    hue=0.02,
    grayscale=0.05,
)


def albef_base() -> Run:
    """Official pre-training (ALBEF, section 4.2; configs/Pretrain.yaml); give --data.train.0.path SHARDS."""
    return Run(
        name="albef_base",
        system=ALBEFConfig(),
        data=DataConfig(train=(Source(path="shards"),), image_size=256, workers=8),
        train=TrainConfig(
            epochs=30,
            batch_size=512,
            lr=1e-4,
            min_lr=1e-5,
            warmup_lr=1e-5,
            warmup_steps=2000,
            schedule="albef",
            weight_decay=0.02,
            precision="bf16",
        ),
    )


def _align_then_fuse(
    name: str, data: DataConfig, *, frozen_blocks: int, align: TrainConfig, fuse: TrainConfig, fuse_views: int
) -> tuple[Run, Run]:
    """EfficientNet-Lite0 and MiniLM aligned by ITC, then a fusion layer by ITM on cached features."""
    image = BackboneConfig(name="efficientnet_lite0", image_size=data.image_size, frozen_blocks=frozen_blocks)
    system = ALBEFConfig(
        image=image,
        text=MINILM,
        embed_dim=MINILM.width,
        temperature=0.05,
        temperature_range=(0.01, 0.5),
        momentum=None,
        queue_size=0,
        alpha=0.0,
        itm_weight=0.0,
        mlm_weight=0.0,
        positives="ids",
        text_pooling="mean",
        match_pooling="mean",
        null_token=True,
        rerank="itm+itc",
    )
    init = Init(image_tower="efficientnet_lite0", text="minilm", text_proj="identity")
    fused = replace(system, itm_weight=1.0, image=replace(image, frozen_blocks="all"))
    return (
        Run(name="align", system=system, data=data, train=align, init=init),
        Run(
            name="fuse",
            system=fused,
            data=replace(data, cache_views=fuse_views),
            train=replace(fuse, freeze=ALIGNED),
            init=Init(fusion="itc"),
        ),
    )


#: Fresh weights at the full rate; what was pretrained moves less.
ALIGN_SCALE = {"encoders.text.text": 0.2}
FUSE_SCALE = {f"encoders.text.fusion.0.{part}": 0.3 for part in ("attention", "norm1", "ffn", "norm2")}


def albef_emoji() -> tuple[Run, Run]:
    """The bundled drawings by the public protocol: Noto and Twemoji's trained names; minutes on two cores."""
    names = Source(path="emoji", split=EMOJI_TRAIN, texts="first", weight=0.5)
    both = Source(path="emoji", split=EMOJI_TRAIN, weight=0.5)
    data = DataConfig(
        train=(names, both), image_size=96, augment=MILD, merge_equal_texts=True, cache_views=2, workers=0
    )
    align = TrainConfig(
        steps=450,
        batch_size=64,
        lr=5e-4,
        min_lr=1e-5,
        warmup_lr=1e-5,
        warmup_steps=45,
        betas=(0.9, 0.98),
        lr_scale=ALIGN_SCALE,
        freeze=("encoders.text.embed",),
        clip_grad=1.0,
        device="cpu",
    )
    fuse = replace(align, steps=120, batch_size=192, lr=1e-3, warmup_steps=12, lr_scale=FUSE_SCALE)
    return _align_then_fuse("albef_emoji", data, frozen_blocks=8, align=align, fuse=fuse, fuse_views=2)
