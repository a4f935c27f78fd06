"""CLIP and CoCa beside open_clip: the same random weights, in both directions, give the same numbers."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import multiway
from multiway.cli.main import main
from multiway.errors import UserError
from multiway.systems.clip import CLIP, CLIPConfig, CLIPTextConfig, clip_vit
from multiway.systems.coca import CoCa
from multiway.systems.coca_config import OFFICIAL, CoCaConfig, MultimodalConfig, PoolerConfig, coca_vit
from multiway.text import TokenizerConfig
from multiway.weights.clip import open_clip_config_of
from multiway.weights.convert import examine
from multiway.weights.keymap import to_theirs
from multiway.weights.official import recognise
from multiway.weights.open_clip import config_of, layout_of, values_of, write

open_clip = pytest.importorskip("open_clip")

VOCABULARY = 49408  # its tokenizer's
TOKENS = TokenizerConfig(kind="clip_bpe", vocab="clip", cleaning="none", max_length=12)
CLOSE = {"rtol": 1e-4, "atol": 1e-5}
TEXTS = ["a dog", "a photo of two cats!", "a very long text about a bird on a branch of a tree in winter"]


def clip_config() -> CLIPConfig:
    image = clip_vit(image_size=32, patch_size=8, width=24, depth=2, heads=3, hidden=48)
    text = CLIPTextConfig(vocab_size=VOCABULARY, width=16, layers=2, heads=2, hidden=32, positions=12)
    return CLIPConfig(image=image, text=text, tokenizer=TOKENS, embed_dim=20)


def coca_config(form: str = "single", vocab_size: int = 60, **changes) -> CoCaConfig:
    width = 24 if form == "single" else 16
    image = coca_vit(image_size=32, patch_size=8, width=width, depth=2, heads=2, hidden=4 * width)
    text = CLIPTextConfig(vocab_size=vocab_size, width=16, layers=2, heads=2, hidden=32, positions=12)
    given = {
        "image": image,
        "text": text,
        "multimodal": MultimodalConfig(layers=2, heads=4, hidden=64, feed_forwards=2, context_norm=True),
        "pooler": PoolerConfig(form=form, queries=6, heads=2),
        "tokenizer": TOKENS,
        "embed_dim": 16,
        "compat": OFFICIAL,
    }
    return CoCaConfig(**(given | changes))


def noisy(module: torch.nn.Module) -> torch.nn.Module:
    """Weights large enough to tell wrong from right, biases and gains too; finite ones."""
    g = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for name, parameter in module.named_parameters():
            if name == "text_decoder.text_projection":  # open_clip never initialises it
                parameter.zero_()
            parameter += 0.1 * torch.randn(parameter.shape, generator=g)
    return module.eval()


def ids() -> torch.Tensor:
    return open_clip.get_tokenizer("ViT-B-32")(TEXTS, context_length=12)


@pytest.mark.filterwarnings("ignore")
def test_our_clip_leaves_for_open_clip_and_comes_back(tmp_path: Path) -> None:
    torch.manual_seed(0)
    first = noisy(CLIP(clip_config()))
    write(first, tmp_path / "theirs")
    theirs = open_clip.create_model(f"local-dir:{tmp_path / 'theirs'}").eval()
    ours = multiway.load(tmp_path / "theirs")
    image = torch.randn(3, 3, 32, 32)
    with torch.no_grad():
        torch.testing.assert_close(
            ours.image_context(image)[0], theirs.encode_image(image, normalize=True), **CLOSE
        )
        torch.testing.assert_close(
            ours.encode_text(TEXTS), theirs.encode_text(ids(), normalize=True), **CLOSE
        )
    assert ours.config == first.config
    again = first.state_dict()
    assert all(torch.equal(again[name], tensor) for name, tensor in ours.state_dict().items())


def their_coca(config: CoCaConfig) -> torch.nn.Module:
    values = values_of(config)
    return open_clip.CoCa(**{name: value for name, value in values.items() if name != "custom_text"})


@pytest.mark.parametrize("form", ["single", "cascade", "parallel", "none"])
def test_our_coca_as_theirs(form: str) -> None:
    config = coca_config(form)
    torch.manual_seed(0)
    ours, theirs = noisy(CoCa(config)), their_coca(config)
    theirs.load_state_dict(to_theirs(layout_of(config), ours.state_dict()))
    compare(ours, theirs.eval())
    assert config_of(values_of(config), {"resize_mode": "squash"}) == config


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("size", [32, (32, 48)])
@pytest.mark.parametrize("fit", ["crop", "squash"])
@pytest.mark.parametrize("captions", [False, True])
def test_pictures_are_prepared_as_theirs(captions: bool, fit: str, size, tmp_path: Path) -> None:
    config = coca_config(vocab_size=VOCABULARY) if captions else clip_config()
    image = replace(config.image, image_size=size, fit=fit, mean=(0.4, 0.5, 0.6))
    torch.manual_seed(0)
    first = noisy((CoCa if captions else CLIP)(replace(config, image=image)))
    write(first, tmp_path / "theirs")
    theirs, _, preprocess = open_clip.create_model_and_transforms(f"local-dir:{tmp_path / 'theirs'}")
    ours, picture = multiway.load(tmp_path / "theirs"), wide()
    assert ours.config == first.config
    assert ours.image_fit == fit
    pixels = preprocess(picture)[None]
    torch.testing.assert_close(ours.prepare(picture), pixels, rtol=0, atol=1e-6)
    with torch.no_grad():
        feature = theirs.eval().encode_image(pixels, normalize=True).flatten(1)
        torch.testing.assert_close(ours.encode_image(picture), feature, **CLOSE)


def wide() -> Image.Image:
    """A picture whose middle is not like the whole; its longer side is rounded when it is resized."""
    levels = np.random.default_rng(0).integers(0, 255, (10, 25, 3), dtype=np.uint8)
    return Image.fromarray(levels).resize((251, 99), Image.Resampling.BICUBIC)


def test_what_their_configs_say_of_pictures() -> None:
    values = values_of(clip_config())
    assert config_of(values).image.fit == config_of(values, {"resize_mode": None}).image.fit == "crop"
    for looks in ({"resize_mode": "longest"}, {"interpolation": "nearest"}):
        with pytest.raises(UserError, match="not known here"):
            config_of(values, looks)
    tensors = to_theirs(layout_of(clip_config()), CLIP(clip_config()).state_dict())
    assert open_clip_config_of(tensors).image.fit == "crop"  # OpenAI's own file says nothing of it


@pytest.mark.filterwarnings("ignore")
def test_our_coca_leaves_for_open_clip_and_comes_back(tmp_path: Path) -> None:
    torch.manual_seed(0)
    first = noisy(CoCa(coca_config(vocab_size=VOCABULARY)))
    write(first, tmp_path / "theirs")
    theirs = open_clip.create_model(f"local-dir:{tmp_path / 'theirs'}").eval()
    ours = multiway.load(tmp_path / "theirs")
    assert ours.config == first.config
    tensors = first.state_dict()
    assert all(torch.equal(tensors[name], tensor) for name, tensor in ours.state_dict().items())
    with torch.no_grad():
        torch.testing.assert_close(ours.encode_text(TEXTS), theirs.encode_text(ids()), **CLOSE)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("compat", [(), OFFICIAL[1:]])
def test_a_coca_made_here_leaves_for_open_clip_with_a_warning(compat: tuple, tmp_path: Path) -> None:
    torch.manual_seed(0)
    first = noisy(CoCa(coca_config(vocab_size=VOCABULARY, compat=compat)))
    with pytest.warns(UserWarning, match="features of padded texts"):
        write(first, tmp_path / "theirs")
    theirs = open_clip.create_model(f"local-dir:{tmp_path / 'theirs'}").eval()
    image, texts = torch.randn(3, 3, 32, 32), ids()
    whole = texts[:, -1] != 0
    assert whole.tolist() == [False, False, True]
    with torch.no_grad():
        features = first.image_context(image)[0]
        torch.testing.assert_close(features, theirs.encode_image(image), **CLOSE)
        again = multiway.load(tmp_path / "theirs")
        first.tokenizer = again.tokenizer
        mine, other = first.encode_text(TEXTS), theirs.encode_text(texts)
        assert again.config.compat == OFFICIAL
        torch.testing.assert_close(again.encode_text(TEXTS), other, **CLOSE)
    torch.testing.assert_close(mine[whole], other[whole], **CLOSE)
    assert (mine - other)[~whole].abs().amax(1).min() > 1e-3


def compare(ours: CoCa, theirs: torch.nn.Module) -> None:
    """Features, both losses and their gradients."""
    image, text = torch.randn(3, 3, 32, 32), torch.randint(1, 60, (3, 12))
    text[1, 7:] = text[2, 4:] = 0
    batch = multiway.batch.Batch(image=image, input_ids=text, attention_mask=(text != 0).long())
    found = theirs(image, text)
    loss = open_clip.loss.CoCaLoss(2.0, 1.0)
    features = found["image_features"].flatten(1)
    itc, captions = loss(
        features, found["text_features"], found["logits"], found["labels"], found["logit_scale"]
    )
    figure = ours.figure(batch)
    torch.testing.assert_close(figure.image_features, features, **CLOSE)
    torch.testing.assert_close(figure.text_features, found["text_features"], **CLOSE)
    torch.testing.assert_close(figure.losses["itc"], itc, **CLOSE)
    torch.testing.assert_close(2 * figure.losses["lm"], captions, **CLOSE)
    (itc + captions).backward()
    figure.losses["loss"].backward()
    grads = {name: p.grad for name, p in ours.named_parameters()}
    mine = to_theirs(layout_of(ours.config), grads)
    for name, parameter in theirs.named_parameters():
        torch.testing.assert_close(mine[name], parameter.grad, rtol=1e-3, atol=1e-5)


@pytest.mark.filterwarnings("ignore")
def test_a_model_of_open_clip_comes_with_its_config_or_without(tmp_path: Path) -> None:
    torch.manual_seed(0)
    values, theirs = values_of(coca_config()), noisy(their_coca(coca_config()))
    folder = tmp_path / "folder"
    folder.mkdir()
    (folder / "open_clip_config.json").write_text(json.dumps({"model_cfg": values}))
    torch.save(theirs.state_dict(), folder / "open_clip_pytorch_model.bin")
    ours = multiway.load(folder)
    assert isinstance(ours, CoCa)
    compare(ours, theirs)
    assert examine(folder)[0] == "coca"
    # Alone, a checkpoint does not say how many heads there are: 64 features each.
    alone, _ = recognise(theirs.state_dict(), tmp_path / "alone.pt")
    assert (alone.multimodal.layers, alone.pooler.form, alone.text.positions) == (2, "single", 12)
    assert main(["convert", str(folder), str(tmp_path / "back.pth"), "--to", "official"]) == 0
    tensors = torch.load(tmp_path / "back.pth", weights_only=True)["model"]
    assert all(torch.equal(tensors[name], tensor) for name, tensor in theirs.state_dict().items())


def test_every_published_config_is_read() -> None:
    folder = Path(open_clip.__file__).parent / "model_configs"
    for name in ("ViT-B-32", "ViT-L-14", "ViT-B-16-quickgelu", "coca_base", "coca_ViT-B-32", "coca_ViT-L-14"):
        values = json.loads((folder / f"{name}.json").read_text())
        if name == "coca_base":  # its features are narrower than its words, and it pools by no attention
            assert config_of(values).pooler.form == "none"
        config = config_of(values)
        assert config_of(values_of(config)) == config
    with pytest.raises(UserError, match="hf_model_name"):
        config_of(json.loads((folder / "coca_roberta-ViT-B-32.json").read_text()))


@pytest.mark.parametrize(
    ("part", "changes", "what"),
    [
        ("vision_cfg", {"pool_type": "avg"}, "vision_cfg.pool_type 'avg'.*take one with 'tok'"),
        ("text_cfg", {"pool_type": "first"}, "text_cfg.pool_type 'first'"),
        ("text_cfg", {"pool_type": "last"}, "text_cfg.pool_type 'last'"),
        ("text_cfg", {"pool_type": "eos"}, "text_cfg.pool_type 'eos'"),  # whose eos_id is 2
        ("text_cfg", {"hf_tokenizer_name": "bert-base-uncased"}, "text_cfg.hf_tokenizer_name"),
        ("text_cfg", {"tokenizer_kwargs": {"clean": "canonicalize"}}, "text_cfg.tokenizer_kwargs"),
        ("text_cfg", {"rotary": True}, "text_cfg.rotary is not known here: take one without it"),
        ("vision_cfg", {"layers": [3, 4, 6, 3]}, r"vision_cfg.layers \[3, 4, 6, 3\]"),
        ("vision_cfg", {"patch_size": [8, 8]}, r"vision_cfg.patch_size \[8, 8\]"),
        ("multimodal_cfg", {"ls_init_value": 0.1}, "multimodal_cfg.ls_init_value"),
        ("multimodal_cfg", {"width": 24}, "multimodal_cfg.width 24 and text_cfg.width 16"),
    ],
)
def test_what_would_be_another_network_is_refused(part: str, changes: dict, what: str) -> None:
    values = values_of(coca_config())
    with pytest.raises(UserError, match=what):
        config_of({**values, part: values[part] | changes})


def test_what_changes_no_network_is_read() -> None:
    values = values_of(clip_config())
    for part, changes in (
        ("text_cfg", {"pool_type": "eos", "eos_id": 49407}),
        ("text_cfg", {"eos_id": 1, "output_tokens": True, "hf_tokenizer_name": None}),
        ("vision_cfg", {"patch_dropout": 0.5, "timm_pool": "avg", "pool_type": "tok"}),
    ):
        assert config_of({**values, part: values[part] | changes}) == config_of(values)
    for name, value in (("init_logit_bias", -10), ("cast", "bf16")):
        with pytest.raises(UserError, match=f"model_cfg.{name}"):
            config_of({**values, name: value})


#: What changes a network, and has no counterpart there.
IMAGE_PARTS = {
    "eps": 1e-6,
    "layer_scale": 0.1,
    "class_position": False,
    "relative_bias": "shared",
    "absolute_positions": False,
    "quick_gelu": True,
    "tanh_gelu": True,
    "channels": 1,
    "key_bias": False,
}
TEXT_PARTS = {"eps": 1e-2, "sees": "all", "reads": "first", "tanh_gelu": True}


def test_what_open_clip_has_no_place_for_stays(tmp_path: Path) -> None:
    for changes, what in (
        ({"multimodal": MultimodalConfig(layers=2, heads=4, hidden=64)}, "multimodal.feed_forwards 1"),
        ({"embed_dim": 20}, "another width"),
        ({"tokenizer": TokenizerConfig(max_length=12, add_sep=True)}, "another vocabulary"),
        *(
            ({"image": replace(coca_config().image, **{name: value})}, f"no place for image.{name}")
            for name, value in IMAGE_PARTS.items()
        ),
        *(
            ({"text": replace(coca_config().text, **{name: value})}, f"no place for text.{name}")
            for name, value in TEXT_PARTS.items()
        ),
    ):
        with pytest.raises(UserError, match=what):
            write(CoCa(coca_config(**changes)), tmp_path / "out")
