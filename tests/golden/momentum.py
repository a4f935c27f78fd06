"""What the recorded steps of ALBEF and BLIP share: ITC with a momentum model and its queue, then ITM."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields
from typing import Any

import numpy as np
import official
import torch
from case import Case, Real, at_tokens
from torch import Tensor

from multiway.batch import Batch
from multiway.systems.momentum import MomentumSystem
from multiway.systems.momentum_state import MomentumState
from multiway.systems.vit import ViTConfig
from multiway.train.run import TrainConfig
from multiway.weights.keymap import Layout

Boxes = dict[str, Tensor | Real]


@dataclass(frozen=True, kw_only=True)
class Recording:
    """How the runs of one system were recorded.

    Attributes:
        config: ours from a case's config.json, with changes. layout: of a config, with the momentum model.
        draws: the system's dataclass of random choices.
        forward: (model, batch, state, draws) to the figure with all boxes, also those that we leave out.
        boxes: (model, state, figure, batch, draws) to what was recorded of a step.
        losses: recorded names of our losses. training: our config of a trajectory's optimizer and schedule.
    """

    system: type[MomentumSystem]
    config: Callable[..., Any]
    layout: Callable[[Any], Layout]
    draws: type
    forward: Callable[..., Any]
    boxes: Callable[..., Boxes]
    losses: Mapping[str, str]
    training: Callable[[dict[str, Any]], TrainConfig]


def image_config(recorded: dict[str, Any]) -> ViTConfig:
    """Our config of a case's image tower."""
    vit = recorded["vit"]
    return ViTConfig(
        image_size=recorded["image_res"],
        patch_size=vit["patch_size"],
        width=vit["embed_dim"],
        depth=vit["depth"],
        heads=vit["num_heads"],
        hidden=int(vit["embed_dim"] * vit["mlp_ratio"]),
        eps=vit["layer_norm_eps"],
    )


def load(
    recording: Recording, case: Case, *, steps_per_epoch: int = 1, **changes: Any
) -> tuple[Any, MomentumState]:
    """Our model and state with the recorded weights, in the default dtype."""
    model = recording.system(recording.config(case.config, **changes)).to(torch.get_default_dtype())
    state = model.init_state(steps_per_epoch=steps_per_epoch).to(torch.get_default_dtype())
    official.fill(model, recording.layout(model.config), case.weights, state)
    return model.train(), state


def queue(state: MomentumState) -> dict[str, Tensor]:
    """The queues as the official checkpoints have them; BLIP's retrieval calls its pointer otherwise."""
    q, pointer = state.queue, state.queue.pointer.reshape(1)
    return {
        "image_queue": q.image.T.clone(),
        "text_queue": q.text.T.clone(),
        "idx_queue": q.ids[None].clone(),
        "queue_ptr": pointer.clone(),
        "ptr_queue": pointer.clone(),
    }


def step_inputs(
    recording: Recording, inputs: Mapping[str, Tensor], *, suffix: str = "", mark: str = ""
) -> tuple[Batch, Any]:
    """A recorded batch, and the choices that were drawn for it."""
    batch = Batch(
        image=inputs[f"image{suffix}"],
        input_ids=inputs[f"input_ids{suffix}"],
        attention_mask=inputs[f"attention_mask{suffix}"],
        ids=inputs.get("idx"),
    )
    recorded = {"negative_image": "neg_image_idx", "negative_text": "neg_text_idx"}
    names = {f.name: f"{mark}{recorded.get(f.name, f.name)}{suffix}" for f in fields(recording.draws)}
    return batch, recording.draws(**{ours: inputs[name] for ours, name in names.items() if name in inputs})


def boxes(figure: Any, alpha: Tensor, mask: Tensor, negative_text: Tensor) -> Boxes:
    """Intermediates of one step that all cases recorded; soft targets are formed from their parts.

    `mask` is the batch's attention mask: our text layers leave padding out.
    """
    sims, size = figure.sims, len(figure.own.image_embeds)
    positive = sims.positive.to(figure.own.image_embeds)
    hard = positive / positive.sum(1, keepdim=True)
    out = {
        "image_embeds": figure.own.image_embeds,
        "image_feat": figure.own.image_features,
        "text_embeds": at_tokens(figure.own.text_embeds, mask),
        "text_feat": figure.own.text_features,
        "image_embeds_m": figure.own_m.image_embeds,
        "image_feat_m": figure.own_m.image_features,
        "text_embeds_m": at_tokens(figure.own_m.text_embeds, mask),
        "text_feat_m": figure.own_m.text_features,
        "pos_idx": positive,
        "sim_i2t": sims.image_to_text,
        "sim_t2i": sims.text_to_image,
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
    for name, teacher in zip(("i2t", "t2i"), sims.teacher or (), strict=False):
        out[f"sim_{name}_m"] = teacher
        out[f"sim_{name}_targets"] = alpha * teacher.softmax(1) + (1 - alpha) * hard
    return out


def one_step(
    recording: Recording, model: Any, state: MomentumState, batch: Batch, draws: Any
) -> tuple[Any, Boxes]:
    """Forward and backward: the figure, and what was recorded of it."""
    figure = recording.forward(model, batch, state, draws)
    figure.losses["loss"].backward()
    with torch.no_grad():
        return figure, recording.boxes(model, state, figure, batch, draws)


def pretrain(recording: Recording, case: Case) -> dict[str, Any]:
    """Consecutive steps; names of the first have no suffix, of the others `_step2` and so on."""
    model, state = load(recording, case)
    layout = recording.layout(model.config)
    state.step.fill_(state.ramp_steps)  # the recorded steps lie after alpha's ramp
    lr = float(re.findall(r"lr ([\d.e-]+)", case.config["between_steps"])[0])
    sgd = torch.optim.SGD(model.parameters(), lr=lr)
    suffixes = sorted({m[1] for m in (re.fullmatch(r"image(|_step\d+)", key) for key in case.inputs) if m})
    model.begin(state)
    out: dict[str, Any] = {}
    for suffix in suffixes:
        sgd.zero_grad()
        figure, found = one_step(recording, model, state, *step_inputs(recording, case.inputs, suffix=suffix))
        grads = official.of_gradients(model, layout, case.config["grad_norm_names"])
        for name in ("norms", "global_norm"):
            out[f"grad{suffix}_{name}"] = grads.pop(f"grad_{name}")
        found |= {f"momentum.{n}": t for n, t in official.weights(model, layout, state).items()}
        found["temp_after"] = model.temperature.detach().clone()
        sgd.step()
        model.advance(state, [figure.losses])
        found |= grads | {f"{n}_after": t for n, t in queue(state).items()}
        out |= {name + suffix: value for name, value in found.items()}
    return out | official.facts(model, layout)


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
