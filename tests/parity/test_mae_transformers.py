"""MAE beside transformers' ViTMAE: the same random weights, copied both ways, give the same numbers."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file

import multiway
from multiway.batch import Batch
from multiway.errors import UserError
from multiway.systems.mae import MAE, Draws
from multiway.weights.convert import convert
from multiway.weights.hf_mae import NEWER, OLDER, config_of, to_transformers

transformers = pytest.importorskip("transformers")

SIZES = {
    "hidden_size": 24,
    "num_hidden_layers": 3,
    "num_attention_heads": 3,
    "intermediate_size": 40,
    "image_size": 32,
    "patch_size": 8,
    "decoder_hidden_size": 16,
    "decoder_num_hidden_layers": 2,
    "decoder_num_attention_heads": 2,
    "decoder_intermediate_size": 20,
    "mask_ratio": 0.6,
}


def theirs(**changes) -> torch.nn.Module:
    """Their model, with weights large enough to tell wrong from right."""
    model = transformers.ViTMAEForPreTraining(transformers.ViTMAEConfig(**SIZES, **changes)).eval()
    g = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter += 0.05 * torch.randn(parameter.shape, generator=g)
    return model


@pytest.mark.parametrize("normalised", [True, False])
def test_pre_training(normalised: bool, tmp_path: Path) -> None:
    model = theirs(norm_pix_loss=normalised)
    model.save_pretrained(tmp_path / "hf")
    ours = multiway.load(tmp_path / "hf")
    assert isinstance(ours, MAE)
    g = torch.Generator().manual_seed(1)
    image, noise = torch.randn(4, 3, 32, 32, generator=g), torch.rand(4, 16, generator=g)
    loss = ours.losses(Batch(image=image), ours.init_state(), Draws(noise=noise))["loss"]
    reference = model(image, noise=noise).loss
    torch.testing.assert_close(loss, reference, rtol=1e-4, atol=1e-5)
    loss.backward()
    reference.backward()
    torch.testing.assert_close(
        ours.image_tower.patches.proj.weight.grad,
        model.vit.embeddings.patch_embeddings.projection.weight.grad,
        rtol=1e-3,
        atol=1e-5,
    )


def test_transformers_reads_what_convert_writes(tmp_path: Path) -> None:
    model = theirs(norm_pix_loss=True)
    model.save_pretrained(tmp_path / "hf")
    processor = transformers.ViTImageProcessor(size={"height": 32, "width": 32}, image_mean=[0.5, 0.4, 0.3])
    processor.save_pretrained(tmp_path / "hf")
    ours = multiway.load(tmp_path / "hf")
    assert ours.image_mean == (0.5, 0.4, 0.3)
    folder = convert(multiway.save(ours, tmp_path / "ours"), tmp_path / "back", to="transformers")
    again = transformers.ViTMAEForPreTraining.from_pretrained(folder).eval()
    g = torch.Generator().manual_seed(1)
    image, noise = torch.randn(4, 3, 32, 32, generator=g), torch.rand(4, 16, generator=g)
    assert torch.equal(again(image, noise=noise).logits, model(image, noise=noise).logits)
    processor = transformers.AutoImageProcessor.from_pretrained(folder)
    seen = processor(Image.new("RGB", (40, 30), (255, 0, 127)), return_tensors="pt")["pixel_values"]
    picture = ours.prepare(Image.new("RGB", (40, 30), (255, 0, 127)))
    torch.testing.assert_close(seen, picture, atol=1e-6, rtol=0)
    assert multiway.load(folder).config == ours.config


def test_published_names_and_those_of_the_fifth_version_are_read(tmp_path: Path) -> None:
    folder = tmp_path / "hf"
    theirs().save_pretrained(folder)
    first = multiway.load(folder).state_dict()
    tensors = load_file(folder / "model.safetensors")
    newer, (old, new) = any(NEWER in name for name in tensors), (OLDER, NEWER)
    old, new = (new, old) if newer else (old, new)
    save_file({n.replace(old, new): t for n, t in tensors.items()}, folder / "model.safetensors")
    assert all(torch.equal(first[n], t) for n, t in multiway.load(folder).state_dict().items())


def test_parts_without_a_counterpart_do_not_leave() -> None:
    config = config_of(SIZES)
    for changes in ({"layer_scale": 0.1}, {"class_position": False}):
        model = MAE(replace(config, image=replace(config.image, **changes)))
        with pytest.raises(UserError, match=f"no place for image.{next(iter(changes))}"):
            to_transformers(model)


def test_an_encoder_alone_is_refused(tmp_path: Path) -> None:
    transformers.ViTMAEModel(transformers.ViTMAEConfig(**SIZES)).save_pretrained(tmp_path / "hf")
    with pytest.raises(UserError, match="lack"):
        multiway.load(tmp_path / "hf")
