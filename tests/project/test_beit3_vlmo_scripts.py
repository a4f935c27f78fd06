"""What measures BEiT-3 and VLMo runs whole at a tiny size; what they measure with is right."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import tiny
import tiny_vlmo
import torch

import multiway

ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.slow
def test_beit3_whole(tmp_path):
    command = [sys.executable, ROOT / "scripts" / "beit3.py", "--tiny", "--out", tmp_path / "run"]
    env = {**os.environ, "PYTHONPATH": str(Path(multiway.__file__).parents[1])}
    done = subprocess.run(command, capture_output=True, text=True, env=env)
    assert done.returncode == 0, done.stderr
    found = json.loads((tmp_path / "run-tiny" / "beit3.json").read_text())
    assert set(found["tasks"]) == {"retrieval", "captioner", "groups"}
    for task in found["tasks"].values():
        assert all("shuffled" in task[start] for start in ("pretrained", "fresh"))
    assert set(found["core_seconds"]) >= {"vqkd", "beit3", "groups-fresh"}


def test_reranked_scores_are_the_fusion_encoders_of_the_same_pairs():
    from vlmo_retrieval import Search

    model, batch = tiny_vlmo.vlmo().eval(), tiny.batch()
    with torch.inference_mode():
        search = Search(model, list(batch.image), batch.input_ids, batch.attention_mask, 2)
        some, every, few = search.dual(), search.fusion(), search.reranked()
    assert np.allclose(
        np.take_along_axis(every, np.sort(some), 1), np.take_along_axis(few, some.argsort(), 1)
    )
    assert every.shape == (len(batch.input_ids), len(batch.image))
    assert np.ptp(every) > 1e-3
