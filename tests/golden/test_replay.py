"""The recorded official runs, replayed: those committed here, and all that lie beside the repository."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from case import Rule, at_tokens
from comparison import Result, case_folders, compare, compare_fact, recorded_facts, replay
from known import CASES, OUTPUT_FACTS
from safetensors.torch import load_file, save_file

HERE = Path(__file__).parent
SHARED = HERE.parents[2] / "shared" / "golden"


def name(folder: Path) -> str:
    return "/".join(folder.parts[-2:])


@pytest.mark.parametrize("folder", case_folders(HERE / "cases"), ids=name)
def test_our_code_agrees_with_the_official_code(folder: Path) -> None:
    result = replay(folder)
    assert result.failed == []
    assert result.compared > 0
    assert result.excused == 0


@pytest.mark.golden_shared
@pytest.mark.skipif(not SHARED.is_dir(), reason="the full set of recorded cases is not beside the repository")
@pytest.mark.parametrize("folder", case_folders(SHARED), ids=name)
def test_our_code_agrees_with_all_recorded_cases(folder: Path) -> None:
    if (HERE / "cases" / name(folder)).is_dir():
        pytest.skip("a committed case")
    assert replay(folder).failed == []


def copied(case: str, folder: Path) -> Path:
    """A copy of a committed case, under its two names, and of the vocabulary that cases name."""
    shutil.copy(HERE / "cases/vocab_tiny.txt", folder)
    return Path(shutil.copytree(HERE / "cases" / case, folder / case))


@pytest.mark.parametrize(
    ("case", "output"),
    [
        ("albef/retrieval_train", "distill.loss_itm"),
        ("albef/retrieval_train", "distill.sim_targets"),
        ("albef/retrieval_train", "distill.grad_norms"),
        ("albef/retrieval_train", "image_queue_after"),
        ("albef/schedule", "lr_pretrain"),
        ("albef/schedule", "after.temp"),
        ("albef/tokenize_real_vocab", "eval_ids"),
        ("blip/caption", "loss_lm"),
        ("blip/caption", "grad_norms"),
        ("blip/caption", "generate.beam3.ids"),
        ("blip/caption", "generate.beam3_reppen.sequences_scores"),
        ("blip/caption", "generate.nucleus.step_probs"),
        ("blip/schedule", "alpha_pretrain"),
        ("clip/hf_clip", "image_embeds"),
        ("beit2/mim_cls_pt_unshared_head", "loss_2"),
        ("beit2/mim_cls_pt_unshared_head", "grad_norm.mask_token"),
        ("beit2/quantizer", "step1/codebook_after"),
        ("beit2/masking_generator", "c0_s0/mask"),
    ],
)
def test_a_changed_output_fails_by_name(case: str, output: str, tmp_path: Path) -> None:
    folder = copied(case, tmp_path)
    outputs = load_file(folder / "outputs.safetensors")
    changed = outputs[output].clone()
    changed.view(-1)[0] += (
        1 if not changed.is_floating_point() else 1e-2 * max(1.0, float(changed.abs().max()))
    )
    save_file(outputs | {output: changed}, folder / "outputs.safetensors")
    failed = replay(folder).failed
    assert len(failed) == 1
    assert failed[0].startswith(f"{output}:")


def test_a_changed_fact_fails_by_name(tmp_path: Path) -> None:
    folder = copied("albef/tokenize_real_vocab", tmp_path)
    config = json.loads((folder / "config.json").read_text())
    config["pre_caption"][0] += "s"
    (folder / "config.json").write_text(json.dumps(config))
    failed = replay(folder).failed
    assert [line.split(":")[0] for line in failed] == ["config.pre_caption"]


def test_a_changed_caption_fails_by_name(tmp_path: Path) -> None:
    folder = copied("blip/caption", tmp_path)
    config = json.loads((folder / "config.json").read_text())
    config["generate"]["greedy1"]["text"][1] += "s"
    (folder / "config.json").write_text(json.dumps(config))
    failed = replay(folder).failed
    assert [line.split(":")[0] for line in failed] == ["config.generate.greedy1.text"]


def test_a_missing_weight_and_an_output_that_nothing_replays_fail(tmp_path: Path) -> None:
    folder = copied("albef/retrieval_train", tmp_path)
    weights = load_file(folder / "weights.safetensors")
    outputs = load_file(folder / "outputs.safetensors")
    save_file(outputs | {"distill.unheard_of": torch.zeros(2)}, folder / "outputs.safetensors")
    assert replay(folder).failed == ["distill.unheard_of: recorded, but not replayed"]
    del weights["visual_encoder.norm.weight"]
    save_file(weights, folder / "weights.safetensors")
    assert "image_tower.norm.weight" in replay(folder).failed[0]


def test_the_command_prints_a_line_a_case_and_exits_with_1_on_failure(tmp_path: Path) -> None:
    unknown = tmp_path / "albef" / "unheard_of"
    unknown.mkdir(parents=True)
    command = [
        sys.executable,
        str(HERE / "replay.py"),
        str(HERE / "cases/albef/schedule"),
        str(unknown),
        "--json",
    ]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    good, bad = (json.loads(line) for line in done.stdout.splitlines())
    assert done.returncode == 1
    assert good["case"] == "albef/schedule"
    assert good["failed"] == []
    assert good["compared"] > 0
    assert good["ratio"] < 1
    assert "unknown case" in bad["failed"][0]
    assert subprocess.run(command[:3], capture_output=True, check=False).returncode == 0


def forbidden(excuses: dict[str, list[str]]) -> list[str]:
    """Excuses for what counts, for unknown cases, or for more than 2 % of a case's tensors."""
    never = ("loss", "logits", "feat", "grad", "queue", "momentum", "final", "after", "ids", "metrics")
    found = [f"{case}: {n}" for case, names in excuses.items() for n in names if any(p in n for p in never)]
    for case, names in excuses.items():
        folder = HERE / "cases" / case
        if case not in CASES or not folder.is_dir():
            found.append(f"{case}: no such case")
        elif len(names) > 0.02 * len(load_file(folder / "outputs.safetensors")):
            found.append(f"{case}: too many")
    return found


def test_excuses_are_few_and_never_for_what_counts() -> None:
    assert forbidden(json.loads((HERE / "excuses.json").read_text())) == []
    many = [f"maps.{i}" for i in range(500)]
    made_up = {"albef/pretrain": ["loss_itc"], "albef/unheard_of": [], "albef/retrieval_train": many}
    said = [line.split(":")[0] for line in forbidden(made_up)]
    assert set(said) == set(made_up)


def compared(ours: object, recorded: torch.Tensor, rule: Rule) -> Result:
    result = Result("a/case")
    compare(result, "x", ours, recorded, rule)
    return result


def test_comparison() -> None:
    recorded = torch.tensor([1.0, -2.0, 100.0])
    assert not compared(recorded * 1.00009, recorded, Rule(relative=1e-4)).failed
    assert compared(recorded * 1.0002, recorded, Rule(relative=1e-4)).failed
    assert not compared(recorded + 9e-4, recorded, Rule(absolute=1e-5, scaled=True)).failed
    assert compared(recorded + 2e-3, recorded, Rule(absolute=1e-5, scaled=True)).failed
    assert compared(recorded * float("nan"), recorded, Rule(absolute=1.0)).failed
    assert compared(recorded[:2], recorded, Rule(absolute=1e9)).failed
    assert not compared(
        recorded + torch.tensor([1e-4, 0, 0]), recorded, Rule(relative=1e-5, whole=True)
    ).failed
    assert compared(torch.tensor([1, 2]), torch.tensor([1, 3]), Rule(absolute=9.0)).failed
    exact = torch.tensor([0.1, 5.0])
    assert compared(exact + torch.tensor([0.2, 0]), exact, Rule(absolute=torch.tensor([0.1, 1.0]))).failed


def test_padded_positions_are_left_out_and_counted() -> None:
    mask = torch.tensor([[1, 1, 0]])
    recorded = torch.ones(1, 3, 4)
    ours = recorded.clone()
    ours[:, 2] = float("nan")
    result = compared(at_tokens(ours, mask), recorded, Rule(absolute=1e-6))
    assert not result.failed
    assert result.skipped_pads == 4
    ours[:, 1] = 2.0
    assert compared(at_tokens(ours, mask), recorded, Rule(absolute=1e-6)).failed


def test_groups_of_an_optimizer_are_compared_name_by_name() -> None:
    groups = [{"lr_scale": 0.1, "weight_decay": 0.0, "params": ["a", "b"]}]
    groups.append({"lr_scale": 1.0, "weight_decay": 0.05, "params": ["c"]})
    found = dict(recorded_facts({"base": {"lr": 1.0, "groups": groups}}, "outputs", OUTPUT_FACTS))
    assert list(found) == ["outputs.base.groups"]

    def failed(ours: dict[str, tuple[float, float]]) -> list[str]:
        result = Result("a/case")
        compare_fact(result, "outputs.base.groups", ours, found["outputs.base.groups"])
        return result.failed

    ours = {"a": (0.1, 0.0), "b": (0.1 + 1e-17, 0.0), "c": (1.0, 0.05)}
    assert failed(ours) == []
    assert "'b'" in failed(ours | {"b": (0.2, 0.0)})[0]
    assert "'b'" in failed(ours | {"b": (0.1, 0.05)})[0]
    assert "'d'" in failed(ours | {"d": (0.1, 0.0)})[0]
    del ours["c"]
    assert "'c'" in failed(ours)[0]
