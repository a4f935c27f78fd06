"""Replays of CoCa beyond one step of open_clip: many steps, and fresh weights."""

from __future__ import annotations

import json
import math
from typing import Any

import coca
import official
import torch
from case import Case, Rule
from torch import Tensor

from multiway.systems.coca import CoCa
from multiway.train.optim import build_optimizer, gradient_norm, learning_rate, set_lr
from multiway.train.run import TrainConfig
from multiway.weights import coca as layouts
from multiway.weights.open_clip import config_of as open_clip_config


def trajectory(case: Case) -> dict[str, Any]:
    """The recorded run, and a short one whose first step meets the clamp."""
    model, series = _run(case, case.config["steps"], None)
    clamp = case.config["clamp_run"]
    _, clamped = _run(case, clamp["steps"], clamp["initial_logit_scale"])
    layout = layouts.layout(model.config)
    final, initial = official.weights(model, layout), case.weights
    optimizer = build_optimizer(model, _training(case))
    decays = {id(p): group["weight_decay"] for group in optimizer.param_groups for p in group["params"]}
    # Of tensors that make one of theirs together, all fall under one rule.
    ours = {name: torch.full_like(p, decays[id(p)]) for name, p in model.named_parameters()}
    table = {name: decay.unique().item() for name, decay in official.to_theirs(layout, ours).items()}
    return {
        **{n: torch.tensor(values, dtype=torch.float64) for n, values in series.items()},
        **{f"clamp/{n}": torch.tensor(values, dtype=torch.float64) for n, values in clamped.items()},
        **{f"final.{n}": t for n, t in final.items()},
        **{f"final_mean.{n}": t.mean() for n, t in final.items()},
        **{f"final_norm.{n}": t.norm() for n, t in final.items()},
        **{f"final_delta_norm.{n}": (t - initial[n]).norm() for n, t in final.items()},
        "config.parameter_groups": {(n, round(decay, 6)) for n, decay in table.items()},
    }


def _training(case: Case) -> TrainConfig:
    given = case.config["optimizer"]
    return TrainConfig(
        steps=given["total_steps"],
        batch_size=case.config["batch"],
        lr=given["lr"],
        min_lr=0.0,
        warmup_lr=0.0,
        warmup_steps=given["warmup_steps"],
        schedule="open_clip",
        betas=tuple(given["betas"]),
        eps=given["eps"],
        weight_decay=given["weight_decay"],
    )


def _run(case: Case, steps: int, logit_scale: float | None) -> tuple[CoCa, dict[str, list[float]]]:
    config, i = _training(case), case.inputs
    model = CoCa(coca.config_of(case))
    official.fill(model, layouts.layout(model.config), case.weights)
    if logit_scale is not None:
        model.logit_scale.data.fill_(logit_scale)
    optimizer, state = build_optimizer(model, config), model.init_state()
    series: dict[str, list[float]] = {}
    for step in range(steps):
        rows = i["step/data_index"][step]
        lr = learning_rate(step, config, steps_per_epoch=config.steps)
        set_lr(optimizer, lr)
        optimizer.zero_grad()
        losses = model.losses(coca.batch_of(case, i["data/image"][rows], i["data/text"][rows]), state)
        losses["loss"].backward()
        norm = gradient_norm(list(model.parameters()))
        optimizer.step()
        model.advance(state, [losses])
        values = {
            "loss/total": losses["loss"],
            "loss/contrastive": losses["itc"] * model.config.contrastive_weight,
            "loss/caption": losses["lm"] * model.config.caption_weight,
            "lr_f64": lr,
            "grad_norm": norm,
            "logit_scale": model.logit_scale,  # after the update and the clamp
        }
        for name, value in values.items():
            series.setdefault(name, []).append(value.item() if isinstance(value, Tensor) else value)
    return model, series


def trajectory_rule(case: Case, name: str) -> Rule:
    """As the case's README states it; of joint biases the keys' third has no gradient."""
    clamped = name.startswith("clamp/")
    name = name.removeprefix("clamp/")
    kind, _, parameter = name.partition(".")
    if name.startswith("loss/"):
        return Rule(absolute=1e-3 if clamped else 1e-4)
    if name == "lr_f64":
        return Rule(relative=1e-7)
    if name == "grad_norm":
        return Rule(relative=5e-4)
    if kind in ("final_norm", "final_delta_norm"):
        if parameter.endswith("in_proj_bias"):
            return Rule(relative=5e-2)
        return Rule(absolute=1e-7, relative=1e-5 if kind == "final_norm" else 1e-3)
    if kind == "final_mean" and parameter.endswith("in_proj_bias"):
        return Rule(absolute=5e-4)
    return Rule(absolute=5e-4)


def init(case: Case) -> dict[str, Any]:
    """Statistics of freshly built models; their draws are not the official ones."""
    sizes = case.config["model"]
    config = open_clip_config(
        {
            "embed_dim": sizes["D"],
            "vision_cfg": {
                "image_size": sizes["img"],
                "patch_size": sizes["patch"],
                "width": sizes["vw"],
                "layers": sizes["vl"],
                "head_width": sizes["hw"],
                "attentional_pool": True,
                "attn_pooler_queries": sizes["nq"],
                "attn_pooler_heads": sizes["heads"],
            },
            "text_cfg": {
                "context_length": sizes["L"],
                "vocab_size": sizes["V"],
                "width": sizes["D"],
                "heads": sizes["heads"],
                "layers": sizes["tl"],
                "embed_cls": True,
            },
            "multimodal_cfg": {"width": sizes["D"], "heads": sizes["heads"], "layers": sizes["ml"]},
        }
    )
    rows: dict[str, list[Tensor]] = {}
    for seed in case.inputs["seeds"].tolist():
        torch.manual_seed(int(seed))
        model = CoCa(config)
        for name, value in official.weights(model, layouts.layout(config)).items():
            value = value.double()
            std = value.std(correction=0) if value.numel() > 1 else torch.zeros(())
            for kind, number in (("mean", value.mean()), ("std", std), ("absmax", value.abs().max())):
                rows.setdefault(f"coca/{kind}.{name}", []).append(number)
    return {name: torch.stack(values) for name, values in rows.items()}


def init_rule(case: Case, name: str) -> Rule:
    """Constants exactly; else six standard errors of the difference of two draws."""
    tag, _, rest = name.partition("/")
    kind, _, parameter = rest.partition(".")
    told = json.loads((case.folder / "outputs.json").read_text())[f"{tag}/{parameter}"]
    if told["kind"] != "random":
        return Rule(1e-7)
    std, count = told["std"], math.prod(told["shape"])
    if kind == "absmax":  # a uniform distribution reaches its edge in every draw; a normal one has none
        return Rule(std * (1.5 if told["absmax_over_std"] > 2.5 else 0.15))
    error = std / math.sqrt(count) * (1.0 if kind == "mean" else 2**-0.5)
    return Rule(6 * 2**0.5 * error)
