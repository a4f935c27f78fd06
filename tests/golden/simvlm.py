"""Replays of SimVLM's case, a specification of its mask: there is no official code."""

from __future__ import annotations

from typing import Any

import torch
from case import Case, Rule

from multiway.core import masks
from multiway.systems.prefix_network import part


def rule(case: Case, name: str) -> Rule:
    """Integers: exactly equal."""
    return Rule()


def prefix_lm_mask(case: Case) -> dict[str, Any]:
    """Who sees whom, as one sequence, and which tokens are predicted, by our cut of the text."""
    out = {}
    for combo in case.config["combos"]:
        name, pictures = combo["name"], combo["n_image_tokens"]
        words = combo["n_prefix_text_tokens"]
        valid = case.inputs[f"{name}/valid"]
        seen = masks.prefix(torch.tensor([pictures + words]), len(valid))
        out[f"{name}/attention_allowed"] = seen[0, 0].long()
        padded = seen & masks.padding(valid[None])
        out[f"{name}/attention_allowed_with_padding"] = padded[0, 0].long()
        # A text whose tokens are their places in the sequence, behind [CLS].
        text = torch.arange(pictures - 1, len(valid))[None]
        labels = part(text, torch.ones_like(text), torch.tensor([words])).labels[0]
        predicted = torch.zeros_like(valid)
        predicted[labels[labels != -100]] = 1
        out[f"{name}/loss_mask_on_predicted_token"] = predicted
    return out
