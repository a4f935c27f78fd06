"""Replays of BEiT-3's network, its heads and masked data modelling: {recorded name: our value}."""

from __future__ import annotations

from typing import Any, TypeVar

import official
import ranks
import torch
import torch.nn.functional as F
from case import Case, at_tokens
from torch import Tensor, nn

from multiway.batch import Batch
from multiway.systems import NETWORKS
from multiway.systems.beit3 import BEiT3, Draws
from multiway.systems.beit3_config import (
    UNUSED,
    BEiT3Config,
    ClassifierConfig,
    NetworkConfig,
    NLVR2Config,
    RetrievalConfig,
    TextConfig,
    VQAConfig,
    beit3_tokenizer,
)
from multiway.systems.beit3_heads import AnswerModel, Classifier, PairModel, Retrieval
from multiway.systems.beit3_network import MultiwayNetwork
from multiway.systems.patches import ImageConfig
from multiway.weights import beit3 as layouts
from multiway.weights.keymap import Layout

C = TypeVar("C", bound=NetworkConfig)


def sizes(recorded: dict[str, Any]) -> dict[str, Any]:
    """The fields of our config that a case's sizes decide."""
    positions = recorded["max_source_positions"]
    return {
        "image": ImageConfig(image_size=recorded["img_size"], patch_size=recorded["patch_size"]),
        "text": TextConfig(vocab_size=recorded["vocab_size"], positions=positions),
        "tokenizer": beit3_tokenizer(max_length=positions - UNUSED),
        "width": recorded["encoder_embed_dim"],
        "depth": recorded["encoder_layers"],
        "heads": recorded["encoder_attention_heads"],
        "hidden": recorded["encoder_ffn_embed_dim"],
        "eps": recorded["layernorm_eps"],
    }


def config_of(case: Case, kind: type[C], **changes: Any) -> C:
    """Our config of a case's sizes."""
    return kind(**sizes(case.config["model"]), **changes)


def load(case: Case, config: Any) -> tuple[Any, Layout]:
    """Our network with the recorded weights, and its layout."""
    model, layout = NETWORKS[config.system].network()(config), layouts.layout(config)
    official.fill(model, layout, case.weights)
    return model.train(), layout


def pairs(case: Case, prefix: str = "", **fields: Any) -> Batch:
    """The recorded pictures and texts; officially 1 marks padding."""
    i = case.inputs
    image = fields.pop("image", i.get(f"{prefix}image"))
    mask = 1 - i[f"{prefix}text_padding_mask"]
    return Batch(image=image, input_ids=i[f"{prefix}text_ids"], attention_mask=mask, **fields)


def of_gradients(model: nn.Module, layout: Layout, mark: str = "") -> dict[str, Any]:
    """Every gradient and its norm under the official names, and what has none."""
    grads = official.gradients(model, layout)
    return {
        **{f"{mark}grad.{n}": g for n, g in grads.items()},
        **{f"{mark}grad_norm.{n}": g.norm() for n, g in grads.items()},
        f"{mark}grad_norm_total": torch.stack([g.norm() for g in grads.values()]).norm(),
        "config.params_without_grad": layout.keys() - grads.keys(),
    }


# --- the network


class Probe:
    """Hidden states of every layer in rows of the padded batch, as forward hooks see them."""

    def __init__(self, network: MultiwayNetwork):
        self.seen: dict[str, Tensor] = {}
        first, ffn = network.blocks[0], {}

        def padded(value: Tensor, ragged: Any) -> Tensor:
            return value if ragged is None else ragged.pad(value)

        for i, block in enumerate(network.blocks):

            def after(
                module: nn.Module, args: tuple, kwargs: dict, y: Tensor, name: str = f"layer{i}"
            ) -> None:
                self.seen[name] = padded(y, kwargs["ragged"])
                if name == "layer0":
                    parts = [ffn.pop(expert) for expert in ("image", "text") if expert in ffn]
                    self.seen["layer0.ffn"] = padded(torch.cat(parts, dim=1), kwargs["ragged"])

            block.register_forward_hook(after, with_kwargs=True)

        def attended(module: nn.Module, args: tuple, kwargs: dict, y: Tensor) -> None:
            self.seen["layer0.self_attn"] = padded(y, kwargs["ragged"])

        first.attention.register_forward_hook(attended, with_kwargs=True)
        for expert, part in first.ffn.items():
            part.register_forward_hook(lambda module, args, y, expert=expert: ffn.update({expert: y}))


def backbone(case: Case) -> dict[str, Any]:
    """Pictures, texts and pairs; masked patches; gradients of a probe."""
    config = config_of(case, NetworkConfig)
    layout = Layout(tuple(layouts.backbone(config, last_norm=True)))
    model = nn.Module()
    model.network = network = MultiwayNetwork(config)
    official.fill(model, layout, case.weights)
    probe, i = Probe(network), case.inputs
    image, ids, mask, masked = (
        i["image"],
        i["text_ids"],
        1 - i["text_padding_mask"],
        i["vision_masked_position"],
    )
    prefix = network(image).shape[1]
    whole = torch.cat([mask.new_ones(len(mask), prefix), mask], dim=1)
    everywhere = torch.ones_like(mask)
    out: dict[str, Any] = {}

    def run(name: str, split: int, real: Tensor, *arguments: Any, **options: Any) -> Tensor:
        hidden = network(*arguments, **options)
        found = {"encoder_out": hidden, **probe.seen}
        out.update({f"{name}/{key}": at_tokens(value, real) for key, value in found.items()})
        out[f"{name}/multiway_split_position"] = torch.tensor(split)
        return hidden

    fused = run("fused", prefix, whole, image, ids, mask)
    run("fused_masked", prefix, whole, image, ids, mask, patch_mask=masked)
    vision = run("vision", -1, mask.new_ones(len(mask), prefix), image)
    run("vision_masked", -1, mask.new_ones(len(mask), prefix), image, patch_mask=masked)
    text = run("text", 0, mask, None, ids, mask)
    run("text_nopad", 0, everywhere, None, ids, everywhere)

    weights = i["probe_weights"]
    loss = (
        (fused * weights * whole[..., None]).mean()
        + (vision * weights[:, :prefix]).mean()
        + (text * weights[:, prefix:] * mask[..., None]).mean()
    )
    loss.backward()
    cls = network.cls_token.expand(len(image), -1, -1)
    before = torch.cat([cls, network.patches(image), network.words(ids)], dim=1)
    return out | {
        "fused/encoder_embedding_before_positions": before,
        "probe_loss": loss,
        **of_gradients(model, layout),
    }


# --- heads


def retrieval(case: Case) -> dict[str, Any]:
    """ITC in one process."""
    model, layout = load(case, config_of(case, RetrievalConfig))
    return itc(model, pairs(case)) | of_gradients(model, layout)


def itc(model: Retrieval, batch: Batch) -> dict[str, Tensor]:
    """Features, similarities and the loss, whose gradient is left in the weights."""
    loss = model.losses(batch, model.init_state())["itc"]
    loss.backward()
    with torch.no_grad():
        image, _ = model.image_context(batch.need("image"))
        text, _ = model.text_context(*batch.text())
        logits = model.logit_scale.exp() * image @ text.T
    return {"vision_cls": image, "language_cls": text, "logits_per_image": logits, "loss": loss.detach()}


def retrieval_2proc(case: Case) -> dict[str, Any]:
    """ITC on two gloo ranks: the gradient of each rank's own loss, and their mean."""
    both = ranks.run(_retrieval_rank, case.config["world_size"], case)
    names = {name for name in both[0] if "grad" in name}
    mean = {name: torch.stack([rank[name] for rank in both]).mean(0) for name in names}
    norms = {name.replace("grad.", "grad_norm."): g.norm() for name, g in mean.items()}
    out = {f"ddp_mean/{name}": value for name, value in (mean | norms).items()}
    for r, found in enumerate(both):
        norms = {name.replace("grad.", "grad_norm."): found[name].norm() for name in names}
        out |= {f"rank{r}/{name}": value for name, value in (found | norms).items()}
    return out


def _retrieval_rank(rank: int, case: Case) -> dict[str, Tensor]:
    model, layout = load(case, config_of(case, RetrievalConfig))
    found = itc(model, pairs(case, f"rank{rank}/"))
    grads = official.gradients(model, layout)
    nothing = {n: torch.zeros(()) for n in layout.keys() - grads.keys()}  # recorded as a norm of 0
    return found | {f"grad.{n}": g for n, g in (nothing | grads).items()}


def vqa(case: Case) -> dict[str, Any]:
    """Binary cross-entropy over answers."""
    model, layout = load(case, config_of(case, VQAConfig, classes=case.config["num_answers"]))
    assert isinstance(model, AnswerModel)
    targets = case.inputs["targets"]
    batch = pairs(case, targets=targets)
    loss = model.losses(batch, model.init_state())["vqa"]
    loss.backward()
    with torch.no_grad():
        logits = model.predict(batch)
        return {
            "pooled": model.pooled(batch),
            "logits": logits,
            "loss": loss,
            "vqa_score": targets.gather(1, logits.argmax(1, keepdim=True)).mean(),
            **of_gradients(model, layout),
        }


def nlvr2(case: Case) -> dict[str, Any]:
    """Two pictures and a text."""
    model, layout = load(case, config_of(case, NLVR2Config))
    assert isinstance(model, PairModel)
    i = case.inputs
    batch = pairs(case, image=torch.stack([i["image_a"], i["image_b"]], dim=1), labels=i["labels"])
    loss = model.losses(batch, model.init_state())["nlvr2"]
    loss.backward()
    with torch.no_grad():
        return {
            "cls_rep": model.represented(batch),
            "logits": model.predict(batch),
            "loss": loss,
            **of_gradients(model, layout),
        }


def image_classification(case: Case) -> dict[str, Any]:
    """What a picture shows; the smoothed loss is the one that is trained."""
    config = config_of(case, ClassifierConfig, classes=case.config["num_classes"])
    model, layout = load(case, config)
    assert isinstance(model, Classifier)
    batch = Batch(image=case.inputs["image"], labels=case.inputs["labels"])
    loss = model.losses(batch, model.init_state())["classify"]
    loss.backward()
    with torch.no_grad():
        logits = model.predict(batch)
        return {
            "fc_norm": model.pooled(batch),
            "logits": logits,
            "loss_ce": F.cross_entropy(logits, batch.need("labels")),
            f"loss_label_smoothing_{config.label_smoothing}": loss,
            **of_gradients(model, layout),
        }


# --- pre-training


def mdm_pretrain_math(case: Case) -> dict[str, Any]:
    """Pictures alone, texts alone, and pairs: a row each of one batch, and one pass."""
    model, layout = load(case, config_of(case, BEiT3Config, codes=case.config["visual_vocab_size"]))
    assert isinstance(model, BEiT3)
    i, count = case.inputs, len(case.inputs["image"])
    mask = 1 - i["text_padding_mask"]
    labels = i["text_ids"].masked_fill(~i["text_masked_pos"], -100)
    none = torch.zeros_like(mask)
    batch = Batch(
        image=torch.cat([i["image"], torch.zeros_like(i["image"]), i["image"]]),
        has_image=torch.tensor([True, False, True]).repeat_interleave(count),
        input_ids=i["text_ids"].repeat(3, 1),
        attention_mask=torch.cat([none, mask, mask]),
    )
    draws = Draws(
        patch_mask=i["vision_masked_position"].repeat(3, 1),
        codes=i["visual_tokens"].repeat(3, 1),
        input_ids=i["masked_text_ids"].repeat(3, 1),
        labels=torch.cat([torch.full_like(labels, -100), labels, labels]),
    )
    figure = model.figure(batch, model.init_state(), draws)
    figure.losses["loss"].backward()
    patches, words = figure.of_pair
    return {
        "image_only/mim_logits": figure.mim_logits[~patches],
        "image_only/mim_loss": figure.losses["mim"],
        "text_only/mlm_logits": figure.mlm_logits[~words],
        "text_only/mlm_loss": figure.losses["mlm"],
        "fused/mim_logits": figure.mim_logits[patches],
        "fused/mim_loss": figure.losses["pair_mim"],
        "fused/mlm_logits": figure.mlm_logits[words],
        "fused/mlm_loss": figure.losses["pair_mlm"],
        "total_sum_of_four": figure.losses["loss"],
        **of_gradients(model, layout),
    }
