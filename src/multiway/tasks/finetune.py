"""Fine-tuning for a task: the model is asked for its network, the training loop is the same."""

from __future__ import annotations

from dataclasses import fields, replace
from functools import cache
from pathlib import Path
from typing import Any, Literal

from multiway import weights
from multiway.data.augment import Augment, train_transform
from multiway.data.dataset import DataConfig
from multiway.data.labelled import LabelledPictures, TaskData
from multiway.data.licences import licences
from multiway.data.loader import Loader
from multiway.data.mixing import Mixed
from multiway.data.questions import Questions
from multiway.data.two_pictures import PairTransform, PicturePairs
from multiway.errors import UserError
from multiway.systems import NETWORKS
from multiway.systems.answering import Inference
from multiway.systems.base import System
from multiway.tasks import vqa
from multiway.tasks.pretrain import length, note_validation
from multiway.tasks.task import TASKS, labels_of, task_of
from multiway.train.build import build_loader as pairs_loader
from multiway.train.features import PrefixLoader
from multiway.train.loop import Result, train
from multiway.train.parallel import Ranks
from multiway.train.run import Init, Run, TrainConfig
from multiway.weights.adapter import save_adapter
from multiway.weights.card import card as make_card
from multiway.weights.start import start_from_model, words_of

#: What is done to training pictures of captions: crops as officially, no other colours.
AUGMENT = Augment(crop_scale=(0.5, 1.0), rand_n=0)


#: What a fine-tuning starts from where flags say nothing: for small models and data.
TRAIN = TrainConfig(
    epochs=5, batch_size=32, lr=2e-4, min_lr=1e-6, warmup_lr=1e-6, warmup_steps=50, clip_grad=1.0
)


def plan(
    name: str,
    model: str | Path,
    data: TaskData | DataConfig,
    *,
    train: TrainConfig = TRAIN,
    checked: System | None = None,
    labels: tuple[str, ...] | None = None,
    min_count: int = 1,
    inference: Inference | None = None,
) -> Run:
    """The run that fine-tunes a model for a task; classes are those of the training data.

    Args:
        model: its folder, hub id or official checkpoint. checked: the same, where it is loaded already.
        data: for retrieval and captions a `DataConfig`, whose pictures become as large as the model takes
            them; else a `TaskData`.
        labels: the classes, or the answers to choose from; None: those of the training data.
        min_count: answers that were given less often are not among them.
        inference: how a model for `vqa` shall answer; None: as its network for the task does.

    Raises:
        UserError: the model or the data can't be read, or the model has no network for the task.
    """
    task, base = task_of(name), checked or weights.load(model)
    if task.pairs != isinstance(data, DataConfig):
        raise UserError(
            f"{name} learns from a {'DataConfig' if task.pairs else 'TaskData'}: give one as data"
        )
    listed = labels is not None
    if labels is None:
        network = NETWORKS[base.fine_tuning(name, ()).system].network()
        labels = task.labels(task.open(data.train, (), None), network, min_count)
    config = base.fine_tuning(name, labels)
    if inference is not None:
        config = vqa.network_of(base, config, inference)
        if (listed or min_count > 1) and not hasattr(config, "labels"):
            raise UserError(
                f"a {config.system} writes whatever it learned: leave the list of answers and --min-count out"
            )
    if isinstance(data, DataConfig):
        data = replace(data, image_size=config.image.image_size)
    if data.val and train.best_metric is None:
        train = replace(train, best_metric=task.metric)
    return Run(name=name, system=config, data=data, train=train, init=Init(checkpoint=str(model)))


def finetune(name: str, run: Run, out: str | Path, *, resume: Literal["auto", "never"] = "auto") -> Result:
    """Train `run` (of `plan`) into the folder `out`: `out/model`, and `out/best` where there is validation.

    With `train.lora` the adapters are merged there, and lie by themselves in `out/model-adapter`.

    Raises:
        UserError: the run is impossible, its data is missing or bad, or `out` holds another run.
    """
    task = task_of(name)
    _check_init(run)

    @cache
    def said() -> str:
        return card(name, run)

    def make(resumed: Run, ranks: Ranks) -> tuple[System, Any]:
        return build(name, replace(resumed, init=run.init), ranks)  # the vocabulary is the model's all along

    def save(system: System, folder: Path) -> Path:
        if run.train.lora.rank:
            save_adapter(
                system, folder.with_name(f"{folder.name}-adapter"), run.init.checkpoint, run.train.lora
            )
        return weights.save(system, folder, card=said())

    evaluate = None
    if run.data.val:
        held_back = task.open(run.data.val, labels_of(run.system), None)

        def evaluate(system: System) -> dict[str, Any]:
            return task.evaluate(system, held_back)

    result = train(run, Path(out), resume=resume, evaluate=evaluate, save=save, make=make)
    note_validation(result, Path(out))
    return result


def build(name: str, run: Run, ranks: Ranks) -> tuple[System, Any]:
    """The network of a run with its starting weights, and the loader of this rank."""
    _check_init(run)
    checkpoint = str(run.init.checkpoint)
    base = weights.load(checkpoint)
    system = NETWORKS[run.system.system].network()(run.system)
    system.tokenizer = words_of(base, run.system)  # those that its word embeddings were learned with
    said = start_from_model(system, base, checkpoint, lora=run.train.lora)
    if ranks.first:
        print(f"{checkpoint}: {said}")
    return system, build_loader(name, run, system, ranks)


def build_loader(name: str, run: Run, system: System, ranks: Ranks) -> Loader | Mixed | PrefixLoader:
    """The training data of one rank, augmented and, where the task reads texts, tokenized for `system`.

    Raises:
        UserError: the task reads texts, and the model has no tokenizer, or pictures shall be mixed.
    """
    config, task = run.data, task_of(name)
    if isinstance(config, DataConfig):
        _check_tokenizer(name, run, system)
        return pairs_loader(run, system, ranks)
    samples = task.open(config.train, labels_of(run.system), config.augment.min_side(system.image_size))
    size = system.kept_shape or system.image_size
    one = train_transform(size, config.augment, system.image_mean, system.image_std)
    reads = not isinstance(samples, LabelledPictures)
    transform: Any = PairTransform(one) if isinstance(samples, PicturePairs) else one
    if reads:
        _check_tokenizer(name, run, system)
    if reads and config.mixing.on:
        raise UserError(f"{name} reads texts, which can't be mixed: leave data.mixing out")
    loader = Loader(
        samples,
        encode=system.tokenizer if reads else None,
        transform=transform,
        label=None if isinstance(samples, Questions) else samples.label,
        complete=None if task.complete is None else task.complete(system, samples),
        batch_size=run.train.per_rank(ranks.world),
        seed=config.seed,
        rank=ranks.rank,
        world=ranks.world,
        workers=config.workers,
        max_bad_share=config.max_bad_share,
    )
    if not config.mixing.on:
        return loader
    return Mixed(loader, config.mixing, len(samples.labels), seed=config.seed, rank=ranks.rank)


def _check_init(run: Run) -> None:
    """Refuse what only training from the beginning can start from: the model has all weights already.

    Raises:
        UserError: something else than a checkpoint is named.
    """
    plain = Init(checkpoint=run.init.checkpoint)
    for field in fields(Init):
        value = getattr(run.init, field.name)
        if value != getattr(plain, field.name):
            raise UserError(
                f"init.{field.name} is {value}, but a fine-tuning starts from its model alone: leave it out"
            )


def _check_tokenizer(name: str, run: Run, system: System) -> None:
    if system.tokenizer is None:
        raise UserError(f"{run.init.checkpoint} has no tokenizer, and {name} reads texts: take another model")


def card(name: str, run: Run) -> str:
    """The model card of a fine-tuned model."""
    opened = ((s, task_of(name).open((s,), labels_of(run.system), None)) for s in run.data.train)
    return make_card(
        run.system.system,
        title=run.system.system,
        about=f"Fine-tuned for the task `{name}` ({TASKS[name].about}) from `{run.init.checkpoint}`.",
        use=f"    multiway evaluate {name} --model THIS_FOLDER --data DATA",
        training=f"{length(run)}, seed {run.train.seed}. `run.json` of the run has every setting.",
        data=[(source.path, licences(samples, source.path)) for source, samples in opened],
    )
