"""Official checkpoints, opened without executing anything that they contain, and recognised by their keys."""

from __future__ import annotations

import pickle
from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from multiway.core.embed import resize_positions
from multiway.errors import UserError
from multiway.systems.albef import ALBEF
from multiway.systems.base import System
from multiway.systems.clip import CLIP
from multiway.text import Tokenizer
from multiway.weights import albef, clip
from multiway.weights.keymap import Layout, Report, to_ours


def read_tensors(path: Path) -> dict[str, Tensor]:
    """Every tensor of a `.safetensors` file, or of a `.pth` under its usual wrappers; no pickle is executed.

    Raises:
        UserError: the file can't be read, or holds more than tensors and plain values.
    """
    try:
        if path.suffix == ".safetensors":
            return load_file(path)
        values = torch.load(path, map_location="cpu", weights_only=True)
    except (pickle.UnpicklingError, RuntimeError, EOFError, SafetensorError, ValueError) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise UserError(
            f"{path} was not opened: it is damaged or holds code beside its tensors ({reason[:80]}); convert "
            "it to safetensors where you trust it"
        ) from None
    for wrapper in ("model", "state_dict", "module"):
        if isinstance(values, Mapping) and isinstance(values.get(wrapper), Mapping):
            values = values[wrapper]
    tensors = {k.removeprefix("module."): v for k, v in values.items() if isinstance(v, Tensor)}
    if not tensors:
        raise UserError(f"{path} holds no tensors: give a checkpoint of a model")
    return tensors


def load_checkpoint(path: Path) -> System:
    """A system from an official checkpoint of ALBEF or CLIP, told apart by their keys.

    Raises:
        UserError: the layout is none of those, or a tensor of it is missing.
    """
    tensors = read_tensors(path)
    if "visual_encoder.pos_embed" in tensors and "temp" in tensors:
        config = albef.config_of(tensors)
        model: System = ALBEF(config)
        layout = albef.layout(config)
    elif "visual.conv1.weight" in tensors and "token_embedding.weight" in tensors:
        config = clip.open_clip_config_of(tensors, quick_gelu="input_resolution" in tensors)
        model, layout = CLIP(config), clip.open_clip_layout(config)
    else:
        raise UserError(
            f"{path} is in no layout known here (ALBEF, CLIP): its first key is {next(iter(tensors))}"
        )
    report = load_layout(model, layout, tensors)
    missing = [name for name in report.missing if not name.startswith("state.")]
    if missing:
        raise UserError(
            f"{path} lacks {len(missing)} tensors of {type(model).__name__}, the first {missing[0]}"
        )
    model.tokenizer = Tokenizer.load(model.config.tokenizer)
    return model


def load_layout(
    model: System, layout: Layout, tensors: Mapping[str, Tensor], state: nn.Module | None = None
) -> Report:
    """Load a checkpoint's tensors into a model, and its momentum model and queue into `state`, if given.

    Position tables of another resolution are resized; a queue of another size stays as it was initialised.
    """
    ours, missing, unexpected = to_ours(layout, tensors)
    resized, matched = [], []
    for prefix, module in (("state.", state), ("", model)):
        if module is None:
            continue
        own = module.state_dict()
        fitting = {}
        for name in [n for n in ours if n.startswith("state.") == bool(prefix)]:
            short, tensor = name.removeprefix(prefix), ours[name]
            if own[short].shape != tensor.shape:
                if not short.endswith("image_tower.positions"):
                    missing.append(name)
                    continue
                tensor = resize_positions(tensor, model.config.image.grid)
                resized.append(name)
            fitting[short] = tensor
            matched.append(name)
        module.load_state_dict(fitting, strict=False)
    return Report(tuple(matched), tuple(resized), tuple(missing), tuple(unexpected))
