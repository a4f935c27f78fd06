"""Replays of what surrounds VLMo's pre-training: fresh weights, groups, stages, other sizes, fine-tuning."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial
from typing import Any

import official
import torch
import vlmo
from case import Case, Rule, at_tokens
from torch import Tensor

from multiway.batch import Batch
from multiway.core.relative import image_index, joint_index
from multiway.metrics.retrieval import Positives, block_ranks, recall
from multiway.systems.base import System
from multiway.systems.patches import ImageConfig
from multiway.systems.vlmo import VLMo
from multiway.systems.vlmo_config import (
    AnswerConfig,
    MultiwayConfig,
    ReasoningConfig,
    RetrievalConfig,
    TextConfig,
    VLMoConfig,
)
from multiway.systems.vlmo_heads import AnswerModel, ReasoningModel, Retrieval
from multiway.systems.vlmo_stages import frozen
from multiway.systems.vlmo_system import Multiway
from multiway.text import TokenizerConfig
from multiway.train.optim import build_optimizer, fits, freeze
from multiway.train.run import TrainConfig
from multiway.weights import beit as beit_layouts
from multiway.weights import vlmo as layouts
from multiway.weights.keymap import Layout, to_ours, to_theirs
from multiway.weights.official import load_layout

KINDS: dict[type[MultiwayConfig], type[Multiway]] = {
    VLMoConfig: VLMo,
    RetrievalConfig: Retrieval,
    AnswerConfig: AnswerModel,
    ReasoningConfig: ReasoningModel,
}


def fresh(config: MultiwayConfig) -> Multiway:
    """The network of a config."""
    return KINDS[type(config)](config)


# --- fine-tuning


def retrieval_finetune(case: Case) -> dict[str, Any]:
    """The dual encoder alone, and its recalls."""
    model = vlmo.load(Retrieval, RetrievalConfig(**vlmo.sizes(case.config["model"])), case.weights)
    image, ids, mask = (case.inputs[n] for n in ("image", "text_ids", "text_masks"))
    network, batch = model.transformer, Batch(image=image, input_ids=ids, attention_mask=mask)
    loss = model.losses(batch, model.init_state())["itc"]
    loss.backward()
    with torch.no_grad():
        pictures, texts = model.image_context(image)[0], model.text_context(ids, mask)[0]
        logits = model.logit_scale.exp() * pictures @ texts.T
        out = vlmo.relative(network, ids.shape[1]) | {
            "image/cls_feats": pictures,
            "image/feats": network(image),
            "text/cls_feats": texts,
            "text/feats": at_tokens(network.text(network.embed_text(ids), mask)[0], mask),
            "step/irtr_i2t_logits": logits,
            "step/irtr_t2i_logits": logits.T,
            "step/irtr_logit_scale": model.logit_scale.exp(),
            "step/irtr_loss": loss,
        }
    scores, owner = case.inputs["recall_scores"].numpy(), case.inputs["recall_text_image_ids"].numpy()
    images, captions = range(len(scores)), range(len(owner))
    for mark, matrix, pairs in (("tr", scores, (owner, captions)), ("ir", scores.T, (captions, owner))):
        positives = Positives.from_pairs(*pairs, queries=len(images if mark == "tr" else captions))
        ranks = block_ranks(matrix, *positives.rows(0, len(matrix)))
        out |= {f"recall/{mark}_r{k}": torch.tensor(recall(ranks, k) / 100) for k in (1, 5, 10)}
    return out | vlmo.gradients(model) | {"config.params_without_grad": vlmo.idle(model)}


def vqa(case: Case) -> dict[str, Any]:
    """Answers as classes; what they should be from the recorded labels and scores."""
    count = case.config["num_answers"]
    labels = tuple(map(str, range(count)))
    config = AnswerConfig(labels=labels, **vlmo.sizes(case.config["model"]))
    model = vlmo.load(AnswerModel, config, case.weights)
    image, ids, mask = (case.inputs[n] for n in ("image", "text_ids", "text_masks"))
    targets = torch.zeros(len(ids), count)
    for row, (answers, scores) in enumerate(
        zip(case.config["vqa_labels"], case.config["vqa_scores"], strict=True)
    ):
        for answer, score in zip(answers, scores, strict=True):
            targets[row, answer] = score
    batch = Batch(image=image, input_ids=ids, attention_mask=mask, targets=targets)
    loss = model.losses(batch, model.init_state())["vqa"]
    loss.backward()
    with torch.no_grad():
        logits = model.predict(batch)
    score = targets.gather(1, logits.argmax(1, keepdim=True)).mean()
    return (
        vlmo.together(model, "fused", image, ids, mask)
        | vlmo.gradients(model)
        | {
            "step/vqa_logits": logits,
            "step/vqa_loss": loss,
            "step/vqa_score": score,
            "step/vqa_targets": targets,
            "config.params_without_grad": vlmo.idle(model),
        }
    )


def nlvr2(case: Case) -> dict[str, Any]:
    """Two pictures with one text."""
    config = ReasoningConfig(**(vlmo.sizes(case.config["model"]) | {"types": 3}))
    model = vlmo.load(ReasoningModel, config, case.weights)
    images = [case.inputs[f"image_{i}"] for i in range(2)]
    ids, mask = case.inputs["text_ids"], case.inputs["text_masks"]
    labels = case.inputs["answers"]
    batch = Batch(image=torch.stack(images, 1), input_ids=ids, attention_mask=mask, labels=labels)
    loss = model.losses(batch)["loss"]
    loss.backward()
    network = model.transformer
    with torch.no_grad():
        vectors, logits = model.judge(torch.cat(images), ids, mask)
        out = {"step/nlvr2_logits": logits, "step/nlvr2_loss": loss}
        for i, image in enumerate(images):
            states = network.pair(network.embed_text(ids), mask, network.embed_image(image, 1 + i))
            out |= {
                f"image{i}/text_feats": at_tokens(states[:, : ids.shape[1]], mask),
                f"image{i}/image_feats": states[:, ids.shape[1] :],
                f"image{i}/pooled_cls": vectors.chunk(2)[i],
            }
    return out | vlmo.gradients(model) | {"config.params_without_grad": vlmo.idle(model)}


# --- from one network to another


@torch.no_grad()
def load_larger_image(case: Case) -> dict[str, Any]:
    """A pre-training checkpoint in a dual encoder for larger pictures."""
    config = RetrievalConfig(**vlmo.sizes(case.config["model"]))
    model, layout = Retrieval(config), layouts.layout(config)
    report = load_layout(model, layout, case.weights)
    image, ids, mask = (case.inputs[n] for n in ("image", "text_ids", "text_masks"))
    grid, longest = config.image.grid, config.relative_positions
    absolute = Retrieval(replace(config, positions="absolute"))
    # Their constants are buffers of the model, and the indices were popped before.
    indices = {name for name in case.weights if name.endswith("relative_position_index")}
    theirs = {entry.ours: entry.theirs for entry in layout.entries}
    return {
        "relative_position_bias_table": model.transformer.relative.table,
        "relative_position_index": image_index(grid),
        "text_imag_relative_position_index": joint_index(ids.shape[1], grid, positions=longest),
        "image/cls_feats": model.image_context(image)[0],
        "text/cls_feats": model.text_context(ids, mask)[0],
        "abs/transformer.pos_embed": absolute.resize(
            "transformer.positions", case.inputs["abs/transformer.pos_embed"]
        ),
        "config.missing_keys": {key for name in report.missing for key in theirs[name]},
        "config.unexpected_keys": set(report.unexpected) - indices,
    }


def stages_textmlm(case: Case) -> dict[str, Any]:
    """BEiT, then the stage of texts with its frozen parts, then the stage of pairs."""
    beit = _under(case.inputs, "beit/")
    stage2 = _under(case.weights, "stage2/")
    config = vlmo.text_stage(case.config["model"])
    layout = layouts.layout(config)
    beit_layout = beit_layouts.layout_of(beit_layouts.config_of(beit))
    before = VLMo(config)
    with torch.no_grad():
        before.transformer.relative.table.copy_(case.inputs["before/relative_position_bias_table"])
    given, own = before.adopt(to_ours(beit_layout, beit)[0]), before.state_dict()
    taken = {n: t for n, t in given.items() if n in own}
    converted = to_theirs(layout, taken, ties=False)
    found = {  # their names for what has a place
        key
        for e in beit_layout.entries
        if e.ours.replace("image_tower.", "transformer.") not in given.keys() - own.keys()
        for key in e.theirs
    }
    unexpected = {f"transformer.{key}": tensor for key, tensor in beit.items() if key not in found}
    model = vlmo.load(VLMo, config, stage2)
    loaded = model.state_dict()
    different = [n for n, t in taken.items() if not torch.equal(t, loaded[n])]
    if different:
        raise ValueError(f"the recorded model of the second stage was not given these of BEiT: {different}")
    prefixes = frozen("text", config)
    freeze(model, prefixes)
    ids, mask = case.inputs["text_ids_mlm"], case.inputs["text_masks"]
    draws = vlmo.Draws(mlm_input_ids=ids, mlm_labels=case.inputs["text_labels_mlm"])
    network = model.transformer
    with torch.no_grad(), vlmo.Watched(network) as watched:
        (hidden,) = network.text(network.embed_text(ids), mask)
        out = watched.named("text_only", config.depth, mask)
    figure = model.figure(Batch(input_ids=case.inputs["text_ids"], attention_mask=mask), draws)
    figure.losses["loss"].backward()
    standing, moving = parted(model, prefixes)
    shape = official.recorded_shape(case, "stage3/text_embeddings.position_embeddings.weight")
    pairs = VLMoConfig(**vlmo.sizes(case.config["model"] | {"max_text_len": shape[0]}))
    third, third_layout = VLMo(pairs), layouts.layout(pairs)
    words = third.transformer.text_embed
    adopted = third.adopt(loaded)
    third.load_state_dict(adopted, strict=False)
    fresh_names = set(third.state_dict()) - set(adopted)
    mapping = "config.mapping."
    return (
        out
        | vlmo.relative(network, ids.shape[1])
        | vlmo.gradients(model)
        | {f"converted/{n}": t for n, t in (converted | unexpected).items()}
        | {
            "text/text_embeddings": at_tokens(network.text_embed(ids).detach(), mask),
            "text_only/text_feats": at_tokens(hidden, mask),
            "step/mlm_logits": at_tokens(model.words(hidden), mask),
            "step/mlm_loss": figure.losses["mlm"],
            "stage3/relative_position_bias_table": third.transformer.relative.table,
            "stage3/text_embeddings.position_embeddings.weight": words.positions.weight,
            f"{mapping}stage1_beit_to_stage2.missing_keys": layout.keys() - set(converted),
            f"{mapping}stage1_beit_to_stage2.unexpected_keys": set(unexpected),
            f"{mapping}stage2_trainable": moving,
            f"{mapping}stage2_frozen": standing,
            f"{mapping}stage2_to_stage3.missing_keys": {
                key for e in third_layout.entries if e.ours in fresh_names for key in e.theirs
            },
            f"{mapping}stage2_to_stage3.unexpected_keys": layout.keys() - third_layout.keys(),
            "config.params_without_grad_though_trainable": vlmo.idle(model) & moving,
        }
    )


def _under(tensors: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {n.removeprefix(prefix): t for n, t in tensors.items() if n.startswith(prefix)}


def parted(model: Multiway, prefixes: tuple[str, ...]) -> tuple[set[str], set[str]]:
    """Official names of what a plan freezes, and of all else."""
    entries = layouts.layout(model.config).entries
    standing = {n for e in entries if any(fits(e.ours, p) for p in prefixes) for n in e.theirs}
    return standing, {n for e in entries for n in e.theirs} - standing


# --- optimizer and initialisation

FULL = {
    "vlmo_base_patch16": {},
    "vlmo_large_patch16": {"width": 1024, "depth": 24, "heads": 16, "hidden": 4096, "joint_layers": 3},
}
FULL["vlmo_base_plus_patch16"] = FULL["vlmo_large_patch16"] | {
    "width": 544,
    "hidden": 2176,
    "positions": "absolute",
    "layer_scale": None,
}


def layer_decay_groups(case: Case) -> dict[str, Any]:
    """Parameter groups of the official recipes, at full size; frozen ones too, as officially."""
    out: dict[str, Any] = {}
    for name, recipe in case.config["recipes"].items():
        config = _of_recipe(recipe)
        train = TrainConfig(steps=1, lr=recipe["lr"], weight_decay=recipe["weight_decay"])
        table, model = grouped(config, train, float(recipe["lr_mult"]))
        heads = {key for key in table if "_classifier." in key}
        # Four groups, empty ones too: decayed or not, then those of heads.
        rows = [
            (s, d, sum(table[k] == (s, d) for k in keys))
            for s, keys in ((1.0, set(table) - heads), (float(recipe["lr_mult"]), heads))
            for d in (recipe["weight_decay"], 0.0)
        ]
        scales, decays, counts = zip(*rows, strict=True)
        standing = frozen("text", config) if recipe["losses"].get("textmlm") else ()
        out |= {
            f"{name}/lr_scale_f64": torch.tensor(scales, dtype=torch.float64),
            f"{name}/weight_decay_f64": torch.tensor(decays, dtype=torch.float64),
            f"{name}/num_tensors_in_group": torch.tensor(counts),
            f"outputs.{name}.groups": table,
            f"outputs.{name}.num_parameters": len(list(model.parameters())),
            f"outputs.{name}.not_in_optimizer": set(),
            f"outputs.{name}.frozen_though_in_a_group": parted(model, standing)[0],
        }
    return out


def grouped(
    config: MultiwayConfig, train: TrainConfig, heads: float = 1.0
) -> tuple[dict[str, tuple[float, float]], Multiway]:
    """Official name -> (share of the learning rate, weight decay), and the model, without weights."""
    with torch.device("meta"):
        model = fresh(config)
    model.requires_grad_(True)
    if hasattr(model, "classifier"):
        train = replace(train, lr_scale={"classifier": heads})
    names = {p: n for n, p in model.named_parameters()}
    theirs = {e.ours: e.theirs for e in layouts.layout(config).entries}
    return {
        key: (group["scale"], group["weight_decay"])
        for group in build_optimizer(model, train).param_groups
        for parameter in group["params"]
        for key in theirs[names[parameter]]
    }, model


def groups_rule(case: Case, name: str) -> Rule:
    """As the case's README states it."""
    return Rule(relative=1e-12)


def _of_recipe(recipe: dict[str, Any]) -> MultiwayConfig:
    longest, losses = recipe["max_text_len"], recipe["losses"]
    sizes: dict[str, Any] = FULL[recipe["model"]] | {
        "image": ImageConfig(image_size=recipe["image_size"]),
        "text": TextConfig(positions=longest),
        "tokenizer": TokenizerConfig(cleaning="none", add_sep=True, max_length=longest),
    }
    if losses.get("vqa"):
        return AnswerConfig(labels=tuple(map(str, range(recipe.get("vqav2_label_size", 3129)))), **sizes)
    if losses.get("nlvr2"):
        return ReasoningConfig(**(sizes | {"types": 3}))
    if losses.get("irtr"):
        return RetrievalConfig(**sizes)
    if losses.get("textmlm"):
        return VLMoConfig(stage="text", **(sizes | {"joint_layers": 0}))
    return VLMoConfig(**sizes)


def init(case: Case) -> dict[str, Any]:
    """Statistics of freshly built models; their draws are not the official ones."""
    recorded = case.config["model"]
    sizes = vlmo.sizes(recorded)
    answers = tuple(map(str, range(recorded["vqav2_label_size"])))
    configs = {
        "pretrain": VLMoConfig(**sizes),
        "abs": VLMoConfig(**(sizes | {"positions": "absolute", "layer_scale": None})),
        "vqa": AnswerConfig(labels=answers, **sizes),
        "nlvr2": ReasoningConfig(**(sizes | {"types": 3})),
    }
    makers = {tag: partial(fresh, config) for tag, config in configs.items()}
    return statistics(case, makers, lambda model: layouts.layout(model.config))


def statistics(
    case: Case, makers: dict[str, Callable[[], System]], layout: Callable[[Any], Layout]
) -> dict[str, Tensor]:
    """Mean, deviation and largest value of every tensor of models that are built after each recorded seed."""
    out: dict[str, list[Tensor]] = {}
    for seed in case.inputs["seeds"]:
        for tag, make in makers.items():
            torch.manual_seed(int(seed))
            model = make()
            for name, tensor in official.weights(model, layout(model)).items():
                for kind, value in (
                    ("mean", tensor.double().mean()),
                    ("std", tensor.double().std(correction=0)),
                    ("absmax", tensor.abs().max()),
                ):
                    out.setdefault(f"{tag}/{kind}.{name}", []).append(value.float())
    return {name: torch.stack(values) for name, values in out.items()}


def init_rule(case: Case, name: str) -> Rule:
    """Six standard errors of a difference of two draws; constants exactly.

    The recorded statistics of a parameter tell its size: the spread of its means is std / sqrt(numel).
    """
    facts = init_facts(case, name)
    std, numel = facts["std"], facts["numel"]
    exactly = 1e-7
    if "/absmax." in name:
        return Rule(3.5 * std + exactly)
    error = std / numel**0.5 if "/mean." in name else std / (2 * numel) ** 0.5
    return Rule(6 * 2**0.5 * error + exactly)


def init_facts(case: Case, name: str) -> dict[str, float]:
    """Elements of a parameter, and the standard deviation that it is drawn with."""
    tag, _, parameter = name.partition("/")
    key = f"{tag}/{parameter.partition('.')[2]}"
    found = json.loads((case.folder / "outputs.json").read_text())[key]
    return {"std": found["std"], "numel": math.prod(found["shape"])}
