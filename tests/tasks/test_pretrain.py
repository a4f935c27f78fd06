"""Two stages in a row: the second starts from the first one's model, also after a kill between them."""

from dataclasses import replace

import pytest
import torch
from safetensors.torch import load_file

from multiway.data.dataset import DataConfig, Source
from multiway.errors import UserError
from multiway.systems.albef import ALBEFConfig
from multiway.systems.bert import BertConfig
from multiway.systems.mae import MAEConfig
from multiway.systems.mae_heads import mae_vit
from multiway.systems.vit import ViTConfig
from multiway.tasks import pretrain
from multiway.train.run import Run, TrainConfig, read_run

TOWERS = ("encoders.image_tower", "encoders.text.embed", "encoders.text.text", "temperature")


def stages():
    """Align by ITC, then learn to match on cached features of a tower that stands still."""
    image = ViTConfig(image_size=32, patch_size=16, width=32, depth=1, heads=2, hidden=64)
    text = BertConfig(width=16, layers=1, fusion_layers=1, heads=2, hidden=32)
    off = {"momentum": None, "queue_size": 0, "alpha": 0.0, "mlm_weight": 0.0}
    system = ALBEFConfig(image=image, text=text, embed_dim=8, itm_weight=0.0, **off)
    data = DataConfig(train=(Source(path="scenes:16"),), image_size=32)
    train = TrainConfig(steps=2, batch_size=8, lr=1e-2, warmup_lr=1e-2, device="cpu", save_every=1)
    second = replace(system, itm_weight=1.0, image=replace(image, frozen_blocks="all"))
    cached = replace(data, cache_views=2)
    return (
        Run(name="align", system=system, data=data, train=train),
        Run(name="fuse", system=second, data=cached, train=replace(train, freeze=TOWERS)),
    )


@pytest.fixture(autouse=True)
def _cache(tmp_path, monkeypatch):
    monkeypatch.setenv("MULTIWAY_CACHE", str(tmp_path / "cache"))


def model(folder):
    return load_file(folder / "model" / "model.safetensors")


def test_stages_follow_each_other_and_go_on_after_a_kill(tmp_path, monkeypatch):
    runs, whole, killed = stages(), tmp_path / "whole", tmp_path / "killed"
    pretrain.pretrain_stages(runs, whole)
    (whole / "model" / "calibration.json").touch()
    pretrain.pretrain_stages(runs, whole)  # a finished one: what was measured of its model stays
    assert (whole / "model" / "calibration.json").exists()
    first, last = model(whole / "1-align"), model(whole / "2-fuse")
    assert {n for n in last if torch.equal(last[n], model(whole)[n])} == set(last)
    for name, tensor in last.items():
        if name.startswith(TOWERS) and name in first:
            assert torch.equal(tensor, first[name]), name
    moved = [name for name in last if "fusion" in name and not torch.equal(last[name], first[name])]
    assert any("cross.query.weight" in name for name in moved)
    saved = read_run(whole / "2-fuse", ALBEFConfig, DataConfig)
    assert saved.init.checkpoint == str(whole / "1-align" / "model")

    trained, train = [], pretrain.train

    def until_the_second(run, out, **options):
        if run.name == "fuse" and not trained.count("fuse"):
            trained.append(run.name)
            raise KeyboardInterrupt
        trained.append(run.name)
        return train(run, out, **options)

    monkeypatch.setattr(pretrain, "train", until_the_second)
    with pytest.raises(KeyboardInterrupt):
        pretrain.pretrain_stages(runs, killed)
    assert not (killed / "model").exists()
    metrics = (killed / "1-align" / "metrics.jsonl").read_text()
    pretrain.pretrain_stages(runs, killed)
    assert (killed / "1-align" / "metrics.jsonl").read_text() == metrics  # no further step
    assert trained == ["align", "fuse", "align", "fuse"]
    ours, theirs = model(killed), model(whole)
    assert ours.keys() == theirs.keys()
    for name, tensor in ours.items():
        assert torch.equal(tensor, theirs[name]), name


def test_who_has_nothing_to_compare_is_not_validated_by_it(tmp_path):
    run = stages()[0]
    system = MAEConfig(image=mae_vit(image_size=32, patch_size=16, width=32, depth=1, heads=2, hidden=64))
    data = replace(run.data, train=(Source(path="scenes:16", use="images"),), val=(Source(path="scenes:4"),))
    with pytest.raises(UserError, match="MAE has neither contrastive features nor a matching head, by which"):
        pretrain.pretrain(replace(run, system=system, data=data), tmp_path / "out")
    assert not (tmp_path / "out" / "metrics.jsonl").exists()
    train = replace(run.train, best_metric="itc.tr_r1")
    measured = replace(run, data=replace(run.data, val=data.val), train=train)
    same, bare = pretrain.as_stages([measured, replace(measured, system=system)])  # stages of one recipe
    assert same is measured
    assert bare.data.val == ()
    assert bare.train.best_metric is None
