"""Recorded runs of ALBEF and BLIP: the trajectory of many steps, and two steps on two ranks."""

from __future__ import annotations

from typing import Any

import momentum
import official
import ranks
import torch
from case import Case, Rule, default_rule, without_gradient
from momentum import Recording
from torch import Tensor

from multiway.train.optim import build_optimizer, gradient_norm, learning_rate, set_lr
from multiway.train.parallel import Ranks, wrap
from multiway.train.run import TrainConfig
from multiway.weights.keymap import to_theirs


def trajectory(recording: Recording, case: Case) -> dict[str, Any]:
    """The whole run in float32, and again in float64 (`f64.*`)."""
    out = _trajectory(recording, case)
    torch.set_default_dtype(torch.float64)
    try:
        again = _trajectory(recording, case)
        return out | {f"f64.{name}": value for name, value in again.items() if isinstance(value, Tensor)}
    finally:
        torch.set_default_dtype(torch.float32)


def _trajectory(recording: Recording, case: Case) -> dict[str, Any]:
    recorded, epoch = case.config, case.config["iterations_per_epoch"]
    model, state = momentum.load(recording, case, steps_per_epoch=epoch)
    layout, config = recording.layout(model.config), recording.training(recorded)
    optimizer = build_optimizer(model, config)
    initial, weights = official.weights(model, layout, state), {}
    series: dict[str, list] = {}
    model.begin(state)
    for step in range(recorded["steps"]):
        batch, draws = momentum.step_inputs(recording, _of_step(case.inputs, step))
        lr = learning_rate(step, config, steps_per_epoch=epoch)
        set_lr(optimizer, lr)
        optimizer.zero_grad()
        losses, alpha = model.losses(batch, state, draws), state.alpha
        losses["loss"].backward()
        norm = gradient_norm(list(model.parameters()))
        optimizer.step()
        # Of the last step: before the clamp and the average of a step after it.
        weights = official.weights(model, layout, state)
        model.advance(state, [losses])
        values = {name: losses[key] for name, key in recording.losses.items()} | {
            "alpha": alpha,
            "lr": lr,
            "temp": weights["temp"],
            "grad_norm": norm,
            "queue_ptr_per_step": state.queue.pointer,
        }
        for name, value in values.items():
            series.setdefault(name, []).append(value.item() if isinstance(value, Tensor) else value)
    names = recorded["final_names"]
    weights |= {n: t for n, t in momentum.queue(state).items() if n != "idx_queue"}
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
        **official.facts(model, layout),
    }


def _of_step(inputs: dict[str, Tensor], step: int) -> dict[str, Tensor]:
    """The rows of one step, and what was drawn in it."""
    rows = inputs["batch_index"][step]
    found = {"image": inputs["images"][rows].to(torch.get_default_dtype())}
    found |= {name: inputs[name][rows] for name in ("input_ids", "attention_mask")}
    drawn = ("neg_image_idx", "neg_text_idx", "mlm_input_ids", "mlm_labels")
    found |= {name: inputs[name][step] for name in drawn if name in inputs}
    return cut(found, inputs["text_len"][step]) if "text_len" in inputs else found


def cut(inputs: dict[str, Tensor], width: Tensor) -> dict[str, Tensor]:
    """Texts without the padding that the step did not have."""
    texts = ("input_ids", "attention_mask", "mlm_input_ids", "mlm_labels")
    return inputs | {name: inputs[name][:, : int(width)] for name in texts if name in inputs}


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


def pretrain_2proc(recording: Recording, case: Case) -> dict[str, Any]:
    """Two steps under data parallelism on two gloo ranks."""
    both = ranks.run(_pretrain_rank, case.config["world_size"], recording, case)
    shared, locals_ = both[0]["shared"], [rank["local"] for rank in both]
    different = [n for n in shared if any(not torch.equal(shared[n], rank["shared"][n]) for rank in both)]
    if different:
        raise ValueError(f"the replicas differ in {different[:5]}")
    stacked = {name: torch.stack([rank[name] for rank in locals_]) for name in locals_[0]}
    losses = {name: values.T for name, values in stacked.items() if name.startswith("loss_")}  # [step, rank]
    return shared | stacked | losses | official.tied(recording.layout(recording.config(case.config)))


def _pretrain_rank(rank: int, recording: Recording, case: Case) -> dict[str, dict[str, Tensor]]:
    recorded, inputs, out, local = case.config, case.inputs, {}, {}
    model, state = momentum.load(recording, case)
    layout = recording.layout(model.config)
    state.step.fill_(state.ramp_steps)
    optimizer_config, steps = recorded["optimizer"], recorded["steps"]
    config = TrainConfig(
        steps=steps,
        batch_size=recorded["world_size"] * inputs["images"].shape[2],
        lr=optimizer_config["lr"],
        weight_decay=optimizer_config["weight_decay"],
    )
    wrapped = wrap(model, config, Ranks(rank, recorded["world_size"], torch.device("cpu")))
    optimizer = build_optimizer(model, config)
    names, weights = recorded["grad_norm_names"], {}
    local |= {name: torch.zeros(steps) for name in recording.losses}
    model.begin(state)
    for step in range(steps):
        i = {name: t[step, rank] for name, t in inputs.items() if t.ndim >= 3}
        i = cut(i | {"image": i["images"]}, inputs["text_len"][step, rank])
        batch, draws = momentum.step_inputs(recording, i)
        # This rank's own step first, which changes nothing; then the one that averages.
        found = momentum.one_step(recording, model, state, batch, draws)[1]
        found = {name: value.detach().clone() for name, value in found.items() if isinstance(value, Tensor)}
        local |= {f"step{step}.{name}": value for name, value in found.items()}
        grads = official.of_gradients(model, layout, names)
        local |= {f"local_grad_{name}_step{step}": grads[f"grad_{name}"] for name in ("norms", "global_norm")}
        optimizer.zero_grad()
        losses = wrapped(batch, state, draws, None)
        losses["loss"].backward()
        for name, key in recording.losses.items():
            local[name][step] = losses[key].detach()
        grads = official.of_gradients(model, layout, names)
        out |= {f"grad_{name}_step{step}": grads.pop(f"grad_{name}") for name in ("norms", "global_norm")}
        out |= {n.replace("grad.", f"grad_step{step}.", 1): g for n, g in grads.items()}
        set_lr(optimizer, config.lr)
        optimizer.step()
        weights = official.weights(model, layout, state)
        model.advance(state, [losses])
        out |= {f"{n}_after_step{step}": t for n, t in momentum.queue(state).items()}
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
