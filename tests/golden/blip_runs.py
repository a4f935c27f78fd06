"""Replays of BLIP's recorded runs: the trajectory of many steps, and two steps on two ranks."""

from __future__ import annotations

from typing import Any

import albef
import blip
import ranks
import torch
from case import Case
from torch import Tensor

from multiway.batch import Batch
from multiway.systems.blip import BLIP, Draws
from multiway.train.optim import build_optimizer, gradient_norm, learning_rate, set_lr
from multiway.train.parallel import Ranks, wrap
from multiway.train.run import TrainConfig
from multiway.weights import blip as layouts
from multiway.weights.keymap import to_theirs

LOSSES = {"loss_ita": "itc", "loss_itm": "itm", "loss_lm": "lm", "loss_total": "loss"}


def trajectory(case: Case) -> dict[str, Any]:
    """The whole run in float32, and again in float64 (`f64.*`)."""
    out = _trajectory(case)
    torch.set_default_dtype(torch.float64)
    try:
        again = _trajectory(case)
        return out | {f"f64.{name}": value for name, value in again.items() if isinstance(value, Tensor)}
    finally:
        torch.set_default_dtype(torch.float32)


def _trajectory(case: Case) -> dict[str, Any]:
    recorded, i, dtype = case.config, case.inputs, torch.get_default_dtype()
    optimizer_config, schedule = recorded["optimizer"], recorded["schedule"]
    epoch = recorded["iterations_per_epoch"]
    model, state = blip.load(case, blip.config_of(recorded), steps_per_epoch=epoch)
    layout = layouts.layout(model.config)
    config = TrainConfig(
        epochs=recorded["epochs"],
        batch_size=recorded["batch_size"],
        lr=schedule["init_lr"],
        min_lr=schedule["min_lr"],
        warmup_lr=schedule["warmup_lr"],
        warmup_steps=schedule["warmup_steps"],
        lr_decay=schedule["lr_decay_rate"],
        schedule="blip",
        betas=tuple(optimizer_config["betas"]),
        eps=optimizer_config["eps"],
        weight_decay=optimizer_config["weight_decay"],
    )
    optimizer = build_optimizer(model, config)
    initial, weights = blip.official(model, state), {}
    series: dict[str, list] = {}
    model.begin(state)
    for step in range(recorded["steps"]):
        rows = i["batch_index"][step]
        batch = Batch(
            image=i["images"][rows].to(dtype),
            input_ids=i["input_ids"][rows],
            attention_mask=i["attention_mask"][rows],
        )
        draws = Draws(negative_image=i["neg_image_idx"][step], negative_text=i["neg_text_idx"][step])
        lr = learning_rate(step, config, steps_per_epoch=epoch)
        set_lr(optimizer, lr)
        optimizer.zero_grad()
        losses, alpha = model.losses(batch, state, draws), state.alpha
        losses["loss"].backward()
        norm = gradient_norm(list(model.parameters()))
        optimizer.step()
        # Of the last step: before the clamp and the average of a step after it.
        weights = blip.official(model, state)
        model.advance(state, [losses])
        values = {name: losses[key] for name, key in LOSSES.items()} | {
            "alpha": alpha,
            "lr": lr,
            "temp": weights["temp"],
            "grad_norm": norm,
            "queue_ptr_per_step": state.queue.pointer,
        }
        for name, value in values.items():
            series.setdefault(name, []).append(value.item() if isinstance(value, Tensor) else value)
    names = recorded["final_names"]
    weights |= {n: t for n, t in blip.queue(state).items() if n != "idx_queue"}
    changes = {n: weights[n] - initial[n] for n in names}
    decay = {id(p): group["weight_decay"] for group in optimizer.param_groups for p in group["params"]}
    ours = {n: torch.full_like(p, decay[id(p)], dtype=torch.float64) for n, p in model.named_parameters()}
    theirs = to_theirs(layout, ours, ties=False)
    return {
        **{name: torch.tensor(values, dtype=torch.float64) for name, values in series.items()},
        **{f"final.{n}": t for n, t in weights.items()},
        "final_mean": torch.stack([weights[n].mean() for n in names]),
        "final_l2": torch.stack([weights[n].norm() for n in names]),
        "final_moved_l2": torch.stack([changes[n].norm() for n in names]),
        "config.param_groups": {(n, t.flatten()[0].item()) for n, t in theirs.items()},
        **blip.facts(model, layout),
    }


def pretrain_2proc(case: Case) -> dict[str, Any]:
    """Two steps under data parallelism on two gloo ranks."""
    both = ranks.run(_pretrain_rank, case.config["world_size"], case)
    shared, locals_ = both[0]["shared"], [rank["local"] for rank in both]
    different = [n for n in shared if any(not torch.equal(shared[n], rank["shared"][n]) for rank in both)]
    if different:
        raise ValueError(f"the replicas differ in {different[:5]}")
    stacked = {name: torch.stack([rank[name] for rank in locals_]) for name in locals_[0]}
    losses = {name: values.T for name, values in stacked.items() if name.startswith("loss_")}  # [step, rank]
    model = BLIP(blip.config_of(case.config))
    facts = blip.facts(model, layouts.layout(model.config))
    return shared | stacked | losses | {"config.tied": facts["config.tied"]}


def _pretrain_rank(rank: int, case: Case) -> dict[str, dict[str, Tensor]]:
    recorded, out, local = case.config, {}, {}
    model, state = blip.load(case, blip.config_of(recorded))
    layout = layouts.layout(model.config)
    state.step.fill_(state.ramp_steps)
    optimizer_config, steps = recorded["optimizer"], recorded["steps"]
    config = TrainConfig(
        steps=steps,
        batch_size=recorded["world_size"] * case.inputs["images"].shape[2],
        lr=optimizer_config["lr"],
        weight_decay=optimizer_config["weight_decay"],
    )
    wrapped = wrap(model, config, Ranks(rank, recorded["world_size"], torch.device("cpu")))
    optimizer = build_optimizer(model, config)
    names, parameters = recorded["grad_norm_names"], list(model.parameters())
    local |= {name: torch.zeros(steps) for name in LOSSES}
    model.begin(state)
    for step in range(steps):
        i = {name: t[step, rank] for name, t in case.inputs.items() if t.ndim >= 3}
        batch, draws = blip.step_inputs(i | {"image": i["images"]})
        # This rank's own step first, which changes nothing; then the one that averages.
        figure = blip.forward(model, batch, state, draws)
        figure.losses["loss"].backward()
        found = blip.boxes(model, state, figure, batch, draws.negative_text)
        local |= {
            f"step{step}.{name}": value.detach().clone()
            for name, value in found.items()
            if isinstance(value, Tensor)
        }
        local[f"local_grad_norms_step{step}"] = albef.norms(blip.gradients(model, layout), names)
        local[f"local_grad_global_norm_step{step}"] = gradient_norm(parameters)
        optimizer.zero_grad()
        losses = wrapped(batch, state, draws, None)
        losses["loss"].backward()
        for name, key in LOSSES.items():
            local[name][step] = losses[key].detach()
        grads = blip.gradients(model, layout)
        out[f"grad_norms_step{step}"] = albef.norms(grads, names)
        out[f"grad_global_norm_step{step}"] = gradient_norm(parameters)
        out |= {f"grad_step{step}.{n}": g for n, g in grads.items()}
        set_lr(optimizer, config.lr)
        optimizer.step()
        weights = blip.official(model, state)
        model.advance(state, [losses])
        out |= {f"{n}_after_step{step}": t for n, t in blip.queue(state).items()}
    out |= {f"after.{n}": t for n, t in weights.items()}
    out["after_l2"] = torch.stack([weights[n].norm() for n in recorded["after_names"]])
    return {"shared": out, "local": local}
