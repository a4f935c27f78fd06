"""Replays of CoCa's recorded cases: each function returns {recorded name: our value}."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import official
import torch
from case import Case, Real, Rule, at_tokens
from torch import Tensor

from multiway.batch import Batch
from multiway.generation import GenerationConfig, generate
from multiway.systems.coca import CoCa, Figure
from multiway.systems.coca_config import CoCaConfig
from multiway.train.optim import gradient_norm
from multiway.weights import coca as layouts
from multiway.weights.open_clip import config_of as open_clip_config


def config_of(case: Case) -> CoCaConfig:
    """Our config of a case's open_clip sizes, and its loss weights."""
    weights = case.config["loss_weights"]
    config = open_clip_config(case.config["model"])
    return replace(config, contrastive_weight=weights["contrastive"], caption_weight=weights["caption"])


def batch_of(case: Case, image: Tensor, ids: Tensor) -> Batch:
    """Pictures and texts; what is the padding id is padding."""
    real = (ids != case.config["special_ids"]["pad"]).long()
    return Batch(image=image, input_ids=ids, attention_mask=real)


def losses(case: Case, found: dict[str, Tensor]) -> dict[str, Tensor]:
    """Under the recorded names."""
    weights = case.config["loss_weights"]
    return {
        "loss/contrastive": weights["contrastive"] * found["itc"],
        "loss/caption_unweighted": found["lm"],
        "loss/caption_weighted": weights["caption"] * found["lm"],
        "loss/total": found["loss"],
    }


def gradients(model: CoCa, layout: Any) -> dict[str, Any]:
    """Every gradient, its norm, and the norm of all."""
    grads = official.gradients(model, layout)
    return {
        **{f"grad.{n}": g for n, g in grads.items()},
        **{f"grad_norm.{n}": g.norm() for n, g in grads.items()},
        "grad_norm_total": gradient_norm(list(model.parameters())),
        "config.params_without_grad": [n for n, p in model.named_parameters() if p.grad is None],
    }


def open_clip(case: Case) -> dict[str, Any]:
    """open_clip's CoCa: one forward with both losses, and its generation."""
    config = config_of(case)
    layout = layouts.layout(config)
    model = CoCa(config)
    official.fill(model, layout, case.weights)
    batch = batch_of(case, case.inputs["image"], case.inputs["text"])
    figure = model.figure(batch)
    figure.losses["loss"].backward()
    model.eval()
    with torch.no_grad():
        out = boxes(model, batch, figure)
    own = config.pooler.form in ("cascade", "parallel")
    image = figure.image_features[:, None] if own else figure.image_features
    return {
        **out,
        **losses(case, figure.losses),
        **gradients(model, layout),
        **generation(case, model),
        "image_features": image,
        "image_embs": figure.pooled.tokens,
        "text_features": figure.text_features,
        "logit_scale": model.logit_scale.exp(),
        "labels": batch.input_ids[:, 1:],
    }


def boxes(model: CoCa, batch: Batch, figure: Figure) -> dict[str, Any]:
    """Hidden states between the parts, where a word is."""
    ids, real = batch.text()
    last = real.new_ones(len(real), 1)
    spoken = figure.labels != -100
    tokens = model.image_tower(batch.need("image"))
    found, own = model.pooler, {}
    if found.contrast is None:
        pool = found.captions.vectors(tokens)
        own = {"visual/attn_pool_out": pool, "visual/ln_post_out": found.norm(pool)}
    else:
        normed = found.norm(tokens)
        own = {
            "visual/ln_post_out": normed,
            "visual/attn_pool_out": figure.pooled.tokens,
            "visual/attn_pool_contrastive_out": figure.pooled.vector[:, None],
        }
    # The first multimodal layer on whole texts: of theirs it is two, each with a feed-forward.
    words, context = figure.text_embeds[:, :-2], model.context(figure.pooled)
    layer = model.multimodal[0]
    between = words + layer.attention(layer.norm1(words), causal=True)
    between = between + layer.ffn_middle["all"](layer.norm_middle["all"](between))
    crossed = layer(words, causal=True, context=context.layers[0])
    return {
        **own,
        "visual/transformer_out": tokens,
        "text/additive_attention_mask_allow_inf": additive(model, ids, real),
        "text/transformer_out": at_tokens(figure.text_embeds, torch.cat([real, last], dim=1)),
        "text_token_embs": at_tokens(figure.text_embeds[:, :-1], real),
        "decoder/resblock0": at_tokens(between, spoken),
        "decoder/cross_attn0": at_tokens(crossed, spoken),
        "logits": Real(model.logits(figure.hidden), spoken[..., None]),
    }


def additive(model: CoCa, ids: Tensor, real: Tensor) -> Tensor:
    """Who sees whom in the unimodal half, as the figure's own call says it."""
    seen: list[Tensor] = []

    def look(module: Any, inputs: Any, options: dict[str, Any]) -> None:
        seen.append(options["mask"])

    handle = model.text.register_forward_pre_hook(look, with_kwargs=True)
    model.read(ids, real)
    handle.remove()
    return torch.zeros(seen[0].shape).masked_fill(~seen[0], -math.inf)[:, 0]


def generation(case: Case, model: CoCa) -> dict[str, Tensor]:
    """Greedy texts and beams, laid out as open_clip returns them."""
    if "generate_kwargs" not in case.config:
        return {}
    given, image = case.config["generate_kwargs"], case.inputs["gen_image"]
    start = torch.full((len(image), 1), given["sot_token_id"])
    common = {
        "min_length": given["min_seq_len"] - 1,
        "eos_id": given["eos_token_id"],
        "pad_id": given["pad_token_id"],
        "pad_ends": True,
    }

    def run(**options: Any) -> list[list[int]]:
        config = GenerationConfig(**common, **options)
        with torch.no_grad():
            decoding = model.decoding(image)
        return [
            [given["sot_token_id"], *group[0]] for group in generate(decoding, start, None, config).sequences
        ]

    def rows(texts: list[list[int]], length: int | None = None) -> Tensor:
        longest = max(map(len, texts)) if length is None else length
        return torch.tensor([t + [given["pad_token_id"]] * (longest - len(t)) for t in texts])

    # Its last place is always the end token's.
    greedy = run(method="greedy", max_length=given["seq_len"] - 2)
    ends = (given["eos_token_id"], given["pad_token_id"])
    greedy = [t if t[-1] in ends else [*t, given["eos_token_id"]] for t in greedy]
    out = {"generate/top_k1": rows(greedy), "generate/top_k1_fixed": rows(greedy, given["seq_len"])}
    # Groups without a penalty between them are the same search several times: one of `beams / groups`.
    for name, beams, groups, penalty in (
        ("beam4_groups1", 4, 1, 1.0),
        ("beam6_groups3", 6, 3, 1.0),
        ("beam3_groups3_reppen", 3, 3, given.get("repetition_penalty", PENALTY)),
    ):
        texts = run(
            method="beam",
            max_length=given["seq_len"] - 1,
            beams=beams // groups,
            beam_scores="logits",
            length_rule="open_clip",
            repetition_penalty=penalty,
        )
        out[f"generate/{name}"] = rows(texts)
    return out


#: Of `beam3_groups3_reppen`; its config.json does not say it. Values from 1.3 to 5.0 give its texts.
PENALTY = 1.5


def rule(case: Case, name: str) -> Rule:
    """As every README of these cases states it."""
    return Rule(absolute=1e-6, relative=1e-3) if "grad_norm" in name else Rule(absolute=1e-5, relative=1e-4)
