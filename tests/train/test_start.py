"""What fresh weights start as: a head for words by their shares, linear maps by a gain."""

from __future__ import annotations

from dataclasses import replace

import pytest
import tiny
import tiny_beit
import tiny_beit3
import tiny_blip
import tiny_coca
import tiny_mae
import torch
from torch import nn

from multiway.core.init import BEIT_STD, init_beit, init_vit, unit_gain, widen
from multiway.data.dataset import DataConfig, Dataset, Source
from multiway.errors import UserError
from multiway.systems import NETWORKS
from multiway.systems.beit3_config import ClassifierConfig as BEiT3ClassifierConfig
from multiway.systems.beit_heads import Classifier as BeitClassifier
from multiway.systems.beit_heads import ClassifierConfig
from multiway.systems.blip import BLIP
from multiway.systems.blip_config import blip_tokenizer
from multiway.systems.coca_config import MultimodalConfig, PoolerConfig
from multiway.systems.vit import VisionTransformer
from multiway.text import Tokenizer
from multiway.train.build import _start_heads, build_system
from multiway.train.run import Init, LoRAConfig, Run, TrainConfig
from multiway.weights import save
from multiway.weights.start import start_from_model


def test_a_head_starts_with_the_words_of_the_training_texts() -> None:
    dataset = Dataset(Source(path="emoji", split="style", texts="first"))
    model = BLIP(tiny_blip.config(text=tiny_blip.med(vocab_size=30524)))
    model.tokenizer = tokenizer = Tokenizer.load(blip_tokenizer(25))
    _start_heads(model, dataset)
    share = model.decoder.head.bias.exp()
    torch.testing.assert_close(share.sum(), torch.tensor(1.0))
    ids = [
        token
        for i in range(len(dataset))
        for text in dataset.texts(i)
        for token in tokenizer.encode(text)[1:]
    ]
    total = len(ids) + 0.5 * len(share)
    for token in {tokenizer.sep_id, ids[0], ids[7]}:
        expected = torch.tensor((ids.count(token) + 0.5) / total)
        torch.testing.assert_close(share[token], expected, rtol=1e-4, atol=0)
    assert share[tokenizer.cls_id] == share.min()  # nothing is followed by what a text begins with


def test_without_a_head_for_words_it_says_so() -> None:
    model = BLIP(tiny_blip.config(lm_weight=0.0))
    with pytest.raises(UserError, match="no head for words"):
        _start_heads(model, Dataset(Source(path="emoji", split="style")))


def test_beit3s_head_for_words_starts_so_too() -> None:
    model, _ = tiny_beit3.beit3()
    with pytest.warns(UserWarning, match="cut to 16 tokens"):
        _start_heads(model, Dataset(Source(path="emoji", split="style", texts="first")))
    torch.testing.assert_close(model.mlm_head.bias.exp().sum(), torch.tensor(1.0))
    assert model.mlm_head.bias.argmax() != model.tokenizer.cls_id


def test_words_need_rows_and_places_and_adapters_a_checkpoint_as_it_is() -> None:
    def built(lora: int = 0, **text) -> None:
        config = tiny.albef_config(text=tiny.bert(**({"vocab_size": 30522, "positions": 25} | text)))
        train = TrainConfig(steps=1, lora=LoRAConfig(rank=lora), freeze=("itm_head",) * (lora == 3))
        init = Init(checkpoint="nowhere", fusion="itc")
        build_system(Run(name="", system=config, data=None, train=train, init=init))

    for changes, says in (
        ({"vocab_size": 50}, "vocab_size is 50, and the tokenizer has 30522 tokens: set it to 30522"),
        ({"positions": 20}, "positions for texts of 20"),
        ({"lora": 2}, "which init.fusion and init.head would change"),
        ({"lora": 3}, "leave train.freeze out"),
    ):
        with pytest.raises(UserError, match=says):
            built(**changes)


def test_gains_are_of_fresh_linear_maps_and_tables_alone(tmp_path) -> None:
    def built(**init) -> BLIP:
        torch.manual_seed(0)
        data = DataConfig(train=(Source(path="emoji"),))
        return build_system(
            Run(name="", system=config, data=data, train=TrainConfig(steps=1), init=Init(**init))
        )

    config = tiny_blip.config(text=tiny_blip.med(vocab_size=30524))
    config = replace(config, tokenizer=replace(config.tokenizer, max_length=20))
    plain, wide = built(), built(gain=2.0, table_gain=3.0)
    for (name, module), other in zip(plain.named_modules(), wide.modules(), strict=True):
        factor = 2.0 if isinstance(module, nn.Linear) else 3.0 if isinstance(module, nn.Embedding) else 1.0
        for own, theirs in zip(module.parameters(False), other.parameters(False), strict=True):
            torch.testing.assert_close(theirs, own * (factor if own.ndim == 2 else 1.0), msg=name)
    save(plain, tmp_path / "model")
    loaded = built(gain=2.0, table_gain=3.0, checkpoint=str(tmp_path / "model"))
    torch.testing.assert_close(loaded.state_dict(), plain.state_dict())


@pytest.mark.parametrize("gain", [0.0, -1.0])
@pytest.mark.parametrize("name", ["gain", "table_gain"])
def test_a_gain_is_positive(name, gain) -> None:
    with pytest.raises(UserError, match=f"init.{name} is"):
        Init(**{name: gain})


def test_positions_of_a_picture_begin_as_large_as_they_are_told() -> None:
    tables = [VisionTransformer(replace(tiny_blip.config().image, position_std=s)) for s in (0.02, 0.7)]
    small, large = (float(tower.positions.detach().std()) for tower in tables)
    assert small == pytest.approx(0.02, rel=0.2)
    assert large == pytest.approx(0.7, rel=0.2)


def test_positions_begin_somewhere() -> None:
    with pytest.raises(UserError, match="position_std is 0"):
        replace(tiny_blip.config().image, position_std=0.0)


@pytest.mark.parametrize(("draw", "std"), [(init_vit, 0.02), (init_beit, BEIT_STD)])
def test_a_unit_gain_makes_outputs_as_large_as_inputs(draw, std) -> None:
    layer = nn.Linear(400, 400)
    draw(layer)
    widen(layer, unit_gain(400, std))
    assert float(layer.weight.detach().std()) == pytest.approx(1 / 20, rel=0.02)


@pytest.mark.parametrize("kind", ["beit", "beit3"])
def test_a_head_of_other_classes_is_left_fresh_and_of_the_same_ones_in_their_order(kind) -> None:
    def made(*labels: str) -> nn.Module:
        torch.manual_seed(len(labels[0]))
        if kind == "beit":
            return BeitClassifier(ClassifierConfig(image=tiny_beit.vit(), labels=labels))
        config = tiny_beit3.config(BEiT3ClassifierConfig, classes=len(labels), labels=labels)
        return NETWORKS[config.system].network()(config)

    old, new, turned = made("cat", "dog"), made("bus", "tram"), made("dog", "cat")
    fresh = new.head.weight.clone()
    assert "2 left fresh" in start_from_model(new, old, "x", lora=LoRAConfig(rank=2))
    assert torch.equal(new.head.weight, fresh)
    assert new.head.weight.requires_grad
    start_from_model(turned, old, "x")
    assert torch.equal(turned.head.weight, old.head.weight.flip(0))


@pytest.mark.parametrize(
    ("make", "changes", "name"),
    [
        (tiny_coca.config, {"pooler": PoolerConfig(queries=5, heads=4)}, "pooler.heads"),
        (
            tiny_coca.config,
            {"multimodal": MultimodalConfig(layers=2, heads=2, hidden=36)},
            "multimodal.heads",
        ),
        (tiny_mae.config, {"decoder_heads": 4}, "decoder_heads"),
        (tiny_mae.config, {"image": tiny_mae.vit(quick_gelu=True)}, "image.quick_gelu"),
    ],
)
def test_what_no_shape_tells_is_compared(make, changes, name) -> None:
    old, new = (NETWORKS[c.system].network()(c) for c in (make(), make(**changes)))
    with pytest.raises(UserError, match=f"init.checkpoint x has {name} .* set system.{name} "):
        start_from_model(new, old, "x")
