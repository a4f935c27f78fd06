"""Replays of what comes before BEiT-3's first step: initialisation, groups, loading, tokens."""

from __future__ import annotations

import json
import math
import warnings
from dataclasses import replace
from typing import Any

import beit3
import official
import torch
from case import Case, Rule
from torch import Tensor

from multiway.systems import NETWORKS
from multiway.systems.beit3_config import (
    CaptionerConfig,
    ClassifierConfig,
    NetworkConfig,
    NLVR2Config,
    RetrievalConfig,
    TextConfig,
    VQAConfig,
    large,
)
from multiway.systems.beit3_heads import Classifier
from multiway.systems.beit3_system import MultiwaySystem
from multiway.systems.patches import ImageConfig
from multiway.text import Tokenizer, TokenizerConfig
from multiway.train.optim import build_optimizer
from multiway.train.run import TrainConfig
from multiway.weights import beit3 as layouts

#: The end of an official model's name, or the tag of a recorded initialisation, and our config.
TASKS: dict[str, type[NetworkConfig]] = {
    "retrieval": RetrievalConfig,
    "captioning": CaptionerConfig,
    "vqav2": VQAConfig,
    "vqa": VQAConfig,
    "nlvr2": NLVR2Config,
    "imageclassification": ClassifierConfig,
    "imagenet": ClassifierConfig,
}


def rule(case: Case, name: str) -> Rule:
    """As every README states it; `ddp_mean` too."""
    return Rule(1e-5, 1e-3) if "grad" in name else Rule(1e-5, 1e-4)


def load_interpolate(case: Case) -> dict[str, Any]:
    """A table of positions for larger pictures."""
    name = "beit3.encoder.embed_positions.A.weight"
    config = beit3.config_of(case, ClassifierConfig)
    target = replace(config.image, image_size=case.config["target_img_size"])
    with torch.device("meta"):
        model = Classifier(replace(config, image=target))
    return {name: model.resize("network.image_positions", case.inputs[name])}


def tokenizer(case: Case) -> dict[str, Any]:
    """Ids of the recorded texts, whole and as segments; a difference stops the replay."""
    recorded = json.loads((case.folder / "tokenizer_cases.json").read_text())
    length = case.config["num_max_bpe_tokens"]
    config = TokenizerConfig(
        kind="sentencepiece",
        vocab=str(case.folder / "tiny.spm"),
        cleaning="none",
        add_sep=True,
        max_length=length,
    )
    ours = Tokenizer.load(config)
    for one in recorded["cases"]:
        _same(one["text"], ours.encode(one["text"], max_length=10**6), one["ids_with_special"])
    for one in recorded["segments"]:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of texts that are cut, which is the point here
            ids, mask = ours([one["text"]], padding="max_length")
        _same(one["text"], ids[0].tolist(), one["language_tokens"])
        _same(one["text"], (1 - mask[0]).tolist(), one["padding_mask"])
        _same(one["text"], int(mask.sum()), one["num_tokens"])
    _same("vocabulary", ours.vocab_size, recorded["special"]["vocab_size"])
    ids = (ours.cls_id, ours.pad_id, ours.sep_id, ours.unk_id, ours.mask_id)
    return {"special_ids": torch.tensor(ids)}


def _same(text: str, ours: Any, recorded: Any) -> None:
    if ours != recorded:
        raise ValueError(f"{text!r}: {ours}, recorded {recorded}")


def layer_decay_groups(case: Case) -> dict[str, Any]:
    """Every parameter's share of the learning rate and its weight decay, in the official order of groups."""
    out: dict[str, Any] = {}
    for recipe, asked in case.config["recipes"].items():
        model = _of_name(asked["model"])
        names = [(e.ours, name) for e in layouts.layout(model.config).entries for name in e.theirs]
        head, decay = asked["task_head_lr_weight"], asked["layer_decay"]
        config = TrainConfig(
            steps=1,
            weight_decay=asked["weight_decay"],
            layer_decay=decay if decay < 1 else None,
            lr_scale={"head": float(head)} if head and decay == 1 else {},
        )
        place = {p: g for g in build_optimizer(model, config).param_groups for p in g["params"]}
        own = {name: place.get(parameter) for name, parameter in model.named_parameters()}
        found = {theirs: own[ours] for ours, theirs in names}
        table = {n: (float(g["scale"]), float(g["weight_decay"])) for n, g in found.items() if g is not None}
        groups: dict[tuple[float, float], int] = {}
        for pair in table.values():
            groups[pair] = groups.get(pair, 0) + 1
        out |= {
            f"outputs.{recipe}.groups": table,
            f"outputs.{recipe}.num_parameters": len(found),
            f"outputs.{recipe}.not_in_optimizer": {n for n, g in found.items() if g is None},
            f"{recipe}/lr_scale_f64": torch.tensor([s for s, _ in groups], dtype=torch.float64),
            f"{recipe}/weight_decay_f64": torch.tensor([d for _, d in groups], dtype=torch.float64),
            f"{recipe}/num_tensors_in_group": torch.tensor(list(groups.values())),
        }
    return out


def _of_name(name: str) -> MultiwaySystem:
    """A model on the meta device from its official name, as beit3_base_patch16_384_retrieval."""
    _, size, patch, pixels, task = name.split("_")
    image = ImageConfig(image_size=int(pixels), patch_size=int(patch.removeprefix("patch")))
    config: Any = TASKS[task](image=image, **(large() if size == "large" else {}))
    with torch.device("meta"):
        return NETWORKS[config.system].network()(config)


def groups_rule(case: Case, name: str) -> Rule:
    return Rule(relative=1e-12)


def init(case: Case) -> dict[str, Any]:
    """Statistics of freshly built networks; their draws are not the official ones."""
    sizes = case.config["model"]
    given = {
        "image": ImageConfig(image_size=sizes["img_size"], patch_size=sizes["patch_size"]),
        "text": TextConfig(vocab_size=sizes["vocab"]),
        "width": sizes["dim"],
        "depth": sizes["layers"],
        "heads": sizes["heads"],
        "hidden": sizes["ffn"],
    }
    rows: dict[str, list[Tensor]] = {}
    for tag in ("retrieval", "vqa", "nlvr2", "captioning", "imagenet"):
        classes = {} if tag not in ("vqa", "imagenet") else {"classes": _classes(case, tag)}
        config: Any = TASKS[tag](**given, **classes)
        for seed in case.inputs["seeds"].tolist():
            torch.manual_seed(int(seed))
            model = NETWORKS[config.system].network()(config)
            for name, value in official.weights(model, layouts.layout(config)).items():
                value = value.double()
                std = value.std(correction=0) if value.numel() > 1 else torch.zeros(())
                for kind, number in (("mean", value.mean()), ("std", std), ("absmax", value.abs().max())):
                    rows.setdefault(f"{tag}/{kind}.{name}", []).append(number)
    return {name: torch.stack(values) for name, values in rows.items()}


def _shapes(case: Case) -> dict[str, dict[str, Any]]:
    return json.loads((case.folder / "outputs.json").read_text())


def _classes(case: Case, tag: str) -> int:
    """How many classes the recorded head has."""
    last = {"vqa": "vqa/head.3.bias", "imagenet": "imagenet/head.bias"}[tag]
    return _shapes(case)[last]["shape"][0]


def init_rule(case: Case, name: str) -> Rule:
    """Constants exactly; else six standard errors of the difference of two draws."""
    tag, _, rest = name.partition("/")
    kind, _, parameter = rest.partition(".")
    told = _shapes(case)[f"{tag}/{parameter}"]
    if told["kind"] != "random":
        return Rule(1e-7)
    std, count = told["std"], math.prod(told["shape"])
    if kind == "absmax":  # a normal distribution has no edge
        if told["absmax_over_std"] > 2.5:
            return Rule(1.5 * std)
        # A uniform one of few elements stays below its edge, sqrt(3) std: by more once in 100,000 draws.
        return Rule(std * max(0.15, math.sqrt(3) * (1 - 1e-5 ** (1 / count))))
    error = std / math.sqrt(count) * (1.0 if kind == "mean" else 2**-0.5)
    return Rule(6 * 2**0.5 * error)
