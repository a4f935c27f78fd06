"""Replays of BLIP's recorded training and retrieval: each function returns {recorded name: our value}."""

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
from multiway.systems.bert import BertConfig
from multiway.systems.blip import BLIP, Draws, Figure, State
from multiway.systems.blip_config import BLIPConfig, med_config
from multiway.tasks.retrieval import score_matrices
from multiway.text import Tokenizer, TokenizerConfig
from multiway.train.run import TrainConfig
from multiway.weights import blip as layouts
from multiway.weights.keymap import Layout


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
        image=momentum.image_config(recorded),
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


def boxes(model: BLIP, state: State, figure: Figure, batch: Batch, draws: Draws) -> dict[str, Tensor | Real]:
    """All that was recorded of one step."""
    (ids, mask), drawn_by = batch.text(), figure.drawn_by
    out = momentum.boxes(figure, state.alpha, mask, draws.negative_text)
    for name, drawn in (("i2t", drawn_by.image_to_text), ("t2i", drawn_by.text_to_image)):
        out[f"weights_{name}"] = drawn.exp().masked_fill(drawn_by.positive, 0.0)
    out["encoder_input_ids"] = model.grounded(ids)
    if model.decoder is None:
        return out
    started = model.started(ids)
    return out | {
        "loss_lm": figure.losses["lm"],
        "lm_logits": at_tokens(model.decoder.logits(figure.lm_hidden), mask),
        "decoder_input_ids": started,
        "decoder_targets": torch.cat([started[:, :1], figure.lm_labels], dim=1),
    }


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


def training(recorded: dict[str, Any]) -> TrainConfig:
    """Our config of a trajectory's optimizer and schedule."""
    optimizer, schedule = recorded["optimizer"], recorded["schedule"]
    return TrainConfig(
        epochs=recorded["epochs"],
        batch_size=recorded["batch_size"],
        lr=schedule["init_lr"],
        min_lr=schedule["min_lr"],
        warmup_lr=schedule["warmup_lr"],
        warmup_steps=schedule["warmup_steps"],
        lr_decay=schedule["lr_decay_rate"],
        schedule="blip",
        betas=tuple(optimizer["betas"]),
        eps=optimizer["eps"],
        weight_decay=optimizer["weight_decay"],
    )


RECORDING = momentum.Recording(
    system=BLIP,
    config=config_of,
    layout=layouts.layout,
    draws=Draws,
    forward=forward,
    boxes=boxes,
    losses={"loss_ita": "itc", "loss_itm": "itm", "loss_lm": "lm", "loss_total": "loss"},
    training=training,
)


def pretrain(case: Case) -> dict[str, Any]:
    """Consecutive steps, and the modules that the official code printed as shared."""
    shared = tied_modules(layouts.layout(config_of(case.config)))
    return momentum.pretrain(RECORDING, case) | {"config.tied_modules_printed": shared}


def tied_modules(layout: Layout) -> set[str]:
    """Modules that encoder and decoder share, as paths within the text stack."""
    names = {n for e in layout.entries for n, *also in e.ties() if n.startswith("text_encoder.") and also}
    return {"/" + n.removeprefix("text_encoder.").rpartition(".")[0].replace(".", "/") for n in names}


def retrieval_train(case: Case) -> dict[str, Any]:
    """One fine-tuning step with negatives of the rank, and one with those of all ranks."""
    out: dict[str, Any] = {}
    for mark, changes in (("", {}), ("all_rank.", {"negative_all_rank": True})):
        model, state = momentum.load(RECORDING, case, **layouts.RETRIEVAL, **changes)
        layout = layouts.layout(model.config)
        state.step.fill_(state.ramp_steps)
        model.begin(state)
        batch, draws = momentum.step_inputs(RECORDING, case.inputs, mark=mark)
        figure, found = momentum.one_step(RECORDING, model, state, batch, draws)
        for name, own, other in (
            ("i2t", figure.own.image_features, figure.own.text_features),
            ("t2i", figure.own.text_features, figure.own.image_features),
        ):
            found[f"sim_{name}_batch_for_negatives"] = own @ other.T / model.temperature
        found |= official.of_gradients(model, layout, case.config["grad_norm_names"])
        found |= {f"momentum.{n}": t for n, t in official.weights(model, layout, state).items()}
        model.advance(state, [figure.losses])
        found |= {f"{n}_after": t for n, t in momentum.queue(state).items()}
        out |= {mark + name: value for name, value in found.items()} | official.facts(model, layout)
    return out


def retrieval_eval(case: Case) -> dict[str, Any]:
    """Two-stage evaluation, and `BLIP_ITM` on the same weights."""
    config, i = case.config, case.inputs
    model, _ = momentum.load(RECORDING, case, **layouts.RETRIEVAL)
    layout = layouts.layout(model.config)
    images, ids, mask = i["images"], i["input_ids"], i["attention_mask"]
    found = score_matrices(model, images, ids, mask, k=config["k_test"], batch_size=2)
    i2t, t2i, itc = (torch.from_numpy(matrix) for matrix in found)
    alone = BLIP(replace(model.config, compat=("itm_reads_cls",))).eval()
    alone.load_state_dict(model.state_dict())
    n = official.recorded_shape(case, "blip_itm.itm_logits")[0]
    with torch.no_grad():
        image_features, context = alone.image_context(images)
        text_features, _ = alone.text_context(ids, mask)
        logits = alone.match_pairs(context.select(torch.arange(n)), ids[:n], mask[:n])
    metrics = momentum.retrieval_metrics(i2t, t2i, config)
    return {
        "itc_sims": itc,
        "image_embeds": image_features,
        "text_embeds": text_features,
        "score_matrix_i2t": i2t,
        "score_matrix_t2i": t2i,
        "blip_itm.itm_logits": logits,
        "blip_itm.itc": image_features[:n] @ text_features[:n].T,
        "config.metrics": {name: metrics[name] for name in config["metrics"]},
        **official.tied(layout),
        "config.blip_itm_unexpected_keys": set(case.weights)
        - layouts.layout(model.config, state=False).keys(),
    }
