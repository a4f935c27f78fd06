"""BLIP's cross-attention started from the alignment: reading goes on as before, and the picture comes in."""

from __future__ import annotations

import pytest
import tiny
import tiny_blip
import torch

from multiway.errors import UserError
from multiway.systems.blip import BLIP
from multiway.systems.towers import BackboneConfig
from multiway.weights.alignment import LOUDNESS, grounding_from_itc


def pooled(**changes) -> BLIP:
    """A BLIP as the small recipes have it, with weights large enough to tell wrong from right."""
    off = {"momentum": None, "queue_size": 0, "alpha": 0.0, "embed_dim": 16, "null_token": True}
    config = tiny_blip.config(
        image=BackboneConfig(name="user", image_size=32), **(off | {"text_pooling": "mean"} | changes)
    )
    torch.manual_seed(0)
    model = BLIP(config, tiny.PatchMap())
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if parameter.ndim and ".cross." not in name:
                parameter += 0.1 * torch.randn_like(parameter)
    return model


@torch.no_grad()
def start(model: BLIP) -> tuple[torch.Tensor, tuple[torch.Tensor, torch.Tensor]]:
    batch = tiny.batch(24)
    image_embeds = model.image_tower(batch.image)
    grounding_from_itc(model.encoders, image_embeds, *batch.text())
    return image_embeds, batch.text()


@torch.no_grad()
def test_a_grounded_text_is_read_nearly_as_alone_until_the_picture_comes_in() -> None:
    model = pooled()
    image_embeds, (ids, mask) = start(model)
    encoders, seen = model.encoders, []
    for block in encoders.med.fusion[:-1]:
        torch.nn.init.zeros_(block.cross.out.weight)  # fresh and small; without it only the norms are left
        torch.nn.init.zeros_(block.cross.out.bias)
    for context in (None, encoders.context(image_embeds)):
        encoders.med.fusion[-1].register_forward_pre_hook(lambda _, args: seen.append(args[0]))
        encoders.med(ids, mask, context)
    alone, grounded = seen[0], seen[-1]
    assert float(torch.corrcoef(torch.stack([alone.flatten(), grounded.flatten()]))[0, 1]) > 0.99
    assert float((alone - grounded).std() / alone.std()) < 0.15


@torch.no_grad()
def test_what_the_last_layer_sees_is_the_picture_in_the_space_of_itc() -> None:
    model = pooled()
    image_embeds, _ = start(model)
    encoders, block = model.encoders, model.encoders.med.fusion[-1]
    context = encoders.context(image_embeds).layers[-1]
    value = context.value.transpose(1, 2).flatten(2)  # [B, 1 + N, D], the null token first
    assert value[:, 0].abs().max() < 1e-4
    pool = encoders.pool
    inside = pool.attention.key_value.weight[16:] @ pool.norm(image_embeds).flatten(0, 1).T
    aligned = (encoders.image_proj.weight @ pool.attention.out.weight @ inside).T
    torch.testing.assert_close(value[:, 1:].flatten(0, 1), aligned - aligned.mean(0), rtol=1e-4, atol=1e-4)
    weight = block.cross.out.weight
    torch.testing.assert_close(weight, torch.eye(16) * weight[0, 0])
    loud = (value[:, 1:].flatten(0, 1) @ weight.T).std()
    words = block.norm_cross.weight[0]  # the size of the words that it comes in beside
    assert float(loud / words) == pytest.approx(LOUDNESS, rel=0.2)


def test_it_needs_what_alignment_has() -> None:
    with pytest.raises(UserError, match="null_token"):
        start(pooled(null_token=False))
