"""BLIP's recipes: the official pre-training and fine-tunings, and small ones from pretrained towers.

The small ones align as ALBEF's do; then, on an image tower that stands still, all three losses train the rest
together. Where they leave the paper: no momentum model and no queue, mean pooling, no label smoothing,
cross-attention starts from the alignment, with a null token, the decoder's head from the words' frequencies,
and re-ranking adds the ITC logit.
"""

from __future__ import annotations

from dataclasses import replace

from multiway.data.augment import Augment
from multiway.data.dataset import DataConfig, Source
from multiway.recipes.albef import albef_emoji, albef_photos
from multiway.systems.blip_config import BLIPConfig, CaptionerConfig, blip_tokenizer, med_config
from multiway.systems.vit import ViTConfig
from multiway.train.run import Init, Run, TrainConfig

#: MiniLM-L6's sizes, with BLIP's cross-attention in every layer.
MINILM = med_config(width=384, fusion_layers=6, heads=12, hidden=1536)
#: What stands still while cross-attention and decoder learn.
SEEN = ("encoders.image_tower", "encoders.pool", "encoders.image_proj", "encoders.text.embed", "temperature")
#: What goes on slowly: all that was there before; the decoder's self-attention begins as the encoder's.
KNOWN = (
    "encoders.text_proj",
    "decoder.fusion",
    *(f"encoders.text.fusion.*.{part}" for part in ("attention", "norm1", "ffn", "norm2")),
)


def blip_base() -> Run:
    """Official pre-training (BLIP, section 4.1; configs/pretrain.yaml); give --data.train.0.path SHARDS.

    The paper starts from DeiT and BERT: --init.image-tower and --init.text take their files.
    """
    return Run(
        name="blip_base",
        system=BLIPConfig(),
        data=DataConfig(
            train=(Source(path="shards"),), image_size=224, augment=Augment(rand_m=5.0), workers=8
        ),
        train=TrainConfig(
            epochs=20,
            batch_size=2880,
            lr=3e-4,
            min_lr=1e-6,
            warmup_lr=1e-6,
            warmup_steps=3000,
            schedule="blip",
            lr_decay=0.9,
            weight_decay=0.05,
            precision="bf16",
        ),
    )


def blip_captioner() -> Run:
    """Captioning fine-tuning (configs/caption_coco.yaml): give --data.train.0.path and --init.checkpoint."""
    return Run(
        name="blip_captioner",
        system=CaptionerConfig(),
        data=_human(384),
        train=_fine_tuning(epochs=5),
        init=Init(checkpoint="runs/blip_base/model"),
    )


def blip_filter() -> Run:
    """CapFilt's filter, a retrieval fine-tuning (configs/retrieval_coco.yaml): ITC and ITM, without LM.

    It starts from the same checkpoint as the captioner: give --data.train.0.path and --init.checkpoint.
    """
    system = BLIPConfig(
        image=ViTConfig(image_size=384),
        tokenizer=blip_tokenizer(35),
        alpha_ramp_epochs=1,
        lm_weight=0.0,
        positives="ids",
        negatives_by="batch",
        negative_floor=0.0,
        negative_all_rank=True,
    )
    train = replace(_fine_tuning(epochs=6), checkpointing=True)
    return Run(
        name="blip_filter",
        system=system,
        data=_human(384),
        train=train,
        init=Init(checkpoint="runs/blip_base/model"),
    )


def _human(image_size: int) -> DataConfig:
    augment = Augment(crop_scale=(0.5, 1.0), rand_m=5.0)
    return DataConfig(train=(Source(path="shards"),), image_size=image_size, augment=augment, workers=8)


def _fine_tuning(*, epochs: int) -> TrainConfig:
    """One rate an epoch, by the cosine."""
    return TrainConfig(
        epochs=epochs,
        batch_size=256,
        lr=1e-5,
        min_lr=0.0,
        schedule="albef",
        weight_decay=0.05,
        precision="bf16",
    )


def _align_then_ground(
    albef: tuple[Run, Run], *, align_steps: int, ground_steps: int, batch_size: int, names: bool
) -> tuple[Run, Run]:
    """ALBEF's alignment with BLIP's text stack; then cross-attention and decoder on cached features.

    Args:
        albef: the recipe whose data and alignment this takes.
        names: the decoder learns the first text of each picture alone.
    """
    align, fuse = albef
    system = BLIPConfig(
        image=align.system.image,
        text=MINILM,
        tokenizer=blip_tokenizer(25),
        embed_dim=MINILM.width,
        temperature=0.05,
        temperature_range=(0.01, 0.5),
        momentum=None,
        queue_size=0,
        alpha=0.0,
        itm_weight=0.0,
        lm_weight=0.0,
        positives="ids",
        text_pooling="mean",
        match_pooling="mean",
        null_token=True,
        rerank="itm+itc",
        label_smoothing=0.0,
        caption_length=(2, 20),
    )
    grounded = replace(system, itm_weight=1.0, lm_weight=1.0, image=fuse.system.image)
    data = align.data
    if names:
        first = replace(data.train[0], texts="first", weight=1.0)
        data = replace(data, train=(first,))
    aligning = replace(
        align.train,
        steps=align_steps,
        warmup_steps=align_steps // 10,
        lr_scale={"encoders.text": 0.2},
    )
    grounding = replace(
        fuse.train,
        steps=ground_steps,
        warmup_steps=ground_steps // 10,
        batch_size=batch_size,
        freeze=SEEN,
        lr_scale=dict.fromkeys(KNOWN, 0.3),
    )
    return (
        replace(align, system=system, train=aligning),
        Run(
            name="ground",
            system=grounded,
            data=data,
            train=grounding,
            init=Init(fusion="itc", head="frequencies"),
        ),
    )


def blip_emoji() -> tuple[Run, Run]:
    """The bundled drawings by the public protocol, to search and to name; minutes on two cores."""
    return _align_then_ground(albef_emoji(), align_steps=480, ground_steps=450, batch_size=64, names=True)


def blip_photos() -> tuple[Run, Run]:
    """Photographs with several captions each (Flickr8k, or --data.train.0.path SHARDS)."""
    return _align_then_ground(albef_photos(), align_steps=400, ground_steps=400, batch_size=64, names=False)
