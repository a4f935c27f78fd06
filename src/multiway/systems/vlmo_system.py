"""What VLMo and its fine-tuning networks share: the network, its dual encoder, and starting from BEiT."""

from __future__ import annotations

import re
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from multiway.batch import Batch
from multiway.core.embed import resize_positions
from multiway.core.init import init_bert
from multiway.core.pooling import pooled_positions
from multiway.core.relative import Grid, image_rows, joint_rows, resize_table
from multiway.errors import UserError
from multiway.objectives import contrastive
from multiway.systems.candidates import Candidates
from multiway.systems.fused import Tokens
from multiway.systems.image_tower import ImageTower
from multiway.systems.resizing import first_rows, fitted
from multiway.systems.vlmo_config import MultiwayConfig, network_config
from multiway.systems.vlmo_network import MultiwayTransformer, class_tokens

EXPERTS = ("text", "image", "joint")
EMBEDDINGS = ("text_embed", "patches", "cls_token", "positions", "types")

#: Names that end so are not decayed; the gains of norms before an expert are (vlmo_utils.py `set_schedule`).
UNDECAYED = ("bias", "relative.table", "norm1.weight", "text_embed.norm.weight", "head.norm.weight")


class Contrast(NamedTuple):
    """ITC of this rank's batch against all candidates."""

    loss: Float[Tensor, ""]
    image_to_text: Float[Tensor, "B N"]
    """Similarities over temperature, without gradient."""
    text_to_image: Float[Tensor, "B N"]
    positive: Bool[Tensor, "B N"]
    logits: Float[Tensor, "N N"]


class Multiway(Candidates):
    """The multiway transformer and a pooler; `add_projections` makes it a dual encoder too."""

    config: Any
    itm_head: nn.Linear | None
    image_proj: nn.Linear
    text_proj: nn.Linear
    logit_scale: nn.Parameter

    def __init__(self, config: MultiwayConfig, image_tower: nn.Module | None = None):
        super().__init__()
        if image_tower is not None:
            raise UserError(f"{type(self).__name__} reads pictures itself: leave image_tower out")
        self.config = config
        self.transformer = MultiwayTransformer(config)
        self.pooler = nn.Linear(config.width, config.width)
        init_bert(self.pooler)
        self.itm_head = None
        self.image_size = config.image.image_size
        self.image_mean, self.image_std = config.image.mean, config.image.std
        self.parts = self._parts()

    def _parts(self) -> dict[str, tuple[str, ...]]:
        blocks = [f"transformer.blocks.{i}." for i in range(self.config.depth)]
        own = {e: tuple(f"{b}{part}.{e}." for b in blocks for part in ("ffn", "norm2")) for e in EXPERTS}
        shared = tuple(b + part for b in blocks for part in ("attention.", "norm1.", "gamma"))
        vision = ("transformer.patches.", "transformer.cls_token", "image_proj.", "joint_image_proj.")
        text = ("transformer.text_embed.", "text_proj.", "joint_text_proj.", "mlm_")
        both = ("transformer.relative.", "transformer.norm.", "pooler.", "itm_head.", "classifier.")
        return {
            "vision": (*vision, "transformer.positions", *own["image"]),
            "text": (*text, *own["text"]),
            "interaction": (*both, "transformer.types.", *shared, *own["joint"]),
        }

    @property
    def image_tower(self) -> ImageTower:
        return self.transformer

    def add_projections(self, logit_scale: float) -> None:
        """The dual encoder's projections, and its scale, a logarithm."""
        width = self.config.width
        self.image_proj, self.text_proj = (nn.Linear(width, width, bias=False) for _ in range(2))
        self.logit_scale = nn.Parameter(torch.tensor(logit_scale))
        init_bert(self.image_proj)
        init_bert(self.text_proj)

    def pooled(self, hidden: Float[Tensor, "P S D"]) -> Float[Tensor, "P D"]:
        """The vector of a pair: its first token's, [CLS]."""
        return torch.tanh(self.pooler(hidden[:, 0]))

    def read(
        self, ids: Int[Tensor, "P T"], mask: Int[Tensor, "P T"], pictures: Float[Tensor, "P N D"]
    ) -> Float[Tensor, "P D"]:
        """The vectors of texts and embedded pictures that are read together."""
        text, first = self.transformer.embed_text(ids), pooled_positions(mask, "cls")
        return self.pooled(self.transformer.pair(text, mask, pictures, read=first))

    def contrast(
        self,
        image: Float[Tensor, "B D"],
        text: Float[Tensor, "B D"],
        logit_scale: Float[Tensor, ""],
        batch: Batch,
    ) -> Contrast:
        """Symmetric cross-entropy over the whole matrix of all ranks (objectives.py `compute_itc`)."""
        gradient, scale = self.config.gradient, logit_scale.exp()
        images, texts = self.candidates(image, gradient), self.candidates(text, gradient)
        first = self.own_rows(len(image))
        numbers = batch.need("ids") if self.config.positives == "ids" else first
        all_numbers = self.candidates(numbers, "none")
        positive = contrastive.positives(all_numbers, all_numbers)
        several = positive if self.config.positives == "ids" else None
        loss = contrastive.clip_loss(images, texts, scale, positive=several)
        with torch.no_grad():
            logits = contrastive.similarity(scale * images, texts)
        return Contrast(loss, logits[first], logits.T[first], positive[first], logits)

    # --- two-stage retrieval: the dual encoder, and where there is an ITM head the fusion encoder

    @property
    def has_itc(self) -> bool:
        return hasattr(self, "image_proj")

    def image_context(self, image: Float[Tensor, "B 3 H W"]) -> tuple[Float[Tensor, "B D"], Tokens | None]:
        if not self.has_itc:
            return super().image_context(image)
        embedded = self.transformer.embed_image(image)
        (hidden,) = self.transformer.image(embedded, read=class_tokens(embedded))
        feature = F.normalize(self.image_proj(hidden[:, 0]), dim=-1)
        return feature, Tokens(embedded) if self.has_itm else None

    def text_context(
        self, input_ids: Int[Tensor, "B T"], attention_mask: Int[Tensor, "B T"]
    ) -> tuple[Float[Tensor, "B D"], Int[Tensor, "B T"]]:
        if not self.has_itc:
            return super().text_context(input_ids, attention_mask)
        embedded, first = self.transformer.embed_text(input_ids), pooled_positions(attention_mask, "cls")
        (hidden,) = self.transformer.text(embedded, attention_mask, read=first)
        return F.normalize(self.text_proj(hidden[:, 0]), dim=-1), input_ids

    def match_pairs(
        self, context: Tokens, hidden: Int[Tensor, "P T"], attention_mask: Int[Tensor, "P T"]
    ) -> Float[Tensor, "P 2"]:
        if self.itm_head is None:
            return super().match_pairs(context, hidden, attention_mask)
        return self.itm_head(self.read(hidden, attention_mask, context.copied()))

    # --- training

    def fine_tuning(self, task: str, labels: tuple[str, ...] = ()) -> MultiwayConfig:
        return network_config(self.config, task, labels)

    def decays(self, name: str, parameter: nn.Parameter) -> bool:
        return not (name.endswith(UNDECAYED) or name == "transformer.norm.weight")

    def layer_of(self, name: str) -> tuple[int, int]:
        """As BEiT's; the table of relative positions, which all layers share, follows."""
        network, part, *rest = (*name.split("."), "")
        if network == "transformer" and part in EMBEDDINGS:
            return 0, self.config.depth
        return 1 + (int(rest[0]) if part == "blocks" else self.config.depth), self.config.depth

    def adopt(self, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
        """From a BEiT, its picture experts and attention; from another stage of VLMo, all that fits.

        Source: vlmo_module.py `convert_to_textpt_ckpt`, `load_pretrained_weight`.
        """
        if any(name.startswith("image_tower.") for name in tensors):
            tensors = self._from_beit(tensors)
        return fitted(self, tensors)

    def resize(self, name: str, tensor: Tensor, old_grid: Grid | None = None) -> Tensor | None:
        """As `System.resize`; positions of words are cut to this network's longest text, or go on as it
        has them, and a second picture's type starts as the first's.
        """
        own, grid = self.get_parameter(name), self.config.image.grid
        if name == "transformer.positions":
            return resize_positions(tensor, grid, old_grid=old_grid)
        if name == "transformer.relative.table":
            if old_grid is None:  # then for texts as here: `weights.start` knows both
                offsets = len(tensor) - joint_rows((1, 1), self.config.relative_positions) + 1
                old_grid = ((round(max(offsets, 0) ** 0.5) + 1) // 2,) * 2
            if joint_rows(old_grid, self.config.relative_positions) != len(tensor):
                return None
            return resize_table(tensor, old_grid, grid)
        if name == "transformer.text_embed.positions.weight":
            return first_rows(tensor, own)
        if name == "transformer.types.weight":
            return torch.cat([tensor, *[tensor[1:2]] * (len(own) - len(tensor))])[: len(own)]
        return None

    def _from_beit(self, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
        """A BEiT's tensors under this network's names.

        Raises:
            UserError: the networks differ in depth, widths, heads or patches.
        """
        found, tables = {}, []
        self._compare(tensors)
        for name, tensor in tensors.items():
            name = name.replace("image_tower.", "transformer.").replace(".all.", ".image.")
            if re.fullmatch(r"transformer\.relative\.\d+\.table", name):
                tables.append(tensor)
            else:
                found[name] = tensor
        if tables and self.transformer.relative is not None:
            columns = torch.cat(tables * (self.config.depth // len(tables)), dim=1)
            whole = self.transformer.relative.table.detach().clone()
            whole[: len(columns)] = columns
            found["transformer.relative.table"] = whole
        return found

    def _compare(self, tensors: dict[str, Tensor]) -> None:
        """Whether an image tower's tensors are of this network's sizes; see `_from_beit`."""
        config, tower = self.config, "image_tower."
        layers = {int(m[1]) for m in (re.match(rf"{tower}blocks\.(\d+)\.", name) for name in tensors) if m}
        if not layers:
            return
        found = {"depth": (1 + max(layers), config.depth)}
        if (cls_token := tensors.get(f"{tower}cls_token")) is not None:
            found["width"] = (cls_token.shape[-1], config.width)
        for part, name, axis, own in (
            ("patch_size", "patches.proj.weight", -1, config.image.patch_size),
            ("hidden", "blocks.0.ffn.all.fc1.weight", 0, config.hidden),
        ):
            if (weight := tensors.get(tower + name)) is not None:
                found[part] = (weight.shape[axis], own)
        tables = [t for name, t in tensors.items() if name.startswith(f"{tower}relative.")]
        if tables and self.transformer.relative is not None:
            found["heads"] = (tables[0].shape[1], config.heads)
            found["rows of relative positions"] = (len(tables[0]), image_rows(config.image.grid))
        told = [f"{name} {theirs}, here {own}" for name, (theirs, own) in found.items() if theirs != own]
        if told:
            raise UserError(
                f"VLMo can't start from a tower of other sizes: it has {'; '.join(told)}: make system.image "
                "and the sizes of system equal to its"
            )
