"""Pairs of pictures with a sentence: drawn ones are balanced, listed ones found, strips cut."""

import io
import json
import re
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from multiway.data import scenes
from multiway.data.augment import Augment, eval_transform, train_transform
from multiway.data.box_pairs import DrawnBoxes, make_claimed, make_described
from multiway.data.box_speech import WORDS
from multiway.data.box_text import make_simple_claim
from multiway.data.boxes import BOX, COLOURS, SIDE, Item, Strip, draw_box
from multiway.data.dataset import Dataset, Source
from multiway.data.labelled import LabelledSource
from multiway.data.loader import Loader
from multiway.data.pair_shards import write_boxes
from multiway.data.scene_text import COLOURED, EITHER, count, make_picture_pair
from multiway.data.shards import write_shards
from multiway.data.two_pictures import PairTransform, PicturePairs, cut
from multiway.errors import UserError

NLVR = Path(__file__).parents[3] / "shared/data/nlvr"


def pairs(path, **options):
    return PicturePairs(LabelledSource(path=str(path), **options))


def png(colour, size=(20, 10)):
    out = io.BytesIO()
    Image.new("RGB", size, colour).save(out, "PNG")
    return out.getvalue()


@pytest.mark.parametrize("path", ["scenes:120:4", "boxes:120:4"])
def test_a_sentence_is_true_of_one_pair_and_false_of_its_neighbour(path):
    data = pairs(path)
    assert len(data) == 120
    for k in range(0, 120, 2):
        assert data.texts(k) == data.texts(k + 1)
        assert {data.label(k), data.label(k + 1)} == {0, 1}
    first = Counter(data.label(k) for k in range(0, 120, 2))
    assert min(first.values()) > 15  # nor does the place in the order say which
    assert len({data.texts(k)[0] for k in range(0, 120, 2)}) > 25
    assert data.key(0) != data.key(1)
    assert pairs(path).image(7)[0].tobytes() == data.image(7)[0].tobytes()


def test_the_simpler_sentences_say_what_either_picture_holds():
    seen = Counter()
    for index in range(160):
        pair = make_picture_pair(3, index, EITHER)
        *_, before, shape = pair.sentence.split()
        colour = before if before in scenes.COLOURS else None
        there = count(pair.left, shape=shape, colour=colour) + count(pair.right, shape=shape, colour=colour)
        assert pair.label == (there > 0)
        if colour is not None:
            both = (pair.left, pair.right)
            assert sum(count(scene, shape=shape) + count(scene, colour=colour) for scene in both) > 0
        seen[colour is None, pair.label] += 1
    assert min(seen.values()) > 20
    assert len(seen) == 4


def test_the_simplest_sentences_name_a_colour_that_either_picture_holds():
    labels = Counter()
    for index in range(60):
        pair = make_picture_pair(3, index, COLOURED)
        (colour,) = set(pair.sentence.split()) & set(scenes.COLOURS)
        assert pair.sentence.endswith(f"{colour} thing")
        assert pair.label == (count(pair.left, colour=colour) + count(pair.right, colour=colour) > 0)
        labels[pair.label] += 1
    assert labels[True] == labels[False] == 30


def test_what_a_scene_sentence_speaks_of_is_in_a_false_pair_too():
    seen = Counter()
    for index in range(80):
        pair = make_picture_pair(3, index)
        words = pair.sentence.split()
        left, right = pair.left, pair.right
        if pair.sentence.startswith("both pictures contain"):
            both = [count(scene, shape=words[-1]) > 0 for scene in (left, right)]
            assert any(both)
            assert pair.label == all(both)
        elif pair.sentence.startswith("there are more"):
            shape = next(s for s in ("circle", "square", "triangle", "star", "cross", "ring", "diamond",
                                     "heart") if words[3].startswith(s))  # fmt: skip
            assert count(left, shape=shape) + count(right, shape=shape) > 0
            assert pair.label == (count(left, shape=shape) > count(right, shape=shape))
        elif pair.sentence.startswith("the two pictures hold"):
            total = count(left, colour=words[5]) + count(right, colour=words[5])
            assert total > 0
            assert pair.label == (total == int(words[4]))
        elif pair.sentence.startswith("only the"):
            has = [count(scene, shape=words[-1], colour=words[-2]) > 0 for scene in (left, right)]
            assert any(has)
            assert pair.label == (has == [words[2] == "left", words[2] == "right"])
        else:
            assert pair.label == (len(left.things) == len(right.things))
        seen[words[0]] += 1
    assert set(seen) == {"both", "there", "the", "only"}


def towers(strip):
    return [[item.colour for item in box] for box in strip.boxes]


def test_sentences_about_towers_are_true_when_read_apart():
    """Each kind is read again by its own rule, from the sentence alone."""
    number = {**{word: n for n, word in enumerate(WORDS)}, **{str(n): n for n in range(9)}}
    rules = {
        r"there are (?:only |exactly )?(two|three|four|five|six|\d) (\w+) blocks": lambda m, t: (
            sum(b == m[2] for tower in t for b in tower) == number[m[1]]
        ),
        r"there is (?:a|at least one|at least 1) tower with (?:a|1) (\w+) block at the (top|base|bottom)": (
            lambda m, t: any(tower[-1 if m[2] == "top" else 0] == m[1] for tower in t)
        ),
        r"there is (?:exactly|only) one tower with (?:a|1) (\w+) block at the (top|base|bottom)": (
            lambda m, t: sum(tower[-1 if m[2] == "top" else 0] == m[1] for tower in t) == 1
        ),
        r"there is no tower with (?:exactly |only )?(two|three|four|\d) blocks": lambda m, t: (
            not any(len(tower) == number[m[1]] for tower in t)
        ),
        r"there is at least (?:one|1) tower with a (\w+) block (?:over|above|on top of) a (\w+) block": (
            lambda m, t: any((m[2], m[1]) in zip(x, x[1:], strict=False) for x in t)
        ),
    }
    read = Counter()
    for index in range(140):
        strip, sentence, label = make_claimed(1, index)
        for pattern, rule in rules.items():
            if (match := re.fullmatch(pattern, sentence)) is not None and strip.towers:
                assert rule(match, towers(strip)) == label, sentence
                read[pattern] += 1
    assert len(read) >= 3
    assert read.total() > 10


def test_simple_sentences_are_true_when_read_apart():
    """They are of five forms; each is read again, from the sentence and the items' fields alone."""
    number = {**{word: n for n, word in enumerate(WORDS)}, **{str(n): n for n in range(9)}}
    seen = Counter()
    for index in range(80):
        strip, sentence, label = make_claimed(1, index, make_simple_claim)
        boxes = strip.boxes
        of = [item for box in boxes for item in box]
        if match := re.fullmatch(r"there is a (?:box|tower) with only (\w+) (?:items|blocks)", sentence):
            true = any(all(item.colour == match[1] for item in box) for box in boxes)
        elif match := re.fullmatch(r"there is a (?:box|tower) with (\w+) (?:item|block)s?", sentence):
            true = any(len(box) == number[match[1]] for box in boxes)
        elif match := re.fullmatch(r"there is a tower with a (\w+) block at the (\w+)", sentence):
            true = any(box[-1 if match[2] == "top" else 0].colour == match[1] for box in boxes)
        elif match := re.fullmatch(r"there is a (black|blue|yellow) (\w+)", sentence):
            free = match[2] in ("item", "object", "block")
            true = any(item.colour == match[1] and (free or item.shape == match[2]) for item in of)
        else:
            match = re.fullmatch(r"there is a (circle|square|triangle)", sentence)
            true = any(item.shape == match[1] for item in of)
        assert true == label, sentence
        seen[match.re.pattern] += 1
    assert len(seen) == 5


def test_described_boxes_say_what_is_in_them(tmp_path):
    number = {**{word: n for n, word in enumerate(WORDS)}, **{str(n): n for n in range(9)}}
    write_boxes(tmp_path, 40, seed=3)
    data, seen = Dataset(Source(path=str(tmp_path))), Counter()
    for i in range(40):
        shown, caption = make_described(3, i)
        assert data.texts(i) == [caption]
        assert data.image(i).size == (2 * SIDE, SIDE)
        for k, (box, said) in enumerate(zip(shown, caption.split(" beside "), strict=True)):
            cut_out = data.image(i).crop((k * SIDE, 0, (k + 1) * SIDE, SIDE))
            assert cut_out.tobytes() == draw_box(box).tobytes()
            kind, n, rest = re.fullmatch(r"(box|tower) with (\w+) (?:item|block)s? (.+)", said).groups()
            assert number[n] == len(box)
            seen[kind, len(shown)] += 1
            if kind == "tower":
                assert re.findall("|".join(COLOURS), rest) == [block.colour for block in reversed(box)]
            else:
                named = [tuple(words.split()[:3]) for words in rest.split(" above ")]
                own = [(item.size, item.colour, item.shape) for item in sorted(box, key=lambda i: i.y)]
                assert len(named) == min(len(own), 4 // len(shown))
                assert not Counter(named) - Counter(own)
                assert rest.count("touching") <= sum(bool(item.walls) for item in box)
    assert set(seen) == {("box", 1), ("box", 2), ("tower", 1), ("tower", 2)}


def test_a_drawn_tower_looks_like_a_real_one():
    strip = next(s for s, *_ in (make_claimed(0, i) for i in range(50)) if s.towers)
    for box in strip.boxes:
        pixels = np.asarray(draw_box(box))
        for i, item in enumerate(box):
            assert tuple(pixels[89 - 21 * i, 50]) == COLOURS[item.colour]
        assert tuple(pixels[2, 2]) == BOX


def test_items_lie_inside_and_apart():
    for index in range(0, 80, 2):
        strip, *_ = make_claimed(2, index)
        for box in strip.boxes:
            board = np.zeros((SIDE, SIDE), int)
            for item in box:
                assert min(item.x, item.y) >= 0
                assert max(item.x, item.y) + item.side <= SIDE
                board[item.y : item.y + item.side, item.x : item.x + item.side] += 1
            assert board.max() <= 1


def test_walls():
    corner = Item(shape="square", colour="black", size="big", x=70, y=0)
    assert corner.walls == {"right", "top"}
    assert Strip(boxes=((corner,), (), ()), towers=False).items == (corner,)


def test_strips_are_cut_into_boxes(tmp_path):
    strip = Image.new("RGB", (400, 100), (128, 128, 128))
    colours = [(9, 0, 0), (0, 9, 0), (0, 0, 9)]
    for left, colour in zip((0, 150, 300), colours, strict=True):
        strip.paste(colour, (left, 0, left + 100, 100))
    first, second = cut(strip)
    assert first.size == second.size == (200, 100)
    assert [first.getpixel((50, 50)), first.getpixel((150, 50)), second.getpixel((50, 50))] == colours
    assert second.getpixel((150, 50)) == BOX
    left, right = cut(Image.new("RGB", (60, 20)))
    assert left.size == right.size == (30, 20)
    samples = [
        {"__key__": "a", "png": png("red"), "txt": "it is red", "cls": "1"},
        {"__key__": "b", "png": png("red"), "txt": "it is blue", "cls": "0"},
        {"__key__": "c", "png": png("red"), "txt": "what", "cls": "?"},
    ]
    write_shards(tmp_path, samples)
    data = pairs(tmp_path)
    assert [data.label(i) for i in range(len(data))] == [1, 0]
    assert data.problems["no_label"] == 1
    assert data.texts(1) == ["it is blue"]


@pytest.mark.skipif(not NLVR.is_dir(), reason="NLVR1 is not beside the repository")
def test_the_real_strips():
    for split, count_, true in (("train", 2967, 1641), ("val", 990, 556)):
        data = pairs(NLVR / split)
        assert len(data) == count_
        assert sum(data.label(i) for i in range(count_)) == true
        assert data.image(0)[0].size == (200, 100)


def test_files_of_nlvr2_albef_and_tables(tmp_path):
    images = tmp_path / "images"
    (images / "train" / "37").mkdir(parents=True)
    for name in ("train/37/train-10-0-img0.png", "train/37/train-10-0-img1.png", "dev-1-2-img0.png",
                 "dev-1-2-img1.png", "x.png", "y.png"):  # fmt: skip
        (images / name).write_bytes(png("red" if "img0" in name or name == "x.png" else "blue"))
    official = [
        {"identifier": "train-10-0-3", "directory": 37, "sentence": "a", "label": "True"},
        {"identifier": "dev-1-2-0", "sentence": "b", "label": "False"},
    ]
    (tmp_path / "nlvr2.json").write_text("\n".join(map(json.dumps, official)))
    albef = [{"sentence": "a", "label": "True", "images": ["x.png", "y.png"]}]
    (tmp_path / "albef.json").write_text(json.dumps(albef))
    (tmp_path / "t.csv").write_text("left,right,sentence,label\nx.png,y.png,a,1\nx.png,y.png,b,maybe\n")
    for name, labels in (("nlvr2.json", [1, 0]), ("albef.json", [1]), ("t.csv", [1])):
        data = pairs(tmp_path / name, images=str(images))
        assert [data.label(i) for i in range(len(data))] == labels
        for i in range(len(data)):
            first, second = data.image(i)
            assert first.getpixel((0, 0)) == (255, 0, 0)
            assert second.getpixel((0, 0)) == (0, 0, 255)
    assert data.problems["no_label"] == 1
    with pytest.raises(UserError, match="not under"):
        pairs(tmp_path / "t.csv")
    (tmp_path / "bad.csv").write_text("left,sentence,label\nx.png,a,1\n")
    with pytest.raises(UserError, match="no column"):
        pairs(tmp_path / "bad.csv", images=str(images))
    with pytest.raises(UserError, match="boxes:N"):
        pairs("boxes:none")
    (tmp_path / "nlvr2.json").write_text(
        "\n".join(json.dumps(row) for row in (official[0], {"label": "True", "sentence": "a"}))
    )
    with pytest.raises(UserError, match="lacks what its layout promises .*'identifier'"):
        pairs(tmp_path / "nlvr2.json", images=str(images))
    (tmp_path / "t.csv").write_text(
        "left,right,sentence,label,split\nx.png,y.png,a,1,val\nx.png,y.png,b,0,dev\n"
    )
    data = pairs(tmp_path / "t.csv", images=str(images), split="dev")
    assert [data.texts(i) for i in range(len(data))] == [["b"]]
    with pytest.raises(UserError, match="has no splits"):
        pairs("scenes:4", split="dev")


def test_cells_as_pandas_writes_them(tmp_path):
    for name in ("a.png", "b.png"):
        (tmp_path / name).write_bytes(png("red"))
    (tmp_path / "x.csv").write_text(
        "left, right, sentence, label\na.png, b.png, same, 1.0\nb.png, a.png, other, 0.0\n"
    )
    data = pairs(tmp_path / "x.csv")
    assert [data.label(i) for i in range(len(data))] == [1, 0]
    assert len(data.image(0)) == 2


def test_both_pictures_reach_the_batch_and_sides_are_not_mirrored():
    data = pairs("scenes:60:1")
    transform = PairTransform(train_transform(32, Augment(crop_scale=None, flip=1.0, rand_n=0)))
    plain = PairTransform(eval_transform(32))
    batches = Loader(data, encode=None, transform=transform, batch_size=20, label=data.label)
    for batch in batches.iterate(0, 3):
        assert batch.image.shape == (20, 2, 3, 32, 32)
        assert batch.input_ids is None
        for row, number in enumerate(batch.ids.tolist()):
            assert batch.labels[row] == data.label(number)
            as_it_is = plain(data.image(number), "", np.random.default_rng(0))
            sided = "left" in data.texts(number)[0] or "right" in data.texts(number)[0]
            expected = as_it_is if sided else as_it_is.flip(-1)
            torch.testing.assert_close(batch.image[row], expected, atol=1e-5, rtol=0)
    part = batch.split(2)[1]
    assert len(part.labels) == len(part.image) == 10


def test_the_drawn_boxes_are_a_source():
    data = DrawnBoxes(4, 1)
    assert len(data.pictures(0)) == 2
    assert data.sentence(0) == data.sentence(1)
