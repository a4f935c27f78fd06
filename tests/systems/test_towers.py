"""Image towers: shapes, other grids, frozen prefixes, foreign backbones."""

from __future__ import annotations

import pytest
import tiny
import torch
from torch import nn

from multiway.errors import UserError
from multiway.systems.albef import ALBEF
from multiway.systems.towers import BackboneConfig, build_image_tower


@pytest.mark.parametrize("clip_stem", [False, True])
def test_vit_gives_a_token_a_patch_and_the_class_token_first(clip_stem: bool) -> None:
    tower = build_image_tower(tiny.vit(image_size=(24, 40), clip_stem=clip_stem)).eval()
    image = torch.randn(2, 3, 24, 40)
    tokens = tower(image)
    assert tokens.shape == (2, 1 + 3 * 5, 24)
    assert tower.pooled_index == 0
    assert (tower.patches.proj.bias is None) == clip_stem
    maps: list[torch.Tensor] = []
    torch.testing.assert_close(tower.rest(image, maps=maps), tokens)
    assert [m.shape for m in maps] == [(2, 3, 16, 16)] * 2


def test_vit_takes_pictures_of_another_size() -> None:
    tower = build_image_tower(tiny.vit())
    assert tower(torch.randn(2, 3, 48, 24)).shape == (2, 1 + 6 * 3, 24)


def test_drop_path_grows_with_depth() -> None:
    tower = build_image_tower(tiny.vit(depth=3, drop_path=0.2))
    assert [block.drop_path.rate for block in tower.blocks] == pytest.approx([0.0, 0.1, 0.2])


@pytest.mark.parametrize("frozen", [0, 1, 2, "all"])
def test_a_frozen_prefix_and_the_rest_are_the_whole_tower(frozen) -> None:
    torch.manual_seed(0)
    tower = build_image_tower(tiny.vit(frozen_blocks=frozen))
    image = torch.randn(2, 3, 32, 32)
    prefix = tower.prefix(image)
    torch.testing.assert_close(tower.rest(prefix), tower(image))
    assert (prefix is image) == (frozen == 0)
    assert not prefix.requires_grad
    trained = {n for n, p in tower.named_parameters() if p.requires_grad}
    tower(image).sum().backward() if trained else None
    assert {n for n, p in tower.named_parameters() if p.grad is not None} == trained
    assert ("patches.proj.weight" in trained) == (frozen == 0)
    assert ("norm.weight" in trained) == (frozen != "all")
    assert ("blocks.1.norm1.weight" in trained) == (frozen in (0, 1))


@pytest.mark.parametrize("frozen", [2, "all"])
def test_a_frozen_prefix_is_not_random_while_training(frozen) -> None:
    tower = build_image_tower(tiny.vit(depth=3, frozen_blocks=frozen, drop_path=0.5, dropout=0.3)).train()
    image = torch.randn(4, 3, 32, 32)
    assert torch.equal(tower.prefix(image), tower.prefix(image))
    assert torch.equal(tower(image), tower(image)) == (frozen == "all")
    whole = BackboneConfig(name="torchvision:efficientnet_b0", image_size=32, frozen_blocks="all")
    backbone = build_image_tower(whole).train()
    assert not any(part.training for part in backbone.features.modules())


@pytest.mark.parametrize("name", ["efficientnet_lite0", "torchvision:mobilenet_v3_small"])
def test_convolutional_towers_give_their_last_map_as_tokens(name: str) -> None:
    tower = build_image_tower(BackboneConfig(name=name, image_size=64))
    tokens = tower.train()(torch.randn(2, 3, 64, 64))
    assert tokens.shape == (2, 4, tower.width)
    assert tower.pooled_index is None
    assert not any(m.training for m in tower.modules() if isinstance(m, nn.BatchNorm2d))
    model = ALBEF(tiny.albef_config(image=BackboneConfig(name=name, image_size=64)))
    assert model.image_context(torch.randn(2, 3, 64, 64))[0].shape == (2, 12)


class Own(nn.Module):
    """A tower that a user brings."""

    width, pooled_index, image_size = 5, None, 32
    image_mean, image_std = (0.5, 0.5, 0.5), (0.5, 0.5, 0.5)

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(3, 5, 16, 16)

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        return self.conv(image).flatten(2).mT


def test_a_tower_of_the_users_own() -> None:
    config = tiny.albef_config(image=BackboneConfig(name="user", image_size=32))
    model = ALBEF(config, Own())
    batch = tiny.batch()
    model.losses(batch, model.init_state(), tiny.draws(batch))["loss"].backward()
    assert model.image_tower.features.conv.weight.grad is not None
    assert model.image_mean == (0.5, 0.5, 0.5)
    with pytest.raises(UserError, match="user"):
        ALBEF(config)
    with pytest.raises(UserError, match="has no width"):
        ALBEF(config, nn.Conv2d(3, 5, 16))


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("resnet50", "unknown image tower"),
        ("torchvision:resnet5000", "resnet5000"),
        ("torchvision:vit_b_16", "no feature"),
    ],
)
def test_towers_that_do_not_exist_are_refused(name: str, said: str) -> None:
    with pytest.raises(UserError, match=said):
        build_image_tower(BackboneConfig(name=name, image_size=224))
