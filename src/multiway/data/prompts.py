"""Tasks as text in, text out: drawn scenes and bundled drawings with a prompt and its answer.

    caption     what does the picture show?            a large blue star above two green squares
    question    what colour is the star?               blue
    classify    what kind of thing is it?              red circle
    ground      where is the large blue star?          <4><1><11><8>
    region      what is at <4><1><11><8>?              large blue star
    draw        draw a large blue star                 (nothing: the answer is the picture itself)

A text of a sample is `prompt TAB answer`. How often a task is seen is its source's weight: PaLI's mixture.
"""

from __future__ import annotations

import itertools
from collections import Counter
from typing import Any

from multiway.data import emoji
from multiway.data.locations import Box, written
from multiway.data.scene_text import questions
from multiway.data.scenes import Scene, draw_scene, make_scene
from multiway.data.tables import refuse_split
from multiway.errors import UserError

#: Location tokens that boxes are written with.
BINS = 32
CAPTION, CLASSIFY, GROUP = "what does the picture show?", "what kind of thing is it?", "which group is it in?"


def say(prompt: str, answer: str) -> str:
    """Prompt and answer in one text."""
    return f"{prompt}\t{answer}"


def prompted(prompt: str, text: str) -> str:
    """A prompt with `text` as its answer; one with `{}` has the text there, and its picture answers."""
    text = " ".join(text.split())
    return say(prompt.replace("{}", text), "") if "{}" in prompt else say(prompt, text)


def located(scene: Scene) -> list[tuple[str, Box]]:
    """(name without article, box in shares) of every thing that is alone in its group."""
    return [
        (f"{thing.size} {thing.colour} {thing.shape}", thing.box)
        for thing in scene.things
        if scene.groups[thing.group].count == 1
    ]


def scene_texts(task: str, scene: Scene) -> list[str]:
    """What a task says about a scene; nothing where it does not fit.

    Raises:
        KeyError: there is no such task.
    """
    kinds = {(thing.colour, thing.shape) for thing in scene.things}
    return {
        "caption": lambda: [say(CAPTION, scene.caption)],
        "question": lambda: [say(question, answer) for question, answer in questions(scene)],
        "classify": lambda: [say(CLASSIFY, " ".join(kind)) for kind in kinds if len(kinds) == 1],
        "ground": lambda: [say(f"where is the {name}?", written(box, BINS)) for name, box in located(scene)],
        "region": lambda: [say(f"what is at {written(box, BINS)}?", name) for name, box in located(scene)],
        "draw": lambda: [say(f"draw {scene.caption}", "")],
    }[task]()


TASKS = ("caption", "question", "classify", "ground", "region", "draw")


class ScenePrompts:
    """`n` samples of one task; each is the first scene that it fits, of those kept for its number."""

    def __init__(self, task: str, n: int, seed: int = 0, image_size: int = 96):
        self.task, self.n, self.seed, self.image_size = task, n, seed, image_size
        self.problems: Counter[str] = Counter()

    def __len__(self) -> int:
        return self.n

    def key(self, i: int) -> str:
        return f"{self.task}_{self.seed}_{i:08d}"

    def scene(self, i: int) -> Scene:
        """The scene of sample `i`."""
        scenes = (make_scene(self.seed, i + k * self.n) for k in itertools.count())
        return next(scene for scene in scenes if scene_texts(self.task, scene))

    def texts(self, i: int) -> list[str]:
        return scene_texts(self.task, self.scene(i))

    def image(self, i: int) -> Any:
        return draw_scene(self.scene(i), self.image_size)

    def meta(self, i: int) -> dict[str, Any]:
        return {"scene": self.scene(i)}


class DrawingPrompts:
    """Bundled drawings: their names (`caption`), their groups (`classify`), or the drawings (`draw`)."""

    def __init__(self, task: str, split: str):
        self.task, self._drawings = task, emoji.open_split(split)
        self.problems: Counter[str] = Counter()

    def __len__(self) -> int:
        return len(self._drawings)

    def key(self, i: int) -> str:
        return self._drawings.key(i)

    def texts(self, i: int) -> list[str]:
        name = self._drawings.texts(i)[0]
        if self.task == "classify":
            return [say(GROUP, self._drawings.meta(i)["group"])]
        return [say(CAPTION, name) if self.task == "caption" else say(f"draw {name}", "")]

    def image(self, i: int) -> bytes:
        return self._drawings.image(i)

    def meta(self, i: int) -> dict[str, Any]:
        return self._drawings.meta(i)


def parse(path: str, split: str | None = None) -> ScenePrompts | DrawingPrompts:
    """`prompts:TASK:N`, `prompts:TASK:N:SEED` (drawn scenes), or `prompts:TASK:emoji`.

    Raises:
        UserError: it names no such task or no number, or `split` is of drawn scenes.
    """
    _, task, *rest = path.split(":")
    if rest == ["emoji"] and task in ("caption", "classify", "draw"):
        return DrawingPrompts(task, split or "all")
    if task in TASKS and len(rest) in (1, 2) and all(x.isdigit() for x in rest) and int(rest[0]):
        refuse_split(split, path)
        return ScenePrompts(task, *map(int, rest))
    raise UserError(
        f"{path} names no prompts: write prompts:TASK:N or prompts:TASK:N:SEED with one of "
        f"{', '.join(TASKS)}, or prompts:caption:emoji (likewise classify, draw)"
    )
