"""Replays of BLIP's recorded captions, answers, judgements and features."""

from __future__ import annotations

from typing import Any

import blip
import momentum
import official
import torch
import torch.nn.functional as F
from case import Case, Rule, at_tokens, default_rule
from torch import Tensor

from multiway.generation import Decoding, GenerationConfig, generate
from multiway.generation.constraints import constrain
from multiway.generation.sampling import likeliest
from multiway.systems.answer_tree import Candidates
from multiway.systems.blip import BLIP
from multiway.systems.blip_config import CaptionerConfig, FeaturesConfig, NLVRConfig, VQAConfig
from multiway.systems.blip_heads import AnswerModel, Captioner, FeatureExtractor, PairModel
from multiway.systems.med import shift
from multiway.weights import blip as layouts
from multiway.weights.keymap import to_ours


def captioner(case: Case, weights: dict[str, Tensor]) -> Captioner:
    """The case's captioner, with its prompt and its vocabulary."""
    recorded = case.config
    config = CaptionerConfig(
        image=momentum.image_config(recorded),
        text=blip.text_config(recorded),
        prompt=recorded["prompt"],
        label_smoothing=recorded["label_smoothing_lm"],
    )
    model = Captioner(config)
    official.fill(model, layouts.captioner_layout(config), weights)
    model.tokenizer = blip.tokenizer(case)
    return model.eval()


def search(arguments: dict[str, Any], prompt_length: int, special: dict[str, int]) -> GenerationConfig:
    """Our config of a recorded call; its lengths count the prompt."""
    sampled = arguments["sample"]
    beams = arguments.get("num_beams", 1)
    return GenerationConfig(
        method="sample" if sampled else "beam" if beams > 1 else "greedy",
        beams=beams,
        max_length=arguments["max_length"] - prompt_length,
        min_length=max(arguments["min_length"] - prompt_length, 0),
        repetition_penalty=arguments.get("repetition_penalty", 1.0),
        top_k=arguments.get("top_k") if sampled else None,
        top_p=arguments.get("top_p", 1.0),
        length_rule="official",
        eos_id=special["sep"],
        pad_id=special["pad"],
    )


def padded(rows: list[list[int]], prompt: Tensor, width: int, pad: int) -> Tensor:
    """Prompt and new tokens of each row, with padding behind."""
    rows = [prompt[0].tolist() + row for row in rows]
    return torch.tensor([row + [pad] * (width - len(row)) for row in rows])


def said(model: Captioner, ids: Tensor) -> list[str]:
    """Captions as the official code cuts them: by the number of the prompt's letters."""
    return [text[len(model.config.prompt) :] for text in model.tokenizer.decode(ids)]


def caption(case: Case) -> dict[str, Any]:
    """LM with a prompt, and every recorded generation."""
    recorded, i = case.config, case.inputs
    model = captioner(case, case.weights)
    layout, prompt = layouts.captioner_layout(model.config), model.prompt_ids()
    ids, mask, length = i["input_ids"], i["attention_mask"], prompt.shape[1]
    image_embeds = model.image_tower(i["image"])
    hidden, labels, loss = model.figure(image_embeds, ids, mask, length)
    loss.backward()
    whole = shift(model.started(ids), mask)
    out: dict[str, Any] = {
        "loss_lm": loss,
        "image_embeds": image_embeds,
        "lm_logits": at_tokens(model.writer().logits(hidden), mask),
        "decoder_input_ids": model.started(ids),
        "decoder_targets": torch.cat([torch.full_like(ids[:, :1], -100), labels], dim=1),
        "prompt_ids": prompt,
        **official.of_gradients(model, layout, recorded["grad_norm_names"]),
        **official.facts(model, layout),
        "config.prompt_length": length,
    }
    if not torch.equal(labels[:, length - 1 :], whole[:, length - 1 :]):
        raise ValueError("the prompt took labels of the caption")
    for name, run in recorded["generate"].items():
        config = search(run["args"], length, recorded["special_ids"])
        draws = i.get(f"{name}_draws")
        start = prompt.expand(len(ids), -1)
        found = generate(model.decoding(i["image"]), start, None, config, draws=draws)
        width = official.recorded_shape(case, f"generate.{name}.ids")[1]
        rows = padded([group[0] for group in found.sequences], prompt, width, config.pad_id)
        out[f"generate.{name}.ids"] = rows
        out[f"generate.{name}.sequences_scores"] = torch.tensor([group[0] for group in found.scores])
        out[f"config.generate.{name}.text"] = said(model, rows)
        if draws is not None:
            out[f"generate.{name}.step_probs"] = distributions(
                model.decoding(i["image"]), start, rows[:, length:], len(draws), config
            )
    return out


@torch.no_grad()
def distributions(
    decoding: Decoding, prompt: Tensor, tokens: Tensor, steps: int, config: GenerationConfig
) -> Tensor:
    """What each step drew from; finished rows go on over padding, as officially."""
    found, logits = [], decoding.start(prompt)[:, None]
    rows = torch.arange(len(prompt))[:, None]
    for step in range(steps):
        texts = [tuple(row) for row in tokens[:, :step].tolist()]
        values, order = likeliest(constrain(logits[:, 0], prompt.tolist(), texts, config), config)
        found.append(torch.zeros_like(logits[:, 0]).scatter(1, order, values.softmax(-1)))
        if step + 1 < steps:
            logits = decoding.step(tokens[:, step : step + 1], rows)
    return torch.stack(found)


def capfilt(case: Case) -> dict[str, Any]:
    """Captions by one model; web and synthetic texts judged by another, which reads [CLS] (`BLIP_ITM`)."""
    recorded, images = case.config, case.inputs["image"]

    def part(prefix: str) -> dict[str, Tensor]:
        return {k.removeprefix(prefix): t for k, t in case.weights.items() if k.startswith(prefix)}

    writer = captioner(case, part("captioner."))
    config = blip.config_of(recorded, **layouts.RETRIEVAL, compat=("itm_reads_cls",))
    judge = BLIP(config).eval()
    ours = {"temperature": judge.temperature.detach()}
    layout = layouts.layout(config, state=False)
    given, missing, unexpected = to_ours(layout, part("filter."))
    if missing or unexpected:
        raise ValueError(f"weights lack {missing} and have no place for {unexpected}")
    judge.load_state_dict(given | ours)
    prompt = writer.prompt_ids()
    search_config = search(recorded["generate"], prompt.shape[1], recorded["special_ids"])
    found = generate(writer.decoding(images), prompt.expand(len(images), -1), None, search_config)
    width = official.recorded_shape(case, "captioner.ids")[1]
    ids = padded([group[0] for group in found.sequences], prompt, width, search_config.pad_id)
    written = said(writer, ids)
    out: dict[str, Any] = {"captioner.ids": ids, "config.synthetic_texts": written}
    decisions = {}
    for name, texts in (("web", recorded["web_texts"]), ("synthetic", written)):
        width = case.inputs[f"{name}_ids"].shape[1]
        ids, mask = writer.tokenizer(texts, max_length=width, padding="max_length", clean=False)
        with torch.no_grad():
            image_features, context = judge.image_context(images)
            text_features, read = judge.text_context(ids, mask)
            logits = judge.match_pairs(context, read, mask)
        match = logits.softmax(-1)[:, 1]
        decisions[name] = (match > recorded["threshold"]).tolist()
        out |= {
            f"inputs.{name}_ids": ids,
            f"inputs.{name}_mask": mask,
            f"{name}.itm_logits": logits,
            f"{name}.match_prob": match,
            f"{name}.keep": match > recorded["threshold"],
            f"{name}.itc": image_features @ text_features.T,
        }
    return out | {"config.decisions": decisions}


def vqa(case: Case) -> dict[str, Any]:
    """One training step, a ranking of candidates, and generated answers."""
    recorded, i = case.config, case.inputs
    config = VQAConfig(
        image=momentum.image_config(recorded),
        text=blip.text_config(recorded),
        label_smoothing=recorded["label_smoothing_lm"],
        compat=("question_padding",),
    )
    model, layout = AnswerModel(config), layouts.vqa_layout(config)
    official.fill(model, layout, case.weights)
    model.tokenizer = blip.tokenizer(case)
    question_mask, ids, mask = i["question_mask"], i["answer_ids"], i["answer_mask"]
    image_embeds = model.image_tower(i["image"])
    question = model.question(i["image"], i["question_ids"], question_mask)
    context = model.answer_context(question, question_mask)
    owner = torch.arange(len(i["n"])).repeat_interleave(i["n"])
    loss = model.loss(context, ids, mask, owner, i["answer_weights"])
    loss.backward()
    started = model.started(ids)
    out: dict[str, Any] = {
        "loss": loss,
        "image_embeds": image_embeds,
        "question_hidden": at_tokens(question, question_mask),
        "answer_targets": torch.cat([started[:, :1], shift(started, mask)], dim=1),
        **official.of_gradients(model, layout, recorded["grad_norm_names"]),
        **official.facts(model, layout),
    }
    with torch.no_grad():
        hidden, each = model.answer_losses(context.select(owner), ids, mask)
        listed = Candidates.of(i["candidate_ids"], i["candidate_mask"])
        ranking = model.rank(context, listed, k=recorded["k_test"])
        out |= {
            "answer_logits": at_tokens(model.decoder.logits(hidden), mask),
            "answer_loss_each": each,
            "rank.max_ids": ranking.best,
            "rank.topk_ids_first": ranking.kept,
            "rank.topk_probs_first": ranking.first_probability.gather(1, ranking.kept),
            "rank.first_token_logits": ranking.first_logits,
            "rank.prob_first_token": ranking.first_probability,
            "rank.log_probs_sum": ranking.score,
        }
        special = recorded["special_ids"]
        start = torch.full((len(question), 1), special["bos_DEC"])
        # blip_vqa.py: three beams, [DEC] counted in the ten tokens.
        arguments = {"sample": False, "num_beams": 3, "max_length": 10, "min_length": 1}
        search_config = search(arguments, 1, special)
        found = generate(model.decoding(question, question_mask), start, None, search_config)
        width = official.recorded_shape(case, "generate.ids")[1]
        rows = padded([group[0] for group in found.sequences], start[:1], width, search_config.pad_id)
    return out | {"generate.ids": rows, "config.generate_text": model.tokenizer.decode(rows)}


def vqa_rule(case: Case, name: str) -> Rule:
    """As the case's README states it: losses that are sums over tokens to 1e-4 of their size."""
    if name in ("loss", "answer_loss_each", "rank.log_probs_sum"):
        return Rule(relative=1e-4)
    return default_rule(case, name)


def nlvr(case: Case) -> dict[str, Any]:
    """One training step on two pictures a text."""
    recorded, i = case.config, case.inputs
    config = NLVRConfig(image=momentum.image_config(recorded), text=blip.text_config(recorded))
    model, layout = PairModel(config), layouts.nlvr_layout(config)
    official.fill(model, layout, case.weights)
    model.tokenizer = blip.tokenizer(case)
    hidden, logits = model.judge(i["image"], i["input_ids"], i["attention_mask"])
    loss = F.cross_entropy(logits, i["targets"])
    loss.backward()
    return {
        "prediction": logits,
        "loss": loss,
        "image_embeds": model.image_tower(i["image"]),
        "hidden": at_tokens(hidden, i["attention_mask"]),
        **official.of_gradients(model, layout, recorded["grad_norm_names"]),
        **official.facts(model, layout),
    }


@torch.no_grad()
def features(case: Case) -> dict[str, Any]:
    """Hidden states of a picture, of a text, and of both."""
    recorded, i = case.config, case.inputs
    config = FeaturesConfig(image=momentum.image_config(recorded), text=blip.text_config(recorded))
    model, layout = FeatureExtractor(config).eval(), layouts.features_layout(config)
    official.fill(model, layout, case.weights)
    model.tokenizer = blip.tokenizer(case)
    ids, mask = i["input_ids"], i["attention_mask"]
    return {
        "image": model.features(i["image"]),
        "text": at_tokens(model.features(None, ids, mask), mask),
        "multimodal": at_tokens(model.features(i["image"], ids, mask), mask),
        **official.tied(layout),
    }
