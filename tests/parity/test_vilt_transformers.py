"""ViLT beside transformers' ViLT: the same random weights, copied both ways, give the same numbers."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import tiny_vilt
import torch
from PIL import Image
from safetensors.torch import load_file
from torch import Tensor, nn

import multiway
from multiway.batch import Batch
from multiway.errors import UserError
from multiway.systems.vilt import ViLT
from multiway.systems.vilt_heads import AnswerModel, ReasoningModel, Retrieval
from multiway.weights.convert import convert
from multiway.weights.hf_vilt import to_transformers

transformers = pytest.importorskip("transformers")

SIZES = {
    "hidden_size": 24,
    "num_hidden_layers": 3,
    "num_attention_heads": 3,
    "intermediate_size": 40,
    "image_size": 32,
    "patch_size": 8,
    "vocab_size": 60,
    "max_position_embeddings": 12,
    "layer_norm_eps": 1e-6,
}
PAIR = {"num_images": 2, "modality_type_vocab_size": 3}


def theirs(name: str, **changes) -> nn.Module:
    """Their model, with weights large enough to tell wrong from right."""
    model = getattr(transformers, name)(transformers.ViltConfig(**SIZES, **changes)).eval()
    g = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter += 0.1 * torch.randn(parameter.shape, generator=g)
    return model


def fed(image: Tensor, ids: Tensor, mask: Tensor) -> dict[str, Tensor]:
    """What their models are given; pictures of different sizes have a mask of pixels."""
    pixels = image.abs().sum(-3) != 0
    return {"input_ids": ids, "attention_mask": mask, "pixel_values": image, "pixel_mask": pixels.long()}


def loaded(model: nn.Module, folder: Path):
    model.save_pretrained(folder)
    return multiway.load(folder)


def close(ours: Tensor, other: Tensor) -> None:
    torch.testing.assert_close(ours, other, rtol=1e-4, atol=1e-5)


@torch.no_grad()
def answers(model, batch: Batch) -> Tensor:
    """What a model of ours says that theirs says too, at real words."""
    ids, mask = batch.text()
    if isinstance(model, ViLT):
        hidden = model.pair(ids, mask, model.look(batch.image))[:, : ids.shape[1]]
        return model.words(hidden)[mask.bool()]
    if isinstance(model, Retrieval):
        return model.match_pairs(model.look(batch.image), ids, mask)[:, 1:]
    return model.predict(batch)


KINDS = {
    "ViltForMaskedLM": (ViLT, {}),
    "ViltForImageAndTextRetrieval": (Retrieval, {}),
    "ViltForQuestionAnswering": (AnswerModel, {"id2label": {0: "yes", 1: "no", 2: "two"}}),
    "ViltForImagesAndTextClassification": (ReasoningModel, {**PAIR, "num_labels": 2}),
}


@torch.no_grad()
def asked(model: nn.Module, batch: Batch) -> Tensor:
    ids, mask = batch.text()
    logits = model(**fed(batch.image, ids, mask)).logits
    return logits[:, : ids.shape[1]][mask.bool()] if type(model).__name__ == "ViltForMaskedLM" else logits


@pytest.mark.parametrize(
    ("name", "changes", "says"),
    [
        ("ViltForImagesAndTextClassification", PAIR | {"num_images": 3, "num_labels": 2}, "not for 3 and 2"),
        ("ViltForImagesAndTextClassification", PAIR | {"num_labels": 3}, "not for 2 and 3"),
        ("ViltForMaskedLM", {"hidden_act": "relu"}, "with GELU"),
    ],
)
def test_other_networks_are_refused(name: str, changes: dict, says: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=says):
        loaded(theirs(name, **changes), tmp_path / "hf")


def test_one_picture_beside_a_table_for_two(tmp_path: Path) -> None:
    model = theirs("ViltForQuestionAnswering", modality_type_vocab_size=3, num_labels=4)
    ours = loaded(model, tmp_path / "hf")
    assert type(ours) is AnswerModel
    batch = tiny_vilt.batch_for("vilt")
    close(answers(ours, batch), asked(model, batch))


def test_parts_without_a_counterpart_do_not_leave() -> None:
    for changes in ({"quick_gelu": True}, {"layer_scale": 0.1}):
        config = tiny_vilt.config(image=replace(tiny_vilt.config().image, **changes))
        with pytest.raises(UserError, match=f"no place for image.{next(iter(changes))}"):
            to_transformers(ViLT(config))


@pytest.mark.parametrize("name", KINDS)
def test_both_ways(name: str, tmp_path: Path) -> None:
    kind, changes = KINDS[name]
    model = theirs(name, **changes)
    ours = loaded(model, tmp_path / "hf")
    assert type(ours) is kind
    batch = tiny_vilt.batch_for("vilt_nlvr2" if kind is ReasoningModel else "vilt")
    close(answers(ours, batch), asked(model, batch))
    # their file again, but for the decoder of words, which is stored
    own, back = load_file(tmp_path / "hf" / "model.safetensors"), to_transformers(ours)[0]
    assert back.keys() - own.keys() == ({"mlm_score.decoder.weight"} if kind is ViLT else set())
    assert all(torch.equal(back[key], tensor) for key, tensor in own.items())
    if kind is AnswerModel:
        assert ours.config.labels == ("yes", "no", "two")
    # and transformers reads what convert writes
    folder = convert(multiway.save(ours, tmp_path / "ours"), tmp_path / "back", to="transformers")
    again = getattr(transformers, name).from_pretrained(folder).eval()
    close(asked(again, batch), asked(model, batch))


def test_an_untied_decoder_stays_untied(tmp_path: Path) -> None:
    """transformers ties it, the official code does not: what we write says so."""
    given = tiny_vilt.config(itm_weight=0.0, wpa_weight=0.0)
    given = replace(given, text=replace(given.text, eps=given.image.eps))  # there is one eps there
    model = tiny_vilt.vilt(given).eval()
    assert not torch.equal(model.mlm_decoder.weight, model.text_embed.words.weight)
    model.tokenizer = None
    folder = tmp_path / "hf"
    convert(multiway.save(model, tmp_path / "ours"), folder, to="transformers")
    again = transformers.ViltForMaskedLM.from_pretrained(folder).eval()
    assert not torch.equal(again.mlm_score.decoder.weight, model.text_embed.words.weight)
    batch = tiny_vilt.batch()
    close(answers(model, batch), asked(again, batch))
    assert torch.equal(multiway.load(folder).mlm_decoder.weight, model.mlm_decoder.weight)


def test_pictures_are_made_as_their_processor_makes_them(tmp_path: Path) -> None:
    model = loaded(theirs("ViltForImageAndTextRetrieval"), tmp_path / "hf")
    folder = convert(multiway.save(model, tmp_path / "ours"), tmp_path / "back", to="transformers")
    processor = transformers.AutoImageProcessor.from_pretrained(folder)
    rng = np.random.default_rng(0)
    sizes = [(60, 40), (40, 75), (33, 33), (200, 40), (51, 64)]
    pictures = [Image.fromarray(rng.integers(0, 255, (h, w, 3), np.uint8)) for w, h in sizes]
    seen = processor(pictures, return_tensors="pt")
    ours = model.prepare(pictures)
    assert ours.shape == seen["pixel_values"].shape
    one_level = 1 / 127.5  # of 255 greys, normalised: a resize by Pillow and one by torch round apart
    torch.testing.assert_close(ours, seen["pixel_values"], atol=1.01 * one_level, rtol=0)
    assert (ours - seen["pixel_values"]).abs().mean() < 2e-3  # another resampler: by rounding
    assert torch.equal((ours != 0).any(1).long(), seen["pixel_mask"].long())
