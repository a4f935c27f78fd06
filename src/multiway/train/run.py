"""What a run is: typed, frozen, written to `run.json`, and read back strictly.

A recipe is a function that returns a `Run`; `--from run.json` and flags change it. No torch here.
"""

from __future__ import annotations

import importlib.metadata
import json
import math
import os
import platform
import subprocess
import sys
from dataclasses import asdict, dataclass, field, replace
from functools import cache
from pathlib import Path
from typing import Any, Generic, Literal, TypeVar

from multiway.errors import UserError, refuse_negative
from multiway.train.numbers import check_numbers

System = TypeVar("System")
Data = TypeVar("Data")

#: Fields that a resumed run may change: none of them alters a step that was already taken.
HARMLESS = (
    "name",
    "data.val",
    "data.workers",
    "data.max_bad_share",
    "train.steps",
    "train.epochs",
    "train.parallel",
    "train.device",
    "train.save_every",
    "train.keep_last",
    "train.validate_every",
    "train.best_metric",
    "train.best_mode",
    "train.tensorboard",
)


@dataclass(frozen=True, kw_only=True)
class LoRAConfig:
    """Adapters of low rank beside what a checkpoint brought, which stays; what is fresh is trained whole.

    Attributes:
        rank: of the adapters (Hu et al. 2021); 0: none, everything is trained.
        alpha: they count alpha / rank times.
        targets: names of the linear maps that get one, in every block.
        train: name prefixes that are trained whole all the same.
    """

    rank: int = 0
    alpha: float = 16.0
    targets: tuple[str, ...] = ("qkv", "query", "key_value", "out", "fc1", "fc2")
    train: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class TrainConfig:
    """How a system is trained; the defaults are ALBEF's official optimizer.

    Attributes:
        steps: optimizer steps; or give `epochs` and leave this None.
        batch_size: samples an optimizer step, over all ranks and micro-batches.
        accumulate: micro-batches an optimizer step.
        lr: peak learning rate. min_lr: where the cosine ends. warmup_lr: where the warm-up starts.
        warmup_steps: steps of linear warm-up.
        schedule: `cosine` moves every step, `open_clip` one step later; `albef` is the official one, stepped
            every `warmup_stride` steps of the first epoch and then once an epoch; `blip` likewise, times
            `lr_decay` once an epoch after a warm-up within the first; `mae` is a cosine too, whose warm-up
            starts from 0; `linear` is transformers' (VLMo, ViLT): up from 0, then straight down to `min_lr`,
            so that the first step moves nothing; `constant` keeps `lr` after the warm-up.
        optimizer: torch's AdamW, or in the order of transformers before 5 (VLMo, ViLT; `train.adamw`).
        lr_scale: name prefix -> factor on the learning rate; the longest prefix that fits counts.
        layer_decay: factor on the learning rate from one layer to the one below it (BEiT's fine-tuning), on
            top of `lr_scale`; None: all layers alike.
        freeze: name prefixes that are not trained and stay in eval mode; a part `*` stands for any.
        lora: adapters instead of all weights.
        clip_grad: largest L2 norm of the gradient, or None.
        precision: `bf16` computes under autocast; weights, momentum model and optimizer stay fp32.
        compile: `torch.compile` the transformer blocks. checkpointing: recompute them in the backward pass.
        parallel: under torchrun, replicate (`ddp`) or shard (`fsdp`) weights and optimizer.
        seed: of weights, data order, augmentation, draws and dropout.
        save_every: steps between checkpoints. keep_last: how many are kept.
        validate_every: steps between validations; None validates once, at the end.
        best_metric: a key of the validation; the best model so far is kept in `best/`.
        tensorboard: also write the metrics for tensorboard.
    """

    steps: int | None = None
    epochs: int | None = None
    batch_size: int = 64
    accumulate: int = 1
    lr: float = 1e-4
    min_lr: float = 1e-5
    warmup_steps: int = 0
    warmup_lr: float = 1e-5
    warmup_stride: int = 100
    schedule: Literal["cosine", "open_clip", "albef", "blip", "mae", "linear", "constant"] = "cosine"
    optimizer: Literal["adamw", "transformers_adamw"] = "adamw"
    lr_decay: float = 0.9
    betas: tuple[float, float] = (0.9, 0.999)
    eps: float = 1e-8
    weight_decay: float = 0.02
    lr_scale: dict[str, float] = field(default_factory=dict)
    layer_decay: float | None = None
    freeze: tuple[str, ...] = ()
    lora: LoRAConfig = LoRAConfig()
    clip_grad: float | None = None
    precision: Literal["fp32", "bf16"] = "fp32"
    compile: bool = False
    checkpointing: bool = False
    parallel: Literal["ddp", "fsdp"] = "ddp"
    device: Literal["auto", "cuda", "mps", "cpu"] = "auto"
    seed: int = 0
    save_every: int = 1000
    keep_last: int = 3
    validate_every: int | None = None
    best_metric: str | None = None
    best_mode: Literal["max", "min"] = "max"
    tensorboard: bool = False

    def __post_init__(self) -> None:
        if (self.steps is None) == (self.epochs is None):
            raise UserError("train.steps and train.epochs: give exactly one of them")
        for name in (
            "steps",
            "epochs",
            "batch_size",
            "accumulate",
            "warmup_stride",
            "save_every",
            "keep_last",
        ):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise UserError(f"train.{name} is {value}: give a whole number of at least 1")
        for name in ("lr", "min_lr", "warmup_lr", "warmup_steps", "weight_decay"):
            value = getattr(self, name)
            if value is not None and not 0 <= value < math.inf:
                raise UserError(f"train.{name} is {value}: give 0 or more")
        for name in ("min_lr", "warmup_lr"):
            value, used = getattr(self, name), self._uses(name)
            if used and value > self.lr:
                raise UserError(f"train.{name} is {value}, above train.lr, which is {self.lr}: lower it too")
        scales = {f"lr_scale.{name}": scale for name, scale in self.lr_scale.items()}
        decays = {"lr_decay": self.lr_decay, "layer_decay": self.layer_decay}
        for name, value in (scales | decays).items():
            if value is not None and not (0 <= value < math.inf and (value or name in scales)):
                raise UserError(f"train.{name} is {value}: give a factor above 0")
        if self.clip_grad is not None and not 0 < self.clip_grad < math.inf:
            raise UserError(f"train.clip_grad is {self.clip_grad}: give a norm above 0, or None for no limit")
        refuse_negative("train", seed=self.seed)
        if not (all(0 <= beta < 1 for beta in self.betas) and 0 <= self.eps < math.inf):
            raise UserError("train.betas, train.eps: give betas from 0 to below 1, and an eps of 0 or more")
        if self.lora.rank and self.freeze:
            raise UserError("train.lora freezes all that the checkpoint brings: leave train.freeze out")
        if self.lora.rank < 0 or self.lora.alpha <= 0:
            raise UserError("train.lora: give a rank of at least 1 (0 for none), and an alpha above 0")
        if self.validate_every is not None and self.validate_every < 1:
            raise UserError(
                f"train.validate_every is {self.validate_every}: give at least 1, or None for the end only"
            )

    def _uses(self, rate: str) -> bool:
        """Whether the schedule ever has this rate."""
        if rate == "min_lr":
            return self.schedule != "constant"
        return self.warmup_steps > 0 and self.schedule not in ("linear", "mae")

    def per_rank(self, world: int) -> int:
        """Samples of one rank in one optimizer step.

        Raises:
            UserError: the batch can't be divided evenly over ranks and micro-batches.
        """
        parts = world * self.accumulate
        if self.batch_size % parts:
            near = max(self.batch_size // parts, 1) * parts
            raise UserError(
                f"train.batch_size {self.batch_size} can't be divided over {world} rank(s) times "
                f"{self.accumulate} micro-batch(es): choose a multiple of {parts}, for example {near}"
            )
        return self.batch_size // world

    def total_steps(self, steps_per_epoch: int) -> int:
        """Optimizer steps of the whole run."""
        return self.steps if self.steps is not None else (self.epochs or 0) * steps_per_epoch


@dataclass(frozen=True, kw_only=True)
class Init:
    """What training starts from; what is None starts from the system's own initialisation.

    Attributes:
        checkpoint: a model folder or an official checkpoint of the whole system.
        tokenizer: the folder of a `trained` vocabulary (a model's, or a run's); None: the checkpoint's, or
            else it is learned from the training texts.
        image_tower: weights of the image tower. text: weights of the text stack.
        teacher: whose features VQ-KD learns: a model folder, or `efficientnet_lite0`.
        visual_tokenizer: whose tokens masked image modelling predicts: the folder of a VQ-KD or dVAE.
        text_proj: `identity` keeps the text stack's own space, where it was trained to compare sentences.
        fusion: `itc` starts cross-attention from the ITC projections (`weights.alignment.fusion_from_itc`).
        head: `frequencies` starts a head for words as how often each comes in the training texts.
        gain: factor of freshly drawn linear maps. The papers' deviation of 0.02 suits 768 numbers; a narrower
            network learns from random weights in a fraction of the steps with `core.init.unit_gain(width)`.
            CLIP, CoCa, FLIP and MAE draw by their width as it is.
        table_gain: factor of freshly drawn tables of embeddings. Where the head is tied to the words, their
            table is its linear map, and `gain` does not reach it.
    """

    checkpoint: str | None = None
    tokenizer: str | None = None
    image_tower: str | None = None
    text: str | None = None
    teacher: str | None = None
    visual_tokenizer: str | None = None
    text_proj: Literal["fresh", "identity"] = "fresh"
    fusion: Literal["fresh", "itc"] = "fresh"
    head: Literal["fresh", "frequencies"] = "fresh"
    gain: float = 1.0
    table_gain: float = 1.0

    def __post_init__(self) -> None:
        for name, gain in (("gain", self.gain), ("table_gain", self.table_gain)):
            if not 0 < gain < math.inf:
                raise UserError(f"init.{name} is {gain}: give a positive factor, 1 to leave weights as drawn")


@dataclass(frozen=True, kw_only=True)
class Run(Generic[System, Data]):
    """All that decides a run; `Run[ALBEFConfig, DataConfig]` is what flags and `run.json` are read as."""

    __pydantic_config__ = {"extra": "forbid", "strict": True}  # goes on to the nested dataclasses

    name: str
    system: System
    data: Data
    train: TrainConfig
    init: Init = Init()

    def __post_init__(self) -> None:
        check_numbers(self.system, "system")
        check_numbers(self.data, "data")

    def resumed(self, out: Path) -> Run[System, Data]:
        """The same run to go on with in its folder `out`: with the vocabulary that it trained, and nothing is
        computed for weights that a checkpoint replaces.
        """
        init = replace(self.init, fusion="fresh", head="fresh")
        if (out / "tokenizer.json").is_file():
            init = replace(init, tokenizer=str(out))
        return replace(self, init=init)


def write_run(run: Run, folder: Path) -> None:
    """Write `folder/run.json`: the resolved run, and where it came from."""
    content = {"run": asdict(run), "seed": run.train.seed, **provenance()}
    folder.mkdir(parents=True, exist_ok=True)
    aside = folder / ".run.json.new"
    aside.write_text(json.dumps(content, indent=2) + "\n")
    os.replace(aside, folder / "run.json")


def provenance() -> dict[str, Any]:
    """What made a result: the command, the git commit and the versions."""
    versions = _versions("multiway", "torch", "torchvision", "numpy")
    return {
        "command": sys.argv,
        "git_commit": _git_commit(),
        "versions": {"python": platform.python_version(), **versions},
    }


def read_run(path: Path, system: type, data: type) -> Run:
    """Read a `run.json` (or the folder that holds it) back, strictly.

    Args:
        system: the config class of its system. data: the config class of its data.

    Raises:
        UserError: no such file, not JSON, an unknown key, a wrong type or a bad choice; with the dotted path.
    """
    from pydantic import TypeAdapter, ValidationError

    path = path / "run.json" if path.is_dir() else path
    content = read_json(path)
    try:
        return TypeAdapter(Run[system, data]).validate_json(json.dumps(content.get("run")))
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"])
        raise UserError(
            f"{path}: {where or 'run'}: {first['msg'].lower()}; correct it or leave it out"
        ) from None


def read_json(path: Path) -> dict[str, Any]:
    """The object in a JSON file.

    Raises:
        UserError: there is no such file, or it is not a JSON object.
    """
    try:
        content = json.loads(path.read_text())
    except FileNotFoundError:
        raise UserError(f"{path} does not exist: name a run.json or the folder of a run") from None
    except (json.JSONDecodeError, UnicodeDecodeError, OSError) as error:
        raise UserError(
            f"{path} can't be read as JSON ({error}): name a run.json that multiway wrote"
        ) from None
    if not isinstance(content, dict):
        raise UserError(f"{path} holds no JSON object: name a run.json that multiway wrote")
    return content


def system_of(path: Path) -> str | None:
    """The name of the system of a run.json; None where it names none.

    Raises:
        UserError: as `read_json`.
    """
    saved = read_json(path).get("run")
    system = saved.get("system") if isinstance(saved, dict) else None
    name = system.get("system") if isinstance(system, dict) else None
    return name if isinstance(name, str) else None


def differences(old: dict[str, Any], new: dict[str, Any], prefix: str = "") -> list[str]:
    """Dotted paths of what differs between two plain configs, harmless changes left out."""
    found: list[str] = []
    for key in sorted(old.keys() | new.keys()):
        path = f"{prefix}{key}"
        a, b = old.get(key), new.get(key)
        if path in HARMLESS or a == b or (path == "init.checkpoint" and a and b and _ends_alike(a, b)):
            continue
        nested = isinstance(a, dict) and isinstance(b, dict)
        found += differences(a, b, f"{path}.") if nested else [path]
    return found


def _ends_alike(a: str, b: str) -> bool:
    """Whether two paths may be one, seen from different folders: `runs/a` and `/home/me/runs/a`."""
    short, long = sorted((Path(a).parts, Path(b).parts), key=len)
    return long[-len(short) :] == short


def check_same_run(run: Run, folder: Path) -> None:
    """Refuse to resume a run under another config.

    Raises:
        UserError: `folder/run.json` differs in something that matters; the sentence names the keys.
    """
    own, other = asdict(run), system_of(folder / "run.json")
    if other is not None and other != own["system"].get("system"):
        raise UserError(f"{folder} holds a run of another system, {other}: choose another output folder")
    saved = read_run(folder, type(run.system), type(run.data))  # fields newer than it have their defaults
    changed = differences(asdict(saved), own)
    if changed:
        raise UserError(
            f"{folder} holds a run with another {', '.join(changed)}: resume it with its own settings "
            f"(--from {folder / 'run.json'}), or choose another output folder"
        )


def _versions(*packages: str) -> dict[str, str | None]:
    versions: dict[str, str | None] = {}
    for package in packages:
        try:
            versions[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            versions[package] = None
    return versions


@cache  # of what runs, though another is checked out meanwhile
def _git_commit() -> str | None:
    command = ["git", "-C", str(Path(__file__).parent), "rev-parse", "HEAD"]
    try:
        return subprocess.run(command, capture_output=True, text=True, timeout=10, check=True).stdout.strip()
    except (OSError, subprocess.SubprocessError):
        return None
