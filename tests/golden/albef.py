"""Replays of ALBEF's recorded cases: each function returns {recorded name: our value}."""

from __future__ import annotations

import re
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from case import Case, Real, at_tokens
from torch import Tensor

from multiway.batch import Batch
from multiway.core.pooling import pooled_positions
from multiway.objectives import language
from multiway.systems.albef import ALBEF, ALBEFConfig, Draws, Figure
from multiway.systems.bert import BertConfig
from multiway.systems.momentum_state import MomentumState
from multiway.systems.vit import ViTConfig
from multiway.tasks.retrieval import score_matrices
from multiway.train.optim import gradient_norm
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
            hidden=int(vit["embed_dim"] * vit["mlp_ratio"]),
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
        queue_size=recorded.get("queue_size", 0),
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
    state.load_state_dict(
        kept | {n.removeprefix("state."): t for n, t in ours.items() if n.startswith("state.")}
    )
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
    sims, size = figure.sims, len(figure.own.image_embeds)
    in_batch, positive = sims.positive[:, : sims.batch], sims.positive.to(figure.own.image_embeds)
    hard = positive / positive.sum(1, keepdim=True)
    out = {
        "image_embeds": figure.own.image_embeds,
        "image_feat": figure.own.image_features,
        "text_embeds": at_tokens(figure.own.text_embeds, mask),
        "text_feat": figure.own.text_features,
        "image_feat_m": figure.own_m.image_features,
        "text_feat_m": figure.own_m.text_features,
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


def step(model: ALBEF, batch: Batch, state: MomentumState, draws: Draws) -> Figure:
    """The step as it is trained; last hidden states that no loss reads, and it leaves out, are filled in."""
    figure, (ids, mask) = model.figure(batch, state, draws), batch.text()
    with torch.no_grad():
        own = torch.arange(len(ids))
        text = torch.cat([own, own, draws.negative_text])
        context = model.encoders.context(figure.own.image_embeds).shared_by(
            torch.cat([own, draws.negative_image, own])
        )
        whole = model.encoders.text.fuse(figure.own.text_embeds[text], mask[text], context)
        read = pooled_positions(mask[text], model.config.match_pooling)
        figure = replace(figure, fused=figure.fused.where(read[..., None], whole))
        if figure.mlm_hidden is None:
            return figure
        found = []
        read = draws.mlm_labels != -100
        for encoders, hidden in ((model.encoders, figure.mlm_hidden), (state.encoders, figure.mlm_hidden_m)):
            context = encoders.context(encoders.image_tower(batch.image))
            whole = encoders.text.fuse(encoders.text(draws.mlm_input_ids, mask), mask, context)
            found.append(hidden.where(read[..., None], whole))
    return replace(figure, mlm_hidden=found[0], mlm_hidden_m=found[1])


def pretrain(case: Case) -> dict[str, Any]:
    """Consecutive steps; names of the first have no suffix, of the others `_step2` and so on."""
    model, state = load(case, config_of(case.config))
    state.step.fill_(state.ramp_steps)  # the recorded steps lie after alpha's ramp
    sgd = torch.optim.SGD(
        model.parameters(), lr=float(re.findall(r"lr ([\d.e-]+)", case.config["between_steps"])[0])
    )
    suffixes = sorted({m[1] for m in (re.fullmatch(r"image(|_step\d+)", key) for key in case.inputs) if m})
    model.begin(state)
    out: dict[str, Any] = {}
    for suffix in suffixes:
        i = {
            name: case.inputs[name + suffix]
            for name in ("image", "input_ids", "attention_mask", "mlm_labels")
        }
        draws = Draws(
            negative_image=case.inputs[f"neg_image_idx{suffix}"],
            negative_text=case.inputs[f"neg_text_idx{suffix}"],
            mlm_input_ids=case.inputs[f"mlm_input_ids{suffix}"],
            mlm_labels=i["mlm_labels"],
        )
        mask = i["attention_mask"]
        batch = Batch(image=i["image"], input_ids=i["input_ids"], attention_mask=mask)
        figure = step(model, batch, state, draws)
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
    batch = Batch(
        image=i["image"], input_ids=i["input_ids"], attention_mask=i["attention_mask"], ids=i["idx"]
    )
    for mode, changes in (("plain", {"alpha": 0.0}), ("distill", {})):
        model, state = load(case, config_of(case.config, **RETRIEVAL, **changes))
        state.step.fill_(state.ramp_steps)
        model.begin(state)
        draws = Draws(negative_image=i[f"{mode}.neg_image_idx"], negative_text=i[f"{mode}.neg_text_idx"])
        figure = step(model, batch, state, draws)
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


def retrieval_eval(case: Case) -> dict[str, Any]:
    """Two-stage evaluation: ITC similarities choose the top k, the ITM logit alone re-ranks them."""
    config, i = case.config, case.inputs
    model, _ = load(case, config_of(config, **RETRIEVAL))
    images, ids, mask = i["images"], i["input_ids"], i["attention_mask"]
    found = score_matrices(model, images, ids, mask, k=config["k_test"], batch_size=2)
    i2t, t2i, itc = (torch.from_numpy(matrix) for matrix in found)
    with torch.no_grad():
        text_features, hidden = model.text_context(ids, mask)
        image_embeds = model.image_tower(images)
    return {
        "itc_sims": itc,
        "image_embeds": model.encoders.image_feature(image_embeds),
        "text_embeds": text_features,
        "image_feats": image_embeds,
        "text_feats": at_tokens(hidden, mask),
        "score_matrix_i2t": i2t,
        "score_matrix_t2i": t2i,
        "config.metrics": retrieval_metrics(i2t, t2i, config),
        "config.tied": facts(model)["config.tied"],
    }


def retrieval_metrics(i2t: Tensor, t2i: Tensor, config: dict[str, Any]) -> dict[str, float]:
    """`itm_eval`'s recalls in percent; the rank of a query is that of its best positive.

    All that was not re-ranked ties at -100: the official order of ties, argsort turned round, decides these
    ranks (our own metrics count ties against us).
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
