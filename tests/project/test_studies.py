"""What the studies share: pairing by seed, intervals, verdicts; results are kept and never run twice."""

from __future__ import annotations

import importlib
import importlib.util
import json
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

STUDIES = Path(__file__).parents[2] / "studies"


@pytest.fixture
def arms(monkeypatch):
    monkeypatch.syspath_prepend(str(STUDIES))
    yield importlib.import_module("arms")
    studies = ("stagewise", "experts", "family", "family_members", "family_table")
    for name in ("arms", "drawn", *studies, "study_mae", "study_flip", "study_coca"):
        sys.modules.pop(name, None)


@pytest.fixture
def study(arms, tmp_path):
    claim = arms.Claim(says="more is better", better="more", worse="less", paper="the paper's: 2")
    return arms.Study(
        name="s",
        arms=("more", "less"),
        claims=(claim,),
        metrics={"score": "points"},
        work=tmp_path / "work",
        results=tmp_path / "results",
    )


def rows(more, less):
    return [
        {"arm": arm, "seed": seed, "metrics": {"score": value}}
        for arm, values in (("more", more), ("less", less))
        for seed, value in enumerate(values)
    ]


@pytest.mark.parametrize(
    ("more", "less", "says"),
    [
        ([11.0, 12.0, 13.0], [1.0, 2.1, 2.9], "holds"),
        ([1.0, 2.1, 2.9], [11.0, 12.0, 13.0], "fails"),
        ([1.0, 9.0, 4.0], [2.0, 3.0, 5.0], "cannot tell at this size"),
        ([9.0], [1.0], "cannot tell (one seed)"),
    ],
)
def test_verdicts(arms, more, less, says):
    assert arms.effect(rows(more, less), "more", "less", "score")["verdict"] == says


def test_the_interval_is_students_over_paired_seeds(arms):
    more, less = [4.0, 6.0, 9.0], [1.0, 2.0, 3.0]
    found = arms.effect(rows(more, less), "more", "less", "score")
    each = np.subtract(more, less)
    half = 4.303 * each.std(ddof=1) / np.sqrt(3)
    assert found["effect"] == pytest.approx(each.mean(), abs=1e-3)
    assert found["interval"] == pytest.approx([each.mean() - half, each.mean() + half], abs=1e-3)
    assert arms.effect(rows(more, []), "more", "less", "score") is None
    only_some = arms.effect(rows(more, less[:2]), "more", "less", "score")
    assert only_some["each"] == [3.0, 4.0]


def test_a_result_is_kept_and_judged(arms, study):
    calls = []

    def measure(value):
        calls.append(value)
        return {"metrics": {"score": value}, "parameters": 3.0}

    for seed in range(3):
        arms.keep(study, "more", seed, lambda seed=seed: measure(10.0 + seed))
        arms.keep(study, "less", seed, lambda seed=seed: measure(1.0 + 1.1 * seed))
    arms.keep(study, "more", 0, lambda: measure(99.0))
    assert 99.0 not in calls
    said = arms.judge(study)
    assert "holds" in said
    assert "the paper's: 2" in said
    written = json.loads((study.results / "verdicts.json").read_text())
    assert written["claims"][0]["score"]["verdict"] == "holds"
    assert set(json.loads((study.results / "more-s0.json").read_text())) >= {"arm", "seed", "made_by"}


def test_the_arms_of_experts_are_equal_in_what_they_say(arms, tmp_path):
    experts, drawn = importlib.import_module("experts"), importlib.import_module("drawn")
    world = drawn.World(tmp_path, drawn.Sizes())
    forms = {name: experts.fitted(world, *arm) for name, arm in experts.ARMS.items()}
    count = {name: experts.parameters(world, form) for name, form in forms.items()}
    assert count["single_params"] == pytest.approx(count["experts"], rel=0.01)
    assert count["nojoint_params"] == pytest.approx(count["experts"], rel=0.01)
    assert count["doubled_params"] == pytest.approx(count["nojoint_compute"], rel=0.01)
    one, other = (experts.built(experts.beit3(world), forms[n]) for n in ("experts", "single_compute"))
    assert experts.mflops(one) == experts.mflops(other)
    named = {claim.better for claim in experts.CLAIMS} | {claim.worse for claim in experts.CLAIMS}
    assert named == set(experts.ARMS)


def test_every_word_is_in_the_vocabulary(arms, tmp_path):
    from multiway.data.scene_questions import ask
    from multiway.data.scene_text import COLOURED, make_picture_pair
    from multiway.data.scenes import make_scene

    drawn = importlib.import_module("drawn")
    known = set(drawn.World(tmp_path, drawn.Sizes()).vocabulary().read_text().split())
    said = [make_scene(5, i).caption for i in range(60)] + [
        make_picture_pair(5, i, COLOURED).sentence for i in range(60)
    ]
    said += [text for i in range(60) for text in ask(5, i)]
    assert {word for sentence in said for word in sentence.replace("?", " ?").split()} <= known


def test_visual_tokens_of_patches(arms, tmp_path):
    import torch

    drawn = importlib.import_module("drawn")
    world = drawn.World(tmp_path, drawn.Sizes(pairs=40))
    codes = drawn.PatchCodes(world.pairs(0), 16)
    white = torch.ones(1, 3, drawn.SIDE, drawn.SIDE)
    red = white.clone()
    red[:, 1:, :16, :16] = 0
    assert codes.visual_tokens(white).tolist() == [[0] * 25]
    found = codes.visual_tokens(red)[0]
    assert found[0] != 0
    assert (found[1:] == 0).all()


def test_the_systems_of_the_family_are_of_one_size(arms, tmp_path):
    family = importlib.import_module("family")
    from multiway.systems import NETWORKS

    world = family.scenes(tmp_path, family.Sizes(pairs=10, reasoning=10, test=4, test_reasoning=4))
    found = {}
    for name, member in family.members(world).items():
        network = NETWORKS[member.pretrain.system].network()(member.pretrain)
        found[name] = sum(p.numel() for p in network.parameters())
    assert set(found) == set(family.SYSTEMS)
    assert max(found.values()) < 1.4 * min(found.values())
    for name in family.SYSTEMS:  # a generalist's captions answer a prompt
        (source,) = family.pretrain(world, name, 0, 1e-3, 3).data.train
        assert source.prompt == (family.PROMPT if name == "generalist" else None)


def test_what_the_family_has_no_network_for(arms, tmp_path):
    family = importlib.import_module("family")
    from multiway.systems import NETWORKS

    world = family.scenes(tmp_path, family.Sizes(pairs=10, reasoning=10, test=4, test_reasoning=4))
    systems = {n: NETWORKS[m.pretrain.system].network()(m.pretrain) for n, m in family.members(world).items()}
    without = {name for name, system in systems.items() if not family.has_network(system, "nlvr2")}
    assert without == {"clip", "flip", "coca", "simvlm", "generalist"}
    blip = systems["blip"]
    blip.tokenizer = family.multiway.text.Tokenizer.load(blip.config.tokenizer)
    words = world.vocabulary.read_text().splitlines()
    assert {blip.dec_id, blip.enc_id} == {len(words), len(words) + 1}


def test_steps_are_timed_in_turn(arms, tmp_path, monkeypatch):
    drawn = importlib.import_module("drawn")
    taken = []

    def steps(run, make):
        while True:
            taken.append(run)
            yield {"a": 1.0, "b": 3.0}[run] * (10 if len(taken) <= 4 else 1)  # the first are slow

    monkeypatch.setattr(drawn, "_timed_steps", steps)
    assert drawn.step_seconds({"one": "a", "two": "b"}, None, 3) == {"one": 1.0, "two": 3.0}
    assert taken == ["a", "b"] * 5


def test_a_run_of_the_family_passes_its_budgets(arms, tmp_path):
    from dataclasses import replace

    import torch
    from safetensors.torch import load_file

    family = importlib.import_module("family")
    world = family.scenes(tmp_path, family.Sizes(pairs=40, reasoning=10, test=4, test_reasoning=4))
    study = replace(family.make_study(tiny=True), work=tmp_path / "parts", results=tmp_path / "results")

    def trained(steps, study=study):
        folder, spent = family.pretrained(study, world, "scenes", "clip", 0, 1e-3, steps)
        assert spent["steps"] == steps
        return load_file(folder / "model" / "model.safetensors")

    def same(one, other):
        return all(torch.equal(one[name], other[name]) for name in one)

    short, long = trained(2), trained(3)
    assert same(trained(3, replace(study, work=tmp_path / "whole")), long)  # as if it had not stopped at 2
    assert same(trained(2), short)  # kept, though the run has gone on since
    assert not same(short, long)

    study.results.mkdir()
    for name, gflops, seconds in (("coca", 2.0, 0.5), ("clip", 1.0, 0.2), ("vlmo", 50.0, 12.0)):
        step = json.dumps({"step": {"gflops": gflops, "seconds": seconds}})
        study.path(f"scenes-{name}-cost", 0).write_text(step)
    budget = family.Budget(steps=100, compute=200, sweep=10)
    steps = {name: family.steps_of(study, "scenes", name, budget) for name in ("clip", "vlmo")}
    assert steps["clip"] == {"steps": 100, "flops": 400, "time": 500}
    assert steps["vlmo"] == {"steps": 100, "flops": 10, "time": 10}  # tried for 10 already


def by_path(name):
    """A study whose name a module of the golden tests has too."""
    spec = importlib.util.spec_from_file_location(f"study_{name}", STUDIES / f"{name}.py")
    module = sys.modules[spec.name] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_arms_of_mae_and_flip(arms, tmp_path):
    from multiway.systems.flip import FLIP

    mae, flip = by_path("mae"), by_path("flip")
    for module in (mae, flip):
        named = {claim.better for claim in module.CLAIMS} | {claim.worse for claim in module.CLAIMS}
        assert named <= set(module.ARMS)
    assert set(mae.METRICS) <= {"combination", "style"}
    seconds, budget = {"0.0": 2.0, "0.5": 1.0, "0.75": 0.5}, flip.Budget(steps=100)
    steps = {name: flip.steps_of(name, seconds, budget) for name in flip.ARMS}
    assert steps == {"whole": 100, "half": 200, "quarter": 400, "half steps": 100, "quarter steps": 100}
    drawn = importlib.import_module("drawn")
    world = drawn.World(tmp_path, drawn.Sizes())
    for drop, _ in flip.ARMS.values():
        assert FLIP(flip.config(world, drop)).config.drop == drop
    for ratio in mae.RATIOS.values():
        assert mae.MAE(mae.config(ratio)).config.mask_ratio == ratio


def test_the_arms_of_coca_differ_in_one_thing(arms, tmp_path):
    import torch

    from multiway.systems.coca import CoCa

    study = by_path("coca")
    world = importlib.import_module("drawn").World(tmp_path, study.Sizes())
    configs = {name: study.coca(world, name) for name in study.MODELS}
    assert len(set(map(repr, configs.values()))) == len(study.MODELS)
    assert {name.removesuffix(study.LONG) for name in study.ARMS} == set(study.MODELS)
    named = {claim.better for claim in study.CLAIMS} | {claim.worse for claim in study.CLAIMS}
    assert named == set(study.ARMS)
    with torch.device("meta"):
        models = {name: CoCa(config) for name, config in configs.items()}
    layers = {name: len(m.image_tower.blocks) + m.config.experts * len(m.text) for name, m in models.items()}
    assert set(layers.values()) == {4}
    count = {name: sum(p.numel() for p in model.parameters()) for name, model in models.items()}
    assert count["experts"] < count["base"] == count["parallel"] == count["caption0"]
    assert study.PROMPTS[0].format("red") == "a small red circle"


def test_a_stage_that_was_stopped_is_not_taken_for_finished(arms, tmp_path, monkeypatch):
    drawn = importlib.import_module("drawn")
    (tmp_path / "metrics.jsonl").write_text('{"loss": 2.0}\n{"loss": 1.0}\n')
    run = SimpleNamespace(train=SimpleNamespace(steps=2))
    for stopped_by in ("SIGTERM", None):
        result = SimpleNamespace(stopped_by=stopped_by)
        monkeypatch.setattr(drawn, "train", lambda run, out, result=result, **_: result)
        if stopped_by:
            with pytest.raises(SystemExit, match="goes on from here"):
                drawn.trained(run, tmp_path, None)
            assert not (tmp_path / "spent.json").exists()
        else:
            spent = drawn.trained(run, tmp_path, None)
            assert (spent["steps"], spent["loss"]) == (2, 1.0)
