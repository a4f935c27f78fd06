"""Recorded runs of VLMo: many optimizer steps on pairs, and on texts alone with the rest frozen."""

from __future__ import annotations

import hashlib
from typing import Any

import official
import torch
import vlmo
import vlmo_setup
from case import Case, Rule
from torch import Tensor

from multiway.batch import Batch
from multiway.systems.vlmo import Draws, VLMo
from multiway.systems.vlmo_config import VLMoConfig
from multiway.systems.vlmo_stages import frozen
from multiway.train.optim import build_optimizer, freeze, gradient_norm, learning_rate, set_lr
from multiway.train.run import TrainConfig
from multiway.weights import vlmo as layouts


def trajectory(case: Case) -> dict[str, Any]:
    """The stage of pairs."""
    return _run(case, vlmo.load(VLMo, VLMoConfig(**vlmo.sizes(case.config["model"])), case.weights), ())


def trajectory_textmlm(case: Case) -> dict[str, Any]:
    """The stage of texts, with the bytes of what is frozen before and after."""
    config = vlmo.text_stage(case.config["model"])
    model, prefixes = vlmo.load(VLMo, config, case.weights), frozen("text", config)
    standing, moving = vlmo_setup.parted(model, prefixes)
    before = _digests(model)
    out = _run(case, model, prefixes)
    after, unread = _digests(model), vlmo.idle(model) & moving
    unchanged = {n for n in moving if before[n] == after[n]}
    return out | {
        "config.stage2_frozen": standing,
        "config.stage2_trainable": moving,
        "config.trainable_but_unchanged": unchanged,
        "outputs.frozen": standing,
        "outputs.trained": moving,
        "outputs.trainable_but_unchanged": unchanged,
        "outputs.trainable_without_grad": unread,
        "outputs.frozen_sha256": {n: {"initial": before[n], "final": after[n]} for n in standing},
    }


def _digests(model: VLMo) -> dict[str, str]:
    tensors = official.weights(model, layouts.layout(model.config))
    return {n: hashlib.sha256(t.contiguous().numpy().tobytes()).hexdigest() for n, t in tensors.items()}


def _run(case: Case, model: VLMo, prefixes: tuple[str, ...]) -> dict[str, Any]:
    recorded, i, layout = case.config, case.inputs, layouts.layout(model.config)
    given = recorded["optimizer"]
    config = TrainConfig(
        steps=recorded["steps"],
        batch_size=recorded["batch"],
        lr=given["learning_rate"],
        min_lr=given["end_lr"],
        warmup_steps=given["warmup_steps_resolved"],
        schedule="linear",
        optimizer="transformers_adamw",
        betas=tuple(given["betas"]),
        eps=given["eps"],
        weight_decay=given["weight_decay"],
    )
    freeze(model, prefixes)
    optimizer, state = build_optimizer(model, config), model.init_state()
    initial = official.weights(model, layout)
    series: dict[str, list[Any]] = {}
    for step in range(recorded["steps"]):
        rows, drawn = i["step/data_index"][step], {}
        if "step/neg_image_index" in i:
            drawn = {f"negative_{of}": i[f"step/neg_{of}_index"][step] for of in ("image", "text")}
        batch = Batch(
            image=i["data/image"][rows] if "data/image" in i else None,
            input_ids=i["data/text_ids"][rows],
            attention_mask=i["data/text_masks"][rows],
        )
        words = {"mlm_input_ids": i["step/text_ids_mlm"][step], "mlm_labels": i["step/text_labels_mlm"][step]}
        lr = learning_rate(step, config, steps_per_epoch=recorded["steps"])
        set_lr(optimizer, lr)
        optimizer.zero_grad()
        losses = model.losses(batch, state, Draws(**drawn, **words))
        losses["loss"].backward()
        weight = model.config.mlm_weight if model.config.stage == "pairs" else 1.0
        values = {
            "loss/total": losses["loss"],
            "loss/mlm": losses["mlm"] * weight,
            "loss/itc": losses.get("itc"),
            "loss/itm": losses.get("itm"),
            "lr_f64": lr,
            "grad_norm": gradient_norm(list(model.parameters())),
            "logit_scale": getattr(model, "logit_scale", None),
            "logit_vl_scale": getattr(model, "joint_logit_scale", None),
        }
        for name, value in values.items():
            if value is not None:
                series.setdefault(name, []).append(value.item() if isinstance(value, Tensor) else value)
        optimizer.step()
        model.advance(state, [losses])
    final = official.weights(model, layout)
    table, _ = vlmo_setup.grouped(model.config, config)
    return {
        **{n: torch.tensor(values, dtype=torch.float64) for n, values in series.items()},
        **{f"final.{n}": t for n, t in final.items()},
        **{f"final_mean.{n}": t.mean() for n, t in final.items()},
        **{f"final_norm.{n}": t.norm() for n, t in final.items()},
        **{f"final_delta_norm.{n}": (t - initial[n]).norm() for n, t in final.items()},
        "config.params_without_grad": vlmo.idle(model),
        "config.parameter_groups": {(n, decay) for n, (_, decay) in table.items()},
    }


def trajectory_rule(case: Case, name: str) -> Rule:
    """As the case's README states it; frozen tensors exactly."""
    texts = "data/image" not in case.inputs
    kind, _, parameter = name.partition(".")
    if texts and parameter in case.config["stage2_frozen"] and kind in ("final", "final_delta_norm"):
        return Rule()
    if name.startswith("loss/"):
        return Rule(absolute=2e-5 if texts else 5e-5)
    if name == "lr_f64":
        return Rule(relative=1e-7)
    if name == "grad_norm":
        return Rule(relative=1e-5 if texts else 2e-4)
    if name in ("logit_scale", "logit_vl_scale"):
        return Rule(absolute=5e-6)
    if kind == "final_norm":
        return Rule(absolute=1e-7, relative=1e-5)
    if kind == "final_delta_norm":
        loose = 5e-3 if parameter in ("logit_scale", "logit_vl_scale") else 5e-4
        return Rule(absolute=1e-7, relative=2e-4 if texts else loose)
    if kind == "final_mean":
        return Rule(absolute=2e-6)
    return Rule(absolute=2e-5 if texts else 5e-4)
