"""Replays of ALBEF's cases with two pictures a text: NLVR2, and text assignment."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import albef
import official
import torch
from case import Case, at_tokens
from torch import nn

from multiway.batch import Batch
from multiway.systems.albef import ALBEFConfig
from multiway.systems.albef_assignment import AssignmentConfig, Companions, TextAssignment
from multiway.systems.albef_nlvr import NLVRConfig, PairModel
from multiway.weights import albef as layouts
from multiway.weights.keymap import Layout


def assignment_config(config: ALBEFConfig) -> AssignmentConfig:
    """Of the sizes of an ALBEF, its fusion layers doubled."""
    text = replace(config.text, fusion_layers=2 * config.text.fusion_layers)
    return AssignmentConfig(image=config.image, text=text, embed_dim=config.embed_dim)


def nlvr(case: Case) -> dict[str, Any]:
    """One training step with its teacher and one without, and a prediction."""
    base, i = albef.config_of(case.config), case.inputs
    config = NLVRConfig(
        image=base.image,
        text=replace(base.text, fusion_layers=case.config["text_layers"] - base.text.layers),
        momentum=base.momentum,
        alpha=base.alpha,
    )
    layout, mask = layouts.nlvr_layout(config), i["attention_mask"]
    image = torch.stack(i["image"].chunk(2), dim=1)
    batch = Batch(image=image, input_ids=i["input_ids"], attention_mask=mask, labels=i["targets"])
    out: dict[str, Any] = {}
    for kind in ("plain", "distill"):
        model = PairModel(config)
        state = model.init_state()
        official.fill(model, layout, case.weights, state)
        state.step.fill_(state.ramp_steps)  # the recorded step lies after alpha's ramp
        if kind == "distill":
            model.begin(state)
        loss = model.losses(batch, state if kind == "distill" else None)["loss"]
        loss.backward()
        found = official.of_gradients(model, layout, case.config["distill.grad_norm_names"])
        out |= {f"{kind}.{name}": value for name, value in ({"loss": loss} | found).items()}
    hidden, logits = model.judge(i["image"], i["input_ids"], mask)
    with torch.no_grad():
        two = state.network.look(i["image"]).chunk(2)
        teacher = state.network(*two, i["input_ids"], mask)[1]
    return out | {
        "prediction": logits,
        "prediction_m": teacher,
        "image_embeds": model.network.look(i["image"]),
        "hidden": at_tokens(hidden, mask),
        "config.distill.grad_params_without_grad": without_gradient(model, layout),
        **official.tied(layout),
    }


def nlvr_pretrain(case: Case) -> dict[str, Any]:
    """One step of text assignment with the recorded companions."""
    config, i = assignment_config(albef.config_of(case.config)), case.inputs
    model, layout = TextAssignment(config), layouts.assignment_layout(config)
    official.fill(model, layout, case.weights)
    draws = Companions(i["image0_idx"], i["image1_idx"], i["labels"])
    batch = Batch(image=i["image"], input_ids=i["input_ids"], attention_mask=i["attention_mask"])
    image_embeds, features, likely, hidden, loss, logits, _ = model.figure(batch, draws)
    loss.backward()
    return {
        "image_embeds": image_embeds,
        "image_feat": features,
        "weights": likely,
        "hidden": at_tokens(hidden, i["attention_mask"]),
        "pred": logits,
        "loss": loss,
        **official.of_gradients(model, layout, case.config["grad_norm_names"]),
        "config.grad_params_without_grad": without_gradient(model, layout),
        **official.tied(layout),
    }


def without_gradient(model: nn.Module, layout: Layout) -> set[str]:
    """Official names of the parameters that have none."""
    idle = {name for name, p in model.named_parameters() if p.grad is None}
    return {name for entry in layout.entries if entry.ours in idle for name in entry.theirs}
