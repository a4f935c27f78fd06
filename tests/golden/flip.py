"""Replays of FLIP's recorded cases: the official JAX code, and open_clip's patch dropping."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

import clip
import official
import torch
from case import Case, Rule
from torch import Tensor

from multiway.batch import Batch
from multiway.systems.flip import FLIP, Draws, FLIPConfig, flip_text, flip_tokenizer, flip_vit
from multiway.systems.patch_dropping import split
from multiway.weights import flip as layouts
from multiway.weights.keymap import to_theirs


def jax_rule(case: Case, name: str) -> Rule:
    """Another framework, as the README states it; key biases have no gradient in exact arithmetic."""
    if "grad_norm" in name:
        return Rule(absolute=1e-6, relative=2e-3)
    return Rule(absolute=2e-5, relative=2e-4)


def official_jax(case: Case) -> dict[str, Any]:
    """The official model; with removal, and without as it is evaluated."""
    sizes, i = case.config["model"], case.inputs
    config = FLIPConfig(
        image=flip_vit(
            image_size=sizes["img"],
            patch_size=sizes["patch"],
            width=sizes["D"],
            depth=sizes["depth"],
            heads=sizes["heads"],
            hidden=_hidden(case, "img_encoder"),
        ),
        text=flip_text(
            vocab_size=sizes["V"],
            width=sizes["tD"],
            layers=sizes["tdepth"],
            heads=sizes["theads"],
            hidden=_hidden(case, "txt_encoder"),
            positions=sizes["L"],
        ),
        tokenizer=flip_tokenizer(sizes["L"]),
        embed_dim=sizes["proj"],
        drop=sizes["ratio"],
    )
    model, whole = FLIP(config), FLIP(FLIPConfig(**(vars(config) | {"drop": 0.0})))
    for one in (model, whole):
        official.fill(one, layouts.layout(config), case.weights)
    image, ids = i["image_nhwc"].permute(0, 3, 1, 2), i["txt"].long()
    batch = Batch(image=image, input_ids=ids, attention_mask=torch.ones_like(ids))
    draws = Draws(noise=i["noise"])
    loss = model.losses(batch, model.init_state(), draws)["itc"]
    loss.backward()
    with torch.no_grad():
        parts = split(i["noise"], config.drop)
        tokens, words = model.image_tower.partly(image, parts.kept), model.text(ids)
        ones = torch.ones_like(ids)
        return {
            **_gradients(model, config),
            "loss": loss.reshape(1),
            "tau": (-model.logit_scale).exp().reshape(1),
            "train/img_tokens": tokens,
            "train/txt_tokens": words,
            "train/mask": (parts.restore >= parts.kept.shape[1]).float(),
            "train/z_img": model.image_features(tokens),
            "train/z_txt": model.text_features(words, ones),
            "eval/z_img": model.image_context(image)[0],
            "eval/z_txt": model.text_context(ids, ones)[0],
            "eval/loss": whole.losses(batch, whole.init_state())["itc"].reshape(1),
            "inputs.kept_patch_indices": parts.kept,
        }


def _hidden(case: Case, tower: str) -> int:
    """The width of the feed-forward's middle, which config.json leaves out."""
    return len(case.weights[f"{tower}/Transformer/encoderblock_00/MlpBlock_0/Dense_0/bias"])


def _gradients(model: FLIP, config: FLIPConfig) -> dict[str, Tensor]:
    """Norms of all gradients, zero for the fixed positions."""
    grads = {n: torch.zeros_like(p) if p.grad is None else p.grad for n, p in model.named_parameters()}
    theirs = to_theirs(layouts.layout(config), grads, ties=False)
    out = {f"grad.{n}": g for n, g in theirs.items()} | {
        f"grad_norm.{n}": g.norm().reshape(1) for n, g in theirs.items()
    }
    return out | {"grad_norm_total": torch.stack([g.norm() for g in theirs.values()]).norm()}


def open_clip(case: Case) -> dict[str, Any]:
    """open_clip keeps the largest numbers: the smallest of their negatives."""
    sizes, i = case.config["model"], case.inputs
    towers = clip.config_of(sizes | {"quick_gelu": False})
    values = {name: getattr(towers, name) for name in asdict(towers) if name != "system"}
    config = FLIPConfig(**values, drop=sizes["drop"])
    model, layout = FLIP(config), layouts.layout(config)
    official.fill(model, layout, case.weights)
    image, ids = i["image"], i["text"]
    mask = (torch.arange(ids.shape[1]) <= ids.argmax(1, keepdim=True)).long()
    draws = Draws(noise=-i["noise"])
    batch = Batch(image=image, input_ids=ids, attention_mask=mask)
    loss = model.losses(batch, model.init_state(), draws)["itc"]
    loss.backward()
    tower, kept = model.image_tower, split(-i["noise"], config.drop).kept
    grads = official.gradients(model, layout)
    with torch.no_grad():
        x = tower.layers(tower.embed(image, kept=kept))
        normed, tower.norm_pre = tower.norm_pre, torch.nn.Identity()
        dropped, tower.norm_pre = tower.embed(image, kept=kept), normed
        return {
            "loss": loss,
            "kept_indices": kept,
            "inputs.kept_patch_indices": kept,
            "patch_dropout_out": dropped,
            "transformer_out": x,
            "image_features": model.image_features(tower.norm(x)),
            "text_features": model.text_context(ids, mask)[0],
            "eval/image_features_no_dropout": model.image_context(image)[0],
            **{f"grad.{n}": g for n, g in grads.items()},
            **{f"grad_norm.{n}": g.norm() for n, g in grads.items()},
            "grad_norm_total": torch.stack([g.norm() for g in grads.values()]).norm(),
            "config.params_without_grad": [n for n, p in model.named_parameters() if p.grad is None],
        }
