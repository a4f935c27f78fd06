"""Two worlds whose noise is known: drawn scenes, and the bundled emoji. What is human, what is web, what is
true.

Human and web pictures are disjoint. Web texts are wrong at a known rate, half of them swapped (another
picture's text), half near misses (one attribute or count wrong; of emoji the name of a like drawing).
Captions of scenes join two groups by `and`: models of this size did not learn in 1,200 steps how groups lie
to each other (a quarter of the four relations right), so that most captions would have been false by chance.
"""

from __future__ import annotations

import hashlib
import io
import re
from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path
from typing import Any

from PIL import Image

from multiway.data import emoji, scenes
from multiway.data.images import decode
from multiway.data.order import keyed_generator
from multiway.data.scene_shards import write_shards as write_scenes
from multiway.data.scene_text import NEAR_MISSES, spoil, unrelated
from multiway.data.shards import Shards, write_shards
from multiway.text import train_vocabulary
from multiway.text.wordpiece import SPECIAL

KINDS = tuple(kind for kind in NEAR_MISSES if kind != "relation")
SIDE = 80  # pixels: a scene's cell is then one patch of 16
TEST_SEED = 77


@dataclass(frozen=True, kw_only=True)
class Sizes:
    """Pictures of the drawn world; of the emoji no more than these."""

    web: int = 6000
    human: int = 1500
    test: int = 500


@dataclass(frozen=True)
class Test:
    """Held-back pictures: an image, its true text, and false ones (kind -> text)."""

    name: str
    source: str
    split: str | None
    images: list[Image.Image]
    texts: list[str]
    true: list[set[str]]
    false: list[dict[str, str]]


def plain(text: str) -> str:
    """A text as truth is compared: words alone, lower case."""
    return " ".join(re.findall(r"\w+", text.lower()))


class Scenes:
    """The drawn world of `multiway.data.scenes`."""

    name = "scenes"

    def __init__(self, folder: Path, sizes: Sizes):
        self.folder, self.sizes = folder, sizes

    def vocabulary(self) -> Path:
        """vocab.txt of every word that a caption can have."""
        words = {"a", "and", *scenes.SIZES, *scenes.COLOURS, *scenes.SHAPES, *scenes.NUMBERS[2:]}
        words |= {f"{s}{'es' if s.endswith('s') else 's'}" for s in scenes.SHAPES}
        return _vocabulary(self.folder, [*SPECIAL, *sorted(words)])

    def pairs(self, noise: float, seed: int) -> tuple[str, str]:
        """Folders of the web and the human tars."""
        web, human = self.folder / f"web-{noise}-{seed}", self.folder / f"human-{seed}"
        half = noise / 2
        draw = partial(write_scenes, image_size=SIDE, shard_size=1000, kinds=KINDS)
        _once(web, lambda: draw(web, self.sizes.web, seed=100 + seed, swapped=half, near_miss=half))
        _once(human, lambda: draw(human, self.sizes.human, seed=200 + seed))
        return str(web), str(human)

    def true(self, seed: int, key: str) -> set[str]:
        """What can be said of web picture `key`."""
        return true_sentences(scenes.make_scene(100 + seed, int(key)))

    def tests(self) -> list[Test]:
        """One test: new scenes."""
        folder = self.folder / "test"
        count = self.sizes.test
        _once(folder, lambda: write_scenes(folder, count, seed=TEST_SEED, image_size=SIDE, kinds=KINDS))
        found = [unrelated(scenes.make_scene(TEST_SEED, i)) for i in range(count)]
        false = []
        for i, scene in enumerate(found):
            wrong: dict[str, str] = {
                kind: spoil(scene, kind, keyed_generator(TEST_SEED, 5, i)) for kind in KINDS
            }
            false.append({**wrong, "swapped": found[(i + 1) % count].caption})
        images = [scenes.draw_scene(scene, SIDE) for scene in found]
        texts = [scene.caption for scene in found]
        return [Test("scenes", str(folder), None, images, texts, [true_sentences(s) for s in found], false)]


def true_sentences(scene: scenes.Scene) -> set[str]:
    """What can be said of a scene: its groups, either first."""
    orders = {scene.groups, scene.groups[::-1]}
    return {scenes.describe(groups, "and" if len(groups) > 1 else None) for groups in orders}


class Emoji:
    """The bundled drawings: a quarter of the training split is human, the rest web; its own test splits."""

    name = "emoji"

    def __init__(self, folder: Path, sizes: Sizes):
        self.folder, self.sizes = folder, sizes

    def vocabulary(self) -> Path:
        """vocab.txt learned from the training names."""
        drawings = emoji.open_split("train")
        place = self.folder / "vocab"
        if not (place / "vocab.txt").exists():
            train_vocabulary((_name(drawings, i) for i in range(len(drawings))), size=1500).save(place)
        return place / "vocab.txt"

    def pairs(self, noise: float, seed: int) -> tuple[str, str]:
        """Folders of the web and the human tars."""
        drawings, meta = emoji.open_split("train"), emoji.read_meta()
        names = [_name(drawings, i) for i in range(len(drawings))]
        groups: dict[str, list[int]] = {}
        for i in range(len(drawings)):
            groups.setdefault(meta[drawings.key(i)]["subgroup"], []).append(i)

        def web_text(i: int) -> tuple[str, str]:
            draw = keyed_generator(seed, 31, i)
            fate = draw.random()
            if fate >= noise:
                return names[i], "none"
            like = groups[meta[drawings.key(i)]["subgroup"]] if fate < noise / 2 else range(len(names))
            others = [names[j] for j in like if names[j] != names[i]] or names[:1]
            return others[int(draw.integers(len(others)))], "near" if fate < noise / 2 else "swapped"

        def samples(human: bool):
            for i in range(min(len(drawings), self.sizes.web)):
                key = drawings.key(i)
                if (hashlib.sha256(f"{seed} {key}".encode()).digest()[0] < 64) != human:
                    continue
                text, kind = (names[i], "none") if human else web_text(i)
                png = io.BytesIO()
                decode(drawings.image(i)).save(png, "PNG")
                json_ = {"caption": text, "truth": names[i], "noise": kind}
                yield {"__key__": key, "png": png.getvalue(), "txt": text, "json": json_}

        web, human = self.folder / f"web-{noise}-{seed}", self.folder / f"human-{seed}"
        _once(web, lambda: write_shards(web, samples(False), shard_size=1000))
        _once(human, lambda: write_shards(human, samples(True)))
        return str(web), str(human)

    def true(self, seed: int, key: str) -> set[str]:
        """The drawing's name."""
        return {plain(_names()[key])}

    def tests(self) -> list[Test]:
        """Unseen names whose words were seen, and an unseen style of seen names."""
        found = []
        for split in ("combination", "style"):
            drawings = emoji.open_split(split)
            names = [_name(drawings, i) for i in range(min(len(drawings), self.sizes.test * 2))]
            images = [decode(drawings.image(i)) for i in range(len(names))]
            false = [{"swapped": names[(i + 7) % len(names)]} for i in range(len(names))]
            found.append(Test(split, "emoji", split, images, names, [{plain(name)} for name in names], false))
        return found


def _name(drawings: Any, i: int) -> str:
    return drawings.texts(i)[0]


@cache
def _names() -> dict[str, str]:
    drawings = emoji.open_split("train")
    return {drawings.key(i): _name(drawings, i) for i in range(len(drawings))}


def _vocabulary(folder: Path, tokens: list[str]) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "vocab.txt"
    path.write_text("\n".join(tokens) + "\n")
    return path


def _once(folder: Path, write) -> None:
    """Write a folder's tars if they are not all there: a killed run had not marked them."""
    mark = folder / "whole"
    if not mark.exists():
        write()
        mark.touch()


def noise_kinds(folder: str) -> dict[str, str]:
    """key -> what is wrong with its web text, of the tars in a folder."""
    found = {}
    for path in sorted(Path(folder).glob("*.tar")):
        shard = Shards([str(path)])
        found |= {shard.key(i): shard.meta(i)["noise"] for i in range(len(shard))}
    return found


WORLDS = {world.name: world for world in (Scenes, Emoji)}
