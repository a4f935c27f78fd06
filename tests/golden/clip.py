"""Replays of CLIP's recorded cases: each function returns {recorded name: our value}."""

from __future__ import annotations

from typing import Any

import official
import ranks
import torch
from case import Case, Rule, at_tokens
from torch import Tensor, nn

from multiway.batch import Batch
from multiway.core.gather import Gradient
from multiway.systems.clip import CLIP, CLIPConfig, CLIPTextConfig, clip_tokenizer
from multiway.systems.image_tower import ImageTower
from multiway.systems.vit import ViTConfig
from multiway.weights import clip as layouts
from multiway.weights.hf_clip import config_of as config_of_transformers
from multiway.weights.keymap import Layout


def rule(case: Case, name: str) -> Rule:
    """As every README of these cases states it; biases of keys have no gradient in exact arithmetic."""
    return Rule(absolute=1e-6, relative=1e-3) if "grad_norm" in name else Rule(absolute=1e-5, relative=1e-4)


def config_of(sizes: dict[str, Any]) -> CLIPConfig:
    """Our config of an open_clip case's sizes."""
    return CLIPConfig(
        image=ViTConfig(
            image_size=sizes["img"],
            patch_size=sizes["patch"],
            width=sizes["vw"],
            depth=sizes["vl"],
            heads=sizes["vw"] // sizes["hw"],
            hidden=4 * sizes["vw"],
            eps=1e-5,
            clip_stem=True,
            quick_gelu=sizes["quick_gelu"],
        ),
        text=CLIPTextConfig(
            vocab_size=sizes["V"],
            width=sizes["tw"],
            layers=sizes["tl"],
            heads=sizes["th"],
            hidden=4 * sizes["tw"],
            positions=sizes["L"],
            quick_gelu=sizes["quick_gelu"],
        ),
        tokenizer=clip_tokenizer(sizes["L"]),
        embed_dim=sizes["D"],
    )


def load(case: Case, config: CLIPConfig, layout: Layout) -> CLIP:
    """Our model with the recorded weights."""
    model = CLIP(config)
    official.fill(model, layout, case.weights)
    return model


def step(model: CLIP, layout: Layout, batch: Batch) -> dict[str, Any]:
    """Features, similarities, loss and gradients of one batch."""
    loss = model.losses(batch, model.init_state())["itc"]
    loss.backward()
    with torch.no_grad():
        image = model.image_context(batch.image)[0]
        text = model.text_context(batch.input_ids, batch.attention_mask)[0]
    grads = official.gradients(model, layout)
    return {
        "image_features": image,
        "text_features": text,
        "image_embeds": image,
        "text_embeds": text,
        "logits_per_image": model.logit_scale.exp() * image @ text.T,
        "loss": loss,
        **{f"grad.{n}": g for n, g in grads.items()},
        **{f"grad_norm.{n}": g.norm() for n, g in grads.items()},
        "grad_norm_total": torch.stack([g.norm() for g in grads.values()]).norm(),
        "config.params_without_grad": [n for n, p in model.named_parameters() if p.grad is None],
    }


def open_clip(case: Case) -> dict[str, Any]:
    """open_clip's model and loss; a text ends at its largest id."""
    config = config_of(case.config["model"])
    layout = layouts.open_clip_layout(config)
    model = load(case, config, layout)
    image, ids = case.inputs["image"], case.inputs["text"]
    mask = (torch.arange(ids.shape[1]) <= ids.argmax(1, keepdim=True)).long()
    out = step(model, layout, Batch(image=image, input_ids=ids, attention_mask=mask))
    with torch.no_grad():
        first = model.image_tower.embed(image)
        last = model.image_tower.blocks(first)
        words = model.text.blocks(model.text.words(ids) + model.text.positions[: ids.shape[1]], causal=True)
        visual, text = model.image_tower.norm(last), model.text.norm(words)
        ends = text[torch.arange(len(ids)), ids.argmax(1)]
    return out | {
        "hidden/visual.ln_pre": first,
        "hidden/visual.transformer": last,
        "hidden/visual.ln_post": visual,
        "hidden/transformer": words,
        "hidden/ln_final": text,
        "image_embeds_unnormalised": model.image_proj(visual[:, 0]),
        "text_embeds_unnormalised": model.text_proj(ends),
    }


def hf_clip(case: Case) -> dict[str, Any]:
    """transformers' `CLIPModel`; a text ends at its first end-of-text id."""
    config = config_of_transformers(case.config["model"])
    layout = layouts.transformers_layout(config)
    model = load(case, config, layout)
    i, end = case.inputs, case.config["model"]["text_config"]["eos_token_id"]
    out = step(
        model, layout, Batch(image=i["image"], input_ids=i["input_ids"], attention_mask=i["attention_mask"])
    )
    # Without a mask only the end of a text says how long it is; the legacy value 2 means the largest id.
    ends = (i["input_ids"] if end == 2 else (i["input_ids"] == end).long()).argmax(1, keepdim=True)
    upto = (torch.arange(i["input_ids"].shape[1]) <= ends).long()
    with torch.no_grad():
        unmasked = Batch(image=i["image"], input_ids=i["input_ids"], attention_mask=upto)
        return out | {
            "no_attention_mask/loss": model.losses(unmasked, model.init_state())["itc"],
            "no_attention_mask/text_embeds": model.text_context(i["input_ids"], upto)[0],
            "text_last_hidden_state": at_tokens(model.text(i["input_ids"]), i["attention_mask"]),
            "vision_last_hidden_state": model.image_tower.blocks(model.image_tower.embed(i["image"])),
        }


class Rows(ImageTower):
    """A tower whose pictures are features already."""

    def rest(self, x: Tensor) -> Tensor:
        return x


class Same(nn.Module):
    """A text tower whose texts are features already."""

    def forward(self, x: Tensor, attention_mask: Tensor | None = None) -> Tensor:
        return x


class Features(CLIP):
    """CLIP's loss of given features: a batch's pictures and texts are rows of them."""

    def __init__(self, config: CLIPConfig, log_scale: float):
        nn.Module.__init__(self)
        self.config, self.image_tower, self.text = config, Rows(), Same()
        self.logit_scale = nn.Parameter(torch.tensor(log_scale))

    def image_features(self, image_embeds: Tensor) -> Tensor:
        return image_embeds

    def text_features(self, hidden: Tensor, attention_mask: Tensor) -> Tensor:
        return hidden


#: open_clip's (local_loss, gather_with_grad), and what the gathered rows then carry.
MODES: dict[tuple[int, int], Gradient] = {(0, 0): "own", (0, 1): "sum", (1, 0): "none", (1, 1): "sum"}


def loss_2proc(case: Case) -> dict[str, Any]:
    """Four modes of the loss on two gloo ranks; gradients of each rank's own loss, not averaged."""
    both = ranks.run(_loss_rank, case.config["world_size"], case)
    return {name: value for rank in both for name, value in rank.items()}


def _loss_rank(rank: int, case: Case) -> dict[str, Tensor]:
    out = {}
    for (local, gathered), gradient in MODES.items():
        config = CLIPConfig(negatives="global", local_loss=bool(local), gradient=gradient)
        model = Features(config, case.config["log_scale"])
        image, text = (
            case.inputs[f"rank{rank}/{kind}_features"].clone().requires_grad_() for kind in ("image", "text")
        )
        batch = Batch(image_prefix=image, input_ids=text, attention_mask=torch.ones(text.shape))
        loss = model.losses(batch, model.init_state())["loss"]
        loss.backward()
        found = {
            "loss": loss.detach(),
            "grad_image_features": image.grad,
            "grad_text_features": text.grad,
            "grad_log_scale": model.logit_scale.grad,
        }
        out |= {f"local{local}_gathergrad{gathered}/rank{rank}/{n}": t for n, t in found.items()}
    return out
