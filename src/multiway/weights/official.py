"""Official checkpoints, opened without executing anything that they contain, and recognised by their keys."""

from __future__ import annotations

import argparse
import json
import pickle
import struct
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from multiway.errors import UserError
from multiway.systems import NETWORKS
from multiway.systems.base import System
from multiway.text import Tokenizer
from multiway.weights import (
    albef,
    beit,
    beit3,
    blip,
    clip,
    coca,
    dvae,
    flip,
    hf_beit,
    hf_blip,
    hf_clip,
    hf_mae,
    hf_pictures,
    hf_vilt,
    mae,
    open_clip,
    vilt,
    vlmo,
    vqkd,
)
from multiway.weights.keymap import Layout, Report, to_ours

#: What safetensors and torch's unpickler raise on damaged files, and on bytes that are no pickle.
UNREADABLE = (
    SafetensorError,
    pickle.UnpicklingError,
    struct.error,
    RuntimeError,
    LookupError,
    EOFError,
    ValueError,
    AssertionError,
    AttributeError,
    TypeError,
)
VOCABULARIES = ("vocab.txt", "tokenizer.json")  # of transformers; the second is what its fifth version writes


def read_tensors(path: Path) -> dict[str, Tensor]:
    """Every tensor of a `.safetensors` file, or of a `.pth` under its usual wrappers; no pickle is executed.

    Raises:
        UserError: the file can't be read, or holds more than tensors and plain values.
    """
    try:
        if path.suffix == ".safetensors":
            return load_file(path)
        with torch.serialization.safe_globals([argparse.Namespace]):  # MAE's `args`: plain values by name
            values = torch.load(path, map_location="cpu", weights_only=True)
    except UNREADABLE as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        if "torchscript" in str(error).lower():  # as OpenAI's CLIPs are
            raise UserError(
                f"{path} is a TorchScript program, which is not run here: where you trust it, save "
                "torch.jit.load(file).state_dict() with torch.save, and give that"
            ) from None
        raise UserError(
            f"{path} was not opened: it is damaged or holds code beside its tensors ({reason[:80]}); convert "
            "it to safetensors where you trust it"
        ) from None
    for wrapper in ("model", "state_dict", "module"):
        if isinstance(values, Mapping) and isinstance(values.get(wrapper), Mapping):
            values = values[wrapper]
    if not isinstance(values, Mapping):
        raise UserError(f"{path} holds a {type(values).__name__}: give a checkpoint, tensors by their names")
    named = ((k, v) for k, v in values.items() if isinstance(k, str) and isinstance(v, Tensor))
    tensors = {name.removeprefix("module."): tensor for name, tensor in named}
    if not tensors:
        raise UserError(f"{path} holds no tensors by their names: give a checkpoint of a model")
    return tensors


def load_checkpoint(path: Path) -> System:
    """A system from an official checkpoint, told by its keys; of open_clip by the config beside it, if any.

    Raises:
        UserError: the layout is none of those, or a tensor of it is missing.
    """
    tensors = read_tensors(path)
    if "vision_model.embeddings.class_embedding" in tensors:
        return load_transformers(path.parent, path)
    config, layout = recognise(tensors, path)
    model = NETWORKS[config.system].network()(config)
    report = load_layout(model, layout, tensors)
    missing = [name for name in report.missing if not name.startswith("state.")]
    if missing:
        raise UserError(
            f"{path} lacks {len(missing)} tensors of {type(model).__name__}, the first {missing[0]}"
        )
    if model.has_text:
        tokenizer = Tokenizer.load(model.config.tokenizer)
        known = getattr(model.config.text, "vocab_size", len(tokenizer))
        # a file does not hold its vocabulary: it is the published one, or nobody knows which
        model.tokenizer = tokenizer if len(tokenizer) <= known else None
    return model


def recognise(tensors: Mapping[str, Tensor], path: Path) -> tuple[Any, Layout]:
    """The config that a checkpoint's keys and shapes tell, and its layout.

    Raises:
        UserError: the layout is none that is known here.
    """
    if "visual_encoder.pos_embed" in tensors and any(key.startswith("text_") for key in tensors):
        if not any(key.endswith("token_type_embeddings.weight") for key in tensors):  # BLIP has no such table
            config = blip.config_of(tensors)
            return config, blip.layout_of(config, tensors)
        if (found := albef.recognised(tensors)) is not None:
            return found
    if "visual.conv1.weight" in tensors and open_clip.is_open_clip(path.parent):
        config = open_clip.read_config(path.parent)
        return config, open_clip.layout_of(config)
    if "visual.conv1.weight" in tensors and "text_decoder.text_projection" in tensors:
        config = coca.config_of(tensors)
        return config, coca.layout(config)
    vit = "visual.class_embedding" in tensors  # else a ResNet
    if vit and "visual.conv1.weight" in tensors and "token_embedding.weight" in tensors:
        config = clip.open_clip_config_of(tensors, quick_gelu="input_resolution" in tensors)
        return config, clip.open_clip_layout(config)
    if vqkd.is_vqkd(tensors):
        config = vqkd.config_of(tensors)
        return config, vqkd.layout(config)
    if dvae.is_dvae(tensors):
        config = dvae.config_of(tensors)
        return config, dvae.layout(config)
    if vlmo.is_vlmo(tensors):
        config = vlmo.config_of(tensors)
        return config, vlmo.layout(config)
    if vilt.is_vilt(tensors):
        config = vilt.config_of(tensors)
        return config, vilt.layout(config)
    if beit3.is_beit3(tensors):
        config = beit3.config_of(tensors, vocab=path.parent / "beit3.spm")
        return config, beit3.layout(config)
    if beit.is_beit(tensors):
        config = beit.config_of(tensors)
        return config, beit.layout_of(config)
    if flip.is_flip(tensors):
        config = flip.config_of(tensors)
        return config, flip.layout(config)
    if mae.is_mae(tensors):
        config = mae.config_of(tensors)
        return config, mae.layout_of(config)
    raise UserError(
        f"{path} is in no layout known here (ALBEF, BEiT, BEiT-3, BLIP, CLIP, CoCa, dVAE, FLIP, MAE, ViLT, "
        f"VLMo, VQ-KD): its first key is {next(iter(tensors))}"
    )


def is_transformers(folder: Path) -> bool:
    """Whether a folder's config.json is that of a BEiT, BLIP, CLIP, ViLT or ViTMAE of transformers."""
    try:
        values = json.loads((folder / "config.json").read_text())
    except (OSError, ValueError):
        return False
    return isinstance(values, dict) and values.get("model_type") in (
        "beit",
        "blip",
        "clip",
        "vilt",
        "vit_mae",
    )


def load_transformers(folder: Path, weights: Path | None = None) -> System:
    """A model of transformers from its folder; its vocabulary and processor are read if it has them.

    Args:
        weights: the file of weights; None: model.safetensors, or else pytorch_model.bin.

    Raises:
        UserError: a file is missing or damaged, or the class has no counterpart here.
    """
    try:
        values = json.loads((folder / "config.json").read_text())
    except (OSError, ValueError):
        raise UserError(
            f"{folder} has no config.json that can be read: weights of transformers need it beside them"
        ) from None
    files = [weights] if weights else [folder / "model.safetensors", folder / "pytorch_model.bin"]
    found = next((file for file in files if file.is_file()), None)
    if found is None:
        raise UserError(f"{folder} has neither model.safetensors nor pytorch_model.bin: add one of them")
    try:
        model = _of_transformers(folder, found, values)
    except (TypeError, KeyError, AttributeError, ValueError, ZeroDivisionError, RuntimeError) as error:
        raise UserError(
            f"{folder / 'config.json'} describes no {values.get('model_type')} ({type(error).__name__}: "
            f"{str(error)[:80]}): take another copy"
        ) from error
    return model if model.tokenizer is None else _shorter(model, model.tokenizer, folder)


def _of_transformers(folder: Path, found: Path, values: dict[str, Any]) -> System:
    """The model of a folder, by its kind."""
    looks = hf_pictures.read(folder, values.get("model_type", ""))
    if values.get("model_type") == "beit":
        return hf_beit.from_transformers(read_tensors(found), values, **looks)
    if values.get("model_type") == "vit_mae":
        return hf_mae.from_transformers(read_tensors(found), values, **looks)
    if values.get("model_type") == "clip":
        merges, vocab = (
            path if path.is_file() else None for path in (folder / "merges.txt", folder / "vocab.txt")
        )
        return hf_clip.from_transformers(read_tensors(found), values, merges=merges, vocab=vocab, **looks)
    words = next((path for name in VOCABULARIES if (path := folder / name).is_file()), None)
    if values.get("model_type") == "vilt":
        return hf_vilt.from_transformers(read_tensors(found), values, vocab=words, **looks)
    return hf_blip.from_transformers(read_tensors(found), values, vocab=words, **looks)


def _shorter(model: System, tokenizer: Tokenizer, folder: Path) -> System:
    """Its texts no longer than its tokenizer_config.json says, if it has one."""
    path, rules = folder / "tokenizer_config.json", tokenizer.config
    try:
        length = json.loads(path.read_text()).get("model_max_length") if path.is_file() else None
    except (OSError, ValueError, AttributeError) as error:
        raise UserError(f"{path} can't be read ({error}): take another copy") from None
    if isinstance(length, int) and 2 <= length < rules.max_length:
        rules = replace(rules, max_length=length)
        model.config, model.tokenizer = replace(model.config, tokenizer=rules), tokenizer.under(rules)
    return model


def check(path: Path, config: Any = None) -> Report:
    """What loading a checkpoint would do, without doing it: matched, resized, missing, unexpected.

    Args:
        config: of the network that would take it; None: the one that the checkpoint itself tells.

    Raises:
        UserError: the file can't be read, or its layout is unknown.
    """
    tensors = read_tensors(path)
    told, layout = recognise(tensors, path)
    if config is None:
        config = told
    elif config.system.startswith("blip"):
        layout = blip.layout_of(config, tensors)
        if config.system == "blip_nlvr":
            tensors |= {new: tensors[old] for new, old in blip.nlvr_keys(tensors).items()}
    elif config.system != told.system:
        raise UserError(f"{path} is a checkpoint of {told.system}: it does not fit a {config.system}")
    with torch.device("meta"):
        model = NETWORKS[config.system].network()(config)
        state = model.init_state()
    return fit(model, layout, tensors, state)[1]


def load_layout(
    model: System, layout: Layout, tensors: Mapping[str, Tensor], state: nn.Module | None = None
) -> Report:
    """Load a checkpoint's tensors into a model, and its momentum model and queue into `state`, if given.

    Positions of another resolution are resized; a queue of another size stays as it was initialised.
    """
    fitting, report = fit(model, layout, tensors, state)
    for module, found in fitting:
        module.load_state_dict(found, strict=False)
    return report


def fit(
    model: System, layout: Layout, tensors: Mapping[str, Tensor], state: nn.Module | None
) -> tuple[list[tuple[nn.Module, dict[str, Tensor]]], Report]:
    """For `load_layout`: what goes into the model and into the state, and the report of it."""
    ours, missing, unexpected = to_ours(layout, tensors)
    resized, matched, fitting = [], [], []
    for prefix, module in (("state.", state), ("", model)):
        if module is None:
            continue
        own, found = module.state_dict(), {}
        for name in [n for n in ours if n.startswith("state.") == bool(prefix)]:
            short, tensor = name.removeprefix(prefix), ours[name]
            if short not in own:  # a state without a momentum model
                continue
            if own[short].shape != tensor.shape:
                fitted = model.resize(short, tensor)
                if fitted is None or fitted.shape != own[short].shape:
                    missing.append(name)
                    continue
                tensor = fitted
                resized.append(name)
            found[short] = tensor
            matched.append(name)
        fitting.append((module, found))
    return fitting, Report(tuple(matched), tuple(resized), tuple(missing), tuple(unexpected))
