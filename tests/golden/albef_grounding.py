"""Replay of ALBEF's grounding: Grad-CAM by matching and by contrast, and boxes by heat."""

from __future__ import annotations

from typing import Any

import albef
import momentum
import official
import torch
from case import Case, Real, Rule, default_rule
from safetensors.torch import load_file

from multiway.explain import gradcam, resize_heat
from multiway.metrics.grounding import best_box, iou
from multiway.weights import albef as layouts


def grounding(case: Case) -> dict[str, Any]:
    """Heat in both ways, the proposal with most of it, and how often that is right."""
    recorded, i = case.config, case.inputs
    model, _ = momentum.load(albef.RECORDING, case, **albef.RETRIEVAL)
    pairs = i["image"], i["input_ids"], i["attention_mask"]
    fusion = recorded["itm_block"] - model.config.text.layers
    itm = gradcam(model, *pairs, layer=fusion, over_padding=True)
    itc = gradcam(model, *pairs, by="itc", layer=recorded["itc_block"])
    real, asked = i["attention_mask"].bool()[:, None, :, None], recorded["grounding"]
    size = tuple(asked["image_size"])
    heats = [*itm.heat[: len(asked["gt"]) - 1], itc.heat[0]]  # the last one is by contrast
    masks = [resize_heat(heat, size) for heat in heats]
    boxes = [best_box(mask, asked["dets"][str(ref)], alpha=asked["alpha"]) for ref, mask in enumerate(masks)]
    right: dict[str, list[bool]] = {}
    for split, box, truth in zip(asked["splits"], boxes, asked["gt"], strict=True):
        right.setdefault(f"{split}_d", []).append(box is not None and iou(box, truth) >= 0.5)
    return {
        "itm.gradcam": itm.heat,
        "itm.logits": itm.score,
        "itm.attention_map": Real(itm.attention, real),
        "itm.attention_grad": itm.gradient,
        "itm.per_token_gradcam": itm.by_token,
        "itc.gradcam": itc.heat,
        "itc.sim": itc.score,
        "grounding.resized_mask_last": torch.from_numpy(masks[-1]),
        **official.tied(layouts.layout(model.config)),
        "config.grounding.pred_boxes": boxes,
        "config.grounding.result": {name: sum(found) / len(found) for name, found in right.items()},
    }


def grounding_rule(case: Case, name: str) -> Rule:
    """1e-5 of the map's largest value (README)."""
    if name.endswith(("logits", "sim")):
        return default_rule(case, name)
    largest = load_file(case.folder / "outputs.safetensors")[name].abs().max()
    return Rule(absolute=1e-5 * float(largest))
