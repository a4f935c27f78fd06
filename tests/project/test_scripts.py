"""What makes the table of tasks runs at a tiny size, and a row that was run is not run again."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

import multiway

ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.slow
def test_every_task_at_a_tiny_size(tmp_path):
    rows = ["vqa-scenes", "classify-scenes", "vqa-drawings", "classify-drawings", "grounding"]
    command = [sys.executable, ROOT / "scripts" / "tasks.py", "--tiny", "--out", tmp_path / "tasks", "--only"]
    env = {**os.environ, "PYTHONPATH": str(Path(multiway.__file__).parents[1])}
    for _ in range(2):
        done = subprocess.run([*command, *rows], capture_output=True, text=True, env=env)
        assert done.returncode == 0, done.stderr
    assert "loss" not in done.stdout
    found = json.loads((tmp_path / "tasks-tiny" / "tasks.json").read_text())["rows"]
    assert set(found) == set(rows)
    for row in found.values():
        for test in row["tests"].values():
            low, high = test["interval"]
            assert 0 <= low <= test["right"] <= high <= 100
            assert 0 < test["blind"] < 100
            assert 0 <= test["shuffled"] <= 100
    tests = found["vqa-drawings"]["tests"]
    assert list(tests) == ["hand", "group", "skin tone"]
    assert 40 < tests["hand"]["blind"] < 60
