"""Sizes that do not fit are refused where a run is read, not in its first step."""

from __future__ import annotations

from typing import Any

import pytest

from multiway.cli.overrides import override
from multiway.errors import UserError
from multiway.recipes import clip, coca, flip, generalist, mae, simvlm, vilt, vqvae
from multiway.train.run import Run

WRONG = {
    "heads of a ViT": (mae.mae_emoji, ["image.heads", "5"], "system.image.width 192: give a divisor"),
    "heads of ViLT": (vilt.vilt_emoji, ["image.heads", "3"], "system.image.width 128: give a divisor"),
    "heads of a prefix network": (simvlm.simvlm_emoji, ["text.heads", "5"], "system.text.width 192"),
    "heads of CLIP's text layers": (coca.coca_emoji, ["text.heads", "5"], "system.text.width 192"),
    "heads of CoCa's upper half": (coca.coca_emoji, ["multimodal.heads", "5"], "system.text.width 192"),
    "heads of a pooler": (coca.coca_experts, ["pooler.heads", "5"], "system.text.width 192"),
    "no heads": (mae.mae_emoji, ["image.heads", "0"], "give a divisor"),
    "heads of a decoder": (mae.mae_emoji, ["decoder-heads", "5"], "system.decoder_width 96"),
    "patches": (mae.mae_emoji, ["image.patch-size", "7"], "patch_size 7: give a multiple of it"),
    "sines and cosines": (mae.mae_emoji, ["decoder-width", "30"], "a multiple of 4"),
    "pictures of a stem": (
        simvlm.simvlm_emoji,
        ["image.image-size", "60"],
        "system.image.image_size is 60 and the stride of system.image.blocks 8: give a multiple of it",
    ),
    "no stages of a stem": (simvlm.simvlm_emoji, ["image.blocks"], "blocks is empty"),
    "pictures of a VQ-VAE": (
        vqvae.vqvae_scenes,
        ["image-size", "81"],
        "a VQ-VAE's image_size is 81 and the product of its strides 8: give a multiple of it",
    ),
    "no strides": (vqvae.vqvae_scenes, ["strides"], "strides are empty"),
    "positions of a prefix network": (
        simvlm.simvlm_emoji,
        ["text.positions", "4"],
        "max_length is 32, and there are positions for texts of 4 tokens: raise system.text.positions",
    ),
    "positions of CLIP": (clip.clip_emoji, ["text.positions", "4"], "positions for texts of 4 tokens"),
    "positions of FLIP": (
        lambda: flip.flip_emoji()[0],
        ["text.positions", "4"],
        "positions for texts of 4 tokens",
    ),
    "positions of a generalist": (
        generalist.generalist_scenes,
        ["text.positions", "9"],
        "system.text.positions is 9: raise it",
    ),
    "positions": (coca.coca_experts, ["text.positions", "4"], "positions for texts of 4 tokens"),
    "no query for captions": (
        coca.coca_experts,
        ["pooler.form", "single", "--system.pooler.queries", "1"],
        "at least 2",
    ),
}


@pytest.mark.parametrize("case", WRONG)
def test_what_does_not_fit_is_one_sentence(case: str) -> None:
    recipe, (flag, *values), says = WRONG[case]
    run = recipe()
    generic: Any = Run
    kind = generic[type(run.system), type(run.data)]
    with pytest.raises(UserError, match=says):
        override(run, [f"--system.{flag}", *values], kind=kind, prog="it")
