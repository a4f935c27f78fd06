"""Replays recorded runs of the official code with ours, and says where they differ.

    python tests/golden/replay.py [CASE_DIR ...] [--json]

A line a case: tensors and recorded facts compared, excused, elements left out at padded positions, failed,
and the worst error beside its tolerance. Without folders: all of tests/golden/cases. Exits with 1 on any
failure.
"""

from __future__ import annotations

import argparse
import json
import math
import sys
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
# Modules beside this one and above it, and the package where it is not installed; also for spawned ranks.
sys.path[:0] = [str(HERE), str(HERE.parent), str(HERE.parents[1] / "src")]

import albef  # noqa: E402
import albef_runs  # noqa: E402
import albef_setup  # noqa: E402
import blip  # noqa: E402
import blip_runs  # noqa: E402
import blip_setup  # noqa: E402
import blip_text  # noqa: E402
import clip  # noqa: E402
import torch  # noqa: E402
from case import Case, Real, Rule, default_rule  # noqa: E402
from safetensors.torch import load_file  # noqa: E402
from torch import Tensor  # noqa: E402

#: What replays a case, and how closely it must agree. Names of outputs are the recorded ones; `config.<path>`
#: and `inputs.<name>` are facts recorded there.
CASES: dict[str, tuple[Callable[[Case], dict[str, Any]], Callable[[Case, str], Rule]]] = {
    "albef/pretrain": (albef.pretrain, default_rule),
    "albef/pretrain_2proc": (albef_runs.pretrain_2proc, albef_runs.pretrain_2proc_rule),
    "albef/trajectory": (albef_runs.trajectory, albef_runs.trajectory_rule),
    "albef/init": (albef_setup.init, albef_setup.init_rule),
    "albef/retrieval_train": (albef.retrieval_train, default_rule),
    "albef/retrieval_eval": (albef.retrieval_eval, default_rule),
    "albef/schedule": (albef_setup.schedule, albef_setup.schedule_rule),
    "albef/tokenize_real_vocab": (albef_setup.tokenize, default_rule),
    "albef/checkpoint_conversion": (albef_setup.checkpoint_conversion, default_rule),
    "blip/pretrain": (blip.pretrain, default_rule),
    "blip/pretrain_2proc": (blip_runs.pretrain_2proc, albef_runs.pretrain_2proc_rule),
    "blip/trajectory": (blip_runs.trajectory, albef_runs.trajectory_rule),
    "blip/retrieval_train": (blip.retrieval_train, default_rule),
    "blip/retrieval_eval": (blip.retrieval_eval, default_rule),
    "blip/init": (blip_setup.init, blip_setup.init_rule),
    "blip/schedule": (blip_setup.schedule, blip_setup.schedule_rule),
    "blip/tokenize_real_vocab": (blip_setup.tokenize, default_rule),
    "blip/checkpoint_conversion": (blip_setup.checkpoint_conversion, default_rule),
    "blip/caption": (blip_text.caption, default_rule),
    "blip/capfilt": (blip_text.capfilt, default_rule),
    "blip/vqa": (blip_text.vqa, blip_text.vqa_rule),
    "blip/nlvr": (blip_text.nlvr, default_rule),
    "blip/features": (blip_text.features, default_rule),
    "clip/open_clip": (clip.open_clip, clip.rule),
    "clip/open_clip_quickgelu": (clip.open_clip, clip.rule),
    "clip/hf_clip": (clip.hf_clip, clip.rule),
    "clip/clip_loss_2proc": (clip.loss_2proc, clip.rule),
}

#: Keys of config.json, at any depth, whose values are results of the official code and not settings.
RECORDED_FACTS = {
    "blip_itm_unexpected_keys",
    "decisions",
    "decode_caption",
    "decode_text",
    "generate_text",
    "grad_params_without_grad",
    "key_map",
    "len_tokenizer",
    "metrics",
    "missing_keys",
    "momentum_differs_from_online",
    "param_groups",
    "params_without_grad",
    "pre_caption",
    "pre_question",
    "prompt_length",
    "synthetic_texts",
    "tied",
    "tied_modules_printed",
    "unexpected_keys",
    "unexpected_keys_count",
    "vocab_sha256",
}

#: Others, by their whole path: elsewhere the same key is a setting.
RECORDED_PATHS = ("config.bos_token_id", "config.enc_token_id", "config.generate.*.text")

#: At most this share of a case's tensors may be excused.
EXCUSABLE = 0.02


@dataclass
class Result:
    """What became of one case; `worst` is the tensor nearest to (or farthest beyond) its tolerance."""

    case: str
    compared: int = 0
    excused: int = 0
    skipped_pads: int = 0
    failed: list[str] = field(default_factory=list)
    worst: str = ""
    error: float = 0.0
    tolerance: float = 0.0
    ratio: float = 0.0

    def line(self) -> str:
        """One line for a person, and one more for each failure."""
        worst = (
            f"worst {self.error:.1e} of {self.tolerance:.1e} in {self.worst}" if self.worst else "all exact"
        )
        return "\n".join(
            [
                f"{'FAIL' if self.failed else 'ok  '} {self.case:28s} compared {self.compared:4d}  "
                f"excused {self.excused}  skipped pads {self.skipped_pads}  "
                f"failed {len(self.failed)}  {worst}",
                *(f"     {failure}" for failure in self.failed),
            ]
        )


def recorded_facts(config: Any, path: str = "config") -> Iterator[tuple[str, Any]]:
    """(name, value) of everything in config.json that the official code found out."""
    if not isinstance(config, dict):
        return
    for key, value in config.items():
        name = f"{path}.{key}"
        if key.rpartition(".")[2] in RECORDED_FACTS or any(fnmatch(name, p) for p in RECORDED_PATHS):
            yield name, value
        else:
            yield from recorded_facts(value, name)


def replay(folder: Path) -> Result:
    """Run one case with our code and compare all that was recorded."""
    folder = folder.resolve()
    result = Result("/".join(folder.parts[-2:]))
    if result.case not in CASES:
        result.failed.append(f"unknown case: known are {', '.join(CASES)}")
        return result
    run, rule_of = CASES[result.case]
    try:
        case, recorded = Case.load(folder), load_file(folder / "outputs.safetensors")
        ours = run(case)
    except Exception as error:  # a changed name or shape stops the replay: that is a failure of the case
        result.failed.append(f"the replay stopped: {type(error).__name__}: {error}")
        return result
    excuses = json.loads((HERE / "excuses.json").read_text()).get(result.case, {})
    if len(excuses) > EXCUSABLE * len(recorded):
        result.failed.append(f"{len(excuses)} excuses for {len(recorded)} tensors: at most {EXCUSABLE:.0%}")
    facts = dict(recorded_facts(case.config))
    facts |= {name: value for name, value in ours.items() if name.startswith("inputs.")}
    for name in sorted(recorded):
        if name in excuses:
            result.excused += 1
        elif name not in ours:
            result.failed.append(f"{name}: recorded, but not replayed")
        else:
            compare(result, name, ours[name], recorded[name], rule_of(case, name))
    for name in facts:
        if name not in ours:
            result.failed.append(f"{name}: recorded, but not replayed")
        elif name.startswith("inputs."):
            compare(result, name, ours[name], case.inputs[name.removeprefix("inputs.")], rule_of(case, name))
        else:
            compare_fact(result, name, ours[name], facts[name])
    return result


def compare(result: Result, name: str, ours: Tensor | Real, recorded: Tensor, rule: Rule) -> None:
    """Count one tensor, and note it when it fails or comes nearest to its tolerance."""
    result.compared += 1
    value = ours.value if isinstance(ours, Real) else ours
    if value.shape != recorded.shape:
        result.failed.append(f"{name}: shape {tuple(value.shape)}, recorded {tuple(recorded.shape)}")
        return
    if not recorded.is_floating_point():
        if not torch.equal(value.to(recorded.dtype), recorded):
            result.failed.append(
                f"{name}: {int((value != recorded).sum())} of {recorded.numel()} values differ"
            )
        return
    error, tolerance = rule.errors(value, recorded)
    if isinstance(ours, Real):
        error = error.masked_fill(~ours.real, 0.0)
        result.skipped_pads += int((~ours.real).expand_as(recorded).sum())
    if not error.numel():
        return
    tolerance = tolerance.expand_as(error)
    ratio = (error / tolerance.clamp_min(1e-300)).nan_to_num(nan=math.inf)
    at = int(ratio.argmax())
    worst, error_there, tolerance_there = (float(x.flatten()[at]) for x in (ratio, error, tolerance))
    if worst > 1:
        result.failed.append(f"{name}: error {error_there:.3e}, tolerance {tolerance_there:.3e}")
    if worst > result.ratio:
        result.worst, result.ratio = name, worst
        result.error, result.tolerance = error_there, tolerance_there


def compare_fact(result: Result, name: str, ours: Any, recorded: Any) -> None:
    """Count one fact of config.json: strings and integers exactly, sets where the order has no meaning."""
    result.compared += 1
    if name.endswith("param_groups"):
        # BLIP's one group is named by a sentence: it holds every parameter.
        every = [n for n, _ in ours]
        recorded = {
            (n, group["weight_decay"])
            for group in recorded
            for n in (every if isinstance(group["names"], str) else group["names"])
        }
    elif isinstance(ours, set):
        recorded = {tuple(x) if isinstance(x, list) else x for x in recorded}
    if isinstance(ours, set) and ours != recorded:
        result.failed.append(
            f"{name}: ours alone {_some(ours - recorded)}, recorded alone {_some(recorded - ours)}"
        )
    elif isinstance(ours, dict):
        wrong = {k for k in ours.keys() | recorded.keys() if not _equal(ours.get(k), recorded.get(k))}
        if wrong:
            result.failed.append(f"{name}: other values of {_some(wrong)}")
    elif not isinstance(ours, set) and not _equal(ours, recorded):
        result.failed.append(f"{name}: {ours!r}, recorded {recorded!r}")


def _equal(a: Any, b: Any) -> bool:
    return math.isclose(a, b, rel_tol=1e-9) if isinstance(a, float) and isinstance(b, float) else a == b


def _some(values: set) -> list:
    return sorted(values, key=str)[:5]


def case_folders(root: Path) -> list[Path]:
    """Every known case under a folder that is laid out as <root>/<system>/<case>."""
    return sorted(root / name for name in CASES if (root / name / "config.json").is_file())


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("folders", nargs="*", type=Path, metavar="CASE_DIR")
    parser.add_argument("--json", action="store_true", help="one object a line instead of text")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    failures = 0
    for folder in arguments.folders or case_folders(HERE / "cases"):
        result = replay(folder)
        failures += bool(result.failed)
        print(json.dumps(asdict(result)) if arguments.json else result.line(), flush=True)
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main())
