"""A tiny model folder, a folder of pictures, and the command line as a user starts it."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from PIL import Image

import multiway
from multiway.cli.main import main
from multiway.systems.bert import BertConfig
from multiway.systems.vit import ViTConfig

COLOURS = ("red", "green", "blue", "yellow", "black", "white")


@pytest.fixture(scope="session")
def model_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A saved ALBEF of a few weights."""
    torch.manual_seed(0)
    image = ViTConfig(image_size=32, patch_size=16, width=32, depth=1, heads=2, hidden=64)
    text = BertConfig(width=32, layers=1, fusion_layers=1, heads=2, hidden=64)
    model = multiway.create("albef", image=image, text=text, queue_size=8)
    folder = tmp_path_factory.mktemp("model") / "tiny"
    multiway.save(model.eval(), folder)
    return folder


@pytest.fixture(scope="session")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of six plain pictures named by their colour, with captions.csv."""
    folder = tmp_path_factory.mktemp("pictures")
    rows = ["image,caption"]
    for colour in COLOURS:
        Image.new("RGB", (40, 30), colour).save(folder / f"{colour}.png")
        rows.append(f"{colour}.png,a {colour} picture")
    (folder / "captions.csv").write_text("\n".join(rows) + "\n")
    return folder


@pytest.fixture
def cli(capsys: pytest.CaptureFixture[str]) -> Callable[..., tuple[int, str, str]]:
    """Runs the command line in this process: exit code, stdout, stderr."""

    def run(*argv: object) -> tuple[int, str, str]:
        code = main([str(word) for word in argv])
        out, err = capsys.readouterr()
        return code, out, err

    return run


@pytest.fixture
def process() -> Callable[..., subprocess.CompletedProcess]:
    """Runs `python -m multiway` in a process of its own."""

    def run(*argv: object, **options) -> subprocess.CompletedProcess:
        command = [sys.executable, "-m", "multiway", *map(str, argv)]
        source = str(Path(multiway.__file__).parents[1])
        env = {**os.environ, "PYTHONPATH": source}
        return subprocess.run(command, capture_output=True, text=True, env=env, timeout=600, **options)

    return run
