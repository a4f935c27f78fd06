"""Replays of BEiT v2's recorded cases beyond `beit.mim`: the quantizer alone, and VQ-KD."""

from __future__ import annotations

from typing import Any

import beit
import torch
from case import Case
from einops import rearrange
from torch import Tensor

from multiway.batch import Batch
from multiway.objectives import masked_image
from multiway.systems.teacher import normalised
from multiway.systems.vqkd import VQKD, Draws, VQKDConfig
from multiway.systems.vqkd_quantizer import Quantized, Quantizer, kmeans
from multiway.weights import vqkd as layouts


def _copy(case: Case, prefix: str = "") -> Quantizer:
    """A quantizer with the recorded codebook."""
    sizes = case.config["model"]
    quantizer = Quantizer(
        sizes["n_code"], sizes["code_dim"], decay=sizes["decay"], iterations=sizes.get("kmeans_iters", 10)
    )
    quantizer.codebook.copy_(case.weights[f"{prefix}embedding.weight"])
    quantizer.usage.copy_(case.weights[f"{prefix}cluster_size"])
    quantizer.started.copy_(case.weights[f"{prefix}embedding.initted"][0])
    return quantizer


def _loss(case: Case, found: Quantized) -> Tensor:
    return case.config["model"]["beta"] * masked_image.commitment(found.z, found.codes)


def quantizer(case: Case) -> dict[str, Any]:
    """Three steps of the codebook on features of growing size, and its start by k-means."""
    features, out = case.inputs["features"], {}
    batch, _, height, width = features.shape
    model = _copy(case)
    for step in range(3):
        found = model(rearrange(features * (1 + step), "b c h w -> (b h w) c"))
        model.move(found.counts, found.sums, found.start)
        codes = masked_image.straight_through(found.z, found.codes)
        out |= {
            f"step{step}/indices": found.tokens,
            f"step{step}/loss": _loss(case, found),
            f"step{step}/z_q": rearrange(codes, "(b h w) c -> b c h w", b=batch, h=height, w=width),
            f"step{step}/codebook_after": model.codebook.clone(),
            f"step{step}/cluster_size_after": model.usage.clone(),
        }
    first = case.inputs["kmeans_initial_sample_index"]
    fresh = Quantizer(len(model.codebook), model.codebook.shape[1], iterations=model.iterations)
    found = fresh(rearrange(features, "b c h w -> (b h w) c"), first=first)
    return out | {
        "kmeans/codebook": found.start,
        "kmeans/indices": found.tokens,
        "kmeans/loss": _loss(case, found),
        "kmeans/embedding_cluster_size": kmeans(found.z, found.z[first], model.iterations)[1],
    }


def vqkd(case: Case) -> dict[str, Any]:
    """Tokens, losses with given features of a teacher, gradients, and the codebook after the step."""
    sizes, image = case.config["model"], case.inputs["image01"]
    encoder = beit.vit(
        sizes | {"depth": sizes["encoder_depth"]},
        layer_scale=None,
        relative_bias="none",
        absolute_positions=True,
        mean=(0.5,) * 3,
        std=(0.5,) * 3,
    )
    config = VQKDConfig(
        image=encoder,
        decoder_layers=sizes["decoder_depth"],
        codes=sizes["n_code"],
        code_width=sizes["code_dim"],
        decay=sizes["decay"],
        beta=sizes["beta"],
        target_width=sizes["decoder_out_dim"],
    )
    model, layout = VQKD(config), layouts.layout(config)
    beit.fill(model, layout, case)
    seen = normalised(image, model.image_mean, model.image_std)
    with torch.no_grad():
        features = model.encode(seen)
        found = model.quantizer(features.flatten(0, 1))
        codes = masked_image.straight_through(found.z, found.codes).view_as(features)
        evaluated = _copy(case, "quantize.")
        evaluated.count(found.counts)
        out = {
            "eval/preprocessed_mean": seen.mean(),
            "eval/tokens": model.visual_tokens(image),
            "eval/cluster_size_after_one_call": evaluated.usage,
            "encoder_patch_tokens": model.image_tower(seen)[:, 1:],
            "to_quantizer_features": features,
            "train/indices": found.tokens,
            "train/quantized": rearrange(codes, "b (h w) c -> b c h w", h=encoder.grid[0]),
            "train/rec": model.decode(codes),
        }
    losses = model.losses(Batch(image=seen), model.init_state(), Draws(target=case.inputs["teacher_target"]))
    losses["loss"].backward()
    gradients = beit.of_gradients(model, layout)
    idle = gradients.pop("config.params_without_grad")
    model.advance(model.init_state(), [losses])
    return out | {
        "train/loss": losses["loss"],
        "train/rec_loss": losses["reconstruction"],
        "train/emb_loss": losses["commitment"],
        "train/codebook_after": model.quantizer.codebook,
        "train/cluster_size_after": model.quantizer.usage,
        "config.params_without_grad": idle,
        **{f"train/{name}": value for name, value in gradients.items()},
    }
