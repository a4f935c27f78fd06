"""Adapters by themselves: a small folder that names the checkpoint it belongs to.

adapter.json          the base, the network's config, the adapters' rank
adapter.safetensors   what was trained: adapters, fresh heads
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path

from pydantic import TypeAdapter
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from multiway.core.lora import merged
from multiway.errors import UserError
from multiway.systems import NETWORKS
from multiway.systems.base import System
from multiway.train.run import LoRAConfig
from multiway.weights.aside import replacing
from multiway.weights.start import start_from_model, words_of
from multiway.weights.strict import read_config


def save_adapter(model: System, folder: Path, base: str | None, lora: LoRAConfig) -> Path:
    """Write what a run with adapters trained; `multiway.load` reads it where it finds `base`.

    Args:
        base: the model that the run started from, as `multiway.load` takes it.
    """
    trained = {name for name, parameter in model.named_parameters() if parameter.requires_grad}
    tensors = {
        name: t.detach().cpu().contiguous() for name, t in model.state_dict().items() if name in trained
    }
    facts = {"base": base, "lora": asdict(lora), "config": asdict(model.config)}
    with replacing(folder) as aside:
        save_file(tensors, aside / "adapter.safetensors", metadata={"format": "pt"})
        (aside / "adapter.json").write_text(json.dumps(facts, indent=1) + "\n")
    return folder


def load_adapter(folder: Path, load: Callable[[str], System]) -> System:
    """The whole model of an adapter folder, merged.

    Args:
        load: `multiway.load`, for its base.

    Raises:
        UserError: the folder is damaged, or its base is another model.
    """
    try:
        facts = json.loads((folder / "adapter.json").read_text())
        tensors = load_file(folder / "adapter.safetensors")
        config = read_config(facts["config"]["system"], facts["config"], folder / "adapter.json")
        lora = TypeAdapter(LoRAConfig).validate_python(facts["lora"])
        base = facts["base"]
        if Path(base).resolve() == folder.resolve():
            raise ValueError("it names itself as its base")
    except (OSError, ValueError, KeyError, TypeError, SafetensorError) as error:
        raise UserError(f"{folder} is no whole adapter ({error}): take another copy") from None
    network, model = NETWORKS[config.system].network(), load(base)
    adapted = network(config)
    start_from_model(adapted, model, base, lora=lora)
    trained = {name: p.shape for name, p in adapted.named_parameters() if p.requires_grad}
    if trained != (given := {name: tensor.shape for name, tensor in tensors.items()}):
        odd = min(name for name, _ in trained.items() ^ given.items())
        raise UserError(f"{folder} does not fit {base} ({odd}): name the model that it was trained from")
    adapted.load_state_dict(tensors, strict=False)
    plain = network(config)
    plain.load_state_dict(merged(adapted))
    plain.tokenizer = words_of(model, config)
    return plain
