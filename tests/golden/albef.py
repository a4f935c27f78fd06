"""Replays of ALBEF's recorded cases: each function returns {recorded name: our value}."""

from __future__ import annotations

import re
from dataclasses import replace
from typing import Any

import numpy as np
import ranks
import torch
from case import Case, Real, Rule, at_tokens, default_rule, without_gradient
from torch import Tensor

from multiway.batch import Batch
from multiway.objectives import language
from multiway.systems.albef import ALBEF, ALBEFConfig, Draws, Figure
from multiway.systems.bert import BertConfig
from multiway.systems.momentum import MomentumState
from multiway.systems.vit import ViTConfig
from multiway.train.optim import build_optimizer, gradient_norm, learning_rate, set_lr
from multiway.train.parallel import Ranks, wrap
from multiway.train.run import TrainConfig
from multiway.weights import albef as layouts
from multiway.weights.keymap import to_ours, to_theirs



def config_of(recorded: dict[str, Any], **changes: Any) -> ALBEFConfig:
    """Our config of a case's sizes."""
    vit, bert = recorded["vit"], recorded["bert"]
    fusion = bert["num_hidden_layers"] - bert["fusion_layer"]
    config = ALBEFConfig(
        image=ViTConfig(
            image_size=recorded["image_res"],
            patch_size=vit["patch_size"],
            width=vit["embed_dim"],
            depth=vit["depth"],
            heads=vit["num_heads"],
            hidden=vit["embed_dim"] * vit["mlp_ratio"],
            eps=vit["layer_norm_eps"],
        ),
        text=BertConfig(
            vocab_size=recorded["vocab_size"],
            width=bert["hidden_size"],
            layers=bert["fusion_layer"],
            fusion_layers=fusion,
            heads=bert["num_attention_heads"],
            hidden=bert["intermediate_size"],
            positions=bert["max_position_embeddings"],
            types=bert["type_vocab_size"],
            eps=bert["layer_norm_eps"],
            dropout=recorded["dropout"],
        ),
        embed_dim=recorded["embed_dim"],
        temperature=recorded.get("temp", 0.07),
        queue_size=recorded["queue_size"] if "queue_size" in recorded else 0,
        momentum=recorded["momentum"],
        alpha=recorded.get("alpha", 0.4),
        mlm_probability=recorded["mlm_probability"],
    )
    return replace(config, **changes)


RETRIEVAL = {"mlm_weight": 0.0, "positives": "ids", "temperature_range": None}


def load(case: Case, config: ALBEFConfig, *, steps_per_epoch: int = 1) -> tuple[ALBEF, MomentumState]:
    """Our model and state with the recorded weights, every key of which must find its place."""
    model = ALBEF(config).to(torch.get_default_dtype())
    state = model.init_state(steps_per_epoch=steps_per_epoch).to(torch.get_default_dtype())
    ours, missing, unexpected = to_ours(layouts.layout(config), case.weights)
    if missing or unexpected:
        raise ValueError(f"weights lack {missing} and have no place for {unexpected}")
    kept = {name: value for name, value in state.state_dict().items() if name in ("step", "queue.ids")}
    state.load_state_dict(kept | {n.removeprefix("state."): t for n, t in ours.items() if n.startswith("state.")})
    model.load_state_dict({n: t for n, t in ours.items() if not n.startswith("state.")})
    return model.train(), state


def official(model: ALBEF, state: MomentumState) -> dict[str, Tensor]:
    """Copies of all weights, online and momentum, under the official names; tied ones once."""
    tensors = dict(model.state_dict()) | {f"state.{n}": t for n, t in state.state_dict().items()}
    return {n: t.clone() for n, t in to_theirs(layouts.layout(model.config), tensors, ties=False).items()}


def gradients(model: ALBEF) -> dict[str, Tensor]:
    """Gradients under the official names."""
    ours = {name: p.grad for name, p in model.named_parameters() if p.grad is not None}
    return {n: g.clone() for n, g in to_theirs(layouts.layout(model.config), ours, ties=False).items()}


def norms(tensors: dict[str, Tensor], names: list[str]) -> Tensor:
    """L2 norms in the recorded order, which must name exactly these tensors."""
    if set(names) != set(tensors):
        raise ValueError(f"recorded names differ from ours in {sorted(set(names) ^ set(tensors))[:5]}")
    return torch.stack([tensors[name].norm() for name in names])


def queue(state: MomentumState) -> dict[str, Tensor]:
    """The queues as the official checkpoints have them."""
    q = state.queue
    return {
        "image_queue": q.image.T.clone(),
        "text_queue": q.text.T.clone(),
        "idx_queue": q.ids[None].clone(),
        "queue_ptr": q.pointer.reshape(1).clone(),
    }


def facts(model: ALBEF) -> dict[str, Any]:
    """What the official code recorded of its parameters in config.json."""
    entries = [e for e in layouts.layout(model.config).entries if e.also]
    idle = {name for name, p in model.named_parameters() if p.grad is None}
    return {
        "config.tied": {(e.theirs[0], *e.also) for e in entries},
        "config.grad_params_without_grad": idle,
        "config.params_without_grad": idle,
    }


def boxes(figure: Figure, alpha: Tensor, mask: Tensor, negative_text: Tensor) -> dict[str, Tensor | Real]:
    """Intermediates of one step that all cases recorded; soft targets are formed from their parts.

    `mask` is the batch's attention mask: our text layers leave padding out.
    """
    sims, size = figure.sims, len(figure.image_embeds)
    in_batch, positive = sims.positive[:, : sims.batch], sims.positive.to(figure.image_embeds)
    hard = positive / positive.sum(1, keepdim=True)
    out = {
        "image_embeds": figure.image_embeds,
        "image_feat": figure.image_features,
        "text_embeds": at_tokens(figure.text_embeds, mask),
        "text_feat": figure.text_features,
        "image_feat_m": figure.image_features_m,
        "text_feat_m": figure.text_features_m,
        "pos_idx": positive,
        "sim_targets": hard,
        "loss_ita": figure.losses["itc"],
        "loss_i2t": figure.losses["itc_i2t"],
        "loss_t2i": figure.losses["itc_t2i"],
        "loss_itm": figure.losses["itm"],
        "loss_total": figure.losses["loss"],
        "vl_embeddings": figure.fused[:, 0],
        "fused_pos_hidden": at_tokens(figure.fused[:size], mask),
        "fused_neg_hidden": at_tokens(figure.fused[size:], torch.cat([mask, mask[negative_text]])),
        "itm_logits": figure.itm_logits,
        "vl_output": figure.itm_logits,
        "itm_labels": figure.itm_labels,
    }
    for name, sim in (("i2t", sims.image_to_text), ("t2i", sims.text_to_image)):
        out[f"sim_{name}"] = sim
        out[f"weights_{name}"] = sim[:, : sims.batch].softmax(1).masked_fill(in_batch, 0.0)
    if sims.teacher is not None:
        for name, teacher in zip(("i2t", "t2i"), sims.teacher, strict=True):
            out[f"sim_{name}_m"] = teacher
            out[f"sim_{name}_targets"] = alpha * teacher.softmax(1) + (1 - alpha) * hard
    return out


def mlm_boxes(
    model: ALBEF, state: MomentumState, figure: Figure, labels: Tensor, mask: Tensor
) -> dict[str, Tensor | Real]:
    """MLM's intermediates, with the head on all positions as the official code has it."""
    logits, logits_m = model.encoders.words(figure.mlm_hidden), state.encoders.words(figure.mlm_hidden_m)
    masked = labels != -100
    chosen, teacher, targets = logits[masked], logits_m[masked], labels[masked]
    return {
        "mlm_logits": at_tokens(logits, mask),
        "mlm_logits_m": at_tokens(logits_m, mask),
        "mlm_loss_ce": language.mlm(chosen, targets),
        "mlm_loss_distill": language.mlm(chosen, targets, teacher_logits=teacher, alpha=1.0),
    }


def pretrain(case: Case) -> dict[str, Any]:
    """Consecutive steps; names of the first have no suffix, of the others `_step2` and so on."""
    model, state = load(case, config_of(case.config))
    state.step.fill_(state.ramp_steps)  # the recorded steps lie after alpha's ramp
    sgd = torch.optim.SGD(model.parameters(), lr=float(re.findall(r"lr ([\d.e-]+)", case.config["between_steps"])[0]))
    suffixes = sorted({m[1] for m in (re.fullmatch(r"image(|_step\d+)", key) for key in case.inputs) if m})
    model.begin(state)
    out: dict[str, Any] = {}
    for suffix in suffixes:
        i = {name: case.inputs[name + suffix] for name in ("image", "input_ids", "attention_mask", "mlm_labels")}
        draws = Draws(
            negative_image=case.inputs[f"neg_image_idx{suffix}"],
            negative_text=case.inputs[f"neg_text_idx{suffix}"],
            mlm_input_ids=case.inputs[f"mlm_input_ids{suffix}"],
            mlm_labels=i["mlm_labels"],
        )
        mask = i["attention_mask"]
        batch = Batch(image=i["image"], input_ids=i["input_ids"], attention_mask=mask)
        figure = model.figure(batch, state, draws)
        sgd.zero_grad()
        figure.losses["loss"].backward()
        grads = gradients(model)
        with torch.no_grad():
            found = boxes(figure, state.alpha, mask, draws.negative_text)
            found |= mlm_boxes(model, state, figure, i["mlm_labels"], mask)
            found |= {
                "loss_mlm": figure.losses["mlm"],
                "image_embeds_m": state.encoders.image_tower(batch.image),
                "text_embeds_m": at_tokens(state.encoders.text(batch.input_ids, mask), mask),
                "temp_after": model.temperature.clone(),
            }
        found |= {f"momentum.{n}": t for n, t in official(model, state).items()}
        found |= {f"grad.{n}": g for n, g in grads.items()}
        out |= {
            f"grad{suffix}_norms": norms(grads, case.config["grad_norm_names"]),
            f"grad{suffix}_global_norm": gradient_norm(list(model.parameters())),
        }
        sgd.step()
        model.advance(state, [figure.losses])
        found |= {f"{n}_after": t for n, t in queue(state).items()}
        out |= {name + suffix: value for name, value in found.items()}
    return out | facts(model)


def retrieval_train(case: Case) -> dict[str, Any]:
    """One fine-tuning step with distillation and one without, from the same weights."""
    out: dict[str, Any] = {}
    i = case.inputs
    batch = Batch(image=i["image"], input_ids=i["input_ids"], attention_mask=i["attention_mask"], ids=i["idx"])
    for mode, changes in (("plain", {"alpha": 0.0}), ("distill", {})):
        model, state = load(case, config_of(case.config, **RETRIEVAL, **changes))
        state.step.fill_(state.ramp_steps)
        model.begin(state)
        draws = Draws(negative_image=i[f"{mode}.neg_image_idx"], negative_text=i[f"{mode}.neg_text_idx"])
        figure = model.figure(batch, state, draws)
        figure.losses["loss"].backward()
        grads = gradients(model)
        found = boxes(figure, state.alpha, i["attention_mask"], draws.negative_text)
        found |= {f"grad.{n}": g for n, g in grads.items()}
        found["grad_norms"] = norms(grads, case.config["distill.grad_norm_names"])
        found["grad_global_norm"] = gradient_norm(list(model.parameters()))
        out |= {f"{mode}.{name}": value for name, value in found.items()}
        out |= {f"momentum.{n}": t for n, t in official(model, state).items()}
        model.advance(state, [figure.losses])
        out |= {f"{n}_after": t for n, t in queue(state).items()}
        out[f"config.{mode}.grad_params_without_grad"] = facts(model)["config.grad_params_without_grad"]
    return out | {"config.tied": facts(model)["config.tied"]}


@torch.no_grad()
def retrieval_eval(case: Case) -> dict[str, Any]:
    """Two-stage evaluation: ITC similarities choose the top k, the ITM logit alone re-ranks them."""
    config, i = case.config, case.inputs
    model, _ = load(case, config_of(config, **RETRIEVAL))
    model.eval()
    image_features, context = model.image_context(i["images"])
    text_features, hidden = model.text_context(i["input_ids"], i["attention_mask"])
    sims = image_features @ text_features.T
    matrices = []
    for matrix, swap in ((sims, False), (sims.T, True)):
        scores = torch.full_like(matrix, -100.0)
        top = matrix.topk(config["k_test"], dim=1).indices
        query = torch.arange(len(matrix)).repeat_interleave(top.shape[1])
        picture, text = (top.flatten(), query) if swap else (query, top.flatten())
        logits = model.match_pairs(context.select(picture), hidden[text], i["attention_mask"][text])
        matrices.append(scores.index_put((query, top.flatten()), logits[:, 1]))
    return {
        "itc_sims": sims,
        "image_embeds": image_features,
        "text_embeds": text_features,
        "image_feats": model.encoders.image_tower(i["images"]),
        "text_feats": at_tokens(hidden, i["attention_mask"]),
        "score_matrix_i2t": matrices[0],
        "score_matrix_t2i": matrices[1],
        "config.metrics": retrieval_metrics(*matrices, config),
        "config.tied": facts(model)["config.tied"],
    }


def retrieval_metrics(i2t: Tensor, t2i: Tensor, config: dict[str, Any]) -> dict[str, float]:
    """`itm_eval`'s recalls in percent; the rank of a query is that of its best positive.

    All that was not re-ranked ties at -100: the official order of ties, argsort turned round, decides these ranks (our
    own metrics count ties against us).
    """
    out = {}
    for mark, scores, positives in (("txt", i2t, config["img2txt"]), ("img", t2i, config["txt2img"])):
        best = []
        for query, row in enumerate(scores):
            found = positives[str(query)]
            found = found if isinstance(found, list) else [found]
            order = np.argsort(row.numpy())[::-1]
            best.append(min(int(np.where(order == p)[0][0]) for p in found))
        ranking = torch.tensor(best)
        recalls = {k: 100.0 * float((ranking < k).sum()) / len(ranking) for k in (1, 5, 10)}
        out |= {f"{mark}_r{k}": v for k, v in recalls.items()} | {f"{mark}_r_mean": sum(recalls.values()) / 3}
    return out | {"r_mean": (out["txt_r_mean"] + out["img_r_mean"]) / 2}


def trajectory(case: Case) -> dict[str, Any]:
    """The whole run in float32, and again in float64 (`f64.*`)."""
    out = _trajectory(case)
    torch.set_default_dtype(torch.float64)
    try:
        return out | {f"f64.{name}": value for name, value in _trajectory(case).items()}
    finally:
        torch.set_default_dtype(torch.float32)


def _trajectory(case: Case) -> dict[str, Any]:
    recorded, i, dtype = case.config, case.inputs, torch.get_default_dtype()
    optimizer_config, schedule = recorded["optimizer"], recorded["schedule"]
    epoch = recorded["iterations_per_epoch"]
    model, state = load(case, config_of(recorded), steps_per_epoch=epoch)
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
    initial, weights = official(model, state), {}
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
        weights = official(model, state)  # of the last step: before the clamp and the average of a step after it
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
    weights |= {n: t for n, t in queue(state).items() if n != "idx_queue"}
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
        **facts(model),
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
        return Rule(noisy(names, 1e-5 if name == "final_mean" else 1e-4, 1e-2))
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
    model = ALBEF(config_of(case.config))
    return shared | stacked | losses | {"config.tied": facts(model)["config.tied"]}


def _pretrain_rank(rank: int, case: Case) -> dict[str, dict[str, Tensor]]:
    recorded, out, local = case.config, {}, {}
    model, state = load(case, config_of(recorded))
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
        figure = model.figure(batch, state, draws)
        figure.losses["loss"].backward()
        found = boxes(figure, state.alpha, batch.attention_mask, draws.negative_text)
        local |= {
            f"step{step}.{name}": value.detach().clone()
            for name, value in found.items()
            if isinstance(value, Tensor)
        }
        local[f"local_grad_norms_step{step}"] = norms(gradients(model), names)
        local[f"local_grad_global_norm_step{step}"] = gradient_norm(parameters)
        optimizer.zero_grad()
        losses = wrapped(batch, state, draws, None)
        losses["loss"].backward()
        for name, key in (("mlm", "mlm"), ("ita", "itc"), ("itm", "itm"), ("total", "loss")):
            local[f"loss_{name}"][step] = losses[key].detach()
        grads = gradients(model)
        out[f"grad_norms_step{step}"] = norms(grads, names)
        out[f"grad_global_norm_step{step}"] = gradient_norm(parameters)
        out |= {f"grad_step{step}.{n}": g for n, g in grads.items()}
        set_lr(optimizer, config.lr)
        optimizer.step()
        weights = official(model, state)
        model.advance(state, [losses])
        out |= {f"{n}_after_step{step}": t for n, t in queue(state).items()}
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
        return Rule(noisy(case.config["after_names"], 1e-4, 1e-2))
    return Rule(absolute=1e-5) if "queue" in name else default_rule(case, name)
