"""What BEiT-3's pre-training and its fine-tuning networks share: the multiway network and its ways in."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from multiway.core.init import init_beit
from multiway.core.relative import Grid
from multiway.errors import UserError
from multiway.systems.base import System
from multiway.systems.beit3_config import (
    CaptionerConfig,
    ClassifierConfig,
    NetworkConfig,
    NLVR2Config,
    RetrievalConfig,
    VQAConfig,
)
from multiway.systems.beit3_network import MultiwayNetwork
from multiway.systems.image_tower import ImageTower
from multiway.systems.resizing import first_rows, fitted

#: The parameters that officially belong to layer 0: their official names contain "embed".
EMBEDDINGS = ("words", "text_positions", "patches", "cls_token", "mask_token", "image_positions")


class MultiwaySystem(System):
    """A system around one `MultiwayNetwork`; an `image_tower`, as all networks are built with, is not taken.

    Args:
        last_norm: whether the network ends with a norm.
    """

    def __init__(self, config: NetworkConfig, *, last_norm: bool = True):
        super().__init__()
        self.config = config
        self.network = MultiwayNetwork(config, last_norm=last_norm)
        self.image_size, self.image_mean, self.image_std = (
            config.image.image_size,
            config.image.mean,
            config.image.std,
        )

    # --- one modality alone, or both

    def look(self, image: Float[Tensor, "B 3 H W"]) -> Float[Tensor, "B N D"]:
        """The picture part alone: hidden states of the class token and the patches."""
        return self.network(image)

    def read(
        self, input_ids: Int[Tensor, "B T"], attention_mask: Int[Tensor, "B T"]
    ) -> Float[Tensor, "B T D"]:
        """The language part alone."""
        return self.network(None, input_ids, attention_mask)

    def fuse(
        self,
        image: Float[Tensor, "B 3 H W"],
        input_ids: Int[Tensor, "B T"],
        attention_mask: Int[Tensor, "B T"],
        read: Sequence[int] | None = None,
    ) -> Float[Tensor, "B S D"]:
        """Hidden states of pairs: class token, patches, text.

        Args:
            read: the positions that are wanted; the last layer computes no others.
        """
        wanted = (
            None if read is None else self.only(read, len(image), self.tokens(image) + input_ids.shape[1])
        )
        return self.network(image, input_ids, attention_mask, read=wanted)

    def tokens(self, image: Float[Tensor, "B 3 H W"]) -> int:
        """How many tokens a picture is: class token and patches."""
        size = self.config.image.patch_size
        return 1 + (image.shape[-2] // size) * (image.shape[-1] // size)

    def only(self, positions: Sequence[int], rows: int, length: int) -> Bool[Tensor, "B S"]:
        """True at these positions of every row."""
        found = torch.zeros(rows, length, dtype=torch.bool, device=self.device)
        found[:, list(positions)] = True
        return found

    def picture_part(self) -> PicturePart:
        """What others may regress, as a teacher's image tower."""
        return PicturePart(self.network)

    @property
    def image_tower(self) -> ImageTower:
        """There is none.

        Raises:
            UserError: always.
        """
        raise UserError("BEiT-3 has no image tower beside its network: leave data.cache_views at 0")

    @property
    def parts(self) -> dict[str, tuple[str, ...]]:  # pyrefly: ignore[bad-override]
        """Names of what only pictures, only texts, or both go through."""
        found: dict[str, list[str]] = {"vision": [], "text": [], "interaction": []}
        for name, _ in self.named_parameters():
            found[_part(name)].append(name)
        return {part: tuple(names) for part, names in found.items()}

    # --- training

    def begin_heads(self, *heads: nn.Module, scale: float = 1.0) -> None:
        """Initialise heads as officially; where it is so, almost at zero."""
        for head in heads:
            init_beit(head)
            for part in head.modules():
                if isinstance(part, nn.Linear):
                    with torch.no_grad():
                        part.weight.mul_(scale)

    def decays(self, name: str, parameter: nn.Parameter) -> bool:
        """Not biases, gains, the class token and pictures' positions (beit3 optim_factory.py).

        Texts' positions and the mask token do decay, as officially.
        """
        return parameter.ndim > 1 and name not in ("network.cls_token", "network.image_positions")

    def layer_of(self, name: str) -> tuple[int, int]:
        depth = self.config.depth
        block = re.match(r"network\.blocks\.(\d+)\.", name)
        if block:
            return int(block[1]) + 1, depth
        embeds = name.startswith("network.") and name.split(".")[1] in EMBEDDINGS
        return 0 if embeds else depth + 1, depth

    def adopt(self, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
        """From another network of BEiT-3 in the same form.

        Raises:
            UserError: it has the other form.
        """
        form = "release" if "network.blocks.0.attention.qkv.image.weight" in tensors else "paper"
        if "network.text_positions" in tensors and form != self.config.form:
            raise UserError(
                f"BEiT-3 in the form `{self.config.form}` can't start from the form `{form}`, whose layers "
                f"have other parts: set system.form {form}"
            )
        return fitted(self, tensors)

    def resize(self, name: str, tensor: Tensor, old_grid: Grid | None = None) -> Tensor | None:
        if name == "network.text_positions":
            return first_rows(tensor, self.network.text_positions)
        if name != "network.image_positions":
            return None
        return MultiwayNetwork.resized(tensor, self.config.image.grid, old_grid)

    def fine_tuning(self, task: str, labels: Sequence[str] = ()) -> NetworkConfig:
        """The config of this model's network for `task`: retrieval, caption, vqa, nlvr2 or classify.

        Raises:
            UserError: there is no such network.
        """
        own, names = self.config.network(), tuple(labels)
        if task == "vqa":
            return VQAConfig(**own, classes=len(names) or VQAConfig.classes, labels=names)
        if task == "classify":
            return ClassifierConfig(**own, classes=len(names) or ClassifierConfig.classes, labels=names)
        others: dict[str, Any] = {
            "retrieval": RetrievalConfig,
            "caption": CaptionerConfig,
            "nlvr2": NLVR2Config,
        }
        if task not in others:
            raise UserError(
                f"BEiT-3 has no network for {task!r}: choose retrieval, caption, vqa, nlvr2 or classify"
            )
        return self.config if isinstance(self.config, others[task]) else others[task](**own)


class PicturePart(nn.Module):
    """A BEiT-3's picture part with what a teacher has to tell: `[B, 3, H, W]` to `[B, 1 + N, D]`."""

    pooled_index = 0

    def __init__(self, network: MultiwayNetwork):
        super().__init__()
        self.network, image = network, network.config.image
        self.width, self.image_size = network.config.width, image.image_size
        self.image_mean, self.image_std = image.mean, image.std

    def forward(self, image: Float[Tensor, "B 3 H W"]) -> Float[Tensor, "B N D"]:
        return self.network(image)


#: Parts of names that say what goes through a parameter.
VISION = {
    "image",
    "patches",
    "cls_token",
    "mask_token",
    "image_positions",
    "mim_head",
    "image_head",
    "fc_norm",
}
TEXT = {"text", "words", "text_positions", "mlm_head", "text_head"}


def _part(name: str) -> str:
    parts = set(name.split("."))
    if parts & VISION:
        return "vision"
    return "text" if parts & TEXT else "interaction"
