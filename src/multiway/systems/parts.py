"""Where a system's parameters and FLOPs lie: vision, text, interaction (the taxonomy of ViLT, figure 2)."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor

from multiway.batch import Batch
from multiway.core.flops import counted
from multiway.systems import SYSTEMS
from multiway.systems.base import System
from multiway.systems.beit3_system import MultiwaySystem
from multiway.systems.coca import CoCa
from multiway.systems.generalist import Generalist
from multiway.systems.simvlm import PrefixSystem
from multiway.systems.vqvae import VQVAE

TEXT_TOKENS = 16


def profile(name: str) -> dict[str, dict[str, float]]:
    """Sizes of a system at its paper's size; built on the meta device, so that it takes no memory.

    Returns:
        `vision`, `text` and `interaction`, each with `parameters` (millions) and `gflops`: one picture and
        one text of 16 tokens, encoded and matched (CoCa: captioned) once; a multiplication and an addition
        count as two.
    """
    entry = SYSTEMS[name]
    with torch.device("meta"):
        model = entry.network()(entry.config()()).eval()
        flops = _gflops(model)
    counts = {
        part: sum(p.numel() for n, p in model.named_parameters() if n.startswith(prefixes)) / 1e6
        for part, prefixes in model.parts.items()
    }
    return {part: {"parameters": round(counts[part], 3), "gflops": round(flops[part], 3)} for part in counts}


def _gflops(model: System) -> dict[str, float]:
    size = (model.image_size,) * 2 if isinstance(model.image_size, int) else model.image_size
    image = torch.zeros(1, 3, *size)
    ids = torch.zeros(1, TEXT_TOKENS, dtype=torch.long)
    mask = torch.ones_like(ids)

    def count(forward: Callable) -> float:
        with torch.no_grad(), counted() as counter:
            forward()
        return counter.get_total_flops() / 1e9

    if isinstance(model, MultiwaySystem):  # a pair goes through once: what it costs more than either alone
        alone, read = count(lambda: model.look(image)), count(lambda: model.read(ids, mask))
        pair = count(lambda: model.fuse(image, ids, mask))
        return {"vision": alone, "text": read, "interaction": pair - alone - read}
    if isinstance(model, PrefixSystem | Generalist):  # half of a text goes through the encoder
        alone = count(lambda: model.image_tower(image))
        pair = count(lambda: _prefixed(model, image, ids, mask))
        return {"vision": alone, "text": 0.0, "interaction": pair - alone}
    if isinstance(model, VQVAE):
        return {"vision": count(lambda: model.encoder(image)), "text": 0.0, "interaction": 0.0}
    if not model.has_text:
        return {"vision": count(lambda: model.image_tower(image)), "text": 0.0, "interaction": 0.0}
    if not model.has_itc:
        vision, context = count(lambda: model.match_context(image)), model.match_context(image)
        pair = count(partial(model.match_pairs, context, model.match_text(ids, mask), mask))
        return {"vision": vision, "text": 0.0, "interaction": pair}
    vision, text = count(lambda: model.image_context(image)), count(lambda: model.text_context(ids, mask))
    if isinstance(model, CoCa):  # it writes what others match
        with torch.no_grad():
            pooled, embeds = model.pool(model.image_tower(image)), model.read(ids, mask)
        written = count(lambda: model.logits(model.caption_hidden(embeds, mask, model.context(pooled))))
        return {"vision": vision, "text": text, "interaction": written}
    if not model.has_itm:
        return {"vision": vision, "text": text, "interaction": 0.0}
    # Projecting the picture's keys and values for cross-attention is interaction, not vision.
    tower = count(lambda: model.image_tower(image))
    (_, context), (_, hidden) = model.image_context(image), model.text_context(ids, mask)
    assert context is not None  # has_itm says so
    matched = count(partial(model.match_pairs, context, hidden, mask))
    return {"vision": tower, "text": text, "interaction": matched + vision - tower}


def _prefixed(model: PrefixSystem | Generalist, image: Tensor, ids: Tensor, mask: Tensor) -> Tensor:
    half, network = ids.shape[1] // 2, model.network
    context = network.context(*model.encode(Batch(image=image), ids[:, :half], mask[:, :half]))
    return network.logits(network.decode(ids[:, half:], mask[:, half:], context))
