"""Replays of BEiT's recorded cases: each function returns {recorded name: our value}."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import official
import torch
from case import Case, Rule
from torch import Tensor, nn

from multiway.batch import Batch
from multiway.data.patch_masks import BlockMask, block_mask
from multiway.systems.base import System
from multiway.systems.beit import BEiT, Draws
from multiway.systems.beit_config import BEiTConfig, ClassifierConfig, beit_vit, classifier_vit
from multiway.systems.beit_heads import Classifier
from multiway.systems.dvae import DVAE, DVAEConfig, mapped
from multiway.systems.vit import ViTConfig
from multiway.train.optim import build_optimizer
from multiway.train.run import TrainConfig
from multiway.weights import beit as layouts
from multiway.weights import dvae, hf_beit
from multiway.weights.keymap import Entry, Layout


def rule(case: Case, name: str) -> Rule:
    """As every README of these cases states it."""
    if name.endswith("_f64"):
        return Rule(relative=1e-12)
    return Rule(absolute=1e-6, relative=1e-3) if "grad_norm" in name else Rule(absolute=1e-5, relative=1e-4)


def vit(sizes: dict[str, Any], **changes: Any) -> ViTConfig:
    """Our config of a case's ViT."""
    config = beit_vit(
        image_size=sizes["img_size"],
        patch_size=sizes["patch_size"],
        width=sizes["dim"],
        depth=sizes["depth"],
        heads=sizes["heads"],
        hidden=int(sizes["mlp_ratio"] * sizes["dim"]),
        eps=sizes["layer_norm_eps"],
        layer_scale=sizes.get("init_values", 0.1) or None,
        absolute_positions=sizes.get("use_abs_pos_emb", False),
        relative_bias="shared" if sizes.get("use_shared_rel_pos_bias", True) else "none",
    )
    return replace(config, **changes)


def fill(model: System, layout: Layout, case: Case) -> None:
    """Load the recorded weights; the index buffers among them must be the ones that we compute."""
    for name, constant in layout.constants.items():
        if name.endswith(layouts.INDEX) and not torch.equal(case.weights[name], constant):
            raise ValueError(f"{name} is another index than ours")
    official.fill(model, layout, case.weights)


def of_gradients(model: nn.Module, layout: Layout) -> dict[str, Any]:
    """Gradients under official names, their norms, and which parameters have none."""
    grads = official.gradients(model, layout)
    return {
        **{f"grad.{n}": g for n, g in grads.items()},
        **{f"grad_norm.{n}": g.norm() for n, g in grads.items()},
        "grad_norm_total": torch.stack([g.norm() for g in grads.values()]).norm(),
        "config.params_without_grad": {n for n, p in model.named_parameters() if p.grad is None},
    }


def mim(case: Case) -> dict[str, Any]:
    """Masked image modelling of given tokens, with a given mask; with aggregation where the case has it."""
    sizes = case.config["model"]
    config = BEiTConfig(
        image=vit(sizes),
        codes=sizes["vocab"],
        early_layer=sizes.get("early_layers"),
        aggregation_layers=sizes.get("head_layers", 2),
        shared_head=sizes.get("shared_lm_head", True),
    )
    model, layout = BEiT(config), layouts.layout(config)
    fill(model, layout, case)
    return masked(model, layout, case)


def masked(model: BEiT, layout: Layout, case: Case) -> dict[str, Any]:
    """Loss, gradients and hidden states."""
    image, mask, tokens = (case.inputs[n] for n in ("image", "bool_masked_pos", "visual_tokens"))
    out = model.losses(Batch(image=image), model.init_state(), Draws(mask=mask, tokens=tokens))
    out["loss"].backward()
    found = {"loss": out["loss"], "mlm_acc": out["accuracy"], **of_gradients(model, layout)}
    found |= {"loss_1": out["mim"], "loss_2": out.get("mim_cls", out["mim"])}
    with torch.no_grad():
        hidden, tower = model.hidden(image, mask), model.image_tower
        x = tower.embed(image, mask, model.mask_token)
        found |= {
            "hidden0": x,
            "features": hidden.last,
            "logits_masked": model.head(hidden.last[:, 1:][mask]),
        }
        found["logits_all_tokens"] = model.head(hidden.last[:, 1:])
        for i in range(len(tower.blocks)):
            x = tower.layers(x, i, i + 1)
            found |= {f"block{i}": x, f"hidden{i + 1}": x}
        if tower.relative is not None:
            found["rel_pos_bias"] = tower.biases()[0][0]
        if hidden.aggregated is not None:
            head = model.aggregation.head or model.head
            found["logits_cls_pt_masked"] = head(hidden.aggregated[:, 1:][mask])
    return found


def hf(case: Case) -> dict[str, Any]:
    """transformers' `BeitForMaskedImageModeling`; without mean pooling it has two last norms in a row."""
    sizes = case.config["model"]
    shared, own = (sizes[f"use_{kind}relative_position_bias"] for kind in ("shared_", ""))
    image = beit_vit(
        image_size=sizes["image_size"],
        patch_size=sizes["patch_size"],
        width=sizes["hidden_size"],
        depth=sizes["num_hidden_layers"],
        heads=sizes["num_attention_heads"],
        hidden=sizes["intermediate_size"],
        eps=sizes["layer_norm_eps"],
        layer_scale=sizes["layer_scale_init_value"] or None,
        absolute_positions=sizes["use_absolute_position_embeddings"],
        relative_bias="shared" if shared else "layers" if own else "none",
    )
    config = BEiTConfig(image=image, codes=sizes["vocab_size"])
    model, layout = BEiT(config), hf_beit.layout(config)
    if sizes["use_mean_pooling"]:
        fill(model, layout, case)
        return masked(model, layout, case)
    model.image_tower.norm = nn.Sequential(
        nn.LayerNorm(image.width, eps=image.eps), nn.LayerNorm(image.width, eps=image.eps)
    )
    entries = [replace(e, ours=e.ours.replace(".norm.", ".norm.1.")) for e in layout.entries]
    for part in ("weight", "bias"):
        entries.append(Entry(f"image_tower.norm.0.{part}", (f"beit.layernorm.{part}",)))
    # "blocks.0.norm1." and its like hold no ".norm.", so that only the tower's own norm is renamed.
    layout = Layout(tuple(entries))
    fill(model, layout, case)
    return masked(model, layout, case)


def classifier(case: Case) -> dict[str, Any]:
    """The fine-tuning classifier."""
    sizes = case.config["model"]
    labels = tuple(map(str, range(sizes["num_classes"])))
    image = classifier_vit(vit(sizes))
    if not sizes["use_mean_pooling"]:
        image = replace(image, pool="cls")
    if not sizes["use_rel_pos_bias"]:
        image = replace(image, relative_bias="none")
    config = ClassifierConfig(image=image, labels=labels)
    model, layout = Classifier(config), layouts.classifier_layout(config)
    fill(model, layout, case)
    batch = Batch(image=case.inputs["image"], labels=case.inputs["labels"])
    loss = model.losses(batch, model.init_state())["loss"]
    loss.backward()
    with torch.no_grad():
        pooled = model.image_tower.pooled(model.image_tower(batch.image))
        logits = model.predict(batch)
    return {"loss_ce": loss, "logits": logits, "pooled_features": pooled, **of_gradients(model, layout)}


class Recorded:
    """The choices of a recorded run, in order; each must be asked for as it was recorded."""

    def __init__(self, rows: Tensor, seed: int):
        self.rows = iter(rows.tolist())
        self.numpy = np.random.RandomState(seed)

    def _next(self, kind: int, a: float, b: float) -> float:
        recorded = next(self.rows, None)
        if recorded is None or not np.allclose(recorded[:3], (kind, a, b), rtol=1e-12, atol=0):
            raise ValueError(f"the choice {(kind, a, b)} was recorded as {recorded}")
        return recorded[3]

    def uniform(self, a: float, b: float) -> float:
        return self._next(0, a, b)

    def randint(self, a: int, b: int) -> int:
        return int(self._next(1, a, b))

    def choice(self, count: int, size: int) -> np.ndarray:
        return self.numpy.choice(count, size, replace=False)


def masks(case: Case, *, exact: bool) -> dict[str, Any]:
    """Block-wise masks, from the recorded choices; every one of them must have been used."""
    out = {}
    for combo in case.config["combos"]:
        config = BlockMask(
            patches=combo["num_masking_patches"],
            smallest=combo["min_num_patches"],
            largest=combo["max_num_patches"],
            aspect=combo["min_aspect"],
            exact=exact,
        )
        chance = Recorded(case.inputs[f"{combo['name']}/draws_f64"], combo["seed_python_and_numpy"])
        mask = block_mask(config, tuple(combo["input_size"]), chance)
        if next(chance.rows, None) is not None or mask.sum() != combo["masked"]:
            raise ValueError(f"{combo['name']}: choices were left over, or another number is masked")
        out[f"{combo['name']}/mask"] = torch.from_numpy(mask).long()
    return out


@torch.no_grad()
def dalle(case: Case) -> dict[str, Any]:
    """DALL-E's encoder."""
    sizes, image = case.config["model"], case.inputs["image01"]
    if sizes["group_count"] != 4:
        raise ValueError("the encoder has four groups")
    config = DVAEConfig(
        image_size=tuple(image.shape[2:]),
        width=sizes["n_hid"],
        blocks=sizes["n_blk_per_group"],
        codes=sizes["vocab_size"],
    )
    model = DVAE(config)
    official.fill(model, dvae.layout(config), case.weights)
    logits = model.logits(mapped(image))
    codes = model.visual_tokens(image).unflatten(1, tuple(logits.shape[2:]))
    return {"mapped": mapped(image), "logits": logits, "codes": codes}


SIZES = {
    "base": {"width": 768, "depth": 12, "heads": 12, "hidden": 3072},
    "large": {"width": 1024, "depth": 24, "heads": 16, "hidden": 4096},
}


def groups(case: Case) -> dict[str, Any]:
    """Parameter groups of the official recipes, at full size."""
    out: dict[str, Any] = {}
    for name, recipe in case.config["recipes"].items():
        image = beit_vit(
            layer_scale=recipe["model_kwargs"]["init_values"], **SIZES[recipe["model"].split("_")[1]]
        )
        with torch.device("meta"):
            if "layer_decay" in recipe:
                labels = tuple(map(str, range(1000)))
                decay = not recipe["disable_weight_decay_on_rel_pos_bias"]
                config = ClassifierConfig(image=classifier_vit(image), labels=labels, decay_relative=decay)
                model: System = Classifier(config)
                layout = layouts.classifier_layout(config)
            else:
                model = BEiT(BEiTConfig(image=image))
                layout = layouts.layout(model.config)
        train = TrainConfig(
            steps=1,
            lr=recipe["lr"],
            weight_decay=recipe["weight_decay"],
            layer_decay=recipe.get("layer_decay"),
        )
        out |= {f"{name}/{key}": value for key, value in table(model, train).items()}
        out |= {f"outputs.{name}.{key}": value for key, value in named(model, train, layout).items()}
    return out


def table(model: System, train: TrainConfig) -> dict[str, Tensor]:
    """One row a group, from the lowest layer up, what does not decay first: as officially."""
    rows = sorted(
        (g["scale"], g["weight_decay"], len(g["params"])) for g in build_optimizer(model, train).param_groups
    )
    scales, decays, counts = zip(*rows, strict=True)
    return {
        "lr_scale_f64": torch.tensor(scales, dtype=torch.float64),
        "weight_decay_f64": torch.tensor(decays, dtype=torch.float64),
        "num_tensors_in_group": torch.tensor(counts),
    }


def named(model: System, train: TrainConfig, layout: Layout) -> dict[str, Any]:
    """Each official name's (share of the learning rate, weight decay), and how many tensors there are."""
    names = {p: name for name, p in model.named_parameters()}
    theirs = {entry.ours: entry.theirs for entry in layout.entries}
    found = {
        official_name: (group["scale"], group["weight_decay"])
        for group in build_optimizer(model, train).param_groups
        for parameter in group["params"]
        for official_name in theirs[names[parameter]]
    }
    return {"groups": found, "num_parameters": len(names), "not_in_optimizer": []}
