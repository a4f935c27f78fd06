"""From a `Run` to the things that train: the system with its starting weights, and this rank's loader."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import nn

from multiway.core.heads import PlainWordHead, WordHead
from multiway.core.init import widen
from multiway.data.augment import train_transform
from multiway.data.dataset import DataConfig, Dataset, Source
from multiway.data.loader import Loader
from multiway.data.rows import Pairs, Transform
from multiway.data.sample import BadSample
from multiway.errors import UserError
from multiway.systems import NETWORKS
from multiway.systems.base import System
from multiway.systems.bert import BertConfig, TextStack
from multiway.systems.encoders import Encoders
from multiway.systems.med import MED
from multiway.systems.sizes import check_positions
from multiway.text import Tokenizer, train_vocabulary
from multiway.train import optim
from multiway.train.features import PrefixLoader, cached_dataset, check_frozen, one_view
from multiway.train.parallel import Ranks, choose_device, seed_all
from multiway.train.run import Init, LoRAConfig, Run
from multiway.train.validate import check
from multiway.weights import load
from multiway.weights.alignment import fusion_from_itc, grounding_from_itc
from multiway.weights.frozen import load_frozen
from multiway.weights.initial import load_image_tower, load_text, load_word_head
from multiway.weights.start import start_from_model

Picture = TypeVar("Picture")


def build(run: Run, ranks: Ranks) -> tuple[System, Any]:
    """The system of a run, on the CPU, and the loader of this rank.

    Raises:
        UserError: data or weights are missing or do not fit.
    """
    system = build_system(run, print if ranks.first else lambda sentence: None)
    loader = build_loader(run, system, ranks)
    if run.init.fusion == "itc":
        _start_fusion(system, loader)
    if run.init.head == "frequencies":
        _start_heads(system, Dataset(run.data.train))
    return system, loader


@torch.no_grad()
def _start_fusion(system: System, loader: Any) -> None:
    """Cross-attention from the ITC projections, centred by the run's first batch."""
    encoders = getattr(system, "encoders", None)
    if not isinstance(encoders, Encoders):
        kind = type(system).__name__
        raise UserError(f"init.fusion is given, but {kind} has no fusion layers: leave it out")
    batch = next(iter(loader.iterate(0)))
    (ids, mask), training = batch.text(), system.training
    system.eval()
    image_embeds = system.image_tower.rest(system.image_tower.batch_prefix(batch))
    if isinstance(encoders.text, MED):
        grounding_from_itc(encoders, image_embeds, ids, mask)
    else:
        fusion_from_itc(encoders, image_embeds, encoders.text(ids, mask), mask)
    system.train(training)


@torch.no_grad()
def _start_heads(system: System, dataset: Dataset) -> None:
    """Heads for words begin with the words' shares as biases; a word that never comes counts as half one.

    Otherwise the first hundreds of steps of a small run go into learning which words there are.
    """
    heads = [module for module in system.modules() if isinstance(module, WordHead | PlainWordHead)]
    if not heads or system.tokenizer is None:
        raise UserError(
            f"init.head is given, but {type(system).__name__} has no head for words: leave it out"
        )
    counts = torch.full_like(heads[0].bias, 0.5)
    for text in _texts(dataset):
        ids = torch.tensor(system.tokenizer.encode(text)[1:])  # no head says what a text begins with
        counts.index_add_(0, ids, torch.ones_like(ids, dtype=counts.dtype))
    for head in heads:
        head.bias.copy_((counts / counts.sum()).log())


def build_system(run: Run, say: Callable[[str], None] = print) -> System:
    """The system with its tokenizer, its towers' pretrained weights, or the weights of a whole checkpoint."""
    system = NETWORKS[run.system.system].network()(run.system)
    widen(system, run.init.gain, run.init.table_gain)  # before anything is loaded, which keeps its weights

    @cache  # it is large, and what can be refused without it is
    def start() -> System | None:
        return None if run.init.checkpoint is None else load(run.init.checkpoint)

    if system.has_text:
        system.tokenizer = _tokenizer(run, start)
        _check_words(run, system.tokenizer)
    _start_from(system, start, run.init, run.train.lora, say)
    for name in (run.init.teacher, run.init.visual_tokenizer):
        if name is not None:
            system.learn_from(load_frozen(name))
    return system


def _check_words(run: Run, tokenizer: Tokenizer) -> None:
    """Whether the text stack has a row for every word, and a position for every place."""
    text, count = run.system.text, len(tokenizer)
    if getattr(text, "vocab_size", count) < count:
        raise UserError(
            f"system.text.vocab_size is {text.vocab_size}, and the tokenizer has {count} tokens: set it to "
            f"{count}, or choose another system.tokenizer.vocab"
        )
    if isinstance(text, BertConfig):
        check_positions(text.positions, run.system.tokenizer.max_length)


def _tokenizer(run: Run, start: Callable[[], System | None]) -> Tokenizer:
    """The vocabulary; a `trained` one is another run's or the checkpoint's that the run starts from, or else
    learned from the training captions, the same each time.
    """
    config, given = run.system.tokenizer, run.init.tokenizer
    if config.vocab != "trained":
        if given is not None:
            raise UserError(
                f"init.tokenizer is a trained vocabulary, and system.tokenizer.vocab is {config.vocab!r}: "
                "set that to trained, or leave init.tokenizer out"
            )
        return Tokenizer.load(config)
    if given is not None:
        return Tokenizer.load(config, given)
    kept = None if (model := start()) is None else model.tokenizer
    # a file of official layout has none of its own: BERT's is only read with it
    if kept is not None and (kept.config.vocab == "trained" or Path(str(run.init.checkpoint)).is_dir()):
        return kept.under(config)
    dataset = Dataset(run.data.train)
    return train_vocabulary(_texts(dataset), size=run.system.text.vocab_size, config=config)


def _texts(dataset: Dataset) -> Iterator[str]:
    for number in range(len(dataset)):
        with suppress(BadSample):
            yield from dataset.texts(number)


def build_loader(run: Run, system: System, ranks: Ranks) -> Loader | PrefixLoader:
    """The training data of one rank, augmented and tokenized for `system`."""
    config: DataConfig = run.data
    want, given = _pair(system.image_size), _pair(config.image_size)
    if want != given:
        raise UserError(
            f"data.image_size is {given} and the system's image tower takes {want}: make them equal"
        )

    def loader(pairs: Pairs[Picture], transform: Transform[Picture]) -> Loader:
        return Loader(
            pairs,
            encode=system.tokenizer,
            transform=transform if system.has_image else None,
            batch_size=run.train.per_rank(ranks.world),
            seed=config.seed,
            rank=ranks.rank,
            world=ranks.world,
            workers=config.workers,
            merge_equal_texts=config.merge_equal_texts,
            max_bad_share=config.max_bad_share,
        )

    refuse_alone(config.train, system)
    uses = sorted({source.use for source in config.train})
    if run.train.parallel == "fsdp" and len(uses) > 1:  # a rank whose batch lacks a kind would wait forever
        raise UserError(
            f"train.parallel is fsdp, under which all ranks use the same weights in a step, and data.train "
            f"has {' and '.join(uses)}: set train.parallel to ddp"
        )
    dataset = Dataset(config.train, min_side=config.augment.min_side(config.image_size))
    if config.cache_views:
        return PrefixLoader(loader(cached_dataset(system, dataset, config), one_view))
    size, augment = system.kept_shape or config.image_size, config.augment
    return loader(dataset, train_transform(size, augment, system.image_mean, system.image_std))


def refuse_alone(sources: Sequence[Source], system: System) -> None:
    """Refuse pictures or texts alone where the system learns from both together.

    Raises:
        UserError: a source gives them.
    """
    taken = {"pairs", *system.alone}
    taken |= {kind for kind, reads in (("images", system.has_text), ("texts", system.has_image)) if not reads}
    for number, source in enumerate(sources):
        if source.use not in taken:
            raise UserError(
                f"data.train.{number}.use is {source.use}, and {type(system).__name__} learns from "
                f"{' or '.join(sorted(taken))}: set it so, or leave the source out"
            )


def _pair(size: int | tuple[int, int]) -> tuple[int, int]:
    return (size, size) if isinstance(size, int) else tuple(size)


def _start_from(
    system: System,
    start: Callable[[], System | None],
    init: Init,
    lora: LoRAConfig,
    say: Callable[[str], None],
) -> None:
    if lora.rank and (init.fusion != "fresh" or init.head != "fresh"):
        raise UserError(
            "train.lora keeps the weights that the checkpoint brings, which init.fusion and init.head would "
            "change: set both to fresh, or train.lora.rank 0"
        )
    if lora.rank and init.checkpoint is None:
        raise UserError(
            "train.lora adapts a checkpoint: name it as init.checkpoint, or set train.lora.rank 0"
        )
    if init.checkpoint is not None and (model := start()) is not None:
        say(f"{init.checkpoint}: {start_from_model(system, model, init.checkpoint, lora=lora)}")
    if init.image_tower is not None:
        tower = _part(system, "image_tower", lambda name, _: name.split(".")[-1] == "image_tower")
        say(f"image tower from {init.image_tower}: {load_image_tower(tower, init.image_tower).sentence()}")
    if init.text is not None:
        text = _part(system, "text", lambda _, module: isinstance(module, TextStack))
        heads = [load_word_head(part, init.text) for part in system.modules() if isinstance(part, WordHead)]
        head = ", and of the head for words" if any(heads) else ""
        say(f"text from {init.text}: {load_text(text, init.text).sentence()}{head}")
        system.start_from_text()
    if init.text_proj == "identity":
        proj = _part(system, "text_proj", lambda name, _: name.split(".")[-1] == "text_proj")
        torch.nn.init.eye_(proj.weight)
        torch.nn.init.zeros_(proj.bias)


def _part(system: System, option: str, fits: Callable[[str, nn.Module], bool]) -> Any:
    for name, module in system.named_modules():
        if fits(name, module):
            return module
    raise UserError(f"init.{option} is given, but {type(system).__name__} has no such part: leave it out")


@dataclass(frozen=True)
class Description:
    """What a run would do, for `--dry-run`.

    Attributes:
        run: the resolved config, plain. device: where it would run.
        steps: optimizer steps in all; per_epoch: in one epoch.
        frozen, trainable: (name prefix, parameters) down to the level where all below is alike.
        data: what the sources hold, with the tally of what is bad.
    """

    run: dict[str, Any]
    device: str
    steps: int
    per_epoch: int
    frozen: tuple[tuple[str, int], ...]
    trainable: tuple[tuple[str, int], ...]
    data: str

    def lines(self) -> list[str]:
        """The description as a person reads it."""
        said = [f"{self.steps:,} steps ({self.per_epoch:,} an epoch) on {self.device}", f"data: {self.data}"]
        for title, parts in (("frozen", self.frozen), ("trainable", self.trainable)):
            total = sum(count for _, count in parts)
            said.append(f"{title}: {total:,} parameters")
            said += [f"  {name} {count:,}" for name, count in parts]
        return said


def describe(
    run: Run, *, world: int = 1, make: Callable[[Run, Ranks], tuple[System, Any]] = build
) -> Description:
    """Resolve a run without taking a step: everything that could refuse it has been tried."""
    check(run.train, run.data.val)
    device = choose_device(run.train.device)
    run.train.per_rank(world)
    seed_all(run.train.seed)
    views = getattr(run.data, "cache_views", 0)
    # features are made when it trains: that can take hours, and stays on the disk
    built = replace(run, data=replace(run.data, cache_views=0)) if views else run
    system, loader = make(built, Ranks(0, world, device))
    if views:
        check_frozen(system)
    optim.freeze(system, run.train.freeze)
    optim.build_optimizer(system, run.train)
    tally = getattr(loader, "tally", None)
    samples = len(loader) * run.train.batch_size
    data = f"{samples:,} samples an epoch in whole batches" + (
        f"; {tally.sentence()}" if tally is not None else ""
    )
    frozen, trainable = summary(system)
    return Description(
        asdict(run), str(device), run.train.total_steps(len(loader)), len(loader), frozen, trainable, data
    )


def summary(system: nn.Module) -> tuple[tuple[tuple[str, int], ...], tuple[tuple[str, int], ...]]:
    """(frozen, trainable) parts with their parameters; a part is named where it stops being mixed."""
    found: dict[bool, list[tuple[str, int]]] = {False: [], True: []}

    def walk(module: nn.Module, name: str) -> None:
        parameters = list(module.parameters())
        kinds = {p.requires_grad for p in parameters}
        if len(kinds) == 1 and name:
            found[kinds.pop()].append((name, sum(p.numel() for p in parameters)))
        elif parameters:
            for leaf, parameter in module.named_parameters(recurse=False):
                found[parameter.requires_grad].append((f"{name}.{leaf}".lstrip("."), parameter.numel()))
            for child, part in module.named_children():
                walk(part, f"{name}.{child}".lstrip("."))

    walk(system, "")
    return tuple(found[False]), tuple(found[True])
