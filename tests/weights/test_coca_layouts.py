"""CoCa's key map: every key of the published checkpoints at full size, and back again."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from official_shapes import shapes

from multiway.systems.coca import CoCa
from multiway.systems.coca_config import CoCaConfig, MultimodalConfig, PoolerConfig, coca_text, coca_vit
from multiway.weights import coca
from multiway.weights.keymap import to_ours, to_theirs

SHARED = Path(__file__).parents[3] / "shared" / "golden" / "layouts"

PUBLISHED = {
    "ViT-B-32": ((768, 12, 32), (512, 8), 253_560_065),
    "ViT-L-14": ((1024, 24, 14), (768, 12), 638_450_177),
}


def published(name: str) -> CoCaConfig:
    (seen, depth, patch), (width, heads), _ = PUBLISHED[name]
    return CoCaConfig(
        image=coca_vit(
            image_size=224,
            patch_size=patch,
            width=seen,
            depth=depth,
            heads=seen // 64,
            hidden=4 * seen,
            fit="crop",
        ),
        text=coca_text(width=width, heads=heads, hidden=4 * width),
        multimodal=MultimodalConfig(heads=heads, hidden=4 * width, feed_forwards=2, context_norm=True),
        pooler=PoolerConfig(form="single", heads=8),
        embed_dim=width,
        compat=("shifted_padding_mask", "zero_is_padding", "beams_sum_logits"),
    )


@pytest.mark.parametrize("name", PUBLISHED)
def test_coca_at_full_size(name: str) -> None:
    config = published(name)
    with torch.device("meta"):
        model = CoCa(config)
    assert sum(p.numel() for p in model.parameters()) == PUBLISHED[name][2]
    theirs = to_theirs(coca.layout(config), model.state_dict())
    assert coca.config_of(theirs) == config
    ours, missing, unexpected = to_ours(coca.layout(config), theirs)
    assert (missing, unexpected) == ([], [])
    assert shapes(ours) == shapes(model.state_dict())
    recorded = SHARED / f"open_clip_coca_{name}.json"
    if recorded.is_file():
        wanted = {}
        for entry in json.loads(recorded.read_text())["keys"]:
            first, last = map(int, entry.get("i", "0..0").split(".."))
            for i in range(first, last + 1):
                wanted[entry["key"].replace("{i}", str(i))] = tuple(entry["shape"])
        assert shapes(theirs) == wanted


def test_the_paper_counts_parameters_as_we_do() -> None:
    """Table 1: an encoder of 86 M, a decoder of 297 M with its vocabulary of 64,000 words."""
    with torch.device("meta"):
        model = CoCa(CoCaConfig(text=coca_text(vocab_size=64_000)))
    count = {
        part: sum(p.numel() for n, p in model.named_parameters() if n.startswith(prefixes))
        for part, prefixes in model.parts.items()
    }
    assert round((count["text"] + count["interaction"]) / 1e6) == 297
    assert round(sum(p.numel() for p in model.image_tower.parameters()) / 1e6) == 86
