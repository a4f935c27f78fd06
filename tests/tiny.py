"""Small systems and batches with every size different, so that no two axes can be taken for each other."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from multiway.batch import Batch
from multiway.systems.albef import ALBEF, ALBEFConfig, Draws, State
from multiway.systems.bert import BertConfig
from multiway.systems.vit import ViTConfig

VOCAB, CLS, MASK = 60, 2, 4


def vit(**changes) -> ViTConfig:
    sizes = {"image_size": 32, "patch_size": 8, "width": 24, "depth": 2, "heads": 3, "hidden": 40}
    return ViTConfig(**(sizes | changes))


def bert(**changes) -> BertConfig:
    sizes = {"vocab_size": VOCAB, "width": 16, "layers": 2, "fusion_layers": 2, "heads": 2, "hidden": 28}
    return BertConfig(**(sizes | {"positions": 20, "dropout": 0.0} | changes))


def albef_config(**changes) -> ALBEFConfig:
    return ALBEFConfig(**({"image": vit(), "text": bert(), "embed_dim": 12, "queue_size": 16} | changes))


def albef(
    config: ALBEFConfig | None = None, *, kind: type[ALBEF] = ALBEF, seed: int = 0
) -> tuple[ALBEF, State]:
    """A model and its state, `roughened`."""
    torch.manual_seed(seed)
    model = kind(config or albef_config())
    return roughened(model, model.init_state(), seed)


def roughened(model: Any, state: Any, seed: int) -> tuple[Any, Any]:
    """Weights large enough to tell wrong from right, a momentum model near them, and alpha at its end."""
    noise = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim:
                parameter += 0.05 * torch.randn(parameter.shape, generator=noise)
        if state.encoders is not None:
            for parameter, average in zip(
                model.encoders.parameters(), state.encoders.parameters(), strict=True
            ):
                average.copy_(parameter + 0.02 * torch.randn(parameter.shape, generator=noise))
    state.step.fill_(state.ramp_steps)
    return model, state


def batch(size: int = 5, length: int = 9, *, seed: int = 0) -> Batch:
    """Texts of different lengths; the longest has `length` tokens."""
    g = torch.Generator().manual_seed(seed)
    lengths = torch.randint(3, length + 1, (size,), generator=g)
    lengths[size // 2] = length
    mask = (torch.arange(length) < lengths[:, None]).long()
    ids = torch.randint(5, VOCAB, (size, length), generator=g) * mask
    ids[:, 0] = CLS
    image = torch.randn(size, 3, 32, 32, generator=g)
    return Batch(image=image, input_ids=ids, attention_mask=mask, ids=torch.arange(size))


def draws(batch: Batch, *, seed: int = 0) -> Draws:
    """Negatives, and at least one masked token a text."""
    g = torch.Generator().manual_seed(seed)
    size = len(batch)
    shift = torch.randint(1, size, (2, size), generator=g)
    mask = batch.attention_mask.bool()
    chosen = (torch.rand(mask.shape, generator=g) < 0.3) & mask
    chosen[:, 0], chosen[:, 1] = False, True
    return Draws(
        negative_image=(torch.arange(size) + shift[0]) % size,
        negative_text=(torch.arange(size) + shift[1]) % size,
        mlm_input_ids=batch.input_ids.masked_fill(chosen, MASK),
        mlm_labels=batch.input_ids.masked_fill(~chosen, -100),
    )


class PatchMap(torch.nn.Module):
    """An image tower of the user's own, whose tokens have to be pooled."""

    width, pooled_index, image_size = 24, None, 32
    image_mean = image_std = (0.5, 0.5, 0.5)

    def __init__(self):
        super().__init__()
        self.patches = torch.nn.Conv2d(3, 24, 8, stride=8)

    def forward(self, image: Tensor) -> Tensor:
        return self.patches(image)


def gradients(model: torch.nn.Module) -> dict[str, Tensor]:
    return {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}


def assert_same(ours: dict[str, Tensor], theirs: dict[str, Tensor], *, tolerance: float = 1e-5) -> None:
    """Equal names, and values to `tolerance` of each tensor's own size or of 1."""
    assert ours.keys() == theirs.keys()
    for name, value in ours.items():
        torch.testing.assert_close(
            value, theirs[name], rtol=tolerance, atol=tolerance, msg=lambda m, n=name: f"{n}: {m}"
        )
