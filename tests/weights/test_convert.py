"""A model goes from each layout to each other and back, and `--check` says what would happen."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from pathlib import Path

import pytest
import tiny
import tiny_blip
import torch
from PIL import Image
from safetensors.torch import load_file

import multiway
from multiway.cli.main import main
from multiway.errors import UserError
from multiway.systems import NETWORKS
from multiway.systems.base import System
from multiway.systems.blip_config import BLIPConfig, CaptionerConfig, NLVRConfig, VQAConfig
from multiway.systems.clip import CLIPTextConfig, clip_vit
from multiway.weights import albef, blip
from multiway.weights.convert import convert, examine
from multiway.weights.keymap import to_theirs
from multiway.weights.official import read_tensors

SIZES = {
    "image": tiny.vit(width=64, heads=1),
    "text": tiny_blip.med(width=64, heads=1, vocab_size=30524, dropout=0.1, positions=512),
}
CONFIGS = {
    "captioner": CaptionerConfig(**SIZES),
    "vqa": VQAConfig(**SIZES),
    "itm": BLIPConfig(**SIZES, embed_dim=12, **blip.RETRIEVAL),
}


def made(config, folder: Path) -> Path:
    """A folder of ours with random weights."""
    torch.manual_seed(0)
    model = NETWORKS[config.system].network()(config)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter += 0.1 * torch.randn(parameter.shape)
    model.tokenizer = multiway.text.Tokenizer.load(config.tokenizer)
    return multiway.save(model.eval(), folder)


def same(one: System, other: System) -> None:
    assert type(one) is type(other)
    tensors = other.state_dict()
    for name, tensor in one.state_dict().items():
        if name != "temperature":  # transformers and BLIP_ITM keep none
            assert torch.equal(tensor, tensors[name]), name
    assert one.tokenizer is not None
    assert other.tokenizer is not None
    assert one.tokenizer.encode("a cat, [SEP] ok") == other.tokenizer.encode("a cat, [SEP] ok")


@pytest.mark.parametrize("kind", CONFIGS)
def test_there_and_back(kind: str, tmp_path: Path) -> None:
    first = made(CONFIGS[kind], tmp_path / "first")
    theirs = convert(first, tmp_path / "theirs", to="transformers")
    official = convert(theirs, tmp_path / "official.pth", to="official")
    safe = convert(official, tmp_path / "official.safetensors", to="official")
    back = convert(safe, tmp_path / "back")
    for path in (theirs, official, safe, back):
        same(multiway.load(first), multiway.load(path))
    assert not list(tmp_path.glob(".*"))


@pytest.mark.parametrize("kind", CONFIGS)
def test_transformers_reads_what_is_written(kind: str, tmp_path: Path) -> None:
    transformers = pytest.importorskip("transformers")  # an oracle
    first = made(CONFIGS[kind], tmp_path / "first")
    folder = convert(first, tmp_path / "theirs", to="transformers")
    name = json.loads((folder / "config.json").read_text())["architectures"][0]
    other, info = getattr(transformers, name).from_pretrained(folder, output_loading_info=True)
    assert not any(info[kind] for kind in ("missing_keys", "unexpected_keys", "mismatched_keys"))
    processor = transformers.BlipProcessor.from_pretrained(folder)
    model, image = multiway.load(first), tiny.batch().image[:1]
    picture = (image[0].sigmoid() * 255).to(torch.uint8).permute(1, 2, 0).numpy()
    inputs = processor(images=picture, text="a picture of two cats", return_tensors="pt")
    torch.testing.assert_close(inputs["pixel_values"], model.prepare(picture_of(picture)), rtol=0, atol=1e-5)
    assert model.tokenizer is not None
    assert inputs["input_ids"].tolist() == model.tokenizer(["a picture of two cats"])[0].tolist()
    assert processor.tokenizer.convert_tokens_to_ids(["[DEC]", "[ENC]"]) == [30522, 30523]
    if kind == "captioner":
        with torch.no_grad():
            rows = other.generate(**inputs, max_new_tokens=5, num_beams=3, do_sample=False)
        own = model.generate(
            picture_of(picture),
            prompt="a picture of two cats",
            config=multiway.generation.GenerationConfig(max_length=5),
        )
        assert rows[0, -5:].tolist() == own.sequences[0][0]


def picture_of(values):
    return [Image.fromarray(values)]


def test_a_check_says_what_a_checkpoint_would_do(tmp_path: Path, capsys) -> None:
    first = made(CONFIGS["captioner"], tmp_path / "first")
    path = convert(first, tmp_path / "official.pth", to="official")
    tensors = read_tensors(path)
    names = len(multiway.load(first).state_dict())
    assert [len(found) for found in tuple_of(examine(path))] == [names, 0, 0, 0]
    assert [len(found) for found in tuple_of(examine(first))] == [names, 0, 0, 0]
    del tensors["visual_encoder.norm.bias"]
    torch.save(tensors | {"extra.weight": torch.zeros(1)}, tmp_path / "odd.pth")
    report = examine(tmp_path / "odd.pth", image_size=64)[1]
    assert report.resized == ("image_tower.positions",)
    assert report.missing == ("image_tower.norm.bias",)
    assert report.unexpected == ("extra.weight",)
    assert main(["convert", str(tmp_path / "odd.pth"), "--check"]) == 0
    out = capsys.readouterr().out
    assert "image_tower.norm.bias" in out
    assert "extra.weight" in out
    assert "is a blip_captioner; nothing was written" in out
    assert main(["convert", str(tmp_path / "odd.pth"), "--check", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["unexpected"] == ["extra.weight"]
    folder = convert(first, tmp_path / "theirs", to="transformers")
    assert [len(found) for found in tuple_of(examine(folder))] == [names, 0, 0, 0]


@pytest.mark.parametrize("kind", ["folder", "official.pth", "transformers"])
def test_a_check_lists_what_a_run_resizes(kind: str, tmp_path: Path, capsys) -> None:
    image = clip_vit(image_size=32, patch_size=16, width=64, depth=1, hidden=64, heads=1)
    text = CLIPTextConfig(width=64, layers=1, heads=1, hidden=64)
    path = multiway.save(multiway.create("clip", image=image, text=text, embed_dim=8), tmp_path / "folder")
    if kind != "folder":
        path = convert(path, tmp_path / kind, to=kind.removesuffix(".pth"))
    options = {"image_size": 64, "text_length": 100}
    report = examine(path, **options)[1]
    before, after = (multiway.load(path, **more).state_dict() for more in ({}, options))
    assert set(report.resized) == {n for n in before if before[n].shape != after[n].shape}
    assert len(report.resized) == 2
    assert main(["convert", str(path), "--check", "--json", "--text-length", "100"]) == 0
    assert len(json.loads(capsys.readouterr().out)["resized"]) == 1
    for wrong, words in ({"image_size": 9}, "patches of"), ({"text_length": 5}, "give more"):
        with pytest.raises(UserError, match=words):
            examine(path, **wrong)


def test_a_run_prints_what_it_leaves_out(tmp_path: Path, capsys) -> None:
    model = NETWORKS["blip"].network()(CONFIGS["itm"])
    state = {f"state.{name}": tensor for name, tensor in model.init_state().state_dict().items()}
    tensors = to_theirs(blip.layout(CONFIGS["itm"]), model.state_dict() | state)
    torch.save(tensors | {"extra.weight": torch.zeros(1)}, tmp_path / "x.pth")
    assert main(["convert", str(tmp_path / "x.pth"), str(tmp_path / "out")]) == 0
    out = capsys.readouterr().out
    assert re.search(r"unexpected +1\n  extra\.weight\n", out)
    assert re.search(r"dropped +\d+\n  state\.", out)
    assert main(["convert", str(tmp_path / "out"), str(tmp_path / "again")]) == 0
    assert capsys.readouterr().out.count("\n") == 1


def tuple_of(found):
    _, report = found
    return report.matched, report.resized, report.missing, report.unexpected


def test_what_tensors_do_not_tell_is_said(tmp_path: Path, capsys) -> None:
    dark = replace(SIZES["image"], mean=(0.1, 0.1, 0.1))
    first = made(CaptionerConfig(**(SIZES | {"image": dark})), tmp_path / "first")
    assert main(["convert", str(first), str(tmp_path / "x.pth"), "--to", "official"]) == 0
    printed = capsys.readouterr().out
    assert "  image.mean\n" in printed
    assert "image.heads" not in printed  # 64 numbers each, as a reader takes them
    # what came from such a file has nothing that it does not tell, in another size neither
    again = ["convert", str(tmp_path / "x.pth"), str(tmp_path / "y.pth"), "--to", "official"]
    assert main([*again, "--image-size", "64"]) == 0
    assert "unsaid" not in capsys.readouterr().out


@pytest.mark.parametrize(
    "changes", [{"layer_scale": 0.1}, {"quick_gelu": True}, {"pool": "mean"}, {"class_position": False}]
)
def test_another_network_does_not_leave_as_a_blip_of_transformers(changes, tmp_path: Path) -> None:
    first = made(
        CaptionerConfig(**(SIZES | {"image": replace(SIZES["image"], **changes)})), tmp_path / "first"
    )
    with pytest.raises(UserError, match=f"has no place for image.{next(iter(changes))}"):
        convert(first, tmp_path / "theirs", to="transformers")
    assert not (tmp_path / "theirs").exists()


def test_an_activation_that_is_not_blips_is_refused(tmp_path: Path) -> None:
    first = made(CONFIGS["captioner"], tmp_path / "first")
    folder = convert(first, tmp_path / "theirs", to="transformers")
    values = json.loads((folder / "config.json").read_text())
    values["vision_config"]["hidden_act"] = "quick_gelu"
    (folder / "config.json").write_text(json.dumps(values))
    with pytest.raises(UserError, match="those with gelu are known, not quick_gelu"):
        multiway.load(folder)


def test_what_transformers_does_not_keep_is_said(tmp_path: Path, capsys) -> None:
    config = BLIPConfig(**SIZES, embed_dim=12)  # with a decoder
    first = made(config, tmp_path / "first")
    assert main(["convert", str(first), str(tmp_path / "theirs"), "--to", "transformers"]) == 0
    printed = capsys.readouterr().out
    assert re.search(r"left out +\d+\n  decoder", printed)
    assert "  lm_weight\n" in printed


def test_a_command_writes_and_refuses(tmp_path: Path, capsys) -> None:
    first = made(CONFIGS["captioner"], tmp_path / "first")
    out = tmp_path / "theirs"
    assert main(["convert", str(first), str(out), "--to", "transformers"]) == 0
    assert "transformers layout in" in capsys.readouterr().out
    for argv, words in (
        ([str(first)], "--check"),
        ([str(first), str(out)], "exists already"),
        ([str(first), str(tmp_path / "x"), "--to", "official"], "x.pth or x.safetensors"),
        ([str(tmp_path / "none" / "such" / "model"), str(tmp_path / "y")], "does not exist"),
        ([str(first), str(tmp_path / "y"), "--to", "onnx"], "onnx"),
        ([str(first), str(first / "config.json" / "y")], "is a file, so"),
    ):
        assert main(["convert", *argv]) == 2
        err = capsys.readouterr().err
        assert words in err
        assert err.count("\n") == 1
    assert not (tmp_path / "x").exists()


def test_what_no_layout_holds_is_said(tmp_path: Path) -> None:
    pair = made(NLVRConfig(**SIZES), tmp_path / "pair")
    with pytest.raises(UserError, match="transformers has no class for a PairModel"):
        convert(pair, tmp_path / "theirs", to="transformers")
    assert convert(pair, tmp_path / "pair.pth", to="official").is_file()
    same(multiway.load(pair), multiway.load(tmp_path / "pair.pth"))


def test_a_larger_picture_size_is_written(tmp_path: Path) -> None:
    first = made(CONFIGS["captioner"], tmp_path / "first")
    out = convert(first, tmp_path / "larger", to="transformers", image_size=64)
    assert json.loads((out / "config.json").read_text())["vision_config"]["image_size"] == 64
    positions = load_file(out / "model.safetensors")["vision_model.embeddings.position_embedding"]
    assert positions.shape[1] == 65


@pytest.mark.parametrize("system", ["albef", "clip"])
def test_systems_beside_blip_leave_officially(system: str, tmp_path: Path) -> None:
    torch.manual_seed(0)
    image = tiny.vit(width=64, heads=1)
    if system == "albef":
        model = multiway.create(
            "albef", image=image, text=tiny.bert(vocab_size=30522, width=64, heads=1), embed_dim=12
        )
    else:
        model = multiway.create("clip")
    first = multiway.save(model.eval(), tmp_path / "first")
    same(model, multiway.load(convert(first, tmp_path / "official.pth", to="official")))


def test_a_file_of_other_words_than_the_published_has_no_tokenizer(tmp_path: Path) -> None:
    text = tiny.bert(vocab_size=200, width=64, heads=1)
    sizes = {"image": tiny.vit(width=64, heads=1), "text": text, "embed_dim": 12}
    model = NETWORKS["albef"].network()(NETWORKS["albef"].config()(**sizes))
    torch.save(to_theirs(albef.layout(model.config), model.state_dict()), tmp_path / "x.pth")
    assert multiway.load(tmp_path / "x.pth").tokenizer is None


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"null_token": True}, "no place for 1 of this model's tensors (encoders.null_token)"),
        ({"image": tiny.vit(layer_scale=0.1)}, "no place for"),
        ({"image": tiny.vit(image_size=(32, 64))}, "square pictures alone"),
    ],
)
def test_what_an_official_file_would_lose_is_not_written(changes, says, tmp_path: Path) -> None:
    sizes = {"text": tiny.bert(vocab_size=30522, positions=30), "queue_size": 8} | changes
    folder = made(tiny.albef_config(**sizes), tmp_path / "model")
    with pytest.raises(UserError, match=re.escape(says)):
        convert(folder, tmp_path / "official.pth", to="official")
    assert not (tmp_path / "official.pth").exists()
