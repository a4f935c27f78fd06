"""Tasks of a model that reads every pair as a whole: retrieval over all pairs, a prefilter, fine-tuning."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image
from tiny_vlmo import shaken

import multiway
from multiway.cli.main import main
from multiway.data.augment import Augment
from multiway.data.labelled import LabelledSource, TaskData
from multiway.errors import UserError
from multiway.systems import NETWORKS
from multiway.systems.vilt_config import AnswerConfig, ViLTConfig, vilt_vit
from multiway.systems.vlmo_config import TextConfig
from multiway.tasks.finetune import TRAIN, finetune, plan
from multiway.tasks.match import match
from multiway.tasks.retrieval import evaluate, measure
from multiway.text import Tokenizer, TokenizerConfig

SIZES = {
    "image": vilt_vit(image_size=32, patch_size=16, width=24, depth=2, heads=2, hidden=40, dropout=0.0),
    "text": TextConfig(positions=16, dropout=0.0),
    "tokenizer": TokenizerConfig(cleaning="none", add_sep=True, max_length=16),
    "longest_side": 64,
}


def built(config):
    torch.manual_seed(0)
    model = shaken(NETWORKS[config.system].network()(config)).eval()
    model.tokenizer = Tokenizer.load(config.tokenizer)
    return model


@pytest.fixture(scope="module")
def vilt():
    return built(ViLTConfig(**SIZES))


@pytest.fixture(scope="module")
def shapes(listed):
    """Pictures of several shapes with their captions."""
    samples = listed([["a red dog"], ["two cats", "grass"], ["a small blue car"], ["grass"], ["a horse"]])
    rng = np.random.default_rng(1)
    sizes = [(40, 40), (80, 40), (40, 90), (30, 60), (64, 32)]
    samples.images = [Image.fromarray(rng.integers(0, 255, (h, w, 3), np.uint8)) for w, h in sizes]
    return samples


@torch.no_grad()
def slow_ranks(model, samples) -> dict[str, list[int]]:
    """One picture and one text at a time."""
    texts = list(dict.fromkeys(line for lines in samples.captions for line in lines))
    scores = np.array(
        [[match(model, [image], [text])[0].logit for text in texts] for image in samples.images]
    )
    tr = [{texts.index(line) for line in lines} for lines in samples.captions]
    ir = [{i for i, lines in enumerate(samples.captions) if text in lines} for text in texts]
    found = {}
    for way, matrix, of in (("tr", scores, tr), ("ir", scores.T, ir)):
        orders = np.argsort(-matrix, axis=1, kind="stable").tolist()
        found[way] = [1 + min(map(order.index, right)) for order, right in zip(orders, of, strict=True)]
    return found


@pytest.mark.parametrize("batch_size", [2, 32])
def test_every_pair_is_scored(vilt, shapes, batch_size: int) -> None:
    found = measure(vilt, shapes, k=1, batch_size=batch_size)
    assert found.pairs == 5 * 5
    assert found.result["itc"] is None
    assert found.result["k"] is None
    for way, ranks in slow_ranks(vilt, shapes).items():
        for k in (1, 5, 10):
            assert found.result["itm"][f"{way}_r{k}"] == pytest.approx(100 * np.mean(np.array(ranks) <= k))
        assert found.result["itm"][f"{way}_median_rank"] == np.median(ranks)
    assert set(found.shuffled) == set(found.result["itm"])
    assert found.outcomes is not None


def test_a_prefilter_that_keeps_all_changes_nothing_and_one_that_keeps_few_scores_few(
    vilt, albef, shapes
) -> None:
    whole, all_kept = evaluate(vilt, shapes), evaluate(vilt, shapes, k=5, prefilter=albef)
    assert all_kept["itm"] == whole["itm"]
    assert all_kept["itc"] == evaluate(albef, shapes)["itc"]
    few = measure(vilt, shapes, k=2, prefilter=albef)
    assert 10 <= few.pairs <= 20


def test_a_prefilter_has_features_and_what_it_serves_a_matching_head(vilt, albef, shapes) -> None:
    with pytest.raises(UserError, match="ViLT has no features: take another model"):
        evaluate(albef, shapes, prefilter=vilt)
    blind = built(AnswerConfig(**SIZES, labels=("yes", "no")))
    with pytest.raises(UserError, match="neither contrastive features nor a matching head"):
        evaluate(blind, shapes, prefilter=albef)


def test_pairs_are_matched_without_a_similarity(vilt, shapes) -> None:
    found = match(vilt, shapes.images[:1], ["a dog", "grass"])
    assert [pair.cosine for pair in found] == [None, None]
    texts = ["a dog", "grass", "two cats", "a car", "a horse"]
    together = match(vilt, shapes.images, texts)
    for pair, image, text in zip(together, shapes.images, texts, strict=True):
        assert pair.probability == pytest.approx(vilt.match(image, text).item(), abs=1e-5)


def test_a_network_without_scores_says_so(shapes) -> None:
    model = built(AnswerConfig(**SIZES, labels=("yes", "no")))
    for ask in (lambda: evaluate(model, shapes), lambda: match(model, shapes.images[:1], ["a dog"])):
        with pytest.raises(UserError, match="neither contrastive features nor a matching head"):
            ask()


def test_commands(vilt, shapes, tmp_path, capsys) -> None:
    folder = multiway.save(vilt, tmp_path / "vilt")
    data = tmp_path / "data"
    data.mkdir()
    for number, image in enumerate(shapes.images):
        image.save(data / f"{number}.png")
        (data / f"{number}.txt").write_text(f"picture {number}")
    picture = str(data / "1.png")
    main(["match", picture, "grass", "two cats", "--model", str(folder), "--json"])
    rows = json.loads(capsys.readouterr().out)["texts"]
    assert [row["similarity"] for row in rows] == [None, None]
    main(["match", picture, "grass", "--model", str(folder)])
    assert " - " in capsys.readouterr().out
    main(["evaluate", "retrieval", "--model", str(folder), "--data", str(data), "--json"])
    assert json.loads(capsys.readouterr().out)["itc"] is None


def test_fine_tuned_for_two_pictures(vilt, tmp_path) -> None:
    folder = multiway.save(vilt, tmp_path / "vilt")
    sources = (LabelledSource(path="scenes:12:1"),)
    data = TaskData(train=sources, val=sources, augment=Augment(crop_scale=None, flip=0.0, rand_n=0))
    train = replace(TRAIN, steps=2, epochs=None, batch_size=4, save_every=2)
    run = plan("nlvr2", folder, data, train=train)
    assert run.system.system == "vilt_nlvr2"
    finetune("nlvr2", run, tmp_path / "out")
    assert multiway.load(tmp_path / "out" / "model").config == run.system
