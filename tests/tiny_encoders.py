"""Every encoder of the tiny systems, as a module of tensors that `torch.export` takes."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import Tensor, nn

from multiway.batch import Batch


class Encoder(nn.Module):
    """`encode` of a model, called with pictures, with texts and their masks, or with all three."""

    def __init__(self, model: Any, encode: Callable[..., Any]):
        super().__init__()
        self.model, self.encode = model, encode

    def forward(self, *inputs: Tensor) -> Any:
        return self.encode(self.model, *inputs)


def _tower(model: Any, image: Tensor) -> Tensor:
    return model.image_tower(image)


def _image(model: Any, image: Tensor) -> Tensor:
    return model.image_context(image)[0]


def _text(model: Any, ids: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
    """Features, and hidden states at padding too."""
    return model.text_context(ids, mask)


def _pair(model: Any, image: Tensor, ids: Tensor, mask: Tensor) -> Tensor:
    return model.match_pairs(model.match_context(image), model.match_text(ids, mask), mask)


def _prefix(model: Any, image: Tensor, ids: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
    return model.encode(Batch(image=image), ids, mask)


def _network(model: Any, *inputs: Tensor) -> Tensor:
    return model.network(*inputs)


def _network_text(model: Any, ids: Tensor, mask: Tensor) -> Tensor:
    return model.network(None, ids, mask)


def _codes(model: Any, image: Tensor) -> Tensor:
    return model.encode(image)


#: System -> what it encodes -> how, which of a batch's tensors it reads: pictures, texts, or both.
ENCODERS: dict[str, dict[str, tuple[Callable[..., Any], str]]] = {
    **dict.fromkeys(("beit", "mae", "vqkd"), {"image": (_tower, "image")}),
    **dict.fromkeys(("clip", "coca", "flip"), {"image": (_image, "image"), "text": (_text, "text")}),
    **dict.fromkeys(
        ("albef", "blip", "vlmo"),
        {"image": (_image, "image"), "text": (_text, "text"), "pair": (_pair, "image text")},
    ),
    **dict.fromkeys(
        ("generalist", "simvlm"), {"image": (_tower, "image"), "prefix": (_prefix, "image text")}
    ),
    "beit3": {
        "image": (_network, "image"),
        "text": (_network_text, "text"),
        "pair": (_network, "image text"),
    },
    "vilt": {"pair": (_pair, "image text")},
    "vqvae": {"image": (_codes, "image")},
}


def encoder(name: str, kind: str, model: Any, batch: Batch) -> tuple[Encoder, tuple[Tensor, ...]]:
    """A module, and a batch's tensors for it."""
    encode, reads = ENCODERS[name][kind]
    tensors = {"image": (batch.image,), "text": (batch.input_ids, batch.attention_mask)}
    return Encoder(model, encode), tuple(x for part in reads.split() for x in tensors[part] if x is not None)
