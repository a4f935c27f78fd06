"""ViLT's key maps at full size on the meta device, both ways; official files back into networks."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import official_shapes
import pytest
import tiny_vilt
import torch

import multiway
from multiway.systems import NETWORKS
from multiway.systems.vilt_config import (
    AnswerConfig,
    OneTowerConfig,
    ReasoningConfig,
    RetrievalConfig,
    ViLTConfig,
)
from multiway.weights import vilt
from multiway.weights.convert import official_layout
from multiway.weights.keymap import to_ours, to_theirs

WIDTH, ANSWERS = 768, 3129
CONFIGS: dict[str, OneTowerConfig] = {
    "vilt_200k_mlm_itm": ViLTConfig(),
    "vilt_vqa": AnswerConfig(labels=tuple(f"answer {i}" for i in range(ANSWERS))),
    "vilt_nlvr2": ReasoningConfig(),
    "vilt_irtr": RetrievalConfig(),
}


def head(name: str, hidden: int, width: int, classes: int) -> dict[str, tuple[int, ...]]:
    """Linear, LayerNorm, GELU, Linear."""
    linear = official_shapes.linear
    found = linear(f"{name}.0", hidden, width) | linear(f"{name}.3", classes, hidden)
    return found | {f"{name}.1.weight": (hidden,), f"{name}.1.bias": (hidden,)}


def published(name: str) -> dict[str, tuple[int, ...]]:
    """Names and shapes of the official files (golden/REPORT.md)."""
    words = "text_embeddings"
    found = official_shapes.vit("transformer.", size=384, patch=32)
    found |= {f"{words}.LayerNorm.{part}": (WIDTH,) for part in ("weight", "bias")}
    for table, rows in (("word", 30522), ("position", 40), ("token_type", 2)):
        found[f"{words}.{table}_embeddings.weight"] = (rows, WIDTH)
    found[f"{words}.position_ids"] = (1, 40)
    found["token_type_embeddings.weight"] = (3 if name == "vilt_nlvr2" else 2, WIDTH)
    found |= official_shapes.linear("pooler.dense", WIDTH, WIDTH)
    if name == "vilt_200k_mlm_itm":
        found |= official_shapes.predictions("mlm_score.") | official_shapes.linear("itm_score.fc", 2, WIDTH)
        del found["mlm_score.decoder.bias"]  # it is called mlm_score.bias alone
    if name == "vilt_vqa":
        found |= head("vqa_classifier", 2 * WIDTH, WIDTH, ANSWERS)
    if name == "vilt_nlvr2":
        found |= head("nlvr2_classifier", 2 * WIDTH, 2 * WIDTH, 2)
    if name == "vilt_irtr":
        found |= official_shapes.linear("rank_output", 1, WIDTH)
    return found


@pytest.mark.parametrize("name", CONFIGS)
def test_full_size_both_ways(name: str) -> None:
    config = CONFIGS[name]
    with torch.device("meta"):
        model = NETWORKS[config.system].network()(config)
    own, layout = model.state_dict(), vilt.layout(config)
    theirs = to_theirs(layout, own)
    assert official_shapes.shapes(theirs) == published(name)
    back, missing, unexpected = to_ours(layout, theirs)
    assert not missing
    assert not unexpected
    assert official_shapes.shapes(back) == official_shapes.shapes(own)
    assert vilt.config_of(theirs) == config


@pytest.mark.parametrize("name", ["vilt", "vilt_retrieval", "vilt_vqa", "vilt_nlvr2"])
def test_an_official_file_is_loaded_and_computes_the_same(name: str, tmp_path: Path) -> None:
    """Written, wrapped as Lightning does, recognised and read; one head of 24, for its keys do not tell."""
    given = tiny_vilt.networks()[name]
    given = replace(given, image=replace(given.image, heads=1))
    torch.manual_seed(0)
    model = tiny_vilt.shaken(NETWORKS[given.system].network()(given)).eval()
    theirs = to_theirs(official_layout(model), model.state_dict())
    torch.save({"state_dict": theirs, "epoch": 3}, tmp_path / "last.ckpt")
    loaded = multiway.load(tmp_path / "last.ckpt")
    assert type(loaded) is type(model)
    assert loaded.tokenizer is None  # 60 words are not BERT's
    batch = tiny_vilt.batch_for(name)
    if name in ("vilt_vqa", "vilt_nlvr2"):
        torch.testing.assert_close(loaded.predict(batch), model.predict(batch))
    else:
        ids, mask = batch.text()
        torch.testing.assert_close(*(m.match_pairs(m.look(batch.image), ids, mask) for m in (loaded, model)))


def test_the_frozen_matching_head_of_a_retrieval_checkpoint_is_left_over() -> None:
    config = tiny_vilt.networks()["vilt_retrieval"]
    model = NETWORKS[config.system].network()(config)
    theirs = to_theirs(vilt.layout(config), model.state_dict())
    theirs |= {"itm_score.fc.weight": torch.zeros(2, 24), "itm_score.fc.bias": torch.zeros(2)}
    assert isinstance(vilt.config_of(theirs), RetrievalConfig)
    _, missing, unexpected = to_ours(vilt.layout(config), theirs)
    assert (missing, unexpected) == ([], ["itm_score.fc.bias", "itm_score.fc.weight"])
