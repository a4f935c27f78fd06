"""Replay of ALBEF's checkpoints: from pre-training to the models of three tasks, at a larger resolution."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import albef
import albef_nlvr
import official
import torch
from case import Case, at_tokens
from torch import Tensor

from multiway.systems.albef import ALBEF
from multiway.systems.albef_assignment import TextAssignment
from multiway.systems.albef_vqa import AnswerModel, VQAConfig
from multiway.weights import albef as layouts
from multiway.weights.official import load_layout


@torch.no_grad()
def checkpoint_conversion(case: Case) -> dict[str, Any]:
    """A pre-training checkpoint becomes models of three other tasks at a larger resolution."""
    before = albef.config_of(case.config)
    config = replace(before, image=replace(before.image, image_size=case.config["new_image_res"]))
    image, ids, mask = (case.inputs[n] for n in ("image", "input_ids", "attention_mask"))
    facts = official.tied(layouts.layout(before))
    return _retrieval(case, config, image, ids, mask) | _vqa(case, config, image, ids, mask) | _nlvr(
        case, config, image, ids, mask
    ) | facts  # fmt: skip


def _loaded(task: str, renamed: dict[str, str], expected: set[str]) -> dict[str, Any]:
    """What `load_state_dict(strict=False)` would report, and where each key came from."""
    resized = {k for k in renamed if k.endswith("pos_embed") and k in expected}
    return {
        f"config.{task}.key_map": {
            new: "INTERPOLATED" if new in resized else old for new, old in renamed.items()
        },
        f"config.{task}.missing_keys": expected - set(renamed),
        f"config.{task}.unexpected_keys": set(renamed) - expected,
    }


def _retrieval(case: Case, config, image: Tensor, ids: Tensor, mask: Tensor) -> dict[str, Any]:
    model = ALBEF(replace(config, **albef.RETRIEVAL)).eval()
    state, layout = model.init_state(), layouts.layout(model.config)
    renamed = layouts.retrieval_keys(case.weights)
    load_layout(model, layout, {new: case.weights[old] for new, old in renamed.items()}, state)
    _, hidden = model.text_context(ids, mask)
    _, context = model.image_context(image)
    return {
        "retrieval.pos_embed": model.encoders.image_tower.positions,
        "retrieval.pos_embed_m": state.encoders.image_tower.positions,
        "retrieval.image_embeds": model.encoders.image_tower(image),
        "retrieval.text_embeds": at_tokens(hidden, mask),
        "retrieval.itm_logits": model.match_pairs(context, hidden, mask),
        **_loaded("retrieval", renamed, layout.keys()),
    }


def _heads(case: Case) -> dict[str, Tensor]:
    """Layers that the checkpoint lacks."""
    prefix = "pretrain_nlvr_init."
    return {k.removeprefix(prefix): v for k, v in case.inputs.items() if k.startswith(prefix)}


def _vqa(case: Case, config, image: Tensor, ids: Tensor, mask: Tensor) -> dict[str, Any]:
    layers = config.text.fusion_layers
    model = AnswerModel(VQAConfig(image=config.image, text=config.text, decoder_layers=layers)).eval()
    layout, network = layouts.vqa_layout(model.config), model.network
    renamed = layouts.vqa_keys(case.weights, config.text.layers)
    report = load_layout(model, layout, {new: case.weights[old] for new, old in renamed.items()})
    if any(not name.startswith("state.") for name in report.missing):
        raise ValueError(f"the checkpoint lacks {report.missing}")
    question = network.question(image, ids, mask)
    hidden = network.hidden(question, mask, ids, mask, torch.arange(len(ids)))
    return {
        "vqa.question_hidden": at_tokens(question, mask),
        "vqa.decoder_logits": at_tokens(model.writer.logits(hidden), mask),
        **_loaded("vqa", renamed, layout.keys()),
    }


def _nlvr(case: Case, config, image: Tensor, ids: Tensor, mask: Tensor) -> dict[str, Any]:
    model = TextAssignment(albef_nlvr.assignment_config(config)).eval()
    layout = layouts.assignment_layout(model.config)
    renamed = layouts.assignment_keys(case.weights, config.text.layers)
    tensors = {new: case.weights[old] for new, old in renamed.items()} | _heads(case)
    load_layout(model, layout, tensors)
    hidden, logits = model.network(*model.network.look(image[:2]).split(1), ids[:1], mask[:1])
    return {
        "pretrain_nlvr.hidden": at_tokens(hidden, mask[:1]),
        "pretrain_nlvr.ta_logits": logits,
        **_loaded("pretrain_nlvr", renamed, layout.keys()),
    }
