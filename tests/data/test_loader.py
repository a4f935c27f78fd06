"""Every sample once; resume and workers change nothing; bad samples are replaced and counted."""

import io
import itertools
import json
import pickle
import tarfile
from collections import Counter
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from multiway.data.augment import Augment, eval_transform, train_transform
from multiway.data.dataset import Dataset, Source
from multiway.data.labelled import LabelledSource
from multiway.data.loader import Loader
from multiway.data.order import Order
from multiway.data.questions import Questions
from multiway.data.referring import Referring
from multiway.data.sample import BadSample
from multiway.data.sentences import Sentences
from multiway.data.two_pictures import PicturePairs
from multiway.errors import UserError


def same(a, b):
    tensors = ("image", "input_ids", "attention_mask", "ids")
    equal = all(torch.equal(getattr(a, name), getattr(b, name)) for name in tensors)
    return equal and a.keys == b.keys and a.source == b.source


@settings(max_examples=60, deadline=None)
@given(
    sizes=st.lists(st.integers(1, 40), min_size=1, max_size=3),
    batch=st.integers(1, 7),
    world=st.integers(1, 4),
    seed=st.integers(0, 2**31),
    shuffle=st.booleans(),
)
def test_the_ranks_share_an_epoch_exactly(sizes, batch, world, seed, shuffle):
    orders = [
        Order(
            sizes,
            [1.0] * len(sizes),
            batch_size=batch,
            seed=seed,
            rank=rank,
            world=world,
            shuffle=shuffle,
            drop_last=False,
        )
        for rank in range(world)
    ]
    steps = orders[0].steps_per_epoch
    for epoch in range(2):
        of_step = [[order.step(epoch * steps + s)[0] for order in orders] for s in range(steps)]
        seen = [number for step in of_step for share in step for number in share.tolist()]
        assert sorted(seen) == list(range(sum(sizes)))
        assert all(len(share) == batch for step in of_step[:-1] for share in step)
        if not shuffle:
            assert seen == sorted(seen)


@settings(max_examples=40, deadline=None)
@given(sizes=st.lists(st.integers(2, 30), min_size=2, max_size=3), seed=st.integers(0, 99), data=st.data())
def test_weights_are_kept_and_spread_evenly(sizes, seed, data):
    weights = data.draw(
        st.lists(st.sampled_from([0.5, 1.0, 2.0, 3.5]), min_size=len(sizes), max_size=len(sizes))
    )
    order = Order(sizes, weights, batch_size=1, seed=seed)
    seen = Counter(itertools.chain.from_iterable(order.epoch(epoch)[0].tolist() for epoch in range(4)))
    start = 0
    for size, weight in zip(sizes, weights, strict=True):
        counts = [seen[number] for number in range(start, start + size)]
        assert sum(counts) == 4 * max(1, round(size * weight))
        assert max(counts) - min(counts) <= 1
        start += size


def test_ranks_join_to_the_batch_of_one_process():
    one = Order([50], [1.0], batch_size=8, seed=3)
    two = [Order([50], [1.0], batch_size=4, seed=3, rank=rank, world=2) for rank in range(2)]
    for step in range(20):
        joined = [number for order in two for number in order.step(step)[0].tolist()]
        assert joined == one.step(step)[0].tolist()


def test_epochs_and_seeds_differ():
    order, other = (Order([50], [1.0], batch_size=5, seed=seed) for seed in (0, 1))
    assert order.epoch(0)[0].tolist() != order.epoch(1)[0].tolist()
    assert order.epoch(0)[0].tolist() != other.epoch(0)[0].tolist()


@pytest.fixture
def loader(make_tars, encode):
    def make(source=None, **options):
        dataset = Dataset(source or Source(path=make_tars(23, captions=3)))
        return Loader(dataset, encode=encode, transform=train_transform(16), **{"batch_size": 4, **options})

    return make


def test_resume_anywhere_equals_never_stopping(loader):
    whole = list(loader().iterate(steps=12))
    for start in (0, 1, 5, 7, 11):  # an epoch has 5 steps
        again = loader().iterate(start, steps=12 - start)
        assert all(same(a, b) for a, b in zip(again, whole[start:], strict=True))


@pytest.mark.filterwarnings("ignore:This DataLoader will create")  # on a machine of one core
@pytest.mark.parametrize("workers", [1, 2])
def test_workers_change_nothing(loader, workers):
    alone = loader().iterate(3, steps=6)
    helped = loader(workers=workers).iterate(3, steps=6)
    assert all(same(a, b) for a, b in zip(helped, alone, strict=True))


def test_what_a_worker_holds_travels_by_pickle(loader):
    """Where processes are spawned and not forked."""
    one = loader()
    next(one.iterate())  # files are open now
    rows = pickle.loads(pickle.dumps(one._steps))[3]
    assert torch.equal(rows.image, one._steps[3].image)
    assert rows.texts == one._steps[3].texts


def test_an_endless_iterator_with_workers_can_be_left(loader):
    batches = loader(workers=1).iterate()
    assert len(next(batches)) == 4
    batches.close()


def test_captions_change_from_epoch_to_epoch(loader):
    texts = Counter()
    one = loader()
    for batch in one.iterate(steps=len(one) * 8):
        texts.update("".join(chr(code) for code in row if code) for row in batch.input_ids.tolist())
    assert len({text for text in texts if text.startswith("picture 3 ") or text == "picture 3"}) == 3


def test_ids_name_the_picture_and_its_text_belongs_to_it(loader):
    for batch in loader().iterate(steps=5):
        for number, key, codes in zip(batch.ids.tolist(), batch.keys, batch.input_ids.tolist(), strict=True):
            text = "".join(chr(code) for code in codes if code)
            assert key == f"{number:05d}"
            assert text.split()[:2] == ["picture", str(number)]


def test_equal_texts_share_an_id_in_every_batch(make_tars, encode):
    folder = make_tars(12, replace={i: {"txt": "the same"} for i in (2, 5, 9)})
    dataset = Dataset(Source(path=folder))
    loader = Loader(dataset, encode=encode, transform=None, batch_size=4, merge_equal_texts=True)
    for batch in loader.iterate(steps=9):
        assert batch.image is None
        for number, key in zip(batch.ids.tolist(), batch.keys, strict=True):
            assert number == (2 if int(key) in (2, 5, 9) else int(key))


BAD = {3: {"jpg": b"no picture"}, 4: {"txt": " \n"}, 9: {"jpg": b"GIF, but no GIF"}}


def test_bad_samples_are_replaced_by_the_next_good_one_and_counted(make_tars, encode):
    dataset = Dataset(Source(path=make_tars(10, replace=BAD)))
    loader = Loader(
        dataset, encode=encode, transform=eval_transform(8), batch_size=5, shuffle=False, max_bad_share=0.5
    )
    keys = [int(key) for batch in loader.iterate(steps=2) for key in batch.keys]
    assert keys == [0, 1, 2, 5, 5, 5, 6, 7, 8, 0]
    assert loader.tally.reasons == {"not_an_image": 2, "empty_caption": 1}
    list(loader.iterate(2, steps=4))  # met again, not counted again
    assert loader.tally.sentence() == "7 samples read, 3 skipped (not_an_image 2, empty_caption 1)"


def test_a_caption_that_ends_in_half_an_emoji_is_a_bad_sample(make_tars, encode):
    captions = json.dumps({"caption": "nice \ud83d"})
    path = Path(make_tars(4))
    with tarfile.open(path / "00000.tar", "a") as tar:
        tar.addfile(tarfile.TarInfo("00009.jpg"))
        info = tarfile.TarInfo("00009.json")
        info.size = len(captions)
        tar.addfile(info, io.BytesIO(captions.encode()))
    dataset = Dataset(Source(path=str(path)))
    loader = Loader(dataset, encode=encode, transform=None, batch_size=5, shuffle=False, max_bad_share=0.5)
    assert len(next(loader.iterate()).keys) == 5
    assert loader.tally.reasons == {"bad_text": 1}


@pytest.mark.parametrize(
    ("kind", "row"),
    [
        (Questions, {"image": "a.png", "question": "x", "answer": "y"}),
        (Referring, {"image": "a.png", "text": "x", "box": [0, 0, 2, 2]}),
        (Sentences, {"image": "a.png", "sentence": "x", "label": "neutral"}),
        (PicturePairs, {"images": ["a.png", "a.png"], "sentence": "x", "label": "True"}),
    ],
)
def test_hostile_rows_of_tasks_are_bad_samples(tmp_path, make_picture, kind, row):
    (tmp_path / "a.png").write_bytes(make_picture(format="PNG"))
    text = next(name for name in ("question", "text", "sentence") if name in row)
    long = {**row, **({"image": "a" * 300} if "image" in row else {"images": ["a" * 300, "a.png"]})}
    (tmp_path / "rows.json").write_text(json.dumps([long, {**row, text: "nice \ud83d"}]))
    data = kind(LabelledSource(path=str(tmp_path / "rows.json")))
    with pytest.raises(BadSample, match="unreadable"):
        data.image(0)
    with pytest.raises(BadSample, match="bad_text"):
        data.texts(1)


@pytest.mark.parametrize("workers", [0, 1])
def test_too_many_bad_samples_stop_the_run(make_tars, encode, workers):
    dataset = Dataset(Source(path=make_tars(10, replace=BAD)))
    loader = Loader(dataset, encode=encode, transform=eval_transform(8), batch_size=5, workers=workers)
    with pytest.raises(UserError, match=r"30.0% of the samples are bad.*not_an_image 2, empty_caption 1"):
        list(loader.iterate(steps=20))


def test_all_bad_stops_at_once(make_tars, encode):
    dataset = Dataset(Source(path=make_tars(6, replace={i: {"txt": ""} for i in range(6)})))
    loader = Loader(dataset, encode=encode, transform=eval_transform(8), batch_size=2, max_bad_share=1.0)
    with pytest.raises(UserError, match="No good sample"):
        next(loader.iterate())


def test_several_sources(make_tars, encode):
    a, b = make_tars(8, name="a"), make_tars(8, name="b")
    dataset = Dataset([Source(path=a, weight=2.0), Source(path=b, weight=0.5)])
    loader = Loader(dataset, encode=encode, transform=None, batch_size=4)
    assert len(loader) == 5
    seen = Counter(name for batch in loader.iterate(steps=5) for name in batch.source)
    assert seen == {a: 16, b: 4}


def test_a_source_seen_twice_an_epoch_is_augmented_twice(make_tars, encode):
    dataset = Dataset(Source(path=make_tars(4), weight=2.0))
    crop = train_transform(8, Augment(rand_n=2))
    loader = Loader(dataset, encode=encode, transform=crop, batch_size=8)
    passes = loader.order.step(0)[1]
    assert Counter(passes.tolist()) == {0: 4, 1: 4}


def test_fewer_samples_than_a_batch_is_the_users(make_tars, encode):
    with pytest.raises(UserError, match="fewer than one batch"):
        Loader(Dataset(Source(path=make_tars(3))), encode=encode, transform=None, batch_size=4)


def test_the_last_batch_may_be_smaller(make_tars, encode):
    dataset = Dataset(Source(path=make_tars(10)))
    loader = Loader(
        dataset, encode=encode, transform=eval_transform(8), batch_size=4, shuffle=False, drop_last=False
    )
    assert [len(batch) for batch in loader.iterate(steps=len(loader))] == [4, 4, 2]
