"""The side-by-side benchmarks run at a tiny size, and both sides give the same."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

import multiway

ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.parametrize(
    ("name", "flags"),
    [
        ("blip_caption", ("--batch", "2")),
        pytest.param("blip_rerank", ("--pictures", "2"), marks=pytest.mark.slow),
        pytest.param("answer_ranking", ("--questions", "1"), marks=pytest.mark.slow),
        pytest.param("coca_generate", ("--batch", "2"), marks=pytest.mark.slow),
        pytest.param("clip_step", ("--batch", "3"), marks=pytest.mark.slow),
        pytest.param("coca_step", ("--batch", "3"), marks=pytest.mark.slow),
        pytest.param(
            "vlmo_retrieval", ("--pictures", "9", "--queries", "3", "--k", "2"), marks=pytest.mark.slow
        ),
    ],
)
def test_runs_at_a_tiny_size(name, flags, tmp_path) -> None:
    out = tmp_path / "figures.json"
    command = [sys.executable, ROOT / "benchmarks" / f"{name}.py", "--size", "tiny", "--repeats", "1"]
    command += ["--threads", "1", *flags, "--out", out]
    env = {**os.environ, "PYTHONPATH": str(Path(multiway.__file__).parents[1])}
    done = subprocess.run(command, capture_output=True, text=True, env=env)
    assert done.returncode == 0, done.stderr
    figures = json.loads(out.read_text())
    assert all(ratio > 0 for ratio in figures["speedup"].values())
    if name == "blip_caption":
        assert figures["equal_tokens"]
        assert figures["flops"] > 0
        assert figures["products_flops_a_second"] > 0
        assert set(figures["speedup"]) == {"transformers"}
    elif name == "coca_generate":
        assert figures["equal_tokens"]
    elif name == "vlmo_retrieval":
        assert set(figures["queries_a_second"]) == {"dual", "reranked", "fusion"}
    elif name.endswith("_step"):
        assert figures["largest_loss_difference"] < 1e-5
    else:
        assert figures["largest_score_difference"] < 1e-4
        peers = {"official_way"} if name == "answer_ranking" else {"transformers_longest", "transformers_35"}
        assert set(figures["speedup"]) == peers
