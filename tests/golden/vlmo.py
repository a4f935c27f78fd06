"""Replays of VLMo's recorded steps: each function returns {recorded name: our value}."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import official
import ranks
import torch
from case import Case, Real, Rule, at_tokens
from torch import Tensor, nn

from multiway.batch import Batch
from multiway.core.relative import image_index, image_rows, joint_index, text_index
from multiway.systems.patches import ImageConfig
from multiway.systems.vlmo import Draws, Figure, VLMo
from multiway.systems.vlmo_config import MultiwayConfig, TextConfig, VLMoConfig
from multiway.systems.vlmo_network import MultiwayTransformer
from multiway.systems.vlmo_system import Multiway
from multiway.text import TokenizerConfig
from multiway.weights import vlmo as layouts


def sizes(model: dict[str, Any]) -> dict[str, Any]:
    """Our config's fields from a recorded case's `model`."""
    longest = model["max_text_len"]
    return {
        "image": ImageConfig(image_size=model["image_size"], patch_size=model["patch_size"]),
        "text": TextConfig(
            vocab_size=model["vocab_size"],
            positions=longest,
            types=model.get("type_vocab_size_inside_text_embeddings", 2),
            eps=model.get("layer_norm_eps_text_embeddings_and_mlm_head", 1e-12),
            dropout=0.0,
        ),
        "tokenizer": TokenizerConfig(cleaning="none", add_sep=True, max_length=longest),
        "width": model["embed_dim"],
        "depth": model["depth"],
        "heads": model["num_heads"],
        "hidden": int(model.get("mlp_ratio", 4) * model["embed_dim"]),
        "eps": model.get("layer_norm_eps_transformer", 1e-6),
        "joint_layers": model["depth"] - model["vlffn_start_layer_index"],
        "layer_scale": model.get("layer_scale_init_values", 0.1),
        "drop_path": 0.0,
        "positions": "relative" if model.get("need_relative_position_embed", True) else "absolute",
        "relative_positions": model["max_text_len_of_initckpt"],
    }


def text_stage(model: dict[str, Any]) -> VLMoConfig:
    """The config of the stage of texts: no joint experts, whatever the recorded layer."""
    return VLMoConfig(stage="text", **(sizes(model) | {"joint_layers": 0}))


def load(kind: type, config: MultiwayConfig, weights: dict[str, Tensor]) -> Any:
    """Our model with recorded weights, every key of which must find its place."""
    model, layout = kind(config), layouts.layout(config)
    official.fill(model, layout, {n: t for n, t in weights.items() if n not in layout.constants})
    return model


def gradients(model: Multiway) -> dict[str, Tensor]:
    """Of every parameter that has one, with its norm."""
    grads = official.gradients(model, layouts.layout(model.config))
    total = torch.stack([g.norm() for g in grads.values()]).norm()
    return (
        {f"grad.{n}": g for n, g in grads.items()}
        | {f"grad_norm.{n}": g.norm() for n, g in grads.items()}
        | {"grad_norm_total": total}
    )


def idle(model: Multiway) -> set[str]:
    """Official names of the parameters without a gradient."""
    grads = official.gradients(model, layouts.layout(model.config))
    return {n for e in layouts.layout(model.config).entries for n in e.theirs} - set(grads)


def relative(network: MultiwayTransformer, length: int) -> dict[str, Tensor]:
    """Indices, and the biases of the first and the last layer as `[H, T, T]`."""
    if network.relative is None:
        return {}
    grid, longest = network.config.image.grid, network.config.relative_positions
    indices = {
        "relative_position_index": image_index(grid),
        "text_relative_position_index": text_index(length, positions=longest, first=image_rows(grid) + 2),
        "text_imag_relative_position_index": joint_index(length, grid, positions=longest),
    }
    out = {f"relpos/{name}": index for name, index in indices.items()}
    for name, index in indices.items():
        bias = network.relative(index)
        out |= {f"relpos/bias_layer0.{name}": bias[0], f"relpos/bias_lastlayer.{name}": bias[-1]}
    return out


class Watched:
    """The hidden states after each block of one pass; a block that is run twice is seen twice."""

    def __init__(self, network: MultiwayTransformer):
        self.seen: list[tuple[int, Tensor]] = []
        self._hooks = [
            block.register_forward_hook(self._of(i), with_kwargs=True)
            for i, block in enumerate(network.blocks)
        ]

    def _of(self, layer: int) -> Callable:
        def see(block: nn.Module, args: tuple, options: dict[str, Any], y: Tensor) -> None:
            ragged = options["ragged"]
            self.seen.append((layer, y if ragged is None else ragged.pad(y)))

        return see

    def __enter__(self) -> Watched:
        return self

    def __exit__(self, *error: object) -> None:
        for hook in self._hooks:
            hook.remove()

    def named(self, prefix: str, depth: int, mask: Tensor | None = None) -> dict[str, Tensor | Real]:
        """Blocks in order, then those of the branch; where there is a mask, only real tokens count."""
        own, branch = self.seen[:depth], self.seen[depth:]
        names = {f"{prefix}/block{i}": x for i, x in own} | {
            f"{prefix}/vlffn_branch_block{i}": x for i, x in branch
        }
        return {n: x if mask is None else at_tokens(x, mask) for n, x in names.items()}


@torch.no_grad()
def alone(model: VLMo, image: Tensor, ids: Tensor, mask: Tensor) -> dict[str, Any]:
    """Each modality through its own experts, and the branches through the joint ones."""
    network, depth = model.transformer, model.config.depth
    embedded = network.embed_image(image)
    with Watched(network) as watched:
        pictures, _ = network.image(embedded, ("image", "joint"))
        out = watched.named("image_only", depth)
    with Watched(network) as watched:
        texts, _ = network.text(network.embed_text(ids), mask, ("text", "joint"))
        out |= watched.named("text_only", depth, mask)
    features = model.features(image, ids, mask)
    # A text's own embeddings, before it is said that they are words; a picture's likewise.
    return out | {
        "image/visual_embed": embedded - network.types.weight[1],
        "text/text_embeddings": at_tokens(network.text_embed(ids), mask),
        "image_only/image_feats": pictures,
        "image_only/raw_cls_feats": out[f"image_only/block{depth - 1}"][:, 0],
        "image_only/cls_feats": features.image,
        "image_only/cls_vlffn_feats": features.image_joint,
        "text_only/text_feats": at_tokens(texts, mask),
        "text_only/raw_cls_feats": out[f"text_only/block{depth - 1}"].value[:, 0],
        "text_only/cls_feats": features.text,
        "text_only/cls_vlffn_feats": features.text_joint,
    }


@torch.no_grad()
def together(model: Multiway, prefix: str, image: Tensor, ids: Tensor, mask: Tensor) -> dict[str, Any]:
    """Pairs through the whole network."""
    network, length = model.transformer, ids.shape[1]
    pictures = network.embed_image(image)
    seen = torch.cat([mask, mask.new_ones(pictures.shape[:2])], dim=1)
    with Watched(network) as watched:
        hidden = network.pair(network.embed_text(ids), mask, pictures)
        out = watched.named(prefix, model.config.depth, seen)
    return out | {
        f"{prefix}/text_feats": at_tokens(hidden[:, :length], mask),
        f"{prefix}/image_feats": hidden[:, length:],
        f"{prefix}/cls_feats": model.pooled(hidden),
        f"{prefix}/pooled_cls": model.pooled(hidden),
        f"{prefix}/raw_cls_feats": hidden[:, 0],
    }


def weights_of(similarity: Tensor, positive: Tensor) -> Tensor:
    """How likely each candidate is as a hard negative, up to a factor a row."""
    return similarity.softmax(1).masked_fill(positive, 0.0)


def step(model: VLMo, batch: Batch, draws: Draws) -> tuple[Figure, dict[str, Any]]:
    """Losses and everything they are made of, with the losses' gradients on the model."""
    figure = model.figure(batch, draws)
    losses, network = figure.losses, model.transformer
    with torch.no_grad():  # the figure's own has states where something is predicted, alone
        words = network.embed_text(draws.mlm_input_ids)
        hidden = network.pair(words, batch.attention_mask, network.embed_image(batch.image))
        logits = model.words(hidden[:, : words.shape[1]])
    losses["loss"].backward()
    dual, joint = figure.dual, figure.joint
    return figure, {
        "itc_loss": losses["itc"],
        "itc_loss_unimodal_branch": losses["itc_dual"],
        "itc_loss_vlffn_branch": losses["itc_joint"],
        "itc_i2t_logits": dual.logits,
        "itc_t2i_logits": dual.logits.T,
        "itc_vl_i2t_logits": joint.logits,
        "itc_logit_scale": model.logit_scale.exp(),
        "itc_logit_vl_scale": model.joint_logit_scale.exp(),
        "hardneg_weights_i2t": weights_of(dual.image_to_text, dual.positive),
        "hardneg_weights_t2i": weights_of(dual.text_to_image, dual.positive),
        "itm_labels": figure.itm_labels.float(),
        "itm_logits": figure.itm_logits,
        "itm_loss": losses["itm"],
        "mlm_logits": at_tokens(logits, batch.attention_mask),
        "mlm_loss": losses["mlm"] * model.config.mlm_weight,
        "mlm_loss_unweighted": losses["mlm"],
        "total_loss": losses["loss"],
    }


def fed(inputs: dict[str, Tensor], prefix: str = "") -> tuple[Batch, Draws]:
    """The recorded batch and its recorded draws."""
    i = {n.removeprefix(prefix): t for n, t in inputs.items() if n.startswith(prefix)}
    batch = Batch(image=i["image"], input_ids=i["text_ids"], attention_mask=i["text_masks"])
    draws = Draws(
        negative_image=i["neg_image_index"],
        negative_text=i["neg_text_index"],
        mlm_input_ids=i["text_ids_mlm"],
        mlm_labels=i["text_labels_mlm"],
    )
    return batch, draws


def pretrain_step(case: Case) -> dict[str, Any]:
    """A step on pairs; relative positions, or absolute ones."""
    model = load(VLMo, VLMoConfig(**sizes(case.config["model"])), case.weights)
    batch, draws = fed(case.inputs)
    image, (ids, mask) = batch.image, batch.text()
    out = alone(model, image, ids, mask) | together(model, "fused", image, ids, mask)
    out |= together(model, "fused_mlm", image, draws.mlm_input_ids, mask)
    out |= relative(model.transformer, ids.shape[1])
    _, found = step(model, batch, draws)
    found = {f"step/{n}": x for n, x in found.items()}
    return out | found | gradients(model) | {"config.params_without_grad": idle(model)}


def pretrain_step_2proc(case: Case) -> dict[str, Any]:
    """The same on several gloo ranks: each rank's own gradient, and their average."""
    found = ranks.run(_pretrain_rank, case.config["world_size"], case)
    out = {f"rank{r}/{n}": x for r, one in enumerate(found) for n, x in one.items()}
    grads = [n.removeprefix("grad.") for n in found[0] if n.startswith("grad.")]
    mean = {n: torch.stack([one[f"grad.{n}"] for one in found]).mean(0) for n in grads}
    out |= {f"ddp_mean/grad.{n}": g for n, g in mean.items()}
    out |= {n.replace("rank0", "ddp_mean"): x for n, x in out.items() if n.startswith("rank0/grad_norm.")}
    return out | {f"ddp_mean/grad_norm.{n}": g.norm() for n, g in mean.items()}


def _pretrain_rank(rank: int, case: Case) -> dict[str, Tensor]:
    model = load(VLMo, VLMoConfig(**sizes(case.config["model"])), case.weights)
    batch, draws = fed(case.inputs, f"rank{rank}/")
    size, world = len(batch), case.config["world_size"]
    # There a rank's own rows come first; ours are in the order of ranks.
    others = [r for r in range(world) if r != rank]
    order = torch.cat([torch.arange(r * size, (r + 1) * size) for r in (rank, *others)])
    there = Draws(
        negative_image=order[draws.negative_image],
        negative_text=order[draws.negative_text],
        mlm_input_ids=draws.mlm_input_ids,
        mlm_labels=draws.mlm_labels,
    )
    _, found = step(model, batch, there)
    for name in ("itc_i2t_logits", "itc_t2i_logits", "itc_vl_i2t_logits"):
        found[name] = found[name][order][:, order]
    for name in ("hardneg_weights_i2t", "hardneg_weights_t2i"):
        found[name] = found[name][:, order]
    found["mlm_logits"] = found["mlm_logits"].value
    unread = {f"grad_norm.{n}": torch.zeros(()) for n in idle(model)}
    return {n: x.detach() for n, x in (found | gradients(model) | unread).items()}


def rule(case: Case, name: str) -> Rule:
    """As the READMEs state it: 1e-4 relative and 1e-5 absolute, 1e-3 for norms of gradients."""
    if "grad_norm" in name:
        return Rule(absolute=1e-6, relative=1e-3)
    return Rule(absolute=2e-5 if name == "relative_position_bias_table" else 1e-5, relative=1e-4)
