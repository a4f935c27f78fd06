"""What the package promises about itself."""

from __future__ import annotations

import subprocess
import sys
import tomllib
import zlib
from pathlib import Path

import multiway

ROOT = Path(__file__).resolve().parents[2]
PACKAGE = Path(multiway.__file__).parent
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())


def test_one_version():
    assert multiway.__version__ == PROJECT["project"]["version"]
    assert f"version: {multiway.__version__}\n" in (ROOT / "CITATION.cff").read_text()


def test_importing_is_light():
    code = "import sys, multiway; print({'torch', 'numpy', 'PIL'} & set(sys.modules) or '')"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=PACKAGE.parent)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == ""


def test_the_data_that_the_wheel_ships():
    assert (PACKAGE / "py.typed").is_file()
    assert list((PACKAGE / "text" / "vocab").glob("*.txt"))
    drawings = [path for path in (PACKAGE / "data" / "emoji").iterdir() if path.is_file()]
    assert any(path.suffix == ".tar" for path in drawings)
    deflated = sum(len(zlib.compress(path.read_bytes())) for path in drawings)  # as in the wheel
    assert deflated <= 12e6


def test_every_extra_of_setup_exists():
    makefile = (ROOT / "Makefile").read_text()
    named = makefile.split("-e '.[")[1].split("]'")[0].split(",")
    assert set(named) <= set(PROJECT["project"]["optional-dependencies"])
