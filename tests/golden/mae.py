"""Replays of MAE's recorded cases: each function returns {recorded name: our value}."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import beit
import official
import torch
import vlmo_setup
from case import Case, Rule
from torch import Tensor

from multiway.batch import Batch
from multiway.core.embed import patchify, sincos_positions, unpatchify
from multiway.systems.base import System
from multiway.systems.mae import MAE, Draws, MAEConfig
from multiway.systems.mae_heads import Classifier, ClassifierConfig, mae_vit
from multiway.systems.patch_dropping import split
from multiway.train.optim import build_optimizer, gradient_norm, learning_rate, set_lr
from multiway.train.run import TrainConfig
from multiway.weights import hf_mae
from multiway.weights import mae as layouts
from multiway.weights.keymap import Layout


def config_of(sizes: dict[str, Any]) -> MAEConfig:
    """Our config of a case's sizes."""
    ratio = sizes.get("mlp_ratio", 4)
    return MAEConfig(
        image=mae_vit(
            image_size=sizes["img"],
            patch_size=sizes["patch"],
            width=sizes["D"],
            depth=sizes["depth"],
            heads=sizes["heads"],
            hidden=int(ratio * sizes["D"]),
            eps=sizes.get("layer_norm_eps", 1e-6),
            sincos=True,
        ),
        decoder_width=sizes["dd"],
        decoder_layers=sizes["ddepth"],
        decoder_heads=sizes["dheads"],
        decoder_hidden=int(ratio * sizes["dd"]),
        mask_ratio=sizes.get("ratio", 0.75),
        normalised=sizes.get("norm_pix_loss", False),
    )


def reconstruction(config: MAEConfig, layout: Layout, case: Case) -> dict[str, Any]:
    """Losses and gradients with raw and with normalised pixels, and what lies between."""
    image, noise, out = case.inputs["image"], case.inputs["noise"], {}
    size = config.image.patch_size
    for name, normalised in (("raw_pix", False), ("norm_pix", True)):
        model = MAE(replace(config, normalised=normalised))
        official.fill(model, layout, case.weights)
        loss = model.losses(Batch(image=image), model.init_state(), Draws(noise=noise))["loss"]
        loss.backward()
        found = beit.of_gradients(model, layout)
        out |= {f"{name}/loss": loss, **{f"{name}/{n}": t for n, t in found.items() if "grad" in n}}
    with torch.no_grad():
        parts = split(noise, config.mask_ratio)
        latent = model.latent(image, parts)
        pred = model.pixels(model.decode(latent, parts)[:, 1:])
        patches = patchify(image, size)
        again = unpatchify(patches, size, config.image.grid)
    still = {n for n, p in model.named_parameters() if not p.requires_grad}
    return out | {
        "latent": latent,
        "pred": pred,
        "logits": pred,
        "mask": (parts.restore >= parts.kept.shape[1]).float(),
        "ids_restore": parts.restore,
        "patchify_target": patches,
        "unpatchify_roundtrip_maxerr": (again - image).abs().max(),
        "pos_embed_sincos": sincos_positions(config.image.grid, config.image.width),
        "decoder_pos_embed_sincos": sincos_positions(config.image.grid, config.decoder_width),
        "config.params_without_grad": {n for n, p in model.named_parameters() if p.grad is None} - still,
    }


def mae(case: Case) -> dict[str, Any]:
    """The official model."""
    config = config_of(case.config["model"])
    return reconstruction(config, layouts.layout(config), case)


def hf(case: Case) -> dict[str, Any]:
    """transformers' `ViTMAEForPreTraining`."""
    config = hf_mae.config_of(case.config["model"])
    return reconstruction(config, hf_mae.layout(config), case)


def init(case: Case) -> dict[str, Any]:
    """Statistics of freshly built models; their draws are not the official ones."""
    config = config_of(case.config["model"])
    return vlmo_setup.statistics(case, {"pretrain": lambda: MAE(config)}, lambda _: layouts.layout(config))


WIDTHS = {"base": (768, 12, 12), "large": (1024, 24, 16), "huge": (1280, 32, 16)}


def groups(case: Case) -> dict[str, Any]:
    """Parameter groups of the official recipes, at full size."""
    out: dict[str, Any] = {}
    for name, recipe in case.config["recipes"].items():
        kind = next(kind for kind in WIDTHS if kind in recipe["model"])
        width, depth, heads = WIDTHS[kind]
        image = mae_vit(width=width, depth=depth, heads=heads, hidden=4 * width)
        with torch.device("meta"):
            if "layer_decay" in recipe:
                pool = "mean" if recipe["global_pool"] else "cls"
                labels = tuple(map(str, range(1000)))
                config = ClassifierConfig(image=replace(image, pool=pool), labels=labels)
                model: System = Classifier(config)
            else:
                model = MAE(MAEConfig(image=replace(image, sincos=True)))
        train = TrainConfig(
            steps=1, weight_decay=recipe["weight_decay"], layer_decay=recipe.get("layer_decay")
        )
        layout = layouts.layout_of(model.config)
        found = beit.named(model, train, layout)
        theirs = {entry.ours: entry.theirs for entry in layout.entries}
        idle = [t for n, p in model.named_parameters() if not p.requires_grad for t in theirs[n]]
        found |= {"num_parameters": len(theirs) - len(idle), "not_in_optimizer": sorted(idle)}
        out |= {f"{name}/{key}": value for key, value in table(model, train).items()}
        out |= {f"outputs.{name}.{key}": value for key, value in found.items()}
    return out


def table(model: System, train: TrainConfig) -> dict[str, Tensor]:
    """One row a group, from the lowest layer up; within a layer in the official order of parameters.

    There a classifier's head comes before its norm.
    """
    names = {p: n for n, p in model.named_parameters()}
    rows = []
    for group in build_optimizer(model, train).param_groups:
        first = min((not names[p].startswith("head."), n) for n, p in enumerate(group["params"]))
        rows.append((group["scale"], first, group["weight_decay"], len(group["params"])))
    scales, _, decays, counts = zip(*sorted(rows), strict=True)
    return {
        "lr_scale_f64": torch.tensor(scales, dtype=torch.float64),
        "weight_decay_f64": torch.tensor(decays, dtype=torch.float64),
        "num_tensors_in_group": torch.tensor(counts),
    }


def trajectory(case: Case) -> dict[str, Any]:
    """Many optimizer steps, with their learning rates."""
    recorded, i = case.config, case.inputs
    config, given = config_of(recorded["model"]), recorded["optimizer"]
    model, layout, epoch = MAE(config), layouts.layout(config), recorded["iterations_per_epoch"]
    official.fill(model, layout, case.weights)
    train = TrainConfig(
        epochs=recorded["epochs"],
        batch_size=recorded["batch"],
        lr=given["lr"],
        min_lr=given["min_lr"],
        warmup_steps=given["warmup_epochs"] * epoch,
        schedule="mae",
        betas=tuple(given["betas"]),
        eps=given["eps"],
        weight_decay=given["weight_decay"],
    )
    optimizer, state = build_optimizer(model, train), model.init_state()
    initial, series = official.weights(model, layout), {"loss/total": [], "lr_f64": [], "grad_norm": []}
    for step in range(recorded["steps"]):
        lr = learning_rate(step, train, steps_per_epoch=epoch)
        set_lr(optimizer, lr)
        optimizer.zero_grad()
        batch = Batch(image=i["data/image"][i["step/data_index"][step]])
        loss = model.losses(batch, state, Draws(noise=i["step/noise"][step]))["loss"]
        loss.backward()
        norm = gradient_norm(list(model.parameters()))
        for name, value in zip(series, (float(loss.detach()), lr, float(norm)), strict=True):
            series[name].append(value)
        optimizer.step()
        model.advance(state, [])
    final = official.weights(model, layout)
    named = beit.named(model, train, layout)["groups"]
    return {
        **{n: torch.tensor(values, dtype=torch.float64) for n, values in series.items()},
        **{f"final.{n}": t for n, t in final.items()},
        **{f"final_mean.{n}": t.mean() for n, t in final.items()},
        **{f"final_norm.{n}": t.norm() for n, t in final.items()},
        **{f"final_delta_norm.{n}": (t - initial[n]).norm() for n, t in final.items()},
        "config.parameter_groups": {(n, decay) for n, (_, decay) in named.items()},
    }


def trajectory_rule(case: Case, name: str) -> Rule:
    """As the case's README states it; fixed positions exactly, key biases loosely."""
    kind, _, parameter = name.partition(".")
    if parameter.endswith("pos_embed"):
        return Rule(absolute=1e-6 if kind == "final_mean" else 0.0, relative=1e-6)
    if name == "loss/total":
        return Rule(absolute=5e-5)
    if name == "lr_f64":
        return Rule(relative=1e-7)
    if name == "grad_norm":
        return Rule(relative=5e-4)
    if parameter.endswith("qkv.bias"):  # a third of it is noise: the keys' biases have no gradient
        loose = case.config["optimizer"]["lr"] * case.config["steps"]
        third = torch.full((case.weights[parameter].numel() // 3,), 5e-4)
        if kind == "final":
            return Rule(absolute=torch.cat([third, torch.full_like(third, loose), third]))
        return Rule(relative=0.1, absolute=loose if kind == "final_mean" else 0.0)
    if kind == "final_norm":
        return Rule(absolute=1e-7, relative=1e-4)
    if kind == "final_delta_norm":
        return Rule(absolute=1e-7, relative=1e-3)
    return Rule(absolute=1e-5 if kind == "final_mean" else 5e-4)
