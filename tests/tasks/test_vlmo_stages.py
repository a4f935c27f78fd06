"""VLMo's three stages in a row, tiny: each starts from the model before it, and the last one serves."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import torch
from safetensors.torch import load_file

import multiway
from multiway import recipes
from multiway.cli.main import main
from multiway.data.augment import Augment
from multiway.data.dataset import DataConfig, Dataset, Source
from multiway.data.patch_masks import BlockMask
from multiway.systems.beit_config import BEiTConfig, beit_vit
from multiway.systems.patches import ImageConfig
from multiway.systems.vlmo_config import TextConfig, VLMoConfig
from multiway.systems.vlmo_stages import STAGES, frozen
from multiway.systems.vqkd import VQKD, VQKDConfig, vqkd_vit
from multiway.tasks.pretrain import as_stages, pretrain_stages
from multiway.tasks.retrieval import evaluate
from multiway.text import TokenizerConfig
from multiway.train.build import describe
from multiway.train.run import Init, Run, TrainConfig

SIZES = {"width": 24, "depth": 3, "heads": 3, "hidden": 40}
PICTURE = {"image_size": 32, "patch_size": 8}


def tokenizer_of_pictures(folder: Path) -> Path:
    torch.manual_seed(0)
    config = VQKDConfig(
        image=vqkd_vit(**SIZES, **PICTURE), codes=7, decoder_layers=1, code_width=6, target_width=5
    )
    model = VQKD(config)
    model.quantizer.started.fill_(1)
    return multiway.save(model, folder)


def stages(tokens: Path) -> tuple[Run, ...]:
    plain = Augment(crop_scale=None, flip=0.0, rand_n=0)
    data = DataConfig(train=(Source(path="scenes:16"),), image_size=32, augment=plain)
    train = TrainConfig(
        steps=3,
        batch_size=8,
        lr=1e-2,
        min_lr=1e-3,
        schedule="linear",
        optimizer="transformers_adamw",
        device="cpu",
        save_every=2,
    )
    mask = BlockMask(patches=6, smallest=2)
    image = BEiTConfig(image=beit_vit(**SIZES, **PICTURE), codes=7, mask=mask)
    pairs = VLMoConfig(
        image=ImageConfig(**PICTURE),
        text=TextConfig(positions=24, dropout=0.0),
        tokenizer=TokenizerConfig(cleaning="none", add_sep=True, max_length=24),
        drop_path=0.0,
        relative_positions=30,
        joint_layers=1,
        positives="ids",
        **SIZES,
    )
    text = replace(pairs, stage="text", joint_layers=0, text=replace(pairs.text, positions=30))
    system = {"image": image, "text": text, "pairs": pairs}
    init = Init(visual_tokenizer=str(tokens))
    runs = [Run(name=n, system=system[n], data=data, train=train, init=init) for n in STAGES]
    runs[1] = replace(runs[1], train=replace(train, freeze=frozen("text", text)))
    return tuple(runs)


def tensors(folder: Path) -> dict[str, torch.Tensor]:
    return load_file(folder / "model" / "model.safetensors")


def test_three_stages_and_both_uses_of_the_last_model(tmp_path: Path, capsys) -> None:
    runs = stages(tokenizer_of_pictures(tmp_path / "tokens"))
    for run in as_stages(runs):  # as --dry-run: what the first needs is none of the others'
        describe(run)
    pretrain_stages(runs, tmp_path / "run")
    printed = capsys.readouterr().out
    assert "transformer.blocks.*.attention" in printed  # what the stage of texts freezes
    assert "frozen: " in printed
    image, text, pairs = (tensors(tmp_path / "run" / f"{i}-{n}") for i, n in enumerate(STAGES, 1))
    # The stage of texts: BEiT's parts are as they were, byte for byte.
    for name, tensor in image.items():
        ours = name.replace("image_tower.", "transformer.").replace(".all.", ".image.")
        if ours.startswith("transformer.blocks") or ".patches." in ours or ours.endswith("cls_token"):
            assert torch.equal(text[ours], tensor), name
    assert not torch.equal(text["transformer.norm.weight"], image["image_tower.norm.weight"])
    # The stage of pairs: everything moves on from there.
    moved = "blocks.0.attention.out.weight"
    assert not torch.equal(pairs[f"transformer.{moved}"], image[f"image_tower.{moved}"])
    words = "transformer.text_embed.positions.weight"
    assert torch.equal(pairs[words], text[words][:24])
    # One checkpoint is a dual encoder and a fusion encoder.
    model, dataset = multiway.load(tmp_path / "run" / "model"), Dataset(Source(path="scenes:9:5"))
    found = evaluate(model, dataset, k=4)
    assert found["itm"] is not None
    assert found["k"] == 4
    picture, caption = dataset.image(0), dataset.texts(0)[0]
    assert 0 <= float(model.match(picture, caption)[0]) <= 1
    assert model.encode_image(picture).shape == model.encode_text(caption).shape == (1, 24)


def test_recipes_are_whole() -> None:
    base = recipes.stages(recipes.get("vlmo_base")())
    assert [run.name for run in base] == list(STAGES)
    image, text, pairs = base
    assert (pairs.train.steps, pairs.train.batch_size, pairs.train.lr) == (200_000, 1024, 2e-4)
    assert text.train.freeze == frozen("text", text.system)
    assert text.system.relative_positions == pairs.system.relative_positions == 196
    assert image.data.image_size == pairs.data.image_size
    small = recipes.stages(recipes.get("vlmo_emoji")())
    assert [run.name for run in small] == ["text", "pairs"]
    assert small[0].init.checkpoint == "runs/beit2_emoji/model"
    assert small[0].system.text.positions == small[1].system.relative_positions


def test_a_stage_alone_and_a_wrong_name(capsys) -> None:
    arguments = ["train", "vlmo_base", "--stage", "words", "--dry-run"]
    assert main(arguments) == 2
    assert "image, text, pairs" in capsys.readouterr().err
    assert main(["train", "vlmo_base", "--stage", "text", "--dry-run"]) == 2
    assert "--stage text goes on from the one before it: give --init.checkpoint" in capsys.readouterr().err
