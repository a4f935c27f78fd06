"""Replays of what comes before ALBEF's first step: initialisation, schedule, tokens."""

from __future__ import annotations

import hashlib
import warnings
from collections.abc import Callable, Mapping
from typing import Any

import albef
import official
import torch
from case import Case, Rule
from safetensors import safe_open
from torch import Tensor, nn

from multiway.systems.albef import ALBEF
from multiway.systems.base import System
from multiway.systems.momentum_state import MomentumState
from multiway.text import Tokenizer, TokenizerConfig, cleaning, wordpiece
from multiway.train.optim import build_optimizer, learning_rate, set_lr
from multiway.train.run import TrainConfig
from multiway.weights import albef as layouts


def init(case: Case) -> dict[str, Any]:
    """Statistics of freshly built models; their draws are not the official ones."""

    def fresh() -> tuple[System, MomentumState, dict[str, Tensor]]:
        model = ALBEF(config)
        state = model.init_state()
        return model, state, official.weights(model, layout, state)

    config = albef.config_of(case.config)
    layout = layouts.layout(config)
    words = "text_encoder.bert.embeddings.word_embeddings.weight"
    return statistics(case, fresh, words) | official.tied(layout)


def statistics(case: Case, fresh: Callable[[], Any], words_name: str) -> dict[str, Any]:
    """Of what `fresh` builds after each recorded seed: a model, its state, all weights by official name."""
    names, pairs = case.config["names"], case.config["pair_names"]
    rows: dict[str, list] = {}
    differing: set[str] = set()
    for seed in case.inputs["seeds"]:
        torch.manual_seed(int(seed))
        _, state, weights = fresh()
        weights = {n: t.double() for n, t in weights.items()}
        if set(names) != set(weights) - {"image_queue", "text_queue", "queue_ptr"}:
            raise ValueError("recorded names differ from ours")
        words = weights[words_name]
        columns = torch.cat([weights["image_queue"], weights["text_queue"]], 1).norm(dim=0)
        distance = {n: (weights[n] - weights[n.replace("_m.", ".", 1)]).abs().max() for n in pairs}
        differing |= {n for n, d in distance.items() if d}
        found = {
            "mean": torch.stack([weights[n].mean() for n in names]),
            "std": torch.stack([weights[n].std(correction=0) for n in names]),
            "min": torch.stack([weights[n].min() for n in names]),
            "max": torch.stack([weights[n].max() for n in names]),
            "l2": torch.stack([weights[n].norm() for n in names]),
            "pair_max_diff": torch.stack([distance[n] for n in pairs]),
            "queue_col_norm_min": columns.min(),
            "queue_col_norm_max": columns.max(),
            "pad_row_l2": words[0].norm(),
            "temp": weights["temp"],
            "queue_ptr": state.queue.pointer,
        }
        for name, value in found.items():
            rows.setdefault(name, []).append(value)
    out: dict[str, Any] = {name: torch.stack(values) for name, values in rows.items()}
    # The README's own test, against the distributions: of each parameter the seed that lies farthest off.
    for name, expected in (("mean", case.inputs["expected_mean"]), ("std", case.inputs["expected_std"])):
        farthest = (out[name] - expected).abs().argmax(0)
        out[f"inputs.expected_{name}"] = out[name][farthest, torch.arange(len(names))]
    out["inputs.numel"] = torch.tensor([weights[n].numel() for n in names])
    return out | {"config.momentum_differs_from_online": differing}


def init_rule(case: Case, name: str) -> Rule:
    """Six standard errors of a difference of two draws, or of one from its expectation; constants exactly."""
    std, numel = case.inputs["expected_std"], case.inputs["numel"]
    exactly = 1e-7
    if name in ("mean", "std", "l2", "inputs.expected_mean", "inputs.expected_std"):
        error = std / numel.sqrt() if name.endswith("mean") else std / (2 * numel).sqrt()
        error = (
            std * 0.5**0.5 if name == "l2" else error
        )  # the norm is sqrt(numel) times the root mean square
        errors = 6 if name.startswith("inputs.") else 6 * 2**0.5
        tolerance = errors * error + exactly
        if name.startswith("inputs."):  # small tensors say little about a distribution
            tolerance = tolerance.where((numel >= 64) | (std == 0), 2 * std)
        return Rule(tolerance, relative=1e-6 if name == "l2" else 0.0)
    if name in ("min", "max"):
        return Rule(
            3.5 * std + exactly
        )  # no two extremes of a uniform or of a large normal sample are farther apart
    if name == "pad_row_l2":
        return Rule(6 * 0.02)
    return Rule(1e-6 if "queue" in name else 0.0 if name == "pair_max_diff" else exactly)


class Named(System):
    """A system that is nothing but its parameters, under dotted names."""

    def __init__(self, parameters: Mapping[str, Tensor]):
        super().__init__()
        for name, value in parameters.items():
            module: nn.Module = self
            *path, leaf = name.split(".")
            for part in path:
                if not hasattr(module, part):
                    module.add_module(part, nn.Module())
                module = getattr(module, part)
            module.register_parameter(leaf, nn.Parameter(value.clone()))


def schedule(case: Case) -> dict[str, Any]:
    """Learning rates of every step, and three steps of AdamW with the official groups."""
    recorded, n = case.config["schedule"], case.config["schedule"]["n"]
    config = TrainConfig(
        epochs=recorded["epochs"],
        lr=recorded["lr"],
        min_lr=recorded["min_lr"],
        warmup_lr=recorded["warmup_lr"],
        warmup_steps=100 * recorded["warmup_epochs"],
        schedule="albef",
        weight_decay=recorded["wd"],
    )
    rates = [learning_rate(s, config, steps_per_epoch=n) for s in range(recorded["epochs"] * n)]
    rates = torch.tensor(rates, dtype=torch.float64).view(recorded["epochs"], n)
    start = {k.removeprefix("p0."): v for k, v in case.inputs.items() if k.startswith("p0.")}
    system = Named(_undone(case, start) if _saved_afterwards(case, start) else start)
    optimizer = build_optimizer(system, config)
    for step, lr in enumerate(case.config["opt_lr_per_step"]):
        for name, parameter in system.named_parameters():
            parameter.grad = case.inputs[f"g{step}.{name}"].clone()
        set_lr(optimizer, lr)
        optimizer.step()
    names = {p: name for name, p in system.named_parameters()}
    return {
        "lr_pretrain": rates,
        "lr_finetune": rates,  # stepped at the end of an epoch instead of the next one's start: the same
        **{f"after.{name}": p.detach() for name, p in system.named_parameters()},
        "config.param_groups": {
            (names[p], g["weight_decay"]) for g in optimizer.param_groups for p in g["params"]
        },
    }


def _saved_afterwards(case: Case, start: Mapping[str, Tensor]) -> bool:
    """Whether `p0.*` was saved without a copy: then it holds what the three steps left of it."""
    with safe_open(case.folder / "outputs.safetensors", "pt") as outputs:
        return any(torch.equal(outputs.get_tensor(f"after.{name}"), value) for name, value in start.items())


def _undone(case: Case, end: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Parameters before the steps, from those after them: AdamW's update does not depend on the parameter."""
    decay = {n: group["weight_decay"] for group in case.config["param_groups"] for n in group["names"]}
    rates, before = case.config["opt_lr_per_step"], {}
    for name, value in end.items():
        first = second = torch.zeros_like(value, dtype=torch.float64)
        updates = []
        for step in range(len(rates)):
            gradient = case.inputs[f"g{step}.{name}"].double()
            first, second = 0.9 * first + 0.1 * gradient, 0.999 * second + 0.001 * gradient**2
            root = (second / (1 - 0.999 ** (step + 1))).sqrt()
            updates.append(first / (1 - 0.9 ** (step + 1)) / (root + 1e-8))
        value = value.double()
        for lr, update in zip(reversed(rates), reversed(updates), strict=True):
            value = (value + lr * update) / (1 - lr * decay[name])
        before[name] = value.float()
    return before


def schedule_rule(case: Case, name: str) -> Rule:
    """As the case's README states it."""
    return Rule(relative=1e-12) if name.startswith("lr_") else Rule(absolute=1e-6)


def tokenize(case: Case) -> dict[str, Any]:
    """Cleaning and token ids with the vocabulary that the package ships."""
    recorded = case.config
    tokenizer = Tokenizer.load(TokenizerConfig(max_words=recorded["max_words"]))
    captions, questions = recorded["raw"], recorded["questions"]
    cleaned = [cleaning.pre_question(text, recorded["max_question_words"]) for text in questions]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of texts that are cut, which is the point here
        found = {
            "pretrain": tokenizer(captions, max_length=25),
            "eval": tokenizer(captions, max_length=30, padding="max_length"),
            "question": tokenizer(cleaned, max_length=25, clean=False),
            "answer": tokenizer([f"{text}[SEP]" for text in recorded["answers"]], clean=False),
        }
    return {
        **{f"{name}_ids": ids for name, (ids, _) in found.items()},
        **{f"{name}_mask": mask for name, (_, mask) in found.items()},
        "config.pre_caption": [cleaning.pre_caption(text, recorded["max_words"]) for text in captions],
        "config.pre_question": cleaned,
        "config.vocab_sha256": hashlib.sha256(
            wordpiece.SHIPPED["bert-base-uncased"].read_bytes()
        ).hexdigest(),
    }
