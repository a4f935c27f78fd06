"""Replays of ALBEF's recorded runs: the trajectory of many steps, and two steps on two ranks."""

from __future__ import annotations

from typing import Any

import albef
import ranks
import torch
from case import Case, Rule, default_rule, without_gradient
from torch import Tensor

from multiway.batch import Batch
from multiway.systems.albef import ALBEF, Draws
from multiway.train.optim import build_optimizer, gradient_norm, learning_rate, set_lr
from multiway.train.parallel import Ranks, wrap
from multiway.train.run import TrainConfig
from multiway.weights import albef as layouts
from multiway.weights.keymap import to_theirs


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
    model, state = albef.load(case, albef.config_of(recorded), steps_per_epoch=epoch)
    config = TrainConfig(
        epochs=recorded["epochs"],
        batch_size=recorded["batch_size"],
        lr=optimizer_config["lr"],
        min_lr=schedule["min_lr"],
        warmup_lr=schedule["warmup_lr"],
        warmup_steps=schedule["warmup_epochs"] * schedule["step_size"],
        warmup_stride=schedule["step_size"],
        schedule="albef",
        betas=tuple(optimizer_config["betas"]),
        eps=optimizer_config["eps"],
        weight_decay=optimizer_config["weight_decay"],
    )
    optimizer = build_optimizer(model, config)
    initial, weights = albef.official(model, state), {}
    series: dict[str, list] = {}
    model.begin(state)
    for step in range(recorded["steps"]):
        rows, width = i["batch_index"][step], int(i["text_len"][step])
        batch = Batch(
            image=i["images"][rows].to(dtype),
            input_ids=i["input_ids"][rows, :width],
            attention_mask=i["attention_mask"][rows, :width],
        )
        draws = Draws(
            negative_image=i["neg_image_idx"][step],
            negative_text=i["neg_text_idx"][step],
            mlm_input_ids=i["mlm_input_ids"][step][:, :width],
            mlm_labels=i["mlm_labels"][step][:, :width],
        )
        lr = learning_rate(step, config, steps_per_epoch=epoch)
        set_lr(optimizer, lr)
        optimizer.zero_grad()
        losses, alpha = model.losses(batch, state, draws), state.alpha
        losses["loss"].backward()
        norm = gradient_norm(list(model.parameters()))
        optimizer.step()
        weights = albef.official(
            model, state
        )  # of the last step: before the clamp and the average of a step after it
        model.advance(state, [losses])
        values = {
            "loss_mlm": losses["mlm"],
            "loss_ita": losses["itc"],
            "loss_itm": losses["itm"],
            "loss_total": losses["loss"],
            "alpha": alpha,
            "lr": lr,
            "temp": weights["temp"],
            "grad_norm": norm,
            "queue_ptr_per_step": state.queue.pointer,
        }
        for name, value in values.items():
            series.setdefault(name, []).append(value.item() if isinstance(value, Tensor) else value)
    names = recorded["final_names"]
    weights |= {n: t for n, t in albef.queue(state).items() if n != "idx_queue"}
    changes = {n: weights[n] - initial[n] for n in names}
    groups = optimizer.param_groups
    decay = {id(p): group["weight_decay"] for group in groups for p in group["params"]}
    ours = {n: torch.full_like(p, decay[id(p)], dtype=torch.float64) for n, p in model.named_parameters()}
    theirs = to_theirs(layouts.layout(model.config), ours, ties=False)
    return {
        **{name: torch.tensor(values, dtype=torch.float64) for name, values in series.items()},
        **{f"final.{n}": t for n, t in weights.items()},
        "final_mean": torch.stack([weights[n].mean() for n in names]),
        "final_l2": torch.stack([weights[n].norm() for n in names]),
        "final_moved_l2": torch.stack([changes[n].norm() for n in names]),
        "config.param_groups": {(n, t.flatten()[0].item()) for n, t in theirs.items()},
        **albef.facts(model),
    }


def noisy(names: list[str], quiet: float, loud: float) -> Tensor:
    """A tolerance for each parameter: `loud` where the gradient is zero in exact arithmetic."""
    return torch.tensor([loud if without_gradient(n) else quiet for n in names], dtype=torch.float64)


def trajectory_rule(case: Case, name: str) -> Rule:
    """As the case's README states it; key biases loosely, since they are rounding noise times AdamW."""
    names = case.config["final_names"]
    if name.startswith("f64."):
        if name.startswith("f64.final_"):
            return Rule(noisy(names, 1e-6, 1e-5))
        return Rule(relative=1e-7) if name == "f64.grad_norm" else Rule(absolute=1e-8)
    if name in ("lr", "alpha"):
        return Rule(relative=1e-12)
    if name == "grad_norm":
        return Rule(relative=2e-5)
    if name in ("temp", "final.temp"):
        return Rule(absolute=5e-6)
    if name.startswith("final_"):
        return Rule(noisy(names, 1e-5 if name == "final_mean" else 1e-4, 0.1))
    if name.startswith("final.") and "queue" not in name:
        return Rule(relative=1e-5, whole=True)
    return Rule(absolute=2e-5)


def pretrain_2proc(case: Case) -> dict[str, Any]:
    """Two steps under data parallelism on two gloo ranks."""
    both = ranks.run(_pretrain_rank, case.config["world_size"], case)
    shared, locals_ = both[0]["shared"], [rank["local"] for rank in both]
    different = [n for n in shared if any(not torch.equal(shared[n], rank["shared"][n]) for rank in both)]
    if different:
        raise ValueError(f"the replicas differ in {different[:5]}")
    stacked = {name: torch.stack([rank[name] for rank in locals_]) for name in locals_[0]}
    losses = {name: values.T for name, values in stacked.items() if name.startswith("loss_")}  # [step, rank]
    model = ALBEF(albef.config_of(case.config))
    return shared | stacked | losses | {"config.tied": albef.facts(model)["config.tied"]}


def _pretrain_rank(rank: int, case: Case) -> dict[str, dict[str, Tensor]]:
    recorded, out, local = case.config, {}, {}
    model, state = albef.load(case, albef.config_of(recorded))
    state.step.fill_(state.ramp_steps)
    optimizer_config, steps = recorded["optimizer"], recorded["steps"]
    config = TrainConfig(
        steps=steps,
        batch_size=recorded["world_size"] * recorded["batch_size_per_rank"],
        lr=optimizer_config["lr"],
        weight_decay=optimizer_config["weight_decay"],
    )
    wrapped = wrap(model, config, Ranks(rank, recorded["world_size"], torch.device("cpu")))
    optimizer = build_optimizer(model, config)
    names, parameters = recorded["grad_norm_names"], list(model.parameters())
    local |= {f"loss_{name}": torch.zeros(steps) for name in ("mlm", "ita", "itm", "total")}
    model.begin(state)
    for step in range(steps):
        width = int(case.inputs["text_len"][step, rank])
        i = {name: t[step, rank] for name, t in case.inputs.items() if t.ndim >= 3}
        batch = Batch(
            image=i["images"],
            input_ids=i["input_ids"][:, :width],
            attention_mask=i["attention_mask"][:, :width],
        )
        draws = Draws(
            negative_image=i["neg_image_idx"],
            negative_text=i["neg_text_idx"],
            mlm_input_ids=i["mlm_input_ids"][:, :width],
            mlm_labels=i["mlm_labels"][:, :width],
        )
        # This rank's own step first, which changes nothing; then the one that averages.
        figure = albef.step(model, batch, state, draws)
        figure.losses["loss"].backward()
        found = albef.boxes(figure, state.alpha, batch.attention_mask, draws.negative_text)
        local |= {
            f"step{step}.{name}": value.detach().clone()
            for name, value in found.items()
            if isinstance(value, Tensor)
        }
        local[f"local_grad_norms_step{step}"] = albef.norms(albef.gradients(model), names)
        local[f"local_grad_global_norm_step{step}"] = gradient_norm(parameters)
        optimizer.zero_grad()
        losses = wrapped(batch, state, draws, None)
        losses["loss"].backward()
        for name, key in (("mlm", "mlm"), ("ita", "itc"), ("itm", "itm"), ("total", "loss")):
            local[f"loss_{name}"][step] = losses[key].detach()
        grads = albef.gradients(model)
        out[f"grad_norms_step{step}"] = albef.norms(grads, names)
        out[f"grad_global_norm_step{step}"] = gradient_norm(parameters)
        out |= {f"grad_step{step}.{n}": g for n, g in grads.items()}
        set_lr(optimizer, config.lr)
        optimizer.step()
        weights = albef.official(model, state)
        model.advance(state, [losses])
        out |= {f"{n}_after_step{step}": t for n, t in albef.queue(state).items()}
    out |= {f"after.{n}": t for n, t in weights.items()}
    out["after_l2"] = torch.stack([weights[n].norm() for n in recorded["after_names"]])
    return {"shared": out, "local": local}


def pretrain_2proc_rule(case: Case, name: str) -> Rule:
    """As the case's README states it."""
    if name.startswith("loss_"):
        return Rule(absolute=2e-5)
    if name.startswith("after."):
        return Rule(relative=1e-5, whole=True)
    if name == "after_l2":
        return Rule(noisy(case.config["after_names"], 1e-4, 0.1))
    return Rule(absolute=1e-5) if "queue" in name else default_rule(case, name)
