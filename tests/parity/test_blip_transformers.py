"""BLIP beside transformers' BLIP: the same random weights, copied in both directions, give the same numbers.

transformers' text decoder ignores zeros in `encoder_attention_mask`, so questions have no padding here.
"""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

import multiway
from multiway.errors import UserError
from multiway.systems.base import System
from multiway.systems.blip import BLIP
from multiway.systems.blip_config import BLIPConfig, CaptionerConfig, VQAConfig, med_config
from multiway.systems.blip_heads import AnswerModel, Captioner
from multiway.systems.med import shift
from multiway.systems.vit import ViTConfig
from multiway.text.wordpiece import SHIPPED
from multiway.weights.hf_blip import from_transformers, to_transformers

transformers = pytest.importorskip("transformers")

CLASSES = ("BlipForConditionalGeneration", "BlipForQuestionAnswering", "BlipForImageTextRetrieval")
CONFIG = {
    "image_text_hidden_size": 12,
    "text_config": {
        "vocab_size": 60,
        "hidden_size": 24,
        "encoder_hidden_size": 24,
        "intermediate_size": 28,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "max_position_embeddings": 20,
        "hidden_dropout_prob": 0.0,
        "attention_probs_dropout_prob": 0.0,
        "bos_token_id": 58,
    },
    "vision_config": {
        "hidden_size": 24,
        "intermediate_size": 40,
        "num_hidden_layers": 3,
        "num_attention_heads": 3,
        "image_size": 32,
        "patch_size": 8,
    },
}
IMAGE = ViTConfig(image_size=32, patch_size=8, width=24, depth=3, heads=3, hidden=40)
TEXT = med_config(vocab_size=60, width=24, fusion_layers=2, heads=2, hidden=28, positions=20, dropout=0.0)


def noisy(module: torch.nn.Module) -> torch.nn.Module:
    """Weights large enough to tell wrong from right, biases and gains too."""
    g = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in module.parameters():
            parameter += 0.1 * torch.randn(parameter.shape, generator=g)
    return module.eval()


def theirs(name: str, values: dict | None = None) -> torch.nn.Module:
    values = values or CONFIG
    config = transformers.BlipConfig(**{k: v for k, v in values.items() if k != "architectures"})
    torch.manual_seed(0)
    return noisy(getattr(transformers, name)(config))


def pictures_and_texts() -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    g = torch.Generator().manual_seed(1)
    ids = torch.randint(5, 58, (3, 7), generator=g)
    mask = (torch.arange(7) < torch.tensor([7, 4, 6])[:, None]).long()
    return torch.randn(3, 3, 32, 32, generator=g), ids * mask, mask


def compare(ours: System, other: torch.nn.Module) -> None:
    """Every output that both have."""
    image, ids, mask = pictures_and_texts()
    real = mask.bool()
    close = {"rtol": 1e-4, "atol": 1e-5}
    with torch.no_grad():
        if isinstance(ours, Captioner):
            ids = ours.started(ids)
            context = ours.caption_context(image)
            logits = ours.writer().logits(ours.writer()(ids, mask, context))
            labels = ids.masked_fill(~real, -100)
            found = other(pixel_values=image, input_ids=ids, attention_mask=mask, labels=labels)
            torch.testing.assert_close(logits[real], found.logits[real], **close)
            targets = shift(ids, mask)
            loss = torch.nn.functional.cross_entropy(logits[:, :-1].flatten(0, 1), targets.flatten())
            torch.testing.assert_close(loss, found.loss, **close)
        elif isinstance(ours, AnswerModel):
            questions, whole = ids[:, :4], torch.ones_like(ids[:, :4])
            answers = ours.started(ids)
            context = ours.answer_context(ours.question(image, questions, whole), whole)
            hidden = ours.decoder(answers, mask, context)
            encoded = other.text_encoder(
                input_ids=ours.first(questions, ours.enc_id),
                attention_mask=whole,
                encoder_hidden_states=other.vision_model(image)[0],
            )
            found = other.text_decoder(
                input_ids=answers, attention_mask=mask, encoder_hidden_states=encoded[0]
            )
            torch.testing.assert_close(ours.decoder.logits(hidden)[real], found.logits[real], **close)
        else:
            image_features, context = ours.image_context(image)
            text_features, read = ours.text_context(ids, mask)
            found = other(input_ids=ids, pixel_values=image, attention_mask=mask, use_itm_head=True)
            torch.testing.assert_close(ours.match_pairs(context, read, mask), found.itm_score, **close)
            cosine = other(input_ids=ids, pixel_values=image, attention_mask=mask, use_itm_head=False)
            torch.testing.assert_close(image_features @ text_features.T, cosine.itm_score, **close)


def as_transformers(model: System) -> System:
    """Where ours reads [ENC], transformers reads the [CLS] that it was given."""
    if isinstance(model, BLIP):
        model.config = replace(model.config, compat=("itm_reads_cls",))
    return model


@pytest.mark.parametrize("name", CLASSES)
def test_a_model_of_transformers_becomes_ours(name: str) -> None:
    other = theirs(name)
    ours = from_transformers(other.state_dict(), other.config.to_dict())
    assert not ours.training
    assert ours.tokenizer is None  # BERT's words are not these sixty
    compare(as_transformers(ours), other)


@pytest.mark.parametrize(
    ("name", "kind", "config"),
    [
        (CLASSES[0], Captioner, CaptionerConfig(image=IMAGE, text=TEXT)),
        (CLASSES[1], AnswerModel, VQAConfig(image=IMAGE, text=TEXT)),
        (CLASSES[2], BLIP, BLIPConfig(image=IMAGE, text=TEXT, embed_dim=12, queue_size=8)),
    ],
    ids=CLASSES,
)
def test_ours_becomes_a_model_of_transformers_and_comes_back(name: str, kind: type, config) -> None:
    torch.manual_seed(1)
    ours = noisy(kind(config))
    tensors, values = to_transformers(ours)
    assert values["architectures"] == [name]
    other = theirs(name, values)
    other.load_state_dict(tensors)  # strict: every key, and no other
    compare(as_transformers(ours), other)
    again = from_transformers(other.state_dict(), other.config.to_dict())
    kept = again.state_dict()
    own = {n: t for n, t in ours.state_dict().items() if not n.startswith("decoder.") or kind is not BLIP}
    assert kept.keys() == own.keys()
    for tensor_name, tensor in own.items():
        if tensor_name != "temperature":  # transformers keeps none
            assert torch.equal(kept[tensor_name], tensor), tensor_name
    assert again.config.text == ours.config.text
    assert again.config.image == ours.config.image


@pytest.mark.parametrize("weights", ["model.safetensors", "pytorch_model.bin"])
def test_a_folder_of_transformers_loads_with_its_vocabulary(weights: str, tmp_path: Path) -> None:
    values = json.loads(json.dumps(CONFIG))
    values["text_config"] |= {"vocab_size": 30524, "bos_token_id": 30522}
    other = theirs(CLASSES[0], values)
    tensors = {k: t.clone() for k, t in other.state_dict().items()}
    if weights.endswith(".bin"):
        torch.save(tensors, tmp_path / weights)
    else:
        save_file(tensors, tmp_path / weights)
    (tmp_path / "config.json").write_text(json.dumps(other.config.to_dict()))
    shutil.copy(SHIPPED["bert-base-uncased"], tmp_path / "vocab.txt")
    model = multiway.load(tmp_path)
    assert isinstance(model, Captioner)
    assert (model.dec_id, model.enc_id) == (30522, 30523)
    compare(model, other)
    image, _, _ = pictures_and_texts()
    assert len(model.caption(image)) == 3
    multiway.save(model, tmp_path / "ours")
    assert multiway.load(tmp_path / "ours").caption(image) == model.caption(image)


def test_what_has_no_counterpart_is_named(tmp_path: Path) -> None:
    other = theirs("BlipModel")
    with pytest.raises(UserError, match="BlipModel"):
        from_transformers(other.state_dict(), other.config.to_dict())
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "blip"}))
    with pytest.raises(UserError, match="neither model.safetensors nor pytorch_model.bin"):
        multiway.load(tmp_path)
