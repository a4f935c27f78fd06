"""`multiway caption` and `multiway bootstrap` with BLIPs as they are published, tiny and random.

One captioner and one filter, each as an official .pth, as a folder that transformers saved, and as a folder
of ours: what they say must not depend on it.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from huggingface_hub import constants
from PIL import Image

import multiway
from multiway.data.shards import Shards, write_shards
from multiway.systems.blip import BLIP
from multiway.systems.blip_config import BLIPConfig, CaptionerConfig, med_config
from multiway.systems.blip_heads import Captioner
from multiway.systems.vit import ViTConfig
from multiway.weights import blip
from multiway.weights.hf_blip import to_transformers
from multiway.weights.keymap import to_theirs

# An oracle, of the extra that tests are installed with; the formats by themselves are tested in tests/tasks.
transformers = pytest.importorskip("transformers")

SIZES = {
    "image": ViTConfig(image_size=32, patch_size=8, width=64, depth=2, heads=1, hidden=96),
    "text": med_config(vocab_size=30524, width=64, fusion_layers=2, heads=1, hidden=96, positions=64),
}
LAYOUTS = ("ours", "official.pth", "transformers")


def noisy(model):
    g = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim:
                parameter += 0.2 * torch.randn(parameter.shape, generator=g)
    return model.eval()


@pytest.fixture(scope="module")
def published(tmp_path_factory):
    """published/captioner/official.pth, published/filter/transformers/, ..."""
    root = tmp_path_factory.mktemp("published")
    torch.manual_seed(0)
    captioner = noisy(Captioner(CaptionerConfig(**SIZES)))
    matcher = noisy(BLIP(BLIPConfig(**SIZES, embed_dim=16, **blip.RETRIEVAL)))
    for name, model in (("captioner", captioner), ("filter", matcher)):
        folder = root / name
        folder.mkdir()
        tensors = to_theirs(blip.layout_of(model.config, ()), model.state_dict())
        torch.save({"model": tensors}, folder / "official.pth")
        multiway.save(multiway.load(folder / "official.pth"), folder / "ours")
        tensors, values = to_transformers(model)
        config = transformers.BlipConfig(**{k: v for k, v in values.items() if k != "architectures"})
        other = getattr(transformers, values["architectures"][0])(config)
        other.load_state_dict(tensors)
        other.save_pretrained(folder / "transformers")
    return root


@pytest.fixture
def photos(tmp_path):
    """Seven noisy photographs, one of them CMYK, one in a folder below, and two that are none."""
    draw, folder = np.random.default_rng(0), tmp_path / "photos"
    (folder / "below").mkdir(parents=True)
    for i in range(6):
        pixels = draw.integers(0, 255, (40, 60, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / f"{'below/' if i == 5 else ''}{i}.jpg")
    Image.fromarray(draw.integers(0, 255, (40, 60, 4), dtype=np.uint8), mode="CMYK").save(folder / "6.jpg")
    (folder / "broken.jpg").write_bytes((folder / "0.jpg").read_bytes()[:200])
    (folder / "text.png").write_text("no picture")
    return folder


def lines(path: Path) -> list[dict]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_captions_do_not_depend_on_the_layout(cli, published, photos, tmp_path):
    made = {}
    for layout in LAYOUTS:
        out = tmp_path / layout / "captions.jsonl"
        code, said, err = cli("caption", photos, "--model", published / "captioner" / layout, "--out", out)
        assert code == 0, err
        assert "7 pictures captioned" in said
        assert "undecodable 1" in said
        assert "not_an_image 1" in said
        assert "broken.jpg, text.png" in err
        made[layout] = {row["key"]: row["caption"] for row in lines(out)}
        skipped = {row["key"]: row["error"] for row in lines(out.with_name("captions.skipped.jsonl"))}
        assert skipped == {"broken.jpg": "undecodable", "text.png": "not_an_image"}
    assert len(set(made["ours"].values())) > 3
    assert made["ours"] == made["official.pth"] == made["transformers"]


@pytest.mark.parametrize("format", ["jsonl", "imagefolder", "txt", "tar"])
def test_every_format_says_the_same(cli, published, photos, tmp_path, format):
    model = multiway.load(published / "captioner" / "transformers")
    names = [*(f"{i}.jpg" for i in (0, 1, 2, 3, 4, 6)), "below/5.jpg"]
    expected = {name: model.caption(photos / name) for name in names}
    expected = {name: caption[0] for name, caption in expected.items()}
    flags = {"jsonl": ["--out", tmp_path / "c.jsonl"], "tar": ["--format", "tar", "--out", tmp_path / "tars"]}
    code, _, err = cli(
        "caption",
        photos,
        "--model",
        published / "captioner" / "transformers",
        *flags.get(format, ["--format", format]),
    )
    assert code == 0, err
    if format == "jsonl":
        found = {row["key"]: row["caption"] for row in lines(tmp_path / "c.jsonl")}
    elif format == "imagefolder":
        found = {row["file_name"]: row["text"] for row in lines(photos / "metadata.jsonl")}
    elif format == "txt":
        found = {name: (photos / name).with_suffix(".txt").read_text().strip() for name in names}
    else:
        shards = Shards([str(tmp_path / "tars" / "00000.tar")])
        found = {shards.meta(i)["file"]: shards.texts(i)[0] for i in range(len(shards))}
    assert found == expected


@pytest.mark.slow
def test_a_killed_command_goes_on(published, photos, tmp_path):
    """SIGKILL after the first batches; the second command makes the others alone, and all are there."""
    for i in range(7, 60):
        Image.new("RGB", (40, 30), (4 * i, 255 - 4 * i, i)).save(photos / f"{i:03}.png")
    source = str(Path(multiway.__file__).parents[1])
    command = [sys.executable, "-m", "multiway", "caption", str(photos), "--batch-size", "2"]
    command += ["--model", str(published / "captioner" / "ours"), "--device", "cpu"]
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    start = partial(subprocess.Popen, env={**os.environ, "PYTHONPATH": source}, **pipes)
    killed, whole = tmp_path / "killed.jsonl", tmp_path / "whole.jsonl"
    process, part = start([*command, "--out", str(killed)]), tmp_path / ".killed.jsonl.part"
    end = time.monotonic() + 300
    while (not part.exists() or part.read_bytes().count(b"\n") < 4) and time.monotonic() < end:
        assert process.poll() is None, process.communicate()
        time.sleep(0.005)
    process.kill()
    process.communicate()
    assert process.returncode == -signal.SIGKILL
    stood = (part.read_bytes().count(b"\n") - 1) * 2
    assert 6 <= stood < 62
    out, err = start([*command, "--out", str(killed)]).communicate(timeout=300)
    assert "of them by an earlier run" in out, err
    start([*command, "--out", str(whole)]).communicate(timeout=300)
    assert len(lines(whole)) == 60
    assert killed.read_bytes() == whole.read_bytes()


NAME = "Salesforce/blip-image-captioning-base"


@pytest.fixture
def cache(tmp_path, monkeypatch):
    """An empty cache of the hub, and no network."""
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    return tmp_path / "hub"


def test_a_hub_id_without_network_and_cache(cli, cache, photos):
    code, out, err = cli("caption", photos, "--model", NAME)
    assert (code, out) == (2, "")
    assert err.count("\n") == 1
    for words in (NAME, f"hf download {NAME} --local-dir blip-image-captioning-base", str(cache)):
        assert words in err


def test_a_hub_id_from_the_cache(cli, cache, published, photos):
    place = cache / f"models--{NAME.replace('/', '--')}"
    (place / "refs").mkdir(parents=True)
    (place / "refs" / "main").write_text("0" * 40)
    shutil.copytree(published / "captioner" / "transformers", place / "snapshots" / ("0" * 40))
    code, by_name, err = cli("caption", photos, "--model", NAME)
    assert code == 0, err
    assert len(by_name.splitlines()) == 7
    assert by_name == cli("caption", photos, "--model", published / "captioner" / "official.pth")[1]


def test_a_filter_does_not_depend_on_the_layout(cli, published, photos, tmp_path):
    names = [*(f"{i}.jpg" for i in (0, 1, 2, 3, 4, 6))]
    texts = ["a cat", "two dogs on a mat", "buy now", "a red car", "", "a house by a lake"]
    samples = [
        {"__key__": name[0], "jpg": (photos / name).read_bytes(), "txt": text}
        for name, text in zip(names, texts, strict=True)
    ]
    write_shards(tmp_path / "web", samples, shard_size=3)
    found = {}
    for layout in LAYOUTS:
        out = tmp_path / layout
        code, said, err = cli(
            *("bootstrap", "--data", tmp_path / "web", "--out", out, "--threshold", "0", "--workers", "1"),
            *("--captioner", published / "captioner" / layout, "--filter", published / "filter" / layout),
            *("--batch-size", "2", "--max-length", "6", "--device", "cpu"),
        )
        assert code == 0, err
        assert "6 pictures read, 6 written" in said
        shards = Shards([str(out / "00000.tar"), str(out / "00001.tar")])
        found[layout] = [shards.meta(i)["capfilt"]["kept"] for i in range(len(shards))]
    rows = found["ours"]
    assert [[text["origin"] for text in row] for row in rows] == [
        ["web", "synthetic"] if text else ["synthetic"] for text in texts
    ]
    assert len({text["score"] for row in rows for text in row}) > 6
    assert found["ours"] == found["official.pth"] == found["transformers"]
