"""Small models of the drawn world: pre-training on scenes and captions, and reasoning about two pictures.

    multiway train albef_scenes
    multiway finetune nlvr2 --model runs/albef_scenes/model --data scenes:40000:1 --out runs/reasoning

`scripts/reasoning.py` does it for ALBEF, VLMo and BEiT-3. Everything is learned from scratch; a patch is a
cell of a scene. Where they leave the papers: ALBEF has no momentum model and no queue, more words are masked,
and BEiT-3 reads BERT's words and sees pairs alone.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from multiway.core.init import unit_gain
from multiway.data.augment import Augment
from multiway.data.dataset import DataConfig, Source
from multiway.data.labelled import LabelledSource, TaskData
from multiway.recipes.vqkd import vqkd_emoji
from multiway.systems.albef import ALBEFConfig
from multiway.systems.albef_assignment import AssignmentConfig
from multiway.systems.beit3_config import BEiT3Config, RetrievalConfig
from multiway.systems.beit3_config import TextConfig as BEiT3Text
from multiway.systems.bert import BertConfig
from multiway.systems.patches import ImageConfig
from multiway.systems.vilt_config import ViLTConfig, vilt_vit
from multiway.systems.vit import ViTConfig
from multiway.systems.vlmo_config import TextConfig as VLMoText
from multiway.systems.vlmo_config import VLMoConfig
from multiway.systems.vqkd import vqkd_vit
from multiway.text import TokenizerConfig
from multiway.train.run import Init, Run, TrainConfig

SIDE, PATCH = 80, 16
SIZES: dict[str, Any] = {"width": 128, "heads": 4, "hidden": 512}
CODES = 256
GAIN = unit_gain(SIZES["width"])
#: Nothing is mirrored, cropped or turned: left and right, colour, size and count must stay true.
PLAIN = Augment(crop_scale=None, flip=0.0, rand_n=0)
#: Mean and deviation of a scene's channels. Most of it is white paper, which this mean takes to zero: with
#: CLIP's it is a large constant in every patch, beside which things and positions are small.
PAPER: dict[str, Any] = {"mean": (0.98, 0.974, 0.971), "std": (0.27, 0.27, 0.27)}
TOKENS = TokenizerConfig(cleaning="none", add_sep=True, max_length=32)


def training(steps: int, lr: float, **changes: Any) -> TrainConfig:
    """AdamW with a cosine, batches of 64."""
    options: dict[str, Any] = {
        "steps": steps,
        "batch_size": 64,
        "lr": lr,
        "min_lr": lr / 50,
        "warmup_lr": lr / 50,
        "warmup_steps": steps // 10,
        "betas": (0.9, 0.98),
        "weight_decay": 0.05,
        "clip_grad": 1.0,
        "save_every": 200,
        "keep_last": 1,
    }
    return TrainConfig(**(options | changes))


def _scenes() -> DataConfig:
    return DataConfig(
        train=(Source(path="scenes:16000:11"),),
        image_size=SIDE,
        augment=PLAIN,
        merge_equal_texts=True,
    )


def _from_scratch(name: str, system: Any) -> Run:
    """Pre-training on scenes and captions from random weights."""
    return Run(name=name, system=system, data=_scenes(), train=training(1500, 1e-3), init=Init(gain=GAIN))


def albef_scenes() -> Run:
    """ALBEF: three picture layers, two of text, two of fusion; about half a second a step on one core."""
    text = BertConfig(layers=2, fusion_layers=2, positions=32, dropout=0.0, **SIZES)
    system = ALBEFConfig(
        image=ViTConfig(image_size=SIDE, patch_size=PATCH, depth=3, **PAPER, **SIZES),
        text=text,
        tokenizer=TOKENS,
        embed_dim=128,
        temperature=0.05,
        temperature_range=(0.01, 0.5),
        momentum=None,
        queue_size=0,
        alpha=0.0,
        positives="ids",
        mlm_probability=0.3,
    )
    return _from_scratch("albef_scenes", system)


def assignment_scenes() -> Run:
    """ALBEF's pre-training for NLVR2 (section 3.4 of the paper: to which picture does a text belong?)."""
    base = albef_scenes()
    text = replace(base.system.text, fusion_layers=2 * base.system.text.fusion_layers)
    system = AssignmentConfig(
        image=base.system.image, text=text, tokenizer=TOKENS, embed_dim=base.system.embed_dim
    )
    return replace(
        base,
        name="assignment_scenes",
        system=system,
        train=training(600, 5e-4),
        init=Init(checkpoint="runs/albef_scenes/model", gain=GAIN),
    )


def vilt_scenes() -> Run:
    """ViLT of four layers, from random weights."""
    system = ViLTConfig(
        image=vilt_vit(image_size=SIDE, patch_size=PATCH, depth=4, dropout=0.0, **PAPER, **SIZES),
        text=VLMoText(positions=32, dropout=0.0),
        tokenizer=TOKENS,
        longest_side=2 * SIDE,
        mlm_probability=0.3,
    )
    return _from_scratch("vilt_scenes", system)


def vlmo_scenes() -> Run:
    """VLMo of four layers, the last with a joint expert; pairs alone, from random weights."""
    system = VLMoConfig(
        image=ImageConfig(image_size=SIDE, patch_size=PATCH, **PAPER),
        text=VLMoText(positions=32, dropout=0.0),
        tokenizer=TOKENS,
        depth=4,
        joint_layers=1,
        drop_path=0.0,
        relative_positions=32,
        positives="ids",
        mlm_probability=0.3,
        mlm_weight=1.0,
        **SIZES,
    )
    return _from_scratch("vlmo_scenes", system)


def vqkd_scenes() -> Run:
    """Visual tokens of scenes for `beit3_scenes`: as `vqkd_emoji`, a token a cell."""
    run = vqkd_emoji()
    image = vqkd_vit(image_size=SIDE, patch_size=PATCH, depth=3, **PAPER, **SIZES)
    system = replace(run.system, image=image, codes=CODES, teacher_size=160, start_after=80)
    data = replace(run.data, train=(Source(path="scenes:8000:13"),), image_size=SIDE, augment=PLAIN)
    train = replace(run.train, steps=200, warmup_steps=20, batch_size=64)
    return replace(run, name="vqkd_scenes", system=system, data=data, train=train)


def beit3_scenes() -> Run:
    """BEiT-3 of four layers in the paper's form, by masked data modelling of pairs."""
    system = BEiT3Config(
        form="paper",
        joint_layers=1,
        image=ImageConfig(image_size=SIDE, patch_size=PATCH, **PAPER),
        text=BEiT3Text(vocab_size=30522, positions=40),
        tokenizer=TOKENS,
        depth=4,
        codes=CODES,
        head_scale=unit_gain(4 * SIZES["width"]),  # of two pictures the head reads four tokens
        **SIZES,
    )
    return Run(
        name="beit3_scenes",
        system=system,
        data=_scenes(),
        train=training(1200, 1e-3),
        init=Init(visual_tokenizer="runs/vqkd_scenes/model", gain=GAIN),
    )


def beit3_retrieval_scenes() -> Run:
    """ITC after `beit3_scenes`: masked data modelling leaves the class tokens untrained, and two pictures are
    judged by them; without this, fine-tuning on pairs stayed at chance.
    """
    base = beit3_scenes()
    return replace(
        base,
        name="beit3_retrieval_scenes",
        system=RetrievalConfig(**base.system.network(), positives="ids"),
        train=training(300, 5e-4),
        init=Init(checkpoint="runs/beit3_scenes/model"),
    )


def reasoning(*sources: LabelledSource, steps: int) -> tuple[TaskData, TrainConfig]:
    """Fine-tuning on pairs of pictures: what `tasks.finetune.plan` takes beside a model.

    At a rate of 5e-4 ALBEF forgot in hundreds of steps what it had learned of simpler sentences.
    """
    return TaskData(train=sources, augment=PLAIN), training(steps, 2e-4)
