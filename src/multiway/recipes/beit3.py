"""BEiT-3's recipes: the paper's pre-training, official fine-tunings, and small ones of the bundled drawings.

The official pre-training was never published: what the paper leaves out (augmentation, shares of an epoch) is
ours. Fine-tunings for labels are made by `multiway finetune`; docs/beit3.md has their official numbers.
"""

from __future__ import annotations

from dataclasses import replace

from multiway.data.augment import Augment
from multiway.data.dataset import DataConfig, Source
from multiway.recipes.albef import MILD
from multiway.systems.beit3_config import (
    BEiT3Config,
    CaptionerConfig,
    NetworkConfig,
    RetrievalConfig,
    TextConfig,
    beit3_tokenizer,
    paper_giant,
)
from multiway.systems.patches import ImageConfig
from multiway.text import TokenizerConfig
from multiway.train.run import Init, Run, TrainConfig

#: COCO's Karpathy training split has so many captions; officially an epoch shows each once.
COCO_CAPTIONS = 566_747


def _three_streams(path: str, *, split: str | None = None, images: str, texts: str) -> tuple[Source, ...]:
    return (
        Source(path=path, split=split),
        Source(path=images, split=split, use="images"),
        Source(path=texts, split=split, use="texts"),
    )


def beit3_base() -> Run:
    """Masked data modelling of the released base model, by the paper's numbers (table 11).

    Give --data.train.0.path PAIRS, --data.train.1.path PICTURES, --data.train.2.path TEXTS (a .txt with one a
    line), their weights such that each makes a third of an epoch, --system.tokenizer.vocab beit3.spm and
    --init.visual-tokenizer VQ-KD.
    """
    augment = Augment(crop_scale=(0.2, 1.0), rand_n=0, brightness=0.4, contrast=0.4, saturation=0.4)
    return Run(
        name="beit3_base",
        system=BEiT3Config(drop_path=0.1),
        data=DataConfig(
            train=_three_streams("pairs", images="pictures", texts="texts.txt"),
            image_size=224,
            augment=augment,
            workers=8,
        ),
        train=TrainConfig(
            steps=1_000_000,
            batch_size=6144,
            lr=1e-3,
            min_lr=0.0,
            warmup_lr=0.0,
            warmup_steps=10_000,
            betas=(0.9, 0.98),
            eps=1e-6,
            weight_decay=0.05,
            precision="bf16",
        ),
        init=Init(visual_tokenizer="runs/vqkd_base/model"),
    )


def beit3_giant() -> Run:
    """The paper's own model of 1.9 B parameters: shared attention, an expert for pairs in the top layers."""
    run = beit3_base()
    system = BEiT3Config(drop_path=0.1, **paper_giant())
    return replace(run, name="beit3_giant", system=system, train=replace(run.train, checkpointing=True))


def beit3_retrieval() -> Run:
    """COCO retrieval of the base model (get_started_for_retrieval.md); also the intermediate fine-tuning.

    Give --data.train.0.path and --init.checkpoint. With the pre-training pairs for data and 224 pixels it is
    the intermediate contrastive fine-tuning, from whose model the official one starts.
    """
    system = RetrievalConfig(image=ImageConfig(image_size=384), drop_path=0.2)
    train = _fine_tuning(epochs=15, batch_size=3072, lr=2e-4, warmup_epochs=3)
    return Run(
        name="beit3_retrieval",
        system=system,
        data=_coco(384),
        train=replace(train, layer_decay=0.65, checkpointing=True),
        init=Init(checkpoint="runs/beit3_base/model"),
    )


def beit3_captioner() -> Run:
    """COCO captioning of the base model (get_started_for_captioning.md).

    Give --data.train.0.path and --init.checkpoint.
    """
    system = CaptionerConfig(
        image=ImageConfig(image_size=480), drop_path=0.1, tokenizer=beit3_tokenizer(max_length=32)
    )
    return Run(
        name="beit3_captioner",
        system=system,
        data=_coco(480),
        train=_fine_tuning(epochs=10, batch_size=256, lr=4e-5, warmup_epochs=1),
        init=Init(checkpoint="runs/beit3_base/model"),
    )


def _coco(image_size: int) -> DataConfig:
    augment = Augment(crop_scale=(0.5, 1.0), rand_n=0)
    return DataConfig(train=(Source(path="shards"),), image_size=image_size, augment=augment, workers=8)


def _fine_tuning(*, epochs: int, batch_size: int, lr: float, warmup_epochs: int) -> TrainConfig:
    """Official epochs, of captions: here they are counted in steps, for an epoch of ours shows pictures."""
    epoch = COCO_CAPTIONS // batch_size
    return TrainConfig(
        steps=epochs * epoch,
        batch_size=batch_size,
        lr=lr,
        min_lr=1e-6,
        warmup_lr=0.0,
        warmup_steps=warmup_epochs * epoch,
        weight_decay=0.05,
        precision="bf16",
    )


def _small() -> NetworkConfig:
    """The paper's form at 64 pixels, on the patches and codes of `vqkd_emoji`."""
    return NetworkConfig(
        form="paper",
        image=ImageConfig(image_size=64, patch_size=16),
        text=TextConfig(vocab_size=3000, positions=36),
        tokenizer=TokenizerConfig(vocab="trained", add_sep=True, max_length=32),
        width=128,
        depth=4,
        heads=2,
        hidden=512,
        joint_layers=1,
    )


def _drawings(*sources: Source) -> DataConfig:
    """The bundled drawings of the public protocol's training split."""
    given = tuple(replace(source, path="emoji", split="train") for source in sources)
    augment = replace(MILD, crop_scale=(0.7, 1.0))
    return DataConfig(train=given, image_size=64, augment=augment, merge_equal_texts=True)


def _adamw(steps: int, lr: float, batch_size: int = 48) -> TrainConfig:
    return TrainConfig(
        steps=steps,
        batch_size=batch_size,
        lr=lr,
        min_lr=lr / 50,
        warmup_lr=0.0,
        warmup_steps=steps // 10,
        betas=(0.9, 0.98),
        weight_decay=0.05,
        clip_grad=1.0,
        save_every=200,
        keep_last=1,
    )


def beit3_emoji() -> Run:
    """Masked data modelling alone on the bundled drawings, their names and tags; minutes of one core.

    The codes are those of `vqkd_emoji`: train it first, or name another with --init.visual-tokenizer.
    """
    return Run(
        name="beit3_emoji",
        system=BEiT3Config(**_small().network(), codes=128),
        data=_drawings(
            Source(path="emoji"), Source(path="emoji", use="images"), Source(path="emoji", use="texts")
        ),
        train=_adamw(2000, 2e-3),
        init=Init(visual_tokenizer="runs/vqkd_emoji/model", head="frequencies"),
    )


def beit3_emoji_retrieval() -> Run:
    """ITC on the drawings, from `beit3_emoji`; drawings with one name are positives of each other."""
    return Run(
        name="beit3_emoji_retrieval",
        system=RetrievalConfig(**_small().network(), positives="ids"),
        data=_drawings(
            Source(path="emoji", texts="first", weight=0.5), Source(path="emoji", texts="all", weight=0.5)
        ),
        train=_adamw(1000, 1e-3),
        init=Init(checkpoint="runs/beit3_emoji/model"),
    )


def beit3_emoji_captioner() -> Run:
    """Names of the drawings, from `beit3_emoji`."""
    return Run(
        name="beit3_emoji_captioner",
        system=CaptionerConfig(**_small().network(), caption_length=(0, 16)),
        data=_drawings(Source(path="emoji", texts="first")),
        train=_adamw(1000, 1e-3),
        init=Init(checkpoint="runs/beit3_emoji/model"),
    )
