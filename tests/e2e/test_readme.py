"""The README's code runs as it stands, and its commands exist."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image

from multiway.cli.main import COMMANDS

ROOT = Path(__file__).resolve().parents[2]
README = (ROOT / "README.md").read_text()


def blocks(language: str) -> list[str]:
    fenced = re.findall(r"^```(\w*)\n(.*?)^```$", README, re.DOTALL | re.MULTILINE)
    return [code for found, code in fenced if found == language]


def test_the_python_of_the_readme_runs(model_folder, tmp_path, monkeypatch, capsys):
    (code,) = blocks("python")
    shutil.copytree(model_folder, tmp_path / "demo" / "model")
    for name in ("cat", "dog"):
        Image.new("RGB", (20, 30), "red").save(tmp_path / f"{name}.jpg")
    monkeypatch.chdir(tmp_path)
    assert len([line for line in code.splitlines() if line]) <= 8
    exec(compile(code, "README.md", "exec"), {})
    assert "tensor" in capsys.readouterr().out


def test_the_commands_of_the_readme_exist():
    commands = re.findall(r"^multiway (\w+)", "\n".join(blocks("")), re.MULTILINE)
    assert len(commands) >= 5
    assert set(commands) <= set(COMMANDS)


def test_the_make_targets_of_the_readme_exist():
    makefile = (ROOT / "Makefile").read_text()
    targets = set(re.findall(r"`?make ([a-z-]+)", README)) - {"are"}
    assert {"demo", "test"} <= targets
    for target in targets:
        assert re.search(rf"^{target}:", makefile, re.MULTILINE), target


@pytest.mark.parametrize("page", ["README.md", *(f"docs/{p.name}" for p in (ROOT / "docs").glob("*.md"))])
def test_links_lead_somewhere(page):
    path = ROOT / page
    for link in re.findall(r"\]\((?!https?:)([^)#]+)", path.read_text()):
        assert (path.parent / link).exists(), f"{page}: {link}"


def test_the_tables_show_the_recorded_figures():
    command = [sys.executable, ROOT / "scripts" / "figures.py", "--check"]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
