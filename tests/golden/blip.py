"""Replays of BLIP's recorded training and retrieval: each function returns {recorded name: our value}."""

from __future__ import annotations

import re
from dataclasses import replace
from typing import Any

import albef
import torch
from case import Case, Real, at_tokens
from safetensors import safe_open
from torch import Tensor, nn

from multiway.batch import Batch
from multiway.core.pooling import pooled_positions
from multiway.systems.bert import BertConfig
from multiway.systems.blip import BLIP, Draws, Figure, State
from multiway.systems.blip_config import BLIPConfig, med_config
from multiway.systems.momentum_state import MomentumState
from multiway.systems.vit import ViTConfig
from multiway.tasks.retrieval import score_matrices
from multiway.text import Tokenizer, TokenizerConfig
from multiway.train.optim import gradient_norm
from multiway.weights import blip as layouts
from multiway.weights.keymap import Layout, to_ours, to_theirs


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


def text_config(recorded: dict[str, Any]) -> BertConfig:
    """Our config of a case's text stack."""
    med = recorded["med"]
    return med_config(
        vocab_size=med["vocab_size"],
        width=med["hidden_size"],
        fusion_layers=med["num_hidden_layers"],
        heads=med["num_attention_heads"],
        hidden=med["intermediate_size"],
        positions=med["max_position_embeddings"],
        eps=med["layer_norm_eps"],
        dropout=recorded["dropout"],
    )


def config_of(recorded: dict[str, Any], **changes: Any) -> BLIPConfig:
    """Our config of a case's sizes."""
    config = BLIPConfig(
        image=image_config(recorded),
        text=text_config(recorded),
        embed_dim=recorded["embed_dim"],
        queue_size=recorded.get("queue_size", 0),
        momentum=recorded["momentum"],
        alpha=recorded.get("alpha", 0.4),
        label_smoothing=recorded["label_smoothing_lm"],
    )
    return replace(config, **changes)


def tokenizer(case: Case) -> Tokenizer:
    """The tokenizer of a case's own small vocabulary."""
    vocab = (case.folder / case.config["vocab_file"]).resolve()
    config = TokenizerConfig(
        vocab=str(vocab), add_sep=True, cleaning="blip", max_length=35, extra=("[DEC]", "[ENC]")
    )
    made = Tokenizer.load(config)
    special = case.config["special_ids"]
    if (made.dec_id, made.enc_id) != (special["bos_DEC"], special["enc_ENC"]):
        raise ValueError(f"[DEC] and [ENC] are {made.dec_id} and {made.enc_id}, recorded {special}")
    return made


def recorded_shape(case: Case, name: str) -> list[int]:
    """The shape of a recorded output: how many rows were recorded, not what they hold."""
    with safe_open(case.folder / "outputs.safetensors", "pt") as outputs:
        return outputs.get_slice(name).get_shape()


def fill(model: nn.Module, layout: Layout, weights: dict[str, Tensor]) -> None:
    """Load recorded weights, every key of which must find its place."""
    ours, missing, unexpected = to_ours(layout, weights)
    if missing or unexpected:
        raise ValueError(f"weights lack {missing} and have no place for {unexpected}")
    model.load_state_dict(ours)


def load(case: Case, config: BLIPConfig, *, steps_per_epoch: int = 1) -> tuple[BLIP, MomentumState]:
    """Our model and state with the recorded weights, every key of which must find its place."""
    model = BLIP(config).to(torch.get_default_dtype())
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


def official(model: BLIP, state: MomentumState) -> dict[str, Tensor]:
    """Copies of all weights, online and momentum, under the official names; tied ones once."""
    tensors = dict(model.state_dict()) | {f"state.{n}": t for n, t in state.state_dict().items()}
    return {n: t.clone() for n, t in to_theirs(layouts.layout(model.config), tensors, ties=False).items()}


def gradients(model: nn.Module, layout: Layout) -> dict[str, Tensor]:
    """Gradients under the official names."""
    ours = {name: p.grad for name, p in model.named_parameters() if p.grad is not None}
    return {n: g.clone() for n, g in to_theirs(layout, ours, ties=False).items()}


def of_gradients(model: nn.Module, layout: Layout, names: list[str], suffix: str = "") -> dict[str, Tensor]:
    """Norms of all gradients in the recorded order, their whole norm, and each of them."""
    grads = gradients(model, layout)
    return {
        f"grad{suffix}_norms": albef.norms(grads, names),
        f"grad{suffix}_global_norm": gradient_norm(list(model.parameters())),
        **{f"grad.{n}": g for n, g in grads.items()},
    }


def facts(model: nn.Module, layout: Layout) -> dict[str, Any]:
    """What the official code recorded of its parameters in config.json."""
    idle = {name for name, p in model.named_parameters() if p.grad is None}
    return {
        "config.tied": {tie for entry in layout.entries for tie in entry.ties()},
        "config.grad_params_without_grad": idle,
        "config.params_without_grad": idle,
    }


def queue(state: MomentumState, *, pointer: str = "queue_ptr") -> dict[str, Tensor]:
    """The queues as the official checkpoints have them."""
    found = albef.queue(state)
    return found | {pointer: found["queue_ptr"]}


def boxes(
    model: BLIP, state: State, figure: Figure, batch: Batch, negative_text: Tensor
) -> dict[str, Tensor | Real]:
    """Intermediates of one step; soft targets are formed from their parts."""
    (ids, mask), sims, drawn_by, size = (
        batch.text(),
        figure.sims,
        figure.drawn_by,
        len(figure.own.image_embeds),
    )
    positive, alpha = sims.positive.to(figure.own.image_embeds), state.alpha
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
        "encoder_input_ids": model.grounded(ids),
    }
    directions = ((sims.image_to_text, drawn_by.image_to_text), (sims.text_to_image, drawn_by.text_to_image))
    for i, (name, (sim, drawn)) in enumerate(zip(("i2t", "t2i"), directions, strict=True)):
        out[f"sim_{name}"] = sim
        out[f"weights_{name}"] = drawn.exp().masked_fill(drawn_by.positive, 0.0)
        out[f"sim_{name}_m"] = sims.teacher[i]
        out[f"sim_{name}_targets"] = alpha * sims.teacher[i].softmax(1) + (1 - alpha) * hard
    if model.decoder is not None:
        started = model.started(ids)
        out |= {
            "loss_lm": figure.losses["lm"],
            "lm_logits": at_tokens(model.decoder.logits(figure.lm_hidden), mask),
            "decoder_input_ids": started,
            "decoder_targets": torch.cat([started[:, :1], figure.lm_labels], dim=1),
        }
    return out


def forward(model: BLIP, batch: Batch, state: State, draws: Draws) -> Figure:
    """The step as it is trained; last hidden states that no loss reads, and it leaves out, are filled in."""
    figure, (ids, mask), own = model.figure(batch, state, draws), batch.text(), torch.arange(len(batch))
    with torch.no_grad():
        text = torch.cat([own, own, draws.negative_text])
        context = model.encoders.context(figure.own.image_embeds)
        seen = context.shared_by(torch.cat([own, draws.negative_image, own]))
        whole = model.encoders.med(model.grounded(ids)[text], mask[text], seen)
    read = pooled_positions(mask[text], model.config.match_pooling)
    return replace(figure, fused=figure.fused.where(read[..., None], whole))


def pretrain(case: Case) -> dict[str, Any]:
    """Consecutive steps; names of the first have no suffix, of the others `_step2` and so on."""
    model, state = load(case, config_of(case.config))
    layout = layouts.layout(model.config)
    state.step.fill_(state.ramp_steps)  # the recorded steps lie after alpha's ramp
    lr = float(re.findall(r"lr ([\d.e-]+)", case.config["between_steps"])[0])
    sgd = torch.optim.SGD(model.parameters(), lr=lr)
    suffixes = sorted({m[1] for m in (re.fullmatch(r"image(|_step\d+)", key) for key in case.inputs) if m})
    model.begin(state)
    out: dict[str, Any] = {}
    for suffix in suffixes:
        batch, draws = step_inputs(case.inputs, suffix=suffix)
        figure = forward(model, batch, state, draws)
        sgd.zero_grad()
        figure.losses["loss"].backward()
        found = of_gradients(model, layout, case.config["grad_norm_names"])
        for name in ("norms", "global_norm"):
            out[f"grad{suffix}_{name}"] = found.pop(f"grad_{name}")
        with torch.no_grad():
            found |= boxes(model, state, figure, batch, draws.negative_text)
            found["image_embeds_m"] = state.encoders.image_tower(batch.image)
            found["temp_after"] = model.temperature.clone()
        found |= {f"momentum.{n}": t for n, t in official(model, state).items()}
        sgd.step()
        model.advance(state, [figure.losses])
        found |= {f"{n}_after": t for n, t in queue(state).items()}
        out |= {name + suffix: value for name, value in found.items()}
    return out | facts(model, layout) | {"config.tied_modules_printed": tied_modules(layout)}


def tied_modules(layout: Layout) -> set[str]:
    """Modules that encoder and decoder share, as paths within the text stack."""
    names = {n for e in layout.entries for n, *also in e.ties() if n.startswith("text_encoder.") and also}
    return {"/" + n.removeprefix("text_encoder.").rpartition(".")[0].replace(".", "/") for n in names}


def step_inputs(inputs: dict[str, Tensor], *, suffix: str = "", mark: str = "") -> tuple[Batch, Draws]:
    """A recorded batch and its negatives."""
    batch = Batch(
        image=inputs[f"image{suffix}"],
        input_ids=inputs[f"input_ids{suffix}"],
        attention_mask=inputs[f"attention_mask{suffix}"],
        ids=inputs.get("idx"),
    )
    return batch, Draws(
        negative_image=inputs[f"{mark}neg_image_idx{suffix}"],
        negative_text=inputs[f"{mark}neg_text_idx{suffix}"],
    )


def retrieval_train(case: Case) -> dict[str, Any]:
    """One fine-tuning step with negatives of the rank, and one with those of all ranks."""
    out: dict[str, Any] = {}
    for mark, changes in (("", {}), ("all_rank.", {"negative_all_rank": True})):
        model, state = load(case, config_of(case.config, **layouts.RETRIEVAL, **changes))
        layout = layouts.layout(model.config)
        state.step.fill_(state.ramp_steps)
        model.begin(state)
        batch, draws = step_inputs(case.inputs, mark=mark)
        figure = forward(model, batch, state, draws)
        figure.losses["loss"].backward()
        found = boxes(model, state, figure, batch, draws.negative_text)
        for name, own, other in (
            ("i2t", figure.own.image_features, figure.own.text_features),
            ("t2i", figure.own.text_features, figure.own.image_features),
        ):
            found[f"sim_{name}_batch_for_negatives"] = own @ other.T / model.temperature
        found |= of_gradients(model, layout, case.config["grad_norm_names"])
        found |= {f"momentum.{n}": t for n, t in official(model, state).items()}
        model.advance(state, [figure.losses])
        found |= {f"{n}_after": t for n, t in queue(state, pointer="ptr_queue").items()}
        out |= {mark + name: value for name, value in found.items()} | facts(model, layout)
    return out


def retrieval_eval(case: Case) -> dict[str, Any]:
    """Two-stage evaluation, and `BLIP_ITM` on the same weights."""
    config, i = case.config, case.inputs
    model, _ = load(case, config_of(config, **layouts.RETRIEVAL))
    images, ids, mask = i["images"], i["input_ids"], i["attention_mask"]
    found = score_matrices(model, images, ids, mask, k=config["k_test"], batch_size=2)
    i2t, t2i, itc = (torch.from_numpy(matrix) for matrix in found)
    alone = BLIP(replace(model.config, compat=("itm_reads_cls",))).eval()
    alone.load_state_dict(model.state_dict())
    n, layout = recorded_shape(case, "blip_itm.itm_logits")[0], layouts.layout(model.config)
    with torch.no_grad():
        image_features, context = alone.image_context(images)
        text_features, _ = alone.text_context(ids, mask)
        logits = alone.match_pairs(context.select(torch.arange(n)), ids[:n], mask[:n])
    metrics = albef.retrieval_metrics(i2t, t2i, config)
    return {
        "itc_sims": itc,
        "image_embeds": image_features,
        "text_embeds": text_features,
        "score_matrix_i2t": i2t,
        "score_matrix_t2i": t2i,
        "blip_itm.itm_logits": logits,
        "blip_itm.itc": image_features[:n] @ text_features[:n].T,
        "config.metrics": {name: metrics[name] for name in config["metrics"]},
        "config.tied": facts(model, layout)["config.tied"],
        "config.blip_itm_unexpected_keys": set(case.weights)
        - layouts.layout(model.config, state=False).keys(),
    }
