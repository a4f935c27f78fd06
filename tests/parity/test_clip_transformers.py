"""CLIP beside transformers' CLIP: the same random weights, copied both ways, give the same numbers."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

import multiway
from multiway.batch import Batch
from multiway.data.augment import eval_transform
from multiway.errors import UserError
from multiway.systems.clip import CLIP, CLIPConfig, CLIPTextConfig, clip_tokenizer, clip_vit
from multiway.text import Tokenizer, train_vocabulary
from multiway.weights import hf_pictures
from multiway.weights.convert import convert, examine
from multiway.weights.hf_clip import to_transformers

transformers = pytest.importorskip("transformers")

TEXTS = ["a photo of a dog", "it's 3 o'clock!", "Ein Bär läuft."]


def theirs(act: str = "quick_gelu", **changes) -> torch.nn.Module:
    """Their model, with weights large enough to tell wrong from right."""
    sizes = {"hidden_size": 24, "num_hidden_layers": 2, "num_attention_heads": 3, "intermediate_size": 40}
    config = transformers.CLIPConfig(
        text_config={**sizes, "max_position_embeddings": 20, "hidden_act": act, **changes},
        vision_config={**sizes, "image_size": 32, "patch_size": 8, "hidden_act": act, "layer_norm_eps": 1e-6},
        projection_dim=12,
    )
    model = transformers.CLIPModel(config).eval()
    g = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter += 0.05 * torch.randn(parameter.shape, generator=g)
    return model


@pytest.mark.parametrize("act", ["quick_gelu", "gelu"])
def test_loss_and_features(act: str, tmp_path: Path) -> None:
    model = theirs(act)
    model.save_pretrained(tmp_path / "hf")
    ours = multiway.load(tmp_path / "hf")
    assert isinstance(ours, CLIP)
    assert ours.config.tokenizer.vocab == "clip"
    ids, mask = ours.tokenize(TEXTS)
    image = torch.randn(3, 3, 32, 32, generator=torch.Generator().manual_seed(1))
    end = torch.full_like(ids, 49407).where(mask == 0, ids)  # transformers pads with the end
    reference = model(input_ids=end, pixel_values=image, attention_mask=mask, return_loss=True)
    loss = ours.losses(Batch(image=image, input_ids=ids, attention_mask=mask), ours.init_state())["loss"]
    torch.testing.assert_close(loss, reference.loss, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(ours.text_context(ids, mask)[0], reference.text_embeds, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(ours.image_context(image)[0], reference.image_embeds, rtol=1e-4, atol=1e-5)
    own = load_file(tmp_path / "hf/model.safetensors")
    back = to_transformers(ours)[0]
    assert own.keys() == back.keys()
    assert all(torch.equal(back[name], tensor) for name, tensor in own.items())
    assert examine(tmp_path / "hf/model.safetensors")[0] == "clip"


def test_transformers_reads_what_convert_writes(tmp_path: Path) -> None:
    model = theirs()
    model.save_pretrained(tmp_path / "hf")
    ours = multiway.load(tmp_path / "hf")
    folder = convert(multiway.save(ours, tmp_path / "ours"), tmp_path / "back", to="transformers")
    again = transformers.CLIPModel.from_pretrained(folder).eval()
    processor = transformers.AutoProcessor.from_pretrained(folder)
    picture = Image.new("RGB", (40, 30), (255, 0, 127))
    found = processor(text=TEXTS, images=[picture] * 3, padding=True, return_tensors="pt")
    ids, mask = ours.tokenize(TEXTS)
    assert found["attention_mask"].equal(mask)
    assert found["input_ids"][mask.bool()].equal(ids[mask.bool()])
    torch.testing.assert_close(found["pixel_values"][:1], ours.prepare(picture), atol=1e-6, rtol=0)
    with torch.no_grad():
        features = again(**found)
        torch.testing.assert_close(
            features.text_embeds, ours.text_context(ids, mask)[0], rtol=1e-4, atol=1e-5
        )
        assert torch.equal(features.image_embeds, model(**found).image_embeds)
    loaded = multiway.load(folder)
    assert loaded.tokenize(TEXTS)[0].equal(ids)


@pytest.mark.parametrize("crops", [True, False])
def test_pictures_are_prepared_as_theirs(crops: bool, tmp_path: Path) -> None:
    model, sides = theirs(), {"height": 32, "width": 32}
    model.save_pretrained(tmp_path / "hf")
    processor = transformers.CLIPImageProcessor(
        size={"shortest_edge": 32} if crops else sides,
        crop_size=sides,
        do_center_crop=crops,
        image_mean=[0.5, 0.4, 0.3],
    )
    processor.save_pretrained(tmp_path / "hf")
    levels = np.random.default_rng(0).integers(0, 255, (10, 25, 3), dtype=np.uint8)
    picture = Image.fromarray(levels).resize((251, 99), Image.Resampling.BICUBIC)
    pixels = processor(picture, return_tensors="pt")["pixel_values"]
    ours = multiway.load(tmp_path / "hf")
    assert (ours.image_fit, ours.image_mean) == ("crop" if crops else "squash", (0.5, 0.4, 0.3))
    level = 1 / 255 / min(ours.image_std)  # torchvision resizes, not PIL: they may round to the next one
    torch.testing.assert_close(ours.prepare(picture), pixels, rtol=0, atol=1.01 * level)
    with torch.no_grad():
        feature = torch.nn.functional.normalize(
            model(**texts(ours), pixel_values=pixels).image_embeds, dim=-1
        )
    assert float((ours.encode_image(picture) * feature).sum()) > 0.9999
    folder = convert(tmp_path / "hf", tmp_path / "back", to="transformers")
    again = transformers.AutoImageProcessor.from_pretrained(folder)(picture, return_tensors="pt")
    assert torch.equal(again["pixel_values"], pixels)
    assert multiway.load(folder).config == ours.config


def texts(ours: CLIP) -> dict[str, torch.Tensor]:
    ids, mask = ours.tokenize("a dog")
    return {"input_ids": ids, "attention_mask": mask}


def test_what_their_processors_say(tmp_path: Path) -> None:
    file = tmp_path / "preprocessor_config.json"
    assert hf_pictures.read(tmp_path, "clip") == {}
    # as OpenAI's own was published, and as the first ones of ViTMAE
    # and ones that name no processor: then the model's own is meant
    beit = {"do_center_crop": False, "crop_size": 224, "size": 224}  # microsoft/beit-base-patch16-224
    clip = {"feature_extractor_type": "CLIPFeatureExtractor", "size": 336, "crop_size": 336}
    linear = {"resample": "bilinear"}  # ViT's own default, and what is said
    for values, model_type, fit, more in (
        (clip, "clip", "crop", {}),
        ({"feature_extractor_type": "ViTFeatureExtractor", "size": 336}, "vit_mae", "squash", linear),
        ({"do_center_crop": True, "size": 224, "crop_size": 224}, "clip", "crop", {}),
        ({"size": 384}, "blip", "squash", {}),
        ({"feature_extractor_type": "BeitFeatureExtractor", **beit}, "beit", "squash", {}),
        ({"feature_extractor_type": "BeitFeatureExtractor", **beit, "resample": 2}, "beit", "squash", linear),
    ):
        file.write_text(json.dumps(values))
        assert hf_pictures.read(tmp_path, model_type) == {"fit": fit, **more}
    file.write_text(json.dumps({"resample": 0}))
    with pytest.raises(UserError, match="filter 0, which is not known here"):
        hf_pictures.read(tmp_path, "clip")
    file.write_text(json.dumps({"do_center_crop": True, "size": 256, "crop_size": 224}))
    for model_type, fit in (("clip", "crop"), ("beit", "squash")):  # BEiT's as transformers 4 made it
        assert hf_pictures.read(tmp_path, model_type) == {"fit": fit, "crop_share": 0.875}
    for crop in ({"height": 224, "width": 200}, 288):
        file.write_text(json.dumps({"do_center_crop": True, "size": 256, "crop_size": crop}))
        with pytest.raises(UserError, match="crops another shape"):
            hf_pictures.read(tmp_path, "clip")
    for damaged in ("{", "[]", '{"size": {}, "do_center_crop": true}', '{"image_mean": 0.5}'):
        file.write_text(damaged)
        with pytest.raises(UserError, match="can't be read"):
            hf_pictures.read(tmp_path, "clip")


@pytest.mark.parametrize("typed", [True, False])
def test_a_processor_of_both_says_how_pictures_are_made(typed: bool, tmp_path: Path) -> None:
    """transformers 5 writes it beside the tokenizer's, in one file; some folders say no type."""
    model, sides = theirs(), {"height": 32, "width": 32}
    model.save_pretrained(tmp_path)
    looks = {"size": {"shortest_edge": 32}, "crop_size": sides, "image_mean": [0.5, 0.4, 0.3]}
    processor = transformers.CLIPImageProcessor(**looks)
    values = {"image_processor": json.loads(processor.to_json_string()), "processor_class": "CLIPProcessor"}
    if not typed:
        del values["image_processor"]["image_processor_type"]
    (tmp_path / "processor_config.json").write_text(json.dumps(values))
    ours = multiway.load(tmp_path)
    assert (ours.image_fit, ours.image_mean) == ("crop", (0.5, 0.4, 0.3))
    (tmp_path / "processor_config.json").write_text('{"processor_class": "CLIPProcessor"}')
    processor.save_pretrained(tmp_path)
    assert multiway.load(tmp_path).config == ours.config
    (tmp_path / "processor_config.json").write_text("[]")
    with pytest.raises(UserError, match="processor_config.json can't be read"):
        multiway.load(tmp_path)


@pytest.mark.parametrize("size", [{"shortest_edge": 40}, {"height": 40, "width": 40}], ids=["crop", "squash"])
@pytest.mark.parametrize("resample", [2, 3], ids=["bilinear", "bicubic"])
def test_crops_of_a_larger_size(size: dict[str, int], resample: int, tmp_path: Path) -> None:
    theirs().save_pretrained(tmp_path / "hf")
    sides = {"height": 32, "width": 32}
    processor = transformers.CLIPImageProcessor(size=size, crop_size=sides, resample=resample)
    processor.save_pretrained(tmp_path / "hf")
    ours = multiway.load(tmp_path / "hf")
    assert (ours.image_size, ours.config.image.crop_share) == (32, 0.8)
    folder = convert(tmp_path / "hf", tmp_path / "back", to="transformers")
    again = transformers.AutoImageProcessor.from_pretrained(folder)
    level = 1 / 255 / min(ours.image_std)
    levels = np.random.default_rng(0).integers(0, 255, (9, 11, 3), dtype=np.uint8)
    for shape in ((50, 41), (33, 90), (64, 64), (40, 40), (32, 32)):
        picture = Image.fromarray(levels).resize(shape, Image.Resampling.BICUBIC)
        pixels = processor(picture, return_tensors="pt")["pixel_values"]
        torch.testing.assert_close(ours.prepare(picture), pixels, rtol=0, atol=1.01 * level)
        assert torch.equal(again(picture, return_tensors="pt")["pixel_values"], pixels)
    assert multiway.load(folder).config == ours.config


SIDES = {"height": 32, "width": 32}
PROCESSORS = {
    "beit": transformers.BeitImageProcessor(size=SIDES),
    "beit, cropping": transformers.BeitImageProcessor(
        size={"height": 36, "width": 36}, crop_size=SIDES, do_center_crop=True
    ),
    "blip": transformers.BlipImageProcessor(size=SIDES),
    "vit_mae": transformers.ViTImageProcessor(size=SIDES, resample=3),
    "clip, 4": transformers.CLIPImageProcessor(size=40, crop_size=32),
}


@pytest.mark.parametrize("name", list(PROCESSORS))
@pytest.mark.parametrize("shape", [(50, 41), (90, 33)])
def test_pictures_are_as_each_processor_makes_them(name: str, shape: tuple[int, int], tmp_path: Path) -> None:
    PROCESSORS[name].save_pretrained(tmp_path)
    looks = hf_pictures.read(tmp_path, name.partition(",")[0])
    levels = np.random.default_rng(0).integers(0, 255, (9, 11, 3), dtype=np.uint8)
    picture = Image.fromarray(levels).resize(shape, Image.Resampling.BICUBIC)
    pixels = PROCESSORS[name](picture, return_tensors="pt")["pixel_values"][0]
    ours = eval_transform(32, **looks)(picture)
    torch.testing.assert_close(ours, pixels, rtol=0, atol=1.01 / 255 / min(looks["std"]))


def test_sides_are_written_apart_and_crops_of_squares_alone() -> None:
    model = small()
    image = replace(model.config.image, image_size=(32, 48))
    found = hf_pictures.values_of(CLIP(replace(model.config, image=image)), "CLIPImageProcessor")
    assert (found["size"], found["do_center_crop"]) == ({"height": 32, "width": 48}, False)
    with pytest.raises(UserError, match="32 x 48"):
        hf_pictures.values_of(
            CLIP(replace(model.config, image=replace(image, fit="crop"))), "CLIPImageProcessor"
        )


def small(**text) -> CLIP:
    torch.manual_seed(0)
    sizes = {"width": 16, "layers": 1, "heads": 2, "hidden": 28, "positions": 11}
    image = clip_vit(image_size=32, patch_size=8, width=24, depth=1, heads=3, hidden=40)
    words = CLIPTextConfig(**sizes, **text)
    return CLIP(CLIPConfig(image=image, text=words, tokenizer=clip_tokenizer(11), embed_dim=12))


def test_berts_words_leave_too(tmp_path: Path) -> None:
    config = replace(
        small().config,
        tokenizer=replace(clip_tokenizer(11), kind="wordpiece", vocab="bert-base-uncased", add_sep=True),
    )
    ours = CLIP(config)
    ours.tokenizer = Tokenizer.load(config.tokenizer)
    folder = convert(multiway.save(ours.eval(), tmp_path / "ours"), tmp_path / "back", to="transformers")
    model = transformers.CLIPModel.from_pretrained(folder).eval()
    words = transformers.AutoTokenizer.from_pretrained(folder)
    found = words(["a dog", "a big red dog"], padding=True, return_tensors="pt")
    ids, mask = ours.tokenize(["a dog", "a big red dog"])
    assert found["input_ids"].equal(ids)
    again = multiway.load(folder)
    assert again.config.tokenizer.max_length == 11
    long = ["a dog and a cat and a red horse and a blue one"]
    with pytest.warns(UserWarning, match="cut to 11 tokens"):
        assert again.tokenize(long)[0].equal(ours.tokenize(long)[0])
    image = torch.randn(2, 3, 32, 32)
    with torch.no_grad():
        features = model(input_ids=ids, attention_mask=mask, pixel_values=image).text_embeds
        torch.testing.assert_close(features, ours.text_context(ids, mask)[0], rtol=1e-4, atol=1e-5)


def test_accents_and_signs_stay_in_the_words_that_leave(tmp_path: Path) -> None:
    names = ["कुत्ता लाल", "ガム犬", "강아지", "ein Bär"]
    rules = replace(clip_tokenizer(11), kind="wordpiece", cleaning="multilingual", add_sep=True)
    words = train_vocabulary(names * 3, size=120, config=rules)
    ours = small(vocab_size=len(words))
    ours.tokenizer, ours.config = words, replace(ours.config, tokenizer=words.config)
    folder = convert(multiway.save(ours.eval(), tmp_path / "ours"), tmp_path / "back", to="transformers")
    theirs = transformers.AutoTokenizer.from_pretrained(folder)
    for name in names:
        assert theirs(name)["input_ids"] == words.encode(name), name


def test_a_vocabulary_of_its_own_keeps_what_ends_a_text(tmp_path: Path) -> None:
    torch.manual_seed(0)
    text = {"vocab_size": 60, "hidden_size": 16, "intermediate_size": 28, "num_attention_heads": 2}
    vision = {"image_size": 32, "patch_size": 8, "hidden_size": 24, "intermediate_size": 40}
    few = {"num_hidden_layers": 1, "projection_dim": 12}
    values = transformers.CLIPConfig(
        text_config=text | few | {"eos_token_id": 50, "bos_token_id": 1, "pad_token_id": 0},
        vision_config=vision | few | {"num_attention_heads": 3},
        projection_dim=12,
    )
    first = transformers.CLIPModel(values).eval()
    first.save_pretrained(tmp_path / "first")
    ours = multiway.save(multiway.load(tmp_path / "first"), tmp_path / "ours")
    again = transformers.CLIPModel.from_pretrained(convert(ours, tmp_path / "again", to="transformers"))
    ids = torch.tensor([[1, 7, 55, 50, 50], [1, 3, 50, 50, 50]])
    pictures = torch.randn(2, 3, 32, 32)
    with torch.no_grad():
        expected, found = (m(input_ids=ids, pixel_values=pictures).text_embeds for m in (first, again.eval()))
    torch.testing.assert_close(found, expected)


def test_what_transformers_could_not_read_is_refused() -> None:
    with pytest.raises(UserError, match="no place for text.sees 'all': there it is 'before'"):
        to_transformers(small(sees="all"))
    oblong = CLIP(replace(small().config, image=replace(small().config.image, image_size=(32, 16))))
    with pytest.raises(UserError, match="square pictures, and this model 32 x 16"):
        to_transformers(oblong)
    whole = small().config
    for changes in ({"class_position": False}, {"layer_scale": 0.1}, {"relative_bias": "shared"}):
        image = replace(whole.image, **changes)
        with pytest.raises(UserError, match=f"no place for image.{next(iter(changes))}"):
            to_transformers(CLIP(replace(whole, image=image)))
    ours = small()
    ours.tokenizer = Tokenizer.load(
        replace(ours.config.tokenizer, kind="wordpiece", vocab="bert-base-uncased")
    )
    ours.config = replace(ours.config, tokenizer=ours.tokenizer.config)
    with pytest.raises(UserError, match="an end of its own"):
        to_transformers(ours)
