"""run.json: written whole, read back strictly; what a resumed run may change; what --dry-run says."""

from __future__ import annotations

import json
import re
from dataclasses import asdict, replace

import pytest
import tiny_all
import torch

from multiway import recipes
from multiway.data.dataset import DataConfig, Source
from multiway.data.labelled import TaskData
from multiway.errors import UserError
from multiway.systems.albef import ALBEFConfig
from multiway.systems.blip_config import BLIPConfig
from multiway.systems.vilt_config import ViLTConfig
from multiway.train.build import build_loader, describe, refuse_alone
from multiway.train.log import read_metrics
from multiway.train.parallel import Ranks
from multiway.train.run import Init, Run, TrainConfig, check_same_run, differences, read_run, write_run


def read(fake, path):
    return read_run(path, fake.FakeConfig, fake.FakeData)


def test_run_json_round_trip(fake, tmp_path):
    run = fake.make_run(
        lr_scale={"encoders": 0.1}, freeze=("a", "b"), betas=(0.9, 0.98), data={"poison": (1, 2)}
    )
    write_run(run, tmp_path)
    assert read(fake, tmp_path) == run
    assert read(fake, tmp_path / "run.json") == run
    content = json.loads((tmp_path / "run.json").read_text())
    assert content["seed"] == 0
    assert content["versions"]["torch"]
    assert set(content) == {"run", "seed", "command", "git_commit", "versions"}
    assert [p.name for p in tmp_path.iterdir()] == ["run.json"]


@pytest.mark.parametrize(
    ("path", "value", "said"),
    [
        ("train.lr", "fast", "train.lr: input should be a valid number"),
        ("train.lrr", 1, "train.lrr: unexpected keyword argument"),
        (
            "train.schedule",
            "step",
            "train.schedule: input should be 'cosine', 'open_clip', 'albef', 'blip', 'mae', 'linear' or",
        ),
        ("train.steps", True, "train.steps: input should be a valid integer"),
        ("train.steps", 0, "train.steps is 0: give a whole number of at least 1"),
        ("train.epochs", 3, "give exactly one"),
        ("system.dropout", "0.1", "system.dropout: input should be a valid number"),
        ("data.pictures", [], "data.pictures: unexpected keyword argument"),
        ("extra", 1, "extra: unexpected keyword argument"),
    ],
)
def test_wrong_fields_are_named(fake, tmp_path, path, value, said):
    write_run(fake.make_run(), tmp_path)
    content = json.loads((tmp_path / "run.json").read_text())
    *folders, leaf = path.split(".")
    part = content["run"]
    for folder in folders:
        part = part[folder]
    part[leaf] = value
    (tmp_path / "run.json").write_text(json.dumps(content))
    with pytest.raises(UserError) as caught:
        read(fake, tmp_path)
    assert said in str(caught.value)
    assert "\n" not in str(caught.value)


def test_no_run_json(fake, tmp_path):
    with pytest.raises(UserError, match="does not exist"):
        read(fake, tmp_path / "none.json")
    (tmp_path / "run.json").write_text("{")
    with pytest.raises(UserError, match="can't be read as JSON"):
        read(fake, tmp_path)
    (tmp_path / "run.json").write_text("[]")
    with pytest.raises(UserError, match="holds no JSON object"):
        read(fake, tmp_path)
    (tmp_path / "run.json").write_text("{}")
    with pytest.raises(UserError, match="run"):
        read(fake, tmp_path)


def test_differences_that_matter(fake, tmp_path):
    run = fake.make_run()
    write_run(run, tmp_path)
    check_same_run(replace(run, train=replace(run.train, steps=99, save_every=1, keep_last=1)), tmp_path)
    with pytest.raises(UserError, match=r"another train\.batch_size, train\.seed: resume"):
        check_same_run(replace(run, train=replace(run.train, seed=1, batch_size=8)), tmp_path)
    content = json.loads((tmp_path / "run.json").read_text())
    content["run"]["system"]["system"] = "mae"
    (tmp_path / "run.json").write_text(json.dumps(content))
    with pytest.raises(UserError, match="holds a run of another system, mae: choose another output folder"):
        check_same_run(run, tmp_path)
    assert differences(asdict(run), asdict(replace(run, data=fake.FakeData(workers=3)))) == []
    assert differences({"system": {"a": 1}}, {"system": {"b": 1}}) == ["system.a", "system.b"]


def test_batches_are_divided_or_refused():
    config = TrainConfig(steps=1, batch_size=96, accumulate=3)
    assert config.per_rank(2) == 48
    with pytest.raises(
        UserError, match=r"96 can't be divided over 5 rank\(s\) times 3 .* multiple of 15, for example 90"
    ):
        config.per_rank(5)
    assert TrainConfig(epochs=3).total_steps(7) == 21


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("lr", -1.0),
        ("min_lr", float("nan")),
        ("clip_grad", -1.0),
        ("clip_grad", 0.0),
        ("seed", -1),
        ("warmup_steps", -1),
        ("weight_decay", -0.1),
        ("betas", (0.9, 1.0)),
        ("eps", -1e-8),
        ("eps", float("nan")),
        ("lr_decay", -1.0),
        ("layer_decay", 0.0),
        ("lr_scale", {"encoders": -1.0}),
        ("lr", 1e-6),  # below where it would end
    ],
)
def test_numbers_that_no_optimizer_takes_are_refused(field, value):
    with pytest.raises(UserError, match=field):
        TrainConfig(steps=1, **{field: value})


def test_a_rate_does_not_end_above_its_peak():
    with pytest.raises(UserError, match=r"train.min_lr is 1e-05, above train.lr, which is 1e-06: lower it"):
        TrainConfig(steps=1, lr=1e-6)
    with pytest.raises(UserError, match=r"train.warmup_lr is 1e-05, above"):
        TrainConfig(steps=1, lr=1e-6, min_lr=0.0, warmup_steps=2)
    TrainConfig(steps=1, lr=1e-6, schedule="constant")  # which has neither
    TrainConfig(steps=1, lr=1e-6, min_lr=0.0, warmup_steps=2, schedule="linear")


@pytest.mark.parametrize("gain", [0.0, float("nan"), float("inf")])
def test_a_gain_is_a_positive_number(gain):
    with pytest.raises(UserError, match="give a positive factor"):
        Init(gain=gain)


@pytest.mark.parametrize("kept", [3, {"name": "x"}, {"system": "fake"}])
def test_a_damaged_run_json_is_one_sentence(fake, tmp_path, kept):
    (tmp_path / "run.json").write_text(json.dumps({"run": kept}))
    with pytest.raises(UserError, match=r"run.json: .*correct it or leave it out"):
        check_same_run(fake.make_run(), tmp_path)


def test_a_checkpoint_is_the_same_from_another_folder(fake, tmp_path):
    run = fake.make_run()
    write_run(replace(run, init=Init(checkpoint="runs/x/1-image/model")), tmp_path)
    check_same_run(replace(run, init=Init(checkpoint="/w/runs/x/1-image/model")), tmp_path)
    with pytest.raises(UserError, match=r"another init.checkpoint"):
        check_same_run(replace(run, init=Init(checkpoint="/w/runs/y/1-image/model")), tmp_path)


def test_sharded_weights_and_data_of_several_kinds_are_refused():
    run, (system, *_) = recipes.get("beit3_emoji")(), tiny_all.built("beit3")
    data = replace(run.data, image_size=system.image_size)
    run = replace(run, data=data, train=replace(run.train, parallel="fsdp"))
    with pytest.raises(UserError, match="has images and pairs and texts: set train.parallel to ddp"):
        build_loader(run, system, Ranks(0, 1, torch.device("cpu")))


@pytest.mark.parametrize(
    ("config", "field", "options"),
    [
        (DataConfig, "data.seed", {"train": ()}),
        (DataConfig, "data.workers", {"train": ()}),
        (TaskData, "data.seed", {"train": ()}),
        (TaskData, "data.workers", {"train": ()}),
        (ALBEFConfig, "system.queue_size", {}),
        (BLIPConfig, "system.queue_size", {}),
    ],
)
def test_numbers_below_zero_are_refused(config, field, options):
    with pytest.raises(UserError, match=rf"{field} is -1: give a whole number, 0 or more"):
        config(**options, **{field.split(".")[1]: -1})


@pytest.mark.parametrize("name", tiny_all.MAKE)
def test_pictures_or_texts_alone_are_refused_where_both_are_needed(name):
    system = tiny_all.built(name)[0]
    wanted = {"pairs"} | {"beit3": {"images", "texts"}, "simvlm": {"texts"}, "generalist": {"texts"}}.get(
        name, set()
    )
    if name in ("beit", "mae", "vqkd", "vqvae"):
        wanted |= {"images"}
    for use in ("pairs", "images", "texts"):
        sources = (Source(path="a"), Source(path="b", use=use))
        if use in wanted:
            refuse_alone(sources, system)
        else:
            with pytest.raises(
                UserError, match=rf"data.train.1.use is {use}, and {type(system).__name__} learns"
            ):
                refuse_alone(sources, system)


def test_a_run_is_refused_before_its_data_are_read():
    run = recipes.get("clip_emoji")()
    alone = replace(run.data.train[0], use="texts")
    run = replace(run, data=replace(run.data, train=(alone,), cache_views=0))
    with pytest.raises(UserError, match=r"data.train.0.use is texts, and CLIP learns from pairs"):
        describe(run)


@pytest.mark.parametrize("name", ["vlmo_base", "vlmo_emoji"])
def test_the_stages_of_vlmo_see_pictures_alike(name):
    stages = recipes.get(name)()
    if name == "vlmo_emoji":
        stages = (recipes.get("beit2_emoji")(), *stages)
    assert len({(run.system.image.mean, run.system.image.std) for run in stages}) == 1


def test_description_names_what_is_frozen(fake):
    run = fake.make_run(steps=None, epochs=2, freeze=("encoders.blocks", "encoders.tower.0.bias"))
    description = describe(run, make=fake.build)
    assert (description.steps, description.per_epoch, description.device) == (12, 6, "cpu")
    frozen, trainable = dict(description.frozen), dict(description.trainable)
    assert frozen.keys() == {"encoders.blocks", "encoders.tower.0.bias"}
    assert trainable["encoders.tower.0.weight"] == 24
    assert trainable["temperature"] == 1
    system = fake.Fake(run.system)
    assert sum([*frozen.values(), *trainable.values()]) == sum(p.numel() for p in system.parameters())
    assert f"frozen: {sum(frozen.values()):,} parameters" in description.lines()
    with pytest.raises(UserError, match="divided"):
        describe(run, world=3, make=fake.build)


def test_torn_last_line_of_the_metrics_is_left_out(tmp_path):
    (tmp_path / "metrics.jsonl").write_text('{"step": 1}\n{"step": 2}\n{"st')
    assert read_metrics(tmp_path / "metrics.jsonl") == [{"step": 1}, {"step": 2}]


def test_an_unknown_recipe_gets_the_nearest(monkeypatch):
    monkeypatch.setattr(recipes, "RECIPES", {"albef_emoji": "json:loads", "clip_photos": "json:dumps"})
    assert recipes.list_recipes() == ["albef_emoji", "clip_photos"]
    assert recipes.get("albef_emoji") is json.loads
    with pytest.raises(UserError, match="no recipe 'albef_emojy': did you mean 'albef_emoji'"):
        recipes.get("albef_emojy")
    with pytest.raises(UserError, match="choose one of albef_emoji, clip_photos"):
        recipes.get("qqqq")


@pytest.mark.parametrize("name", recipes.list_recipes())
def test_every_recipe_is_runs_that_are_read_back_as_they_are(name, tmp_path):
    runs = recipes.stages(recipes.get(name)())
    assert runs
    for run in runs:
        assert isinstance(run, Run)
        write_run(run, tmp_path)
        assert read_run(tmp_path, type(run.system), type(run.data)) == run
        run.train.per_rank(1)


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        (
            {"system": {"image": {"dropout": 1.0}}},
            "system.image.dropout is 1.0: give a share from 0 to below 1",
        ),
        ({"system": {"mlm_probability": 1.5}}, "system.mlm_probability is 1.5: give a share from 0 to 1"),
        ({"system": {"itm_weight": -1.0}}, "system.itm_weight is -1.0: give a number of 0 or more"),
        ({"data": {"max_bad_share": 2.0}}, "data.max_bad_share is 2.0: give a share from 0 to 1"),
        ({"data": {"mixing": {"cutmix": -1.0}}}, "data.mixing.cutmix is -1.0: give a number of 0 or more"),
    ],
)
def test_numbers_that_no_system_takes_are_refused(changes, says):
    """Before anything is built: stochastic depth of 1 would be no number, and an alpha below 0 no mixing."""

    def changed(config, given):
        parts = {n: changed(getattr(config, n), v) if isinstance(v, dict) else v for n, v in given.items()}
        return replace(config, **parts)

    run = Run(name="r", system=ViLTConfig(), data=TaskData(train=()), train=TrainConfig(steps=1))
    with pytest.raises(UserError, match=f"^{re.escape(says)}$"):
        changed(run, changes)
