"""BEiT beside transformers' BEiT: the same random weights, copied both ways, give the same numbers."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from PIL import Image
from safetensors.torch import load_file
from torch.nn import functional as F

import multiway
from multiway.batch import Batch
from multiway.errors import UserError
from multiway.systems.beit import BEiT, Draws
from multiway.systems.beit_heads import Classifier
from multiway.weights.convert import convert
from multiway.weights.hf_beit import to_transformers

transformers = pytest.importorskip("transformers")

SIZES = {
    "hidden_size": 24,
    "num_hidden_layers": 3,
    "num_attention_heads": 3,
    "intermediate_size": 40,
    "image_size": 32,
    "patch_size": 8,
    "vocab_size": 11,
    "drop_path_rate": 0.0,
    "use_mask_token": True,
}
POSITIONS = {
    "shared": {"use_shared_relative_position_bias": True},
    "layers": {"use_relative_position_bias": True},
    "absolute": {"use_absolute_position_embeddings": True},
}


def theirs(name: str, positions: str, **changes) -> torch.nn.Module:
    """Their model, with weights large enough to tell wrong from right."""
    config = transformers.BeitConfig(**SIZES, **POSITIONS[positions], **changes)
    model = getattr(transformers, name)(config).eval()
    g = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter += 0.05 * torch.randn(parameter.shape, generator=g)
    return model


def loaded(model: torch.nn.Module, folder: Path):
    model.save_pretrained(folder)
    return multiway.load(folder)


def same(ours: dict[str, torch.Tensor], theirs: dict[str, torch.Tensor]) -> None:
    """The names of the file, which need not be those that the class has in memory."""
    assert ours.keys() == theirs.keys()
    assert all(torch.equal(ours[name], tensor) for name, tensor in theirs.items())


@pytest.mark.parametrize("positions", POSITIONS)
def test_masked_image_modelling(positions: str, tmp_path: Path) -> None:
    model = theirs("BeitForMaskedImageModeling", positions)
    ours = loaded(model, tmp_path / "hf")
    assert isinstance(ours, BEiT)
    g = torch.Generator().manual_seed(1)
    image = torch.randn(4, 3, 32, 32, generator=g)
    mask, tokens = torch.rand(4, 16, generator=g) < 0.4, torch.randint(11, (4, 16), generator=g)
    logits = model(image, bool_masked_pos=mask).logits
    hidden = ours.hidden(image, mask).last
    torch.testing.assert_close(ours.head(hidden[:, 1:]), logits, rtol=1e-4, atol=1e-5)
    loss = ours.losses(Batch(image=image), ours.init_state(), Draws(mask=mask, tokens=tokens))["loss"]
    torch.testing.assert_close(loss, F.cross_entropy(logits[mask], tokens[mask]), rtol=1e-4, atol=1e-5)
    same(to_transformers(ours)[0], load_file(tmp_path / "hf" / "model.safetensors"))


@pytest.mark.parametrize("positions", POSITIONS)
def test_classification(positions: str, tmp_path: Path) -> None:
    names = {0: "cat", 1: "dog", 2: "cow"}
    model = theirs("BeitForImageClassification", positions, id2label=names)
    ours = loaded(model, tmp_path / "hf")
    assert isinstance(ours, Classifier)
    assert ours.config.labels == ("cat", "dog", "cow")
    image = torch.randn(4, 3, 32, 32, generator=torch.Generator().manual_seed(1))
    torch.testing.assert_close(ours.predict(Batch(image=image)), model(image).logits, rtol=1e-4, atol=1e-5)
    own = load_file(tmp_path / "hf" / "model.safetensors")
    del own["beit.embeddings.mask_token"]  # which nothing masks with here
    same(to_transformers(ours)[0], own)


@pytest.mark.parametrize("name", ["BeitForMaskedImageModeling", "BeitForImageClassification"])
def test_transformers_reads_what_convert_writes(name: str, tmp_path: Path) -> None:
    positions = "shared" if "Masked" in name else "layers"
    model = theirs(name, positions)
    ours = loaded(model, tmp_path / "hf")
    folder = convert(multiway.save(ours, tmp_path / "ours"), tmp_path / "back", to="transformers")
    again = getattr(transformers, name).from_pretrained(folder).eval()
    image = torch.randn(4, 3, 32, 32, generator=torch.Generator().manual_seed(1))
    assert torch.equal(again(image).logits, model(image).logits)
    processor = transformers.AutoImageProcessor.from_pretrained(folder)
    seen = processor(Image.new("RGB", (40, 30), (255, 0, 127)), return_tensors="pt")["pixel_values"]
    torch.testing.assert_close(
        seen, ours.prepare(Image.new("RGB", (40, 30), (255, 0, 127))), atol=1e-6, rtol=0
    )
    path = convert(multiway.save(ours, tmp_path / "ours"), tmp_path / "official.pth", to="official")
    state = multiway.load(path).state_dict()
    assert all(torch.equal(state[name], tensor) for name, tensor in ours.state_dict().items())


def test_other_networks_are_refused(tmp_path: Path) -> None:
    model = theirs("BeitForMaskedImageModeling", "shared", use_mean_pooling=False)
    with pytest.raises(UserError, match="mean pooling"):
        loaded(model, tmp_path / "hf")
    model = theirs("BeitForMaskedImageModeling", "shared", hidden_act="relu")
    with pytest.raises(UserError, match="GELU"):
        loaded(model, tmp_path / "relu")


def test_one_channel_and_a_config_of_another_model(tmp_path: Path) -> None:
    model = theirs("BeitForMaskedImageModeling", "shared", num_channels=1)
    assert loaded(model, tmp_path / "hf").image_tower.patches.proj.weight.shape[1] == 1
    config = tmp_path / "hf" / "config.json"
    config.write_text(config.read_text().replace('"num_channels": 1', '"num_channels": 3'))
    with pytest.raises(UserError, match=r"don't fit their config.json: image_tower\.patches\.proj\.weight"):
        multiway.load(tmp_path / "hf")
