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
from multiway.systems.vit import ViTConfig
from multiway.text import TokenizerConfig
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
#: What the fusion layer has from MiniLM; its cross-attention is new.
COPIED = tuple(f"encoders.text.fusion.0.{part}" for part in ("attention", "norm1", "ffn", "norm2"))
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
    data: DataConfig, align: TrainConfig, fuse: TrainConfig, *, frozen_blocks: int
) -> tuple[Run, Run]:
    """EfficientNet-Lite0 and MiniLM aligned by ITC, then a fusion layer by ITM on cached features.

    `frozen_blocks` of the image tower and the word embeddings stand still from the start.
    """
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
    fused = replace(system, itm_weight=1.0, image=replace(image, frozen_blocks="all"))
    return (
        Run(
            name="align",
            system=system,
            data=data,
            train=replace(align, freeze=("encoders.text.embed",), lr_scale={"encoders.text.text": 0.2}),
            init=Init(image_tower="efficientnet_lite0", text="minilm", text_proj="identity"),
        ),
        Run(
            name="fuse",
            system=fused,
            data=data,
            train=replace(fuse, freeze=ALIGNED, lr_scale=dict.fromkeys(COPIED, 0.3)),
            init=Init(fusion="itc"),
        ),
    )


def _adamw(steps: int, batch_size: int, lr: float) -> TrainConfig:
    return TrainConfig(
        steps=steps,
        batch_size=batch_size,
        lr=lr,
        min_lr=lr / 50,
        warmup_lr=lr / 50,
        warmup_steps=steps // 10,
        betas=(0.9, 0.98),
        clip_grad=1.0,
        save_every=200,
        keep_last=1,
    )


def _drawings(split: str) -> DataConfig:
    """A drawing's name three times out of four, else its tags; equal names are positives of each other."""
    sources = tuple(Source(path="emoji", split=split, texts=texts, weight=0.5) for texts in ("first", "all"))
    return DataConfig(train=sources, image_size=96, augment=MILD, merge_equal_texts=True, cache_views=4)


def albef_emoji() -> tuple[Run, Run]:
    """The bundled drawings by the public protocol: Noto and Twemoji, trained names; minutes on two cores."""
    return _align_then_fuse(
        _drawings("train"), _adamw(480, 64, 5e-4), _adamw(120, 192, 1e-3), frozen_blocks=8
    )


def albef_emoji_full() -> tuple[Run, Run]:
    """As `albef_emoji`, on all bundled drawings."""
    return _align_then_fuse(_drawings("all"), _adamw(600, 64, 5e-4), _adamw(150, 192, 1e-3), frozen_blocks=8)


def albef_emoji_scratch() -> Run:
    """The same drawings without any pretrained weight: a small ViT, a small BERT, their own vocabulary."""
    text = BertConfig(
        vocab_size=3000, width=192, layers=3, fusion_layers=1, heads=3, hidden=768, positions=32
    )
    image = ViTConfig(image_size=64, patch_size=8, width=192, depth=4, heads=3, hidden=768)
    system = ALBEFConfig(
        image=image,
        text=text,
        tokenizer=TokenizerConfig(vocab="trained"),
        embed_dim=192,
        temperature=0.05,
        temperature_range=(0.01, 0.5),
        momentum=None,
        queue_size=0,
        alpha=0.0,
        mlm_weight=0.1,
        positives="ids",
        text_pooling="mean",
        match_pooling="mean",
        rerank="itm+itc",
    )
    data = replace(_drawings("train"), image_size=64, cache_views=0)
    return Run(name="albef_emoji_scratch", system=system, data=data, train=_adamw(1000, 64, 1e-3))


def albef_photos() -> tuple[Run, Run]:
    """Photographs with several captions each (Flickr8k, or --data.train.0.path SHARDS)."""
    augment = Augment(crop_scale=(0.5, 1.0), rand_n=0)
    data = DataConfig(
        train=(Source(path="../shared/data/flickr8k/train"),), image_size=192, augment=augment, cache_views=2
    )
    return _align_then_fuse(data, _adamw(500, 128, 5e-4), _adamw(450, 128, 1e-3), frozen_blocks=11)
