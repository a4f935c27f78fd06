"""From one layout to another: a folder of ours, a folder of transformers, an official checkpoint."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any, Literal

import torch
from safetensors.torch import save_file
from torch import Tensor

from multiway.errors import UserError
from multiway.systems import NETWORKS
from multiway.systems.base import System
from multiway.systems.beit import BEiT
from multiway.systems.beit_heads import Classifier
from multiway.systems.blip import BLIP
from multiway.systems.clip import CLIP
from multiway.systems.mae import MAE
from multiway.systems.vilt_system import OneTower
from multiway.train.run import differences
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
    official,
    open_clip,
    vilt,
    vlmo,
    vqkd,
)
from multiway.weights.aside import replacing, standing
from multiway.weights.folder import load, save
from multiway.weights.hub import fetch
from multiway.weights.keymap import Layout, Report, to_ours, to_theirs
from multiway.weights.positions import longer_config, resized_config

BLIP_WEIGHTS = ("model.safetensors", "pytorch_model.bin")  # the second is an older transformers'

To = Literal["multiway", "transformers", "open_clip", "official"]


def examine(
    source: str | Path, *, image_size: int | None = None, text_length: int | None = None
) -> tuple[str, Report]:
    """What loading `source` would do, without writing anything, and the system that it holds.

    Args:
        image_size, text_length: as of `load`; what is resized for them is in the report.

    Raises:
        UserError: nothing is there, it can't be read, its layout is unknown, or it can't be resized so.
    """
    config, report = _examined(Path(source))
    wanted = _sized(config, image_size, text_length)
    if wanted is not config:
        own, other = _shapes(config), _shapes(wanted)
        new = (name for name in report.matched if name in own and own[name] != other[name])
        report = replace(report, resized=tuple(dict.fromkeys((*report.resized, *new))))
    return config.system, report


def unsaid(
    source: str | Path, out: Path, *, image_size: int | None = None, text_length: int | None = None
) -> tuple[list[str], list[str]]:
    """Tensors and settings of the model at `source` that what was written of it lacks, or tells otherwise.

    Official checkpoints hold tensors alone: what reads them takes the published models' heads (64 numbers
    each), the mean and deviation of their pictures, and how they were trained.
    """
    own, read = _sized(_examined(Path(source))[0], image_size, text_length), _examined(out)[0]
    return sorted(_shapes(own).keys() - _shapes(read).keys()), differences(asdict(own), asdict(read))


def _sized(config: Any, image_size: int | None, text_length: int | None) -> Any:
    config = config if image_size is None else resized_config(config, image_size)
    return config if text_length is None else longer_config(config, text_length)


def _shapes(config: Any) -> dict[str, torch.Size]:
    """The shapes of a network's tensors, which are not made."""
    with torch.device("meta"):
        model = NETWORKS[config.system].network()(config)
    return {name: tensor.shape for name, tensor in model.state_dict().items()}


def _examined(path: Path) -> tuple[Any, Report]:
    """The config of the model at `path`, and what loading it as it is would do."""
    if not path.is_file():
        folder = standing(path)
        folder = folder if folder.is_dir() else fetch(path.as_posix())
        path = open_clip.weights_of(folder) if open_clip.is_open_clip(folder) else folder
        path = next((folder / name for name in BLIP_WEIGHTS if _is_blip(folder / name)), path)
    tensors = official.read_tensors(path) if path.is_file() else {}
    of_transformers = "vision_model.embeddings.class_embedding" in tensors
    if not tensors or (of_transformers and not _is_blip(path)):
        model = load(path)  # such a folder fits its own config, or this says why not
        return model.config, Report(tuple(model.state_dict()), (), (), ())
    if of_transformers:
        config = hf_blip.config_of(tensors, json.loads((path.parent / "config.json").read_text()))
        ours, missing, unexpected = to_ours(hf_blip.layout(config), tensors)
        return config, Report(tuple(ours), (), tuple(missing), tuple(unexpected))
    config, _ = official.recognise(tensors, path)
    return config, official.check(path, config)


def _is_blip(weights: Path) -> bool:
    """Whether a file holds the weights of a BLIP of transformers, by the config.json beside it."""
    if not weights.is_file() or not official.is_transformers(weights.parent):
        return False
    return json.loads((weights.parent / "config.json").read_text())["model_type"] == "blip"


def convert(
    source: str | Path,
    out: str | Path,
    *,
    to: To = "multiway",
    image_size: int | None = None,
    text_length: int | None = None,
) -> Path:
    """Write the model at `source` in another layout; returns `out`.

    Args:
        out: a folder; for `official` a .pth or .safetensors file. Momentum models and queues, which a model
            folder has not, are left out of it.

    Raises:
        UserError: `source` is no model, `out` is there already, or the layout does not hold such a model.
    """
    out = Path(out)
    if out.exists():
        raise UserError(f"{out} exists already: name a new place, or remove it first")
    if above := next((folder for folder in out.parents if folder.is_file()), None):
        raise UserError(f"{above} is a file, so {out} can't be in it: name another place")
    if to == "official" and out.suffix not in (".pth", ".safetensors"):
        raise UserError(f"{out} is no name of a checkpoint: name it x.pth or x.safetensors")
    model = load(source, image_size=image_size, text_length=text_length)
    if to == "official":
        _write_checkpoint(out, _official_tensors(model))
    elif to == "open_clip":
        open_clip.write(model, out)
    elif to == "transformers":
        write_transformers(model, out)
    else:
        save(model, out)
    return out


def _official_tensors(model: System) -> dict[str, Tensor]:
    """The weights as the official code holds them.

    Raises:
        UserError: no such layout holds all of them, or as `official_layout`.
    """
    layout, tensors, name = official_layout(model), model.state_dict(), model.config.system
    kept = {entry.ours for entry in layout.entries}
    if isinstance(model, BLIP):
        kept.add("temperature")  # of ITC's loss alone: BLIP_ITM, whose keys these are, has none
    if lost := sorted(tensors.keys() - kept):
        raise UserError(
            f"an official file of {name} has no place for {len(lost)} of this model's tensors "
            f"({', '.join(lost[:3])}{', ...' if len(lost) > 3 else ''}): save a model folder instead"
        )
    return to_theirs(layout, tensors)


def official_layout(model: System) -> Layout:
    """The official layout of a model's network, of the weights alone.

    Raises:
        UserError: none is written for this system, or for this form of it, or it would not tell how the
            patches lie.
    """
    name, config = model.config.system, model.config
    down, across = getattr(getattr(config, "image", None), "grid", (1, 1))
    if down != across:
        raise UserError(
            f"an official file of {name} tells of square pictures alone, and this model has {down} x "
            f"{across} patches: save a model folder instead"
        )
    if name.startswith("blip"):
        return blip.layout_of(config, ())
    if name.startswith("vilt"):
        return vilt.layout(config)
    if name.startswith("vlmo"):
        return vlmo.written(config)
    if name.startswith("beit3"):
        return beit3.written(config)
    layouts: dict[str, Callable[[Any], Layout]] = {
        "albef": albef.layout,
        "albef_assignment": albef.assignment_layout,
        "albef_nlvr2": albef.nlvr_layout,
        "albef_ve": albef.entailment_layout,
        "albef_vqa": albef.vqa_layout,
        "beit": beit.layout,
        "beit_classify": beit.classifier_layout,
        "clip": clip.open_clip_layout,
        "coca": coca.layout,
        "dvae": dvae.layout,
        "flip": flip.layout,
        "mae": mae.layout,
        "mae_classify": mae.classifier_layout,
        "vqkd": vqkd.layout,
    }
    if name not in layouts:
        known = ", ".join((*layouts, "beit3", "blip", "vilt", "vlmo"))
        raise UserError(f"no official layout is written for {name}: there are {known}")
    return layouts[name](config)


def write_transformers(model: System, out: Path) -> None:
    """A folder that transformers' `from_pretrained` reads, model and processor.

    Raises:
        UserError: no class of transformers holds the model.
    """
    if isinstance(model, BEiT | Classifier):
        _write_pictures(hf_beit.to_transformers(model), "BeitImageProcessor", model, out)
        return
    if isinstance(model, MAE):
        _write_pictures(hf_mae.to_transformers(model), "ViTImageProcessor", model, out)
        return
    if isinstance(model, CLIP):
        _write_pictures(hf_clip.to_transformers(model), "CLIPImageProcessor", model, out)
        return
    if isinstance(model, OneTower):
        shape = model.kept_shape
        assert shape is not None  # ViLT's pictures keep theirs
        looks = {"size": {"shortest_edge": shape.shorter}, "size_divisor": shape.multiple, "do_pad": True}
        _write_pictures(hf_vilt.to_transformers(model), "ViltImageProcessor", model, out, **looks)
        return
    tensors, values = hf_blip.to_transformers(model)
    tied = {name for entry in hf_blip.layout(model.config).entries for name in entry.also}
    looks = {
        **hf_pictures.values_of(model, "BlipImageProcessor"),
        "processor_class": "BlipProcessor",
    }
    words = {
        "processor_class": "BlipProcessor",
        "model_max_length": model.config.text.positions,
        "bos_token": "[DEC]",
        "additional_special_tokens": ["[ENC]"],
    }
    with replacing(out) as aside:
        _json(aside / "config.json", values)
        _json(aside / hf_pictures.CONFIG, looks)
        kept = {name: tensor.contiguous() for name, tensor in tensors.items() if name not in tied}
        save_file(kept, aside / "model.safetensors", metadata={"format": "pt"})
        if model.tokenizer is not None:
            model.tokenizer.save(aside)
            (aside / "tokenizer.json").unlink()  # without the special tokens that transformers looks for
            _json(aside / "tokenizer_config.json", {**hf_clip.bert_rules(model.tokenizer), **words})


def _write_pictures(
    found: tuple[dict[str, Tensor], dict[str, Any]], processor: str, model: System, out: Path, **others: Any
) -> None:
    """Tensors and config.json, how pictures are made for the model, and its words where it reads any."""
    tensors, values = found
    with replacing(out) as aside:
        _json(aside / "config.json", values)
        _json(aside / hf_pictures.CONFIG, {**hf_pictures.values_of(model, processor), **others})
        kept = {name: tensor.contiguous() for name, tensor in tensors.items()}
        save_file(kept, aside / "model.safetensors", metadata={"format": "pt"})
        if model.tokenizer is not None:
            hf_clip.write_tokenizer(model.tokenizer, aside)


def _write_checkpoint(out: Path, tensors: Mapping[str, Tensor]) -> None:
    """Aside, then renamed; tied tensors stand under all their names, as officially."""
    out.parent.mkdir(parents=True, exist_ok=True)
    aside = out.with_name(f".{out.name}.part")
    if out.suffix == ".safetensors":
        save_file({name: tensor.clone().contiguous() for name, tensor in tensors.items()}, aside)
    else:
        torch.save({"model": dict(tensors)}, aside)
    aside.replace(out)


def _json(path: Path, values: dict[str, Any]) -> None:
    path.write_text(json.dumps(values, indent=2) + "\n")
