"""Replays of ViLT's recorded runs: each function returns {recorded name: our value}."""

from __future__ import annotations

from typing import Any

import official
import torch
import torch.nn.functional as F
from albef_setup import Named
from case import Case, Real, Rule, at_tokens, default_rule
from safetensors import safe_open
from torch import Tensor

from multiway.batch import Batch
from multiway.metrics.retrieval import Positives, block_ranks, recall
from multiway.objectives import alignment
from multiway.systems.fused import Tokens
from multiway.systems.vilt import Draws, ViLT
from multiway.systems.vilt_config import (
    AnswerConfig,
    OneTowerConfig,
    ReasoningConfig,
    RetrievalConfig,
    ViLTConfig,
    vilt_vit,
)
from multiway.systems.vilt_heads import AnswerModel, ReasoningModel, Retrieval
from multiway.systems.vilt_heads import Draws as RetrievalDraws
from multiway.systems.vilt_system import OneTower
from multiway.systems.vlmo_config import TextConfig
from multiway.text import TokenizerConfig
from multiway.train.optim import build_optimizer, learning_rate, set_lr
from multiway.train.run import TrainConfig
from multiway.weights import vilt as layouts


def sizes(case: Case) -> dict[str, Any]:
    """Our config's fields from a recorded case's."""
    c, shapes = case.config, {name: tensor.shape for name, tensor in case.weights.items()}
    width, longest = c["hidden_size"], c["max_text_len"]
    return {
        "image": vilt_vit(
            image_size=c["image_size"],
            patch_size=c["patch_size"],
            width=width,
            depth=c["num_layers"],
            heads=c["num_heads"],
            hidden=int(c["mlp_ratio"] * width),
            eps=c["vit_layer_norm_eps"],
            dropout=c["drop_rate"],
        ),
        "text": TextConfig(
            vocab_size=c["vocab_size"],
            positions=longest,
            types=shapes["text_embeddings.token_type_embeddings.weight"][0],
            eps=c["bert_layer_norm_eps"],
            dropout=c["drop_rate"],
        ),
        "tokenizer": TokenizerConfig(cleaning="none", add_sep=True, max_length=longest),
        "types": shapes["token_type_embeddings.weight"][0],
    }


def load(kind: type, config: OneTowerConfig, case: Case) -> Any:
    """Our model with recorded weights, every key of which must find its place.

    A network for retrieval has no head for matching: there it is frozen, and read by nothing.
    """
    model, layout = kind(config), layouts.layout(config)
    unread = {"itm_score.fc.weight", "itm_score.fc.bias"} if kind is Retrieval else set()
    skipped = unread | set(layout.constants)
    official.fill(model, layout, {n: t for n, t in case.weights.items() if n not in skipped})
    return model


def learned(model: OneTower, loss: Tensor, case: Case) -> dict[str, Any]:
    """Gradients of a loss, and what was recorded of the parameters."""
    loss.backward()
    layout = layouts.layout(model.config)
    grads = official.of_gradients(model, layout, case.config["grad_norm_names"])
    return grads | official.facts(model, layout)


def chosen(select: Tensor, size: int) -> Tensor:
    """Recorded rows (picture, patch) as the patches of each picture, `[B, L]`."""
    return select[:, 1].view(size, -1)


@torch.no_grad()
def states(model: OneTower, ids: Tensor, mask: Tensor, pictures: Tokens) -> dict[str, Real | Tensor]:
    """Hidden states of a pass, and its pooled vectors."""
    hidden, length = model.pair(ids, mask, pictures), ids.shape[1]
    return {
        "text_feats": at_tokens(hidden[:, :length], mask),
        "image_feats": at_tokens(hidden[:, length:], pictures.mask),
        "cls_feats": model.pooled(hidden),
        "raw_cls_feats": hidden[:, 0],
    }


@torch.no_grad()
def seen(model: OneTower, image: Tensor, select: Tensor) -> tuple[Tokens, dict[str, Tensor]]:
    """Pictures of which the recorded patches are read, and what was recorded of that."""
    patches, own = model.canvas(image)
    taken = chosen(select, len(image))
    pictures = model.tokens(patches, own, taken)
    step = model.config.image.patch_size
    down, across = image.shape[-2] // step, image.shape[-1] // step
    grid = own.unflatten(1, (down, across))
    return pictures, {
        "visual.x_h": grid.any(2).sum(1),
        "visual.x_w": grid.any(1).sum(1),
        # before it is said that they are a picture's
        "visual.image_embeds": pictures.tokens - model.types.weight[1],
        "image_masks": pictures.mask,
        "patch_index": torch.stack([taken // across, taken % across], dim=2),
    }


def pretrain(case: Case) -> dict[str, Any]:
    """A step of MLM, ITM and word-patch alignment."""
    c, i = case.config, case.inputs
    config = ViLTConfig(
        **sizes(case),
        max_patches=None if c["max_image_len"] < 0 else c["max_image_len"],
        itm_weight=float(c["loss_names"]["itm"]),
        mlm_weight=float(c["loss_names"]["mlm"]),
    )
    model, mask = load(ViLT, config, case), i["text_masks"]
    batch = Batch(image=i["image"], input_ids=i["text_ids"], attention_mask=mask)
    draws = Draws(
        mlm_input_ids=i["text_ids_mlm"],
        mlm_labels=i["text_labels_mlm"],
        itm_labels=i["itm_labels"],
        false_image=i["false_image_0"],
        mlm_patches=chosen(i["select_mlm"], len(batch)),
        itm_patches=chosen(i["select_itm"], len(batch)),
    )
    figure = model.figure(batch, draws)
    losses = figure.losses
    keeps = figure.itm_labels[:, None, None, None] == 1
    out: dict[str, Any] = {"inputs.itm_images": torch.where(keeps, i["image"], i["false_image_0"])}
    for name, ids, image in (
        ("mlm", i["text_ids_mlm"], i["image"]),
        ("itm", i["text_ids"], out["inputs.itm_images"]),
    ):
        pictures, found = seen(model, image, i[f"select_{name}"])
        found |= states(model, ids, mask, pictures)
        out |= {f"{name}.{key}": value for key, value in found.items()}
    with torch.no_grad():
        out["mlm_logits"] = at_tokens(model.words(out["mlm.text_feats"].value), mask)
    return (
        out
        | aligned(figure.aligned, alignment.without_ends(mask), out["itm.image_masks"][:, 1:])
        | unit(i)
        | {
            "mlm_loss": losses["mlm"],
            "itm_loss": losses["itm"],
            "itm_logits": figure.itm_logits,
            "itm_wpa_loss": config.wpa_weight * losses["wpa"],
            "loss_total": losses["loss"],
            "wpa.ot_loss": losses["wpa"],
        }
        | learned(model, losses["loss"], case)
    )


def aligned(found: alignment.Alignment, words: Tensor, patches: Tensor) -> dict[str, Tensor]:
    """Word-patch alignment; theirs has a column of zeros for the class token of a picture, too."""
    patches, transport = F.pad(patches, (1, 0)), found.transport
    return {
        "wpa.distance": found.distance,
        "wpa.cost": F.pad(found.cost, (1, 0)),
        "wpa.T": F.pad(transport.plan, (0, 0, 1, 0)),
        "wpa.A": F.pad(transport.kernel, (0, 0, 1, 0)),
        "wpa.sigma_last": transport.scale,
        "wpa.txt_pad": ~words,
        "wpa.img_pad": ~patches,
        "wpa.joint_pad": ~(words[:, :, None] & patches[:, None, :]),
        "wpa.txt_len": words.sum(1).float(),
        "wpa.img_len": patches.sum(1).float(),
    }


def unit(inputs: dict[str, Tensor]) -> dict[str, Tensor]:
    """The solver alone."""
    words, patches, *pads = (inputs[f"ot_unit.{n}"] for n in ("txt_emb", "img_emb", "txt_pad", "img_pad"))
    found = alignment.align(words, patches, *(~pad.bool() for pad in pads))
    return {
        "ot_unit.distance": found.distance,
        "ot_unit.T": found.transport.plan,
        "ot_unit.cost": found.cost,
    }


def irtr(case: Case) -> dict[str, Any]:
    """A picture's own text against false ones; every picture of its own size with every text."""
    c, i = case.config, case.inputs
    count = c["draw_false_text"]
    model = load(Retrieval, RetrievalConfig(**sizes(case), false_texts=count), case)
    batch = Batch(image=i["image"], input_ids=i["text_ids"], attention_mask=i["text_masks"])
    false = [torch.stack([i[f"false_text_{n}_{part}"] for n in range(count)], 1) for part in ("ids", "masks")]
    draws = RetrievalDraws(false_ids=false[0], false_mask=false[1])
    loss = model.losses(batch, model.init_state(), draws)["irtr"]
    with torch.no_grad():
        ids = torch.cat([i["text_ids"][:, None], false[0]], 1).flatten(0, 1)
        mask = torch.cat([i["text_masks"][:, None], false[1]], 1).flatten(0, 1)
        every = i["image"].repeat_interleave(1 + count, 0)
        pictures, _ = seen(model, every, i["select"])
        out = {
            "irtr_loss": loss,
            "score": model.scores(batch, draws),
            "cls_feats": model.read(ids, mask, pictures),
        }
        ids, mask = i["eval.text_ids"], i["eval.text_masks"]
        names = sorted(name for name in i if name.startswith("eval.image_"))
        rows = torch.zeros(len(ids), dtype=torch.long)
        scores = torch.stack(
            [model.match_pairs(model.look(i[name][None]).shared_by(rows), ids, mask)[:, 1] for name in names]
        )
    owner, recalls = c["eval"]["text_image_index"], {}
    texts = range(len(owner))
    for mark, matrix, pairs in (("tr", scores, (owner, texts)), ("ir", scores.T, (texts, owner))):
        positives = Positives.from_pairs(*pairs, queries=len(matrix))
        ranks = block_ranks(matrix.numpy(), *positives.rows(0, len(matrix)))
        recalls |= {f"{mark}_r{k}": float(torch.tensor(recall(ranks, k) / 100)) for k in (1, 5, 10)}
    return out | learned(model, loss, case) | {"eval.scores": scores, "config.eval.recalls": recalls}


def vqa(case: Case) -> dict[str, Any]:
    """Answers as classes; what they should be from the recorded labels and scores."""
    c, i = case.config, case.inputs
    count = c["vqav2_label_size"]
    model = load(AnswerModel, AnswerConfig(**sizes(case), labels=tuple(map(str, range(count)))), case)
    ids, mask = i["text_ids"], i["text_masks"]
    targets = torch.zeros(len(ids), count)
    for row, (answers, scores) in enumerate(zip(c["vqa_labels"], c["vqa_scores"], strict=True)):
        targets[row, answers] = torch.tensor(scores)
    batch = Batch(image=i["image"], input_ids=ids, attention_mask=mask, targets=targets)
    loss = model.losses(batch, model.init_state())["vqa"]
    with torch.no_grad():
        logits = model.predict(batch)
    found = states(model, ids, mask, seen(model, i["image"], i["select"])[0])
    return learned(model, loss, case) | {
        **{name: found[name] for name in ("text_feats", "image_feats", "cls_feats")},
        "vqa_loss": loss,
        "vqa_logits": logits,
        "vqa_targets": targets,
        "pred": logits.argmax(1),
        "vqa_score_metric": targets.gather(1, logits.argmax(1, keepdim=True)).mean(),
    }


def nlvr2(case: Case) -> dict[str, Any]:
    """Two pictures with one text."""
    i = case.inputs
    model = load(ReasoningModel, ReasoningConfig(**sizes(case)), case)
    images = torch.stack([i["image_0"], i["image_1"]], 1)
    batch = Batch(image=images, input_ids=i["text_ids"], attention_mask=i["text_masks"], labels=i["answers"])
    loss = model.losses(batch)["loss"]
    with torch.no_grad():
        vectors, logits = model.judge(torch.cat([i["image_0"], i["image_1"]]), *batch.text())
    first, second = vectors.chunk(2)
    return learned(model, loss, case) | {
        "nlvr2_loss": loss,
        "nlvr2_logits": logits,
        "cls_feats_0": first,
        "cls_feats_1": second,
    }


def our_name(theirs: str) -> str:
    """Our name of an official parameter, of a network with every head and enough layers."""
    image = vilt_vit(depth=24)
    for config in (ViLTConfig(image=image), AnswerConfig(image=image), ReasoningConfig(image=image)):
        for entry in layouts.layout(config).entries:
            if entry.theirs == (theirs,):
                return entry.ours
    raise ValueError(f"no parameter of ours is called {theirs} officially")


def schedule(case: Case) -> dict[str, Any]:
    """Learning rates of every step, and steps of AdamW with the official groups."""
    recorded = case.config["schedule"]
    total, warmup = recorded["max_steps"], recorded["warmup_steps"]
    config = TrainConfig(
        steps=total,
        lr=recorded["learning_rate"],
        min_lr=recorded["end_lr"],
        warmup_steps=int(total * warmup) if isinstance(warmup, float) else warmup,
        schedule="linear",
        optimizer="transformers_adamw",
        betas=(0.9, 0.98),
        weight_decay=recorded["weight_decay"],
        lr_scale={"classifier": float(recorded["lr_mult"])},
    )
    rates = [learning_rate(step, config, steps_per_epoch=total) for step in range(total)]
    # Four groups, empty ones too: decayed or not, then those of the head.
    scales = torch.tensor([1.0, 1.0, *[float(recorded["lr_mult"])] * 2], dtype=torch.float64)
    start = before(case, rates)
    theirs = {our_name(name): name for name in start}
    system = Grouped({ours: start[name] for ours, name in theirs.items()})
    optimizer = build_optimizer(system, config)
    out: dict[str, Any] = {"lr": torch.tensor(rates, dtype=torch.float64)[:, None] * scales}
    for count, step in enumerate(steps_of(case)):
        for name, parameter in system.named_parameters():
            parameter.grad = case.inputs[f"{step}.{theirs[name]}"].clone()
        set_lr(optimizer, rates[count])
        optimizer.step()
        out |= {
            f"after{count + 1}.{theirs[name]}": p.detach().clone() for name, p in system.named_parameters()
        }
    names = {parameter: theirs[name] for name, parameter in system.named_parameters()}
    out["config.param_groups"] = {
        (names[p], group["weight_decay"]) for group in optimizer.param_groups for p in group["params"]
    }
    return out


class Grouped(Named):
    """Nothing but parameters, with ViLT's groups."""

    decays = OneTower.decays


def steps_of(case: Case) -> list[str]:
    """The recorded steps, in order."""
    return sorted({name.split(".")[0] for name in case.inputs if name.startswith("g")})


def before(case: Case, rates: list[float]) -> dict[str, Tensor]:
    """Parameters before the steps.

    Where `p0.*` was saved without a copy it holds what the last step left: then the steps are undone, whose
    updates do not depend on the parameter.
    """
    found = {n.removeprefix("p0."): p for n, p in case.inputs.items() if n.startswith("p0.")}
    steps, groups = steps_of(case), case.config["param_groups"]
    with safe_open(case.folder / "outputs.safetensors", "pt") as outputs:
        last = {name: outputs.get_tensor(f"after{len(steps)}.{name}") for name in found}
    if not all(torch.equal(found[name], last[name]) for name in found):
        return found
    for group in groups:
        share = group["initial_lr"] / case.config["schedule"]["learning_rate"]
        for name in group["names"]:
            gradients = [case.inputs[f"{step}.{name}"].double() for step in steps]
            value, updates = found[name].double(), adam(gradients)
            for lr, update in zip(reversed(rates[: len(steps)]), reversed(updates), strict=True):
                value = value / (1 - lr * share * group["weight_decay"]) + lr * share * update
            found[name] = value.float()
    return found


def adam(gradients: list[Tensor]) -> list[Tensor]:
    """What each step takes away, over its learning rate: eps before the correction of bias."""
    first = second = torch.zeros_like(gradients[0])
    updates = []
    for step, gradient in enumerate(gradients, 1):
        first, second = 0.9 * first + 0.1 * gradient, 0.98 * second + 0.02 * gradient**2
        size = (1 - 0.98**step) ** 0.5 / (1 - 0.9**step)
        updates.append(size * first / (second.sqrt() + 1e-8))
    return updates


def rule(case: Case, name: str) -> Rule:
    """As the READMEs state it: 1e-5, the plan of transport 1e-4 relative; rates exactly."""
    if name == "lr":
        return Rule(relative=1e-12)
    if name.startswith("after"):
        return Rule(absolute=1e-6)
    return default_rule(case, name)
