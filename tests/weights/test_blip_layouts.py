"""BLIP's layouts: every key of every official checkpoint at full size, told apart, loaded, written back."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import tiny
import tiny_blip
import torch
from official_shapes import linear, predictions, shapes, vit

import multiway
from multiway.errors import UserError
from multiway.systems import NETWORKS
from multiway.systems.blip_config import (
    BLIPConfig,
    CaptionerConfig,
    FeaturesConfig,
    NLVRConfig,
    VQAConfig,
    blip_tokenizer,
)
from multiway.systems.blip_heads import AnswerModel, Captioner, PairModel
from multiway.systems.vit import ViTConfig
from multiway.train.build import build_system
from multiway.train.run import Init, Run, TrainConfig
from multiway.weights import blip
from multiway.weights.keymap import to_ours, to_theirs
from multiway.weights.official import check

Shapes = dict[str, tuple[int, ...]]
VOCAB = 30524


def bert(prefix: str, *, twin: bool = False) -> Shapes:
    """BLIP's med.py: cross-attention in every layer, no token types; or NLVR2's twin of it."""
    found: Shapes = {
        "embeddings.word_embeddings.weight": (VOCAB, 768),
        "embeddings.position_embeddings.weight": (512, 768),
        "embeddings.position_ids": (1, 512),
        "embeddings.LayerNorm.weight": (768,),
        "embeddings.LayerNorm.bias": (768,),
    }
    for i in range(12):
        layer = f"encoder.layer.{i}"
        for attention in ("attention", "crossattention"):
            twins = ("0", "1") if twin and attention == "crossattention" else ("",)
            for mark in twins:
                for part in ("query", "key", "value"):
                    found |= linear(f"{layer}.{attention}.self{mark}.{part}", 768, 768)
                found |= linear(f"{layer}.{attention}.output.dense{mark}", 768, 768)
            found |= {f"{layer}.{attention}.output.LayerNorm.{p}": (768,) for p in ("weight", "bias")}
        if twin and i >= 6:
            found |= linear(f"{layer}.crossattention.output.merge_layer", 768, 1536)
        found |= linear(f"{layer}.intermediate.dense", 3072, 768)
        found |= linear(f"{layer}.output.dense", 768, 3072)
        found |= {f"{layer}.output.LayerNorm.{p}": (768,) for p in ("weight", "bias")}
    return {prefix + name: shape for name, shape in found.items()}


def decoder() -> Shapes:
    return bert("text_decoder.bert.") | predictions("text_decoder.cls.predictions.", vocab=VOCAB)


def momentum(size: int, queue: int) -> Shapes:
    found: Shapes = {"temp": (), "image_queue": (256, queue), "text_queue": (256, queue)}
    for mark in ("", "_m"):
        found |= vit(f"visual_encoder{mark}.", size=size) | bert(f"text_encoder{mark}.")
        found |= linear(f"vision_proj{mark}", 256, 768) | linear(f"text_proj{mark}", 256, 768)
    return found | linear("itm_head", 2, 768)


def sized(kind: type, size: int, **changes):
    return kind(image=ViTConfig(image_size=size), **changes)


def official() -> dict[str, tuple[Shapes, object]]:
    """Every kind of checkpoint (blip_pretrain.py and its siblings), and the config that it tells."""
    itm = vit("visual_encoder.", size=384) | bert("text_encoder.") | linear("itm_head", 2, 768)
    itm |= linear("vision_proj", 256, 768) | linear("text_proj", 256, 768)
    heads = linear("cls_head.0", 768, 768) | linear("cls_head.2", 2, 768)
    return {
        "pretrain": (
            momentum(224, 57600) | decoder() | {"queue_ptr": (1,)},
            sized(BLIPConfig, 224, queue_size=57600),
        ),
        "retrieval": (
            momentum(384, 4096) | {"ptr_queue": (1,), "idx_queue": (1, 4096)},
            sized(BLIPConfig, 384, queue_size=4096, tokenizer=blip_tokenizer(35), **blip.RETRIEVAL),
        ),
        "itm": (itm, sized(BLIPConfig, 384, tokenizer=blip_tokenizer(35), **blip.RETRIEVAL)),
        "base": (vit("visual_encoder.", size=224) | bert("text_encoder."), sized(FeaturesConfig, 224)),
        "decoder": (vit("visual_encoder.", size=384) | decoder(), sized(CaptionerConfig, 384)),
        "vqa": (vit("visual_encoder.", size=480) | bert("text_encoder.") | decoder(), VQAConfig()),
        "nlvr": (
            vit("visual_encoder.", size=384) | bert("text_encoder.", twin=True) | heads,
            NLVRConfig(),
        ),
    }


@pytest.mark.parametrize("kind", official())
def test_a_checkpoint_at_full_size_is_told_apart_and_written_back(kind: str) -> None:
    expected, config = official()[kind]
    told = blip.config_of({key: torch.empty(shape, device="meta") for key, shape in expected.items()})
    assert told == config
    with torch.device("meta"):
        model = NETWORKS[config.system].network()(config)
        state = model.init_state()
    tensors = model.state_dict() | {f"state.{n}": t for n, t in state.state_dict().items()}
    layout = blip.layout_of(config, expected)
    theirs = to_theirs(layout, tensors)
    assert shapes(theirs) == expected
    ours, missing, unexpected = to_ours(layout, theirs)
    assert (missing, unexpected) == ([], [])
    left = set(tensors) - set(ours)
    if kind == "itm":  # no momentum model, no queue, no temperature
        left = {name for name in left if not name.startswith("state.")} - {"temperature"}
    assert left <= {"state.step", "state.queue.ids"}


def random(tensors: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    g = torch.Generator().manual_seed(0)
    return {n: torch.randn(t.shape, generator=g) if t.is_floating_point() else t for n, t in tensors.items()}


def test_random_weights_survive_the_way_there_and_back() -> None:
    config = tiny_blip.config()
    model, state = tiny_blip.blip(config)
    tensors = random(model.state_dict()) | random(
        {f"state.{n}": t for n, t in state.state_dict().items() if n not in ("step", "queue.ids")}
    )
    theirs = to_theirs(blip.layout(config), tensors)
    shared = "encoder.layer.1.crossattention.self.value.weight"
    assert torch.equal(theirs[f"text_encoder.{shared}"], theirs[f"text_decoder.bert.{shared}"])
    own = "encoder.layer.1.attention.self.value.weight"
    assert not torch.equal(theirs[f"text_encoder.{own}"], theirs[f"text_decoder.bert.{own}"])
    ours, _, _ = to_ours(blip.layout(config), theirs)
    tiny.assert_same(ours, tensors, tolerance=0.0)


def checkpoint(folder: Path) -> tuple[Path, BLIPConfig]:
    """A pre-training checkpoint as the official code writes it, with 64-wide heads."""
    image = tiny.vit(width=64, heads=1)
    text = tiny_blip.med(width=64, heads=1, vocab_size=VOCAB, positions=40)
    config = tiny_blip.config(image=image, text=text)
    model, state = tiny_blip.blip(config)
    tensors = model.state_dict() | {f"state.{n}": t for n, t in state.state_dict().items()}
    torch.save({"model": to_theirs(blip.layout(config), tensors), "epoch": 3}, folder / "model.pth")
    return folder / "model.pth", config


def test_a_checkpoint_loads_by_itself_and_says_what_it_would_do(tmp_path: Path) -> None:
    path, config = checkpoint(tmp_path)
    model = multiway.load(path)
    assert type(model.config) is BLIPConfig
    assert model.config.queue_size == config.queue_size
    assert model.enc_id == VOCAB - 1
    own = tiny_blip.blip(config)[0].state_dict()
    tiny.assert_same(model.state_dict(), own, tolerance=0.0)
    report = check(path)
    assert (report.resized, report.missing, report.unexpected) == ((), (), ())
    assert set(own) <= set(report.matched)
    # Into a captioner at a larger resolution: the positions are resized, the text encoder is left over.
    larger = replace(config.image, image_size=48)
    report = check(path, CaptionerConfig(image=larger, text=config.text))
    assert report.resized == ("image_tower.positions",)
    assert report.missing == ()
    assert "text_encoder.encoder.layer.0.attention.self.query.weight" in report.unexpected
    # Into retrieval with another queue: that is left as it was, and named.
    report = check(path, replace(config, **blip.RETRIEVAL, queue_size=8))
    assert {"state.queue.image", "state.queue.text", "state.queue.ids"} <= set(report.missing)
    # NLVR2: cross-attention twice; the head is new.
    report = check(path, NLVRConfig(image=config.image, text=config.text))
    assert set(report.missing) == {f"head.{i}.{part}" for i in (0, 2) for part in ("weight", "bias")}


@pytest.mark.parametrize("kind", [Captioner, AnswerModel, PairModel])
def test_fine_tuning_starts_from_a_checkpoint_at_a_larger_resolution(kind: type, tmp_path: Path) -> None:
    path, config = checkpoint(tmp_path)
    image = replace(config.image, image_size=48)
    sizes = {"image": image, "text": config.text, "tokenizer": config.tokenizer}
    names = {Captioner: CaptionerConfig, AnswerModel: VQAConfig, PairModel: NLVRConfig}
    run = Run(
        name="tune",
        system=names[kind](**sizes),
        data=None,
        train=TrainConfig(steps=1),
        init=Init(checkpoint=str(path)),
    )
    said: list[str] = []
    model = build_system(run, said.append)
    assert isinstance(model, kind)
    fresh = " 4 left fresh" if kind is PairModel else " 0 left fresh"  # NLVR2's head
    assert fresh in said[0]
    start = tiny_blip.blip(config)[0]
    if kind is PairModel:
        for twin in (model.text.fusion[1].cross.first, model.text.fusion[1].cross.second):
            tiny.assert_same(twin.state_dict(), start.encoders.med.fusion[1].cross.state_dict())
        return
    for i, block in enumerate(model.decoder.fusion):
        tiny.assert_same(block.attention.state_dict(), start.decoder.fusion[i].attention.state_dict())
        tiny.assert_same(block.cross.state_dict(), start.encoders.med.fusion[i].cross.state_dict())
    assert torch.equal(model.decoder.embed.words.weight, start.encoders.med.embed.words.weight)


def test_a_decoder_that_a_checkpoint_lacks_starts_from_the_encoder() -> None:
    given = tiny_blip.blip(tiny_blip.config(lm_weight=0.0))[0]
    model = tiny_blip.blip(seed=1)[0]
    model.load_state_dict(model.adopt(given.state_dict()), strict=False)
    for own, other in zip(model.decoder.fusion, given.encoders.med.fusion, strict=True):
        tiny.assert_same(own.attention.state_dict(), other.attention.state_dict())


def test_fine_tuned_networks_save_and_load_as_folders(tmp_path: Path) -> None:
    model = Captioner(CaptionerConfig(image=tiny.vit(), text=tiny_blip.med()))
    multiway.save(model, tmp_path / "captioner")
    # A folder without a tokenizer has a vocabulary named by its config: BERT's, larger than this table.
    again = multiway.load(tmp_path / "captioner")
    assert isinstance(again, Captioner)
    tiny.assert_same(again.state_dict(), model.state_dict(), tolerance=0.0)
    with pytest.raises(UserError, match="contrastive"):
        again.encode_image(torch.randn(1, 3, 32, 32))
