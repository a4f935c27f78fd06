"""What judges a generalist: the reader of drawn scenes, nearest counts, and measuring itself."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace

import pytest
import tiny_generalist

from multiway.data.scene_reader import counts, read, shows
from multiway.data.scenes import RELATIONS, draw_scene, make_scene
from multiway.tasks.generalist import drawings, measure, nearest


def test_pictures_that_the_world_drew_are_read_as_they_are() -> None:
    for i in range(12):
        scene = make_scene(5, i)
        picture = draw_scene(scene, 80)
        kinds = Counter((thing.size, thing.colour, thing.shape) for thing in scene.things)
        assert Counter(read(picture).values()) == kinds
        assert shows(picture, scene)
        assert counts(picture)[(scene.groups[0].colour,)] >= scene.groups[0].count
        assert not shows(draw_scene(make_scene(5, i + 50), 80), scene)
        if scene.relation is not None:
            assert not shows(picture, replace(scene, relation=RELATIONS[scene.relation]))


def test_the_nearest_by_counts_and_ties_are_no_answer() -> None:
    known = [Counter("aab"), Counter("abc"), Counter("cc")]
    assert nearest([Counter("ab"), Counter("c"), Counter("aab")], known).tolist() == [-1, 2, 0]


@pytest.mark.filterwarnings("ignore:a text was cut")  # the small vocabulary spells its words
def test_every_task_is_measured_beside_other_pictures() -> None:
    model = tiny_generalist.build().eval()
    for task in ("caption", "question", "classify", "ground"):
        found = measure(model, task, n=6)
        assert found["n"] == 6
        for name in ("own", "shuffled"):
            low, high = found[name]["interval"]
            assert 0 <= low <= found[name]["right"] <= high <= 100
        assert len(found["examples"]) == 6
    result, pictures = drawings(model, n=4)
    assert result["shown_real"] == result["r1_real"] == 100
    assert result["shown"] == 0
    assert len(pictures) == 4
