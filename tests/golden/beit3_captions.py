"""Replay of BEiT-3's captioner: its loss, its cache, and its beam search step by step."""

from __future__ import annotations

from typing import Any

import beit3
import torch
import torch.nn.functional as F
from case import Case, at_tokens
from torch import Tensor

from multiway.generation import GenerationConfig, generate
from multiway.generation.protocol import Hypothesis
from multiway.generation.rules import BEiT3Rule
from multiway.systems.beit3_captioner import Captioner, Draws
from multiway.systems.beit3_config import CaptionerConfig
from multiway.systems.beit3_decoding import MaskDecoding
from multiway.systems.beit3_network import Rows


def captioning(case: Case) -> dict[str, Any]:
    """The loss before and after the worst words are dropped, and generation."""
    recorded = case.config
    config = beit3.config_of(
        case,
        CaptionerConfig,
        mask=recorded["mask_prob"],
        label_smoothing=recorded["label_smoothing"],
        drop_worst=recorded["drop_worst_ratio"],
        drop_worst_after=recorded["drop_worst_after"],
    )
    model, layout = beit3.load(case, config)
    i, batch, state = case.inputs, beit3.pairs(case), model.init_state()
    ids, mask = batch.text()
    masked = i["language_masked_pos"].bool()
    draws = Draws(input_ids=i["masked_text_ids"], labels=ids.masked_fill(~masked, -100))
    loss = model.losses(batch, state, draws)["loss"]
    loss.backward()
    out = beit3.of_gradients(model, layout, "train/")
    model.eval()
    state.step.fill_(config.drop_worst_after + 1)
    with torch.inference_mode():
        logits = model.mlm_head(model.hidden(batch, i["masked_text_ids"]))
        prefix = model.network(batch.image).shape[1]
        allowed = Rows(torch.tensor([True]), torch.ones(1, mask.shape[1], dtype=torch.bool), prefix)
        out |= {
            "train/attention_allowed": allowed.mask(causal=True)[0, 0],
            "train/labels": ids[masked],
            "train/logits_all_text": at_tokens(logits, mask),
            "train/logits_at_masked": logits[masked],
            "train/loss_before_drop_worst": loss,
            "train/loss_after_drop_worst": model.losses(batch, state, draws)["loss"],
            "train/loss_plain_ce": F.cross_entropy(logits[masked], ids[masked]),
        }
        out |= incremental(case, model)
        for beams in recorded["generation"]["num_beams"]:
            found = {f"step{n}_logits": x for n, x in enumerate(steps(case, model, beams))}
            found["tokens"] = tokens(case, model, beams)
            out |= {f"generate/beam{beams}/{name}": value for name, value in found.items()}
    return out


def incremental(case: Case, model: Captioner) -> dict[str, Tensor]:
    """Two steps by hand: what is cached, and that the mask's entry is forgotten between them."""
    special, image = case.config["special_ids"], case.inputs["gen_image"]
    cache = model.network.start(image)
    asked = torch.tensor([[special["bos(cls)"], special["mask"]]]).expand(len(image), -1)
    first = model.mlm_head(model.network.write(asked, cache))
    out = {"incremental/step0_logits": first}
    out["incremental/step0_prev_key_layer0"] = cache.of(0).key.clone()
    out["incremental/step0_prev_value_last"] = cache.of(len(model.network.blocks) - 1).value.clone()
    cache.forget(1)
    words = torch.cat([first[:, -1].argmax(1, keepdim=True), asked[:, 1:]], dim=1)
    places = torch.tensor([[1, 2]]).expand_as(words)
    out["incremental/step1_input"] = words
    out["incremental/step1_logits"] = model.mlm_head(model.network.write(words, cache, places=places))
    out["incremental/step1_prev_key_layer0"] = cache.of(0).key.clone()
    return out


def search(case: Case, beams: int) -> GenerationConfig:
    """The recorded search; its `max_len` counts the first token and one [MASK] besides the new tokens."""
    asked, special = case.config["generation"], case.config["special_ids"]
    return GenerationConfig(
        beams=beams,
        n_best=asked["num_keep_best"],
        max_length=asked["max_len"] - 2,
        length_penalty=asked["length_penalty"],
        length_rule="beit3",
        eos_id=special["eos(sep)"],
        pad_id=special["pad"],
    )


def decoding(case: Case, model: Captioner, image: Tensor) -> MaskDecoding:
    """A generation over pictures."""
    mask_id = case.config["special_ids"]["mask"]
    return MaskDecoding(model.network, model.mlm_head, image, mask_id=mask_id)


def tokens(case: Case, model: Captioner, beams: int) -> Tensor:
    """`generate`'s best captions, written as the official code writes them: a stray [MASK] before the end."""
    special, image, config = case.config["special_ids"], case.inputs["gen_image"], search(case, beams)
    start = torch.full((len(image), 1), special["bos(cls)"])
    found = generate(decoding(case, model, image), start, None, config)
    rows = torch.full((len(image), case.config["generation"]["max_len"]), special["pad"])
    for row, (best, *_) in zip(rows, found.sequences, strict=True):
        said = [special["bos(cls)"], *best[:-1], special["mask"], best[-1]]
        row[: len(said)] = torch.tensor(said)
    return rows


def steps(case: Case, model: Captioner, beams: int) -> list[Tensor]:
    """Logits of every step; officially finished pictures go on as copies of the batch's first row."""
    special, config = case.config["special_ids"], search(case, beams)
    image = case.inputs["gen_image"]
    groups, rows = len(image), torch.arange(len(image) * beams)[:, None]
    decode = decoding(case, model, image.repeat_interleave(beams, dim=0))
    rules = [BEiT3Rule(config, 1) for _ in range(groups)]
    open_ones = [[Hypothesis()] + [Hypothesis(score=-1e9)] * (beams - 1) for _ in range(groups)]
    done = [False] * groups
    found = [decode.start(torch.full((len(rows), 1), special["bos(cls)"]))]
    while True:
        sums = found[-1].log_softmax(-1).view(groups, beams, -1)
        next_rows, next_tokens = [], []
        for g in range(groups):
            going: list[Hypothesis] = []
            if not done[g] and len(found) <= config.max_length:
                going = rules[g].update(candidates(sums[g], open_ones[g], beams))
                done[g] = not going and len(found) < config.max_length
            open_ones[g] = going or [Hypothesis()] * beams
            next_rows += [g * beams + h.origin if going else 0 for h in open_ones[g]]
            next_tokens += [h.tokens[-1] if going else special["pad"] for h in open_ones[g]]
        if all(done) or len(found) > config.max_length:
            return found
        decode.cache.select(torch.tensor(next_rows))
        found.append(decode.step(torch.tensor(next_tokens)[:, None], rows)[:, 0])


def candidates(logprobs: Tensor, beams: list[Hypothesis], count: int) -> list[Hypothesis]:
    """The official 3K best continuations of one picture."""
    sums = logprobs + torch.tensor([h.score for h in beams])[:, None]
    values, places = sums.flatten().topk(3 * count)
    made = []
    for value, place in zip(values.tolist(), places.tolist(), strict=True):
        row, token = divmod(place, logprobs.shape[1])
        made.append(beams[row].extended(token, float(logprobs[row, token]), value, row))
    return made
