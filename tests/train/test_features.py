"""Features of a frozen prefix on disk: those that it computes, made once, found again by their key."""

from __future__ import annotations

import io
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import tiny
import torch
from PIL import Image

from multiway.data.augment import Augment, eval_transform
from multiway.data.dataset import DataConfig, Dataset, Source
from multiway.data.loader import Loader
from multiway.data.sample import BadSample
from multiway.data.shards import write_shards
from multiway.errors import UserError
from multiway.train import features
from multiway.train.build import Description, build_loader, describe
from multiway.train.parallel import Stopped
from multiway.train.run import Run, TrainConfig

GOOD = (0, 1, 3, 4)  # 2 is no picture; 4 shows what 0 does, and so does 5, which has no text
STILL = Augment(crop_scale=None, flip=0.0, rand_n=0)


@pytest.fixture
def config(tmp_path, monkeypatch) -> DataConfig:
    monkeypatch.setenv("MULTIWAY_CACHE", str(tmp_path / "cache"))
    return DataConfig(train=(shards(tmp_path / "a", 0),), image_size=32, augment=STILL, cache_views=2)


def shards(folder: Path, seed: int, said: str = "picture {}") -> Source:
    draw, pictures = np.random.default_rng(seed), []
    for _ in range(4):
        Image.fromarray(draw.integers(0, 255, (40, 36, 3), np.uint8)).save(out := io.BytesIO(), "PNG")
        pictures.append(out.getvalue())
    pictures[2] = b"no picture"
    samples = [
        {"__key__": str(i), "png": pictures[shown], "txt": "\n" if i == 5 else said.format(i)}
        for i, shown in enumerate((0, 1, 2, 3, 0, 0))
    ]
    write_shards(folder, samples)
    return Source(path=str(folder))


def cached(config: DataConfig, *, seed: int = 0, said: list | None = None, **image):
    system, _ = tiny.albef(tiny.albef_config(image=tiny.vit(frozen_blocks=1, **image)), seed=seed)
    say = (said if said is not None else []).append
    return system, features.cached_dataset(system, Dataset(config.train), config, say=say)


def encode(texts: list[str]) -> tuple[torch.Tensor, torch.Tensor]:
    return torch.ones(len(texts), 2, dtype=torch.long), torch.ones(len(texts), 2, dtype=torch.long)


def test_cached_features_are_those_of_the_prefix(config: DataConfig) -> None:
    system, dataset = cached(config)
    plain = Dataset(config.train)
    transform = eval_transform(32, system.image_mean, system.image_std)
    for i in GOOD:
        with torch.no_grad():
            expected = system.image_tower.prefix(transform(plain.image(i))[None])
        views = torch.from_numpy(dataset.image(i).astype(np.float32))
        # Stored as float16, which rounds by 2**-11 of a value; made in batches, which round otherwise.
        torch.testing.assert_close(views, expected.expand_as(views), rtol=2**-11, atol=1e-5)
    assert dataset.rows[4] == dataset.rows[5] == dataset.rows[0]  # equal pictures share theirs
    with pytest.raises(BadSample, match="not_an_image"):
        dataset.image(2)
    with pytest.raises(BadSample, match="empty_caption"):
        dataset.texts(5)


def test_the_second_run_reads_and_other_weights_or_pictures_write_anew(config: DataConfig, tmp_path) -> None:
    said: list[str] = []
    _, first = cached(config, said=said)
    _, second = cached(config, said=said)
    assert len(said) == 1
    assert np.array_equal(first.features, second.features)
    with pytest.raises(BadSample, match="not_an_image"):
        second.image(2)
    cached(config, seed=1, said=said)
    cached(replace(config, augment=replace(STILL, crop_scale=(0.5, 1.0))), said=said)
    cached(replace(config, train=(shards(tmp_path / "b", 1),)), said=said)
    cached(replace(config, seed=1), said=said)
    cached(config, said=said, mean=(0.5, 0.5, 0.5))
    cached(config, said=said, quick_gelu=True)  # which has no weights
    assert len(said) == 7
    left = sorted(path.suffix for path in features.cache_folder().iterdir())
    assert left == [".json"] * 7 + [".npy"] * 7  # nothing aside


@pytest.mark.parametrize("flip", [0.0, 0.5])
def test_captions_make_other_features_only_where_they_decide_a_flip(
    config: DataConfig, tmp_path, flip
) -> None:
    said: list[str] = []
    config = replace(config, augment=replace(STILL, flip=flip))
    cached(config, said=said)
    cached(replace(config, train=(shards(tmp_path / "b", 0, "another {}"),)), said=said)
    assert len(said) == 1
    cached(replace(config, train=(shards(tmp_path / "c", 0, "{} on the left"),)), said=said)
    assert len(said) == (2 if flip else 1)


def test_a_run_that_is_stopped_leaves_no_half_cache(config: DataConfig, monkeypatch) -> None:
    monkeypatch.setattr(features, "BATCH", 2)
    vit, calls = type(tiny.albef()[0].image_tower), []
    whole = vit.prefix

    def stopped(self, image):
        calls.append(len(image))
        if len(calls) == 2:
            assert [p.suffix for p in features.cache_folder().iterdir()].count(".new") == 1
            raise Stopped
        return whole(self, image)

    monkeypatch.setattr(vit, "prefix", stopped)
    with pytest.raises(Stopped):
        cached(config)
    assert {p.suffix for p in features.cache_folder().iterdir()} == {".lock"}
    cached(config)
    assert sorted(p.suffix for p in features.cache_folder().iterdir()) == [".json", ".npy"]


def test_of_several_processes_one_makes_the_features_and_the_others_wait(config: DataConfig) -> None:
    said: list[str] = []
    with ThreadPoolExecutor(3) as pool:  # a lock is a file's that was opened, whoever opened it
        systems = [tiny.albef(tiny.albef_config(image=tiny.vit(frozen_blocks=1)))[0] for _ in range(3)]
        found = list(
            pool.map(
                lambda system: features.cached_dataset(
                    system,
                    Dataset(config.train),
                    config,
                    say=lambda text: (time.sleep(0.5), said.append(text)),
                ),
                systems,
            )
        )
    assert len(said) == 1
    assert all(np.array_equal(dataset.features, found[0].features) for dataset in found)


def test_batches_carry_features_in_place_of_pictures(config: DataConfig) -> None:
    _, dataset = cached(config)
    loader = Loader(dataset, encode=encode, transform=features.one_view, batch_size=3, max_bad_share=0.9)
    batch = next(features.PrefixLoader(loader).iterate())
    assert batch.image is None
    assert batch.image_prefix is not None
    rows = [dataset.rows[i] for i in batch.ids.tolist()]
    assert torch.equal(batch.image_prefix, torch.from_numpy(dataset.features[rows, 0].astype(np.float32)))
    assert set(batch.ids.tolist()) <= set(GOOD)


def test_a_tower_without_a_frozen_prefix_is_refused(config: DataConfig) -> None:
    system, _ = tiny.albef()
    with pytest.raises(UserError, match="frozen_blocks"):
        features.cached_dataset(system, Dataset(config.train), config)


def test_a_dry_run_makes_no_features_and_still_refuses(config: DataConfig) -> None:
    """Making them takes hours on a large folder, and they would stay on the disk."""

    def dry(image) -> Description:
        system, settings = tiny.albef(tiny.albef_config(image=image))[0], tiny.albef_config(image=image)
        run = Run(name="r", system=settings, data=config, train=TrainConfig(steps=1, batch_size=2))
        return describe(run, make=lambda run, ranks: (system, build_loader(run, system, ranks)))

    assert dry(tiny.vit(frozen_blocks=1)).steps == 1
    assert not features.cache_folder().exists()
    with pytest.raises(UserError, match="frozen_blocks"):
        dry(tiny.vit())
