"""Replays of ALBEF's recorded cases: each function returns {recorded name: our value}."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import momentum
import official
import torch
from case import Case, Real, at_tokens
from torch import Tensor

from multiway.batch import Batch
from multiway.core.pooling import pooled_positions
from multiway.objectives import language
from multiway.systems.albef import ALBEF, ALBEFConfig, Draws, Figure, State
from multiway.systems.bert import BertConfig
from multiway.tasks.retrieval import score_matrices
from multiway.train.run import TrainConfig
from multiway.weights import albef as layouts


def config_of(recorded: dict[str, Any], **changes: Any) -> ALBEFConfig:
    """Our config of a case's sizes."""
    bert = recorded["bert"]
    fusion = bert["num_hidden_layers"] - bert["fusion_layer"]
    config = ALBEFConfig(
        image=momentum.image_config(recorded),
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


def boxes(model: ALBEF, state: State, figure: Figure, batch: Batch, draws: Draws) -> dict[str, Tensor | Real]:
    """All that was recorded of one step; MLM's head is on all positions, as the official code has it."""
    sims, mask = figure.sims, batch.text()[1]
    out = momentum.boxes(figure, state.alpha, mask, draws.negative_text)
    for name, sim in (("i2t", sims.image_to_text), ("t2i", sims.text_to_image)):
        drawn_by = sim[:, : sims.batch].softmax(1)
        out[f"weights_{name}"] = drawn_by.masked_fill(sims.positive[:, : sims.batch], 0.0)
    if figure.mlm_hidden is None:
        return out
    logits, logits_m = model.encoders.words(figure.mlm_hidden), state.encoders.words(figure.mlm_hidden_m)
    masked = draws.mlm_labels != -100
    chosen, teacher, targets = logits[masked], logits_m[masked], draws.mlm_labels[masked]
    return out | {
        "loss_mlm": figure.losses["mlm"],
        "mlm_logits": at_tokens(logits, mask),
        "mlm_logits_m": at_tokens(logits_m, mask),
        "mlm_loss_ce": language.mlm(chosen, targets),
        "mlm_loss_distill": language.mlm(chosen, targets, teacher_logits=teacher, alpha=1.0),
    }


def step(model: ALBEF, batch: Batch, state: State, draws: Draws) -> Figure:
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


def training(recorded: dict[str, Any]) -> TrainConfig:
    """Our config of a trajectory's optimizer and schedule."""
    optimizer, schedule = recorded["optimizer"], recorded["schedule"]
    return TrainConfig(
        epochs=recorded["epochs"],
        batch_size=recorded["batch_size"],
        lr=optimizer["lr"],
        min_lr=schedule["min_lr"],
        warmup_lr=schedule["warmup_lr"],
        warmup_steps=schedule["warmup_epochs"] * schedule["step_size"],
        warmup_stride=schedule["step_size"],
        schedule="albef",
        betas=tuple(optimizer["betas"]),
        eps=optimizer["eps"],
        weight_decay=optimizer["weight_decay"],
    )


RECORDING = momentum.Recording(
    system=ALBEF,
    config=config_of,
    layout=layouts.layout,
    draws=Draws,
    forward=step,
    boxes=boxes,
    losses={"loss_mlm": "mlm", "loss_ita": "itc", "loss_itm": "itm", "loss_total": "loss"},
    training=training,
)


def retrieval_train(case: Case) -> dict[str, Any]:
    """One fine-tuning step with distillation and one without, from the same weights."""
    out: dict[str, Any] = {}
    for mode, changes in (("plain", {"alpha": 0.0}), ("distill", {})):
        model, state = momentum.load(RECORDING, case, **RETRIEVAL, **changes)
        layout = layouts.layout(model.config)
        state.step.fill_(state.ramp_steps)
        model.begin(state)
        batch, draws = momentum.step_inputs(RECORDING, case.inputs, mark=f"{mode}.")
        figure, found = momentum.one_step(RECORDING, model, state, batch, draws)
        found |= official.of_gradients(model, layout, case.config["distill.grad_norm_names"])
        out |= {f"{mode}.{name}": value for name, value in found.items()}
        out |= {f"momentum.{n}": t for n, t in official.weights(model, layout, state).items()}
        model.advance(state, [figure.losses])
        out |= {f"{n}_after": t for n, t in momentum.queue(state).items()}
        facts = official.facts(model, layout)
        out[f"config.{mode}.grad_params_without_grad"] = facts["config.grad_params_without_grad"]
    return out | official.tied(layout)


def retrieval_eval(case: Case) -> dict[str, Any]:
    """Two-stage evaluation: ITC similarities choose the top k, the ITM logit alone re-ranks them."""
    config, i = case.config, case.inputs
    model, _ = momentum.load(RECORDING, case, **RETRIEVAL)
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
        "config.metrics": momentum.retrieval_metrics(i2t, t2i, config),
        **official.tied(layouts.layout(model.config)),
    }
