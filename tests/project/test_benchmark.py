"""The step benchmark runs at a tiny size, and both paths give the same losses."""

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
def test_albef_step_at_a_tiny_size(tmp_path):
    out = tmp_path / "step.json"
    command = [sys.executable, ROOT / "benchmarks" / "albef_step.py", "--size", "tiny", "--repeats", "1"]
    command += ["--threads", "1", "--batch", "4", "--out", out]
    ballast = b"." * (3 << 29)  # a process that is started by a large one: its peak is its own
    env = {**os.environ, "PYTHONPATH": str(Path(multiway.__file__).parents[1])}
    done = subprocess.run(command, capture_output=True, text=True, env=env)
    assert done.returncode == 0, done.stderr
    found = json.loads(out.read_text())
    assert found["largest_loss_difference"] <= 1e-5
    assert found["flops_ratio"] > 1
    assert "Warning" not in done.stderr
    assert set(found["peak_bytes"]) == {"plain", "fast"}
    assert all(
        0 < peak["over_weights"] < peak["total"] < len(ballast) for peak in found["peak_bytes"].values()
    )
    assert len(found["speedup_of_pairs"]) == len(found["seconds"]["plain"]) == 1
    assert found["median_seconds"]["fast"] == pytest.approx(
        sum(found["median_seconds_of_parts"]["fast"].values())
    )
