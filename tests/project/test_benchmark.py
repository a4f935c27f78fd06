"""The step benchmark runs at a tiny size, and both paths give the same losses."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import multiway

ROOT = Path(__file__).resolve().parents[2]


def test_albef_step_at_a_tiny_size(tmp_path):
    out = tmp_path / "step.json"
    command = [sys.executable, ROOT / "benchmarks" / "albef_step.py", "--size", "tiny", "--repeats", "1"]
    command += ["--threads", "1", "--batch", "4", "--out", out]
    env = {**os.environ, "PYTHONPATH": str(Path(multiway.__file__).parents[1])}
    done = subprocess.run(command, capture_output=True, text=True, env=env)
    assert done.returncode == 0, done.stderr
    found = json.loads(out.read_text())
    assert found["largest_loss_difference"] <= 1e-5
    assert found["flops_ratio"] > 1
    assert "Warning" not in done.stderr
    assert set(found["peak_bytes"]) == {"plain", "fast"}
