"""Replays of what comes before BLIP's first step: initialisation, schedule, tokens, conversions."""

from __future__ import annotations

import hashlib
import warnings
from dataclasses import replace
from typing import Any

import albef_setup
import blip
import official
import torch
from case import Case, Rule, at_tokens
from torch import Tensor

from multiway.systems.base import System
from multiway.systems.blip import BLIP, State
from multiway.systems.blip_config import CaptionerConfig, NLVRConfig, VQAConfig, blip_tokenizer
from multiway.systems.blip_heads import AnswerModel, Captioner, PairModel
from multiway.systems.momentum_state import MomentumState
from multiway.text import Tokenizer, cleaning, wordpiece
from multiway.train.optim import learning_rate
from multiway.train.run import TrainConfig
from multiway.weights import blip as layouts
from multiway.weights.keymap import Layout, Report
from multiway.weights.official import load_layout


def init(case: Case) -> dict[str, Any]:
    """Statistics of freshly built models; their draws are not the official ones."""
    config = blip.config_of(case.config, compat=("momentum_before_tying",))
    layout = layouts.layout(config)

    def fresh() -> tuple[BLIP, State, dict[str, Tensor]]:
        model = BLIP(config)
        state = model.init_state()
        return model, state, official.weights(model, layout, state)

    found = albef_setup.statistics(case, fresh, "text_encoder.embeddings.word_embeddings.weight")
    return found | official.tied(layout)


def init_rule(case: Case, name: str) -> Rule:
    """As ALBEF's; where a momentum copy has draws of its own, the greatest distance varies with them."""
    if name != "pair_max_diff":
        return albef_setup.init_rule(case, name)
    std = dict(zip(case.config["names"], case.inputs["expected_std"].tolist(), strict=True))
    own = set(case.config["momentum_differs_from_online"])
    # As for the extremes of two samples, whose difference has twice the variance.
    return Rule(
        torch.tensor(
            [3.5 * 2**0.5 * std[n] if n in own else 0.0 for n in case.config["pair_names"]],
            dtype=torch.float64,
        )
    )


def schedule(case: Case) -> dict[str, Any]:
    """Learning rates and alpha of every step."""
    recorded = case.config["schedule"]
    n, epochs = recorded["n"], recorded["max_epoch"]
    config = TrainConfig(
        epochs=epochs,
        lr=recorded["init_lr"],
        min_lr=recorded["min_lr"],
        warmup_lr=recorded["warmup_lr"],
        warmup_steps=recorded["warmup_steps"],
        lr_decay=recorded["lr_decay_rate"],
        schedule="blip",
    )
    # Fine-tunings: a cosine to 0 that moves once an epoch, without warm-up.
    tuning = replace(config, schedule="albef", min_lr=0.0, warmup_steps=0)

    def alphas(ramp_epochs: int, steps: int) -> Tensor:
        state = MomentumState(None, 0, 1, recorded["alpha"], ramp_epochs * n)
        found = []
        for step in range(steps):
            state.step.fill_(step)
            found.append(state.alpha)
        return torch.stack(found)

    rates = [learning_rate(s, config, steps_per_epoch=n) for s in range(epochs * n)]
    cosine = [learning_rate(e * n, tuning, steps_per_epoch=n) for e in range(epochs)]
    return {
        "lr_pretrain": torch.tensor(rates, dtype=torch.float64).view(epochs, n),
        "alpha_pretrain": alphas(2, epochs * n).view(epochs, n),
        "alpha_retrieval_epoch0": alphas(1, n),
        "lr_finetune_cosine": torch.tensor(cosine, dtype=torch.float64),
    }


def schedule_rule(case: Case, name: str) -> Rule:
    """As the case's README states it."""
    return Rule(relative=1e-12)


def tokenize(case: Case) -> dict[str, Any]:
    """Cleaning, token ids and text again, with the vocabulary that the package ships."""
    recorded = case.config
    tokenizer = Tokenizer.load(replace(blip_tokenizer(), max_words=recorded["max_words"]))
    captions = [cleaning.blip_caption(text, recorded["max_words"]) for text in recorded["raw"]]
    questions = [
        cleaning.blip_question(text, recorded["max_question_words"]) for text in recorded["questions"]
    ]
    prompt, written = recorded["prompt"], tokenizer.decode([recorded["decode_ids"]])[0]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of texts that are cut, which is the point here
        found = {
            "pretrain": tokenizer(recorded["raw"], max_length=30, padding="max_length"),
            "caption": tokenizer([prompt + text for text in captions], max_length=40, clean=False),
            "retrieval": tokenizer(recorded["raw"], max_length=35, padding="max_length"),
            "question": tokenizer(questions, max_length=35, clean=False),
        }
    return {
        **{f"{name}_ids": ids for name, (ids, _) in found.items()},
        **{f"{name}_mask": mask for name, (_, mask) in found.items()},
        "config.pre_caption": captions,
        "config.pre_question": questions,
        "config.decode_text": written,
        "config.decode_caption": written[len(prompt) :],
        "config.prompt_length": len(tokenizer.encode(prompt, clean=False)) - 1,
        "config.len_tokenizer": len(tokenizer),
        "config.bos_token_id": tokenizer.dec_id,
        "config.enc_token_id": tokenizer.enc_id,
        "config.vocab_sha256": hashlib.sha256(
            wordpiece.SHIPPED["bert-base-uncased"].read_bytes()
        ).hexdigest(),
    }


@torch.no_grad()
def checkpoint_conversion(case: Case) -> dict[str, Any]:
    """A pre-training checkpoint becomes models of four other tasks at a larger resolution."""
    recorded, i = case.config, case.inputs
    before = blip.config_of(recorded)
    sizes = {
        "image": replace(before.image, image_size=recorded["new_image_res"]),
        "text": before.text,
        "label_smoothing": before.label_smoothing,
    }
    tokenizer, image, out = blip.tokenizer(case), i["image"], {}

    # The official model's queue is of another size than the checkpoint's, and so dropped.
    config = replace(before, **sizes, **layouts.RETRIEVAL, queue_size=before.queue_size + 1)
    model = BLIP(config).eval()
    state = model.init_state()
    out |= loaded(case, "retrieval", model, layouts.layout(config), state=state)
    hidden = model.encoders.text(i["input_ids"], i["attention_mask"])
    out |= {
        "retrieval.pos_embed": model.image_tower.positions,
        "retrieval.pos_embed_m": state.encoders.image_tower.positions,
        "retrieval.image_embeds": model.image_tower(image),
        "retrieval.text_embeds": at_tokens(hidden, i["attention_mask"]),
    }

    writer = Captioner(CaptionerConfig(**sizes, prompt=recorded["prompt"])).eval()
    writer.tokenizer = tokenizer
    out |= loaded(case, "decoder", writer, layouts.captioner_layout(writer.config))
    texts = [recorded["prompt"] + text for text in recorded["captions"]]
    ids, mask = tokenizer(texts, max_length=40, clean=False)
    embeds = writer.image_tower(image)
    hidden, _, loss = writer.figure(embeds, ids, mask, writer.prompt_ids().shape[1])
    out |= {
        "decoder.loss_lm": loss,
        "decoder.lm_logits": at_tokens(writer.writer().logits(hidden), mask),
    }

    answers = AnswerModel(VQAConfig(**sizes)).eval()
    answers.tokenizer = tokenizer
    out |= loaded(case, "vqa", answers, layouts.vqa_layout(answers.config))
    ids, mask = tokenizer(recorded["vqa"]["questions"], clean=False)
    context = answers.answer_context(answers.question(image, ids, mask), mask)
    ids, mask = tokenizer(recorded["vqa"]["answers"], clean=False)
    out["vqa.loss"] = answers.loss(context, ids, mask, torch.arange(len(ids)), torch.ones(len(ids)))

    del sizes["label_smoothing"]
    pair = PairModel(NLVRConfig(**sizes)).eval()
    pair.tokenizer = tokenizer
    renamed = {new: case.weights[old] for new, old in layouts.nlvr_keys(case.weights).items()}
    out |= loaded(case, "nlvr", pair, layouts.nlvr_layout(pair.config), further=renamed)
    out["config.nlvr.unexpected_keys_count"] = len(out["config.nlvr.unexpected_keys"])
    heads = {k.removeprefix("nlvr_init.cls_head."): v for k, v in i.items() if k.startswith("nlvr_init.")}
    pair.head.load_state_dict(heads)
    ids = i["nlvr_input_ids"]
    out["nlvr.prediction"] = pair.judge(image[:2], ids, torch.ones_like(ids))[1]
    return out | official.tied(layouts.layout(before))


def loaded(
    case: Case,
    task: str,
    model: System,
    layout: Layout,
    *,
    state: MomentumState | None = None,
    further: dict[str, Tensor] | None = None,
) -> dict[str, Any]:
    """Load the checkpoint, and say as `load_state_dict(strict=False)` would what was missing and too much."""
    report: Report = load_layout(model, layout, case.weights | (further or {}), state)
    absent = [entry for entry in layout.entries if entry.ours in report.missing]
    return {
        f"config.{task}.missing_keys": {name for e in absent for name in (*e.theirs, *e.also)},
        f"config.{task}.unexpected_keys": set(report.unexpected),
    }
