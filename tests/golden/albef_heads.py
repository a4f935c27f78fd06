"""Replays of ALBEF's question answering and visual entailment."""

from __future__ import annotations

from dataclasses import fields
from typing import Any

import albef
import official
import torch
from case import Case, Rule, at_tokens, default_rule
from torch import Tensor

from multiway.batch import Batch
from multiway.objectives import language
from multiway.systems.albef_heads import EntailmentConfig, EntailmentModel
from multiway.systems.albef_vqa import AnswerModel, VQAConfig
from multiway.systems.answer_tree import Candidates
from multiway.systems.distilled import Distilled, DistilledConfig, DistillState
from multiway.systems.med import shift
from multiway.weights import albef as layouts
from multiway.weights.keymap import Layout


def config_of(case: Case, kind: type[DistilledConfig], **changes: Any) -> Any:
    """Our config of a case's sizes."""
    base, names = albef.config_of(case.config), {"image", "text", "momentum", "alpha"}
    return kind(**{f.name: getattr(base, f.name) for f in fields(kind) if f.name in names}, **changes)


def steps(case: Case, model: Distilled, layout: Layout, batch: Batch) -> tuple[dict[str, Any], DistillState]:
    """A training step with the teacher and one without, from the same weights; and the teacher as it was."""
    out: dict[str, Any] = {}
    state = model.init_state()
    for mode in ("plain", "distill"):
        official.fill(model, layout, case.weights, state)
        model.zero_grad()
        state.step.fill_(state.ramp_steps)  # the recorded step lies after alpha's ramp
        if mode == "distill":
            model.begin(state)
        loss = model.losses(batch, state if mode == "distill" else None)["loss"]
        loss.backward()
        found = official.of_gradients(model, layout, case.config["distill.grad_norm_names"])
        out |= {f"{mode}.{name}": value for name, value in ({"loss": loss} | found).items()}
        facts = official.facts(model, layout)
        out[f"config.{mode}.grad_params_without_grad"] = facts["config.grad_params_without_grad"]
    moved = official.weights(model, layout, state)
    out |= {f"momentum.{name}": value for name, value in moved.items()}
    return out | official.tied(layout), state


def entailment(case: Case) -> dict[str, Any]:
    """Both training steps and a prediction."""
    config, i = config_of(case, EntailmentConfig), case.inputs
    model, layout = EntailmentModel(config), layouts.entailment_layout(config)
    text = i["input_ids"], i["attention_mask"]
    batch = Batch(image=i["image"], input_ids=text[0], attention_mask=text[1], labels=i["targets"])
    out, state = steps(case, model, layout, batch)
    network = model.network
    with torch.no_grad():
        image_embeds = network.look(i["image"])
        context = network.text.fusion.context(image_embeds)
        hidden = network.text.fuse(network.text(*text), text[1], context)
        return out | {
            "prediction": model.predict(batch),
            "prediction_m": state.network(i["image"], *text),
            "image_embeds": image_embeds,
            "hidden": at_tokens(hidden, text[1]),
        }


def padded(ids: Tensor, mask: Tensor, weights: Tensor, n: Tensor) -> dict[str, Tensor]:
    """Answers one after the other, as rows of a batch."""
    counts, most = n.tolist(), int(n.max())

    def rows(values: Tensor) -> Tensor:
        parts = values.split(counts)
        return torch.stack([torch.cat([p, p.new_zeros(most - len(p), *p.shape[1:])]) for p in parts])

    return {"answer_ids": rows(ids), "answer_mask": rows(mask), "answer_weights": rows(weights)}


def vqa(case: Case) -> dict[str, Any]:
    """Both training steps, and a ranking of candidates."""
    recorded, i = case.config, case.inputs
    config = config_of(
        case, VQAConfig, decoder_layers=recorded["decoder_layers"], compat=("first_token_twice",)
    )
    model, layout = AnswerModel(config), layouts.vqa_layout(config)
    question_mask, ids, mask = i["question_mask"], i["answer_ids"], i["answer_mask"]
    batch = Batch(
        image=i["image"],
        input_ids=i["question_ids"],
        attention_mask=question_mask,
        **padded(ids, mask, i["answer_weights"], i["n"]),
    )
    out, state = steps(case, model, layout, batch)
    network, teacher = model.network, state.network
    owner, known = torch.arange(len(i["n"])).repeat_interleave(i["n"]), mask[:, 1:].bool()
    with torch.no_grad():
        question = network.question(i["image"], i["question_ids"], question_mask)
        question_m = teacher.question(i["image"], i["question_ids"], question_mask)
        hidden = network.hidden(question, question_mask, ids, mask, owner)
        logits = model.writer.logits(hidden)
        logits_m = teacher.decoder.logits(teacher.hidden(question_m, question_mask, ids, mask, owner))
        own, labels = logits[:, :-1][known], shift(ids, mask)[known]

        def each(alpha: float) -> Tensor:
            token = language.each(own, labels, teacher_logits=logits_m[:, :-1][known], alpha=alpha)
            return torch.zeros(known.shape).masked_scatter(known, token).sum(1)

        context = model.answer_context(question, question_mask)
        listed = Candidates.of(i["candidate_ids"], i["candidate_mask"])
        ranking = model.rank(context, listed, k=recorded["k_test"])
        order = ranking.score.sort(dim=1, descending=True)
        for mode, alpha in (("plain", 0.0), ("distill", config.alpha)):
            out[f"{mode}.answer_logits"] = at_tokens(logits, mask)
            out[f"{mode}.answer_loss_each"] = each(alpha)
        return out | {
            "distill.image_embeds": network.look(i["image"]),
            "distill.question_hidden": at_tokens(question, question_mask),
            "distill.question_hidden_m": at_tokens(question_m, question_mask),
            "distill.answer_logits_m": at_tokens(logits_m[:, :-1], mask[:, :-1]),
            "distill.lm_loss_ce_each": each(0.0),
            "distill.loss_distill_each": each(1.0),
            "rank.first_token_logits": ranking.first_logits,
            "rank.prob_first_token": ranking.first_probability,
            "rank.topk_ids_first": ranking.kept,
            "rank.topk_probs_first": ranking.first_probability.gather(1, ranking.kept),
            "rank.answer_loss": ranking.loss.view(-1, 1),
            "rank.log_probs_sum": ranking.score,
            "rank.topk_ids": ranking.kept.gather(1, order.indices),
            "rank.topk_probs": ranking.score.softmax(1).gather(1, order.indices),
        }


def vqa_rule(case: Case, name: str) -> Rule:
    """As the case's README states it: losses that are sums over tokens to 1e-4 of their size."""
    if "loss" in name or name == "rank.log_probs_sum":
        return Rule(absolute=1e-5, relative=1e-4)
    return default_rule(case, name)
