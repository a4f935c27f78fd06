"""The drawn world: what a scene says of itself is what its pixels show, and its noise is known."""

import json
from collections import Counter

import numpy as np
import pytest

from multiway.data.dataset import Dataset, Source
from multiway.data.order import keyed_generator
from multiway.data.scene_shards import write_shards
from multiway.data.scene_text import NEAR_MISSES, count, make_pair, make_picture_pair, questions, spoil
from multiway.data.scenes import COLOURS, NUMBERS, RELATIONS, SHAPES, SIZES, boxes, draw_scene, make_scene
from multiway.errors import UserError

SCENES = [make_scene(0, index) for index in range(200)]


def test_pixels_lie_in_the_boxes_in_their_colours():
    for scene in SCENES[:60]:
        pixels = np.asarray(draw_scene(scene, 100)).astype(int)
        inside = np.zeros((100, 100), dtype=bool)
        for thing in scene.things:
            left, top, right, bottom = (round(value * 100) for value in thing.box)
            inside[max(top - 1, 0) : bottom + 2, max(left - 1, 0) : right + 2] = True
            patch = pixels[top:bottom, left:right]
            matches = np.abs(patch - COLOURS[thing.colour]).max(-1) <= 3
            assert matches.mean() > 0.1, (thing, matches.mean())
            rows, columns = np.nonzero((patch < 250).any(-1))
            assert np.ptp(columns) >= 0.8 * (right - left) - 2, thing  # the box is tight
            assert np.ptp(rows) >= 0.8 * (bottom - top) - 2, thing
        assert (pixels[~inside] == 255).all()


def test_things_never_overlap():
    for scene in SCENES:
        for i, a in enumerate(scene.things):
            for b in scene.things[:i]:
                apart = [a.box[0] - b.box[2], b.box[0] - a.box[2], a.box[1] - b.box[3], b.box[1] - a.box[3]]
                assert max(apart) >= 0


def test_relations_hold_of_every_thing():
    met = set()
    for scene in SCENES:
        if scene.relation is None:
            continue
        met.add(scene.relation)
        first, second = ([thing.box for thing in scene.things if thing.group == number] for number in (0, 1))
        axis, sign = {
            "to the left of": (0, 1),
            "to the right of": (0, -1),
            "above": (1, 1),
            "below": (1, -1),
        }[scene.relation]
        near, far = (first, second) if sign == 1 else (second, first)
        assert max(box[axis + 2] for box in near) < min(box[axis] for box in far)
    assert len(met) == 4


def test_captions_read_back_to_the_scene():
    plurals = {shape: shape + ("es" if shape.endswith("s") else "s") for shape in SHAPES}
    for scene in SCENES:
        for group in scene.groups:
            words = group.phrase.split()
            number = 1 if words[0] == "a" else NUMBERS.index(words[0])
            assert (
                number
                == group.count
                == sum(thing.group == scene.groups.index(group) for thing in scene.things)
            )
            assert words[1] in SIZES
            assert words[2] in COLOURS
            assert words[3] == (group.shape if number == 1 else plurals[group.shape])
            assert group.phrase in scene.caption


def test_a_function_of_seed_and_index():
    assert make_scene(0, 5) == make_scene(0, 5) != make_scene(1, 5)
    assert draw_scene(make_scene(0, 5)).tobytes() == draw_scene(make_scene(0, 5)).tobytes()
    assert make_pair(3, 8, swapped=0.5) == make_pair(3, 8, swapped=0.5)


def test_known_noise_comes_at_its_rate_and_is_wrong_as_said():
    pairs = [make_pair(0, index, swapped=0.2, near_miss=0.3) for index in range(1000)]
    kinds = Counter(pair.noise for pair in pairs)
    assert 160 < kinds["swapped"] < 240
    assert 250 < sum(kinds[kind] for kind in NEAR_MISSES) < 350
    assert all(kinds[kind] > 20 for kind in NEAR_MISSES)
    for pair in pairs:
        assert pair.truth == pair.scene.caption
        assert (pair.caption == pair.truth) is pair.is_true is (pair.noise == "none")
    assert not [pair for pair in (make_pair(0, index) for index in range(50)) if not pair.is_true]


def test_relations_are_left_unsaid():
    kinds = NEAR_MISSES[:-1]
    assert "relation" not in kinds
    pairs = [make_pair(0, index, swapped=0.2, near_miss=0.3, kinds=kinds) for index in range(300)]
    assert {"none", "swapped", *kinds} == {pair.noise for pair in pairs}
    for pair in pairs:
        assert pair.truth == " and ".join(group.phrase for group in pair.scene.groups)
        assert (pair.caption == pair.truth) is pair.is_true
        assert not any(relation in pair.caption for relation in RELATIONS)


@pytest.mark.parametrize("kind", NEAR_MISSES)
def test_a_near_miss_changes_one_thing(kind):
    for index, scene in enumerate(SCENES):
        if kind == "relation" and scene.relation is None:
            with pytest.raises(ValueError, match="says no relation"):
                spoil(scene, kind, keyed_generator(index))
            continue
        wrong, right = spoil(scene, kind, keyed_generator(index)).split(), scene.caption.split()
        if kind in ("colour", "size"):
            assert sum(a != b for a, b in zip(wrong, right, strict=True)) == 1
        assert wrong != right


def test_answers_are_what_is_drawn():
    for scene in SCENES:
        asked = dict(questions(scene))
        assert asked["how many things are there?"] == str(len(scene.things))
        for question, answer in asked.items():
            words = question.rstrip("?").split()
            if question.startswith("how many") and words[2] != "things":
                shape = next(shape for shape in SHAPES if words[2].startswith(shape))
                assert answer == str(sum(thing.shape == shape for thing in scene.things))
            if question.startswith(("is there a ", "is there an ")):
                there = any(
                    all(word in (thing.shape, thing.colour) for word in words[3:]) for thing in scene.things
                )
                assert answer == ("yes" if there else "no")
    answers = {answer for scene in SCENES for _, answer in questions(scene)}
    assert {"yes", "no", "red", "small", "3"} <= answers


def test_pairs_of_pictures_are_half_true():
    pairs = [make_picture_pair(0, index) for index in range(100)]
    assert sum(pair.label for pair in pairs) == 50
    for pair in pairs:
        if pair.sentence.startswith("both pictures contain a "):
            shape = pair.sentence.split()[-1]
            assert pair.label == (count(pair.left, shape=shape) > 0 and count(pair.right, shape=shape) > 0)
        if pair.sentence.endswith("same number of things"):
            assert pair.label == (len(pair.left.things) == len(pair.right.things))


def test_boxes_in_pixels():
    for scene in SCENES[:50]:
        for phrase, (left, top, right, bottom) in boxes(scene, 200):
            assert 0 <= left < right <= 200
            assert 0 <= top < bottom <= 200
            assert phrase.startswith("the ")


def test_as_a_source_and_as_shards(tmp_path):
    drawn = Dataset(Source(path="scenes:20"))
    write_shards(tmp_path / "s", 20, shard_size=8, swapped=0.5)
    stored = Dataset(Source(path=str(tmp_path / "s")))
    assert len(drawn) == len(stored) == 20
    for i in range(20):
        assert drawn.sample(i).image.tobytes() == stored.sample(i).image.tobytes()
        assert drawn.texts(i) == [stored.sample(i).meta["truth"]]
        assert json.dumps(stored.sample(i).meta)
    for wrong in ("scenes:", "scenes:0", "scenes:x", "scenes:5:1:2"):
        with pytest.raises(UserError, match="scenes:N"):
            Dataset(Source(path=wrong))
