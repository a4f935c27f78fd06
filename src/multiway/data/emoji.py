"""The bundled real sample: 5,054 drawings of Noto, Twemoji and Fluent with their names and tags.

Provenance and licences lie beside the drawings (`emoji/LICENCES.md`); `scripts/build_emoji.py` rebuilds them.
The protocol: train on `train` (Noto and Twemoji); `combination` holds names never trained on whose words are
all seen in other names; `style` holds Fluent's drawings, an unseen style, of trained names. Line 1 of a text
is the name, line 2, where there is one, its tags.

Every concept has names in nine more languages (skin-tone variants have none). `train:de+fr` shows the German
and French names of the training drawings. Of each of the nine some names are held back: never trained on with
any picture, though each of their words is, in other names, and though the pictures are, under their names in
English and other languages. `transfer:de` asks for those.
"""

from __future__ import annotations

import hashlib
import json
import re
import unicodedata
from collections import Counter
from functools import cache
from pathlib import Path
from typing import Any

from multiway.data.shards import Shards
from multiway.errors import UserError

FOLDER = Path(__file__).with_name("emoji")
SPLITS = ("train", "combination", "style", "all")
#: English first, which holds nothing back.
LANGUAGES = ("en", "de", "fr", "es", "pt", "ru", "zh", "ja", "hi", "ko")
#: So many languages may hold back the name of a concept: all others learn its picture.
HELD_LANGUAGES = 3
# Ideographs are words. Python's \w lacks the signs of Devanagari.
_WORDS = re.compile(r"[\u3400-\u9fff]|[\u0900-\u097f]+|[^\W\u3400-\u9fff\u0900-\u097f]+")


class Split:
    """The drawings of one split, in the protocol's order.

    Args:
        names: the texts of each row instead of those in the shards.
    """

    def __init__(self, shards: Shards, rows: list[int], names: list[list[str]] | None = None):
        self.shards = shards
        self.rows = rows
        self.names = names
        self.problems: Counter[str] = Counter()

    def __len__(self) -> int:
        return len(self.rows)

    def key(self, i: int) -> str:
        return self.shards.key(self.rows[i])

    def texts(self, i: int) -> list[str]:
        return self.shards.texts(self.rows[i]) if self.names is None else self.names[i]

    def image(self, i: int) -> bytes:
        return self.shards.image(self.rows[i])

    def meta(self, i: int) -> dict[str, Any]:
        """Vendor, code points, name, group, skin tone and licence."""
        return read_meta()[self.key(i)]


def open_split(split: str = "all") -> Split:
    """The drawings of `train`, `combination`, `style`, or `all` (the sample whole, in the tars' order).

    Args:
        split: with languages, as `style:de` or `train:en+ja`: their names are the texts. `train` and `style`
            leave out what is held back of a language, `transfer` shows nothing else (of `train`'s drawings).

    Raises:
        UserError: no such split or language.
    """
    name, _, chosen = split.partition(":")
    if name not in SPLITS and not (name == "transfer" and chosen):
        raise UserError(
            f"The emoji sample has no split {split}: choose from {', '.join(SPLITS)}, or transfer:LANGUAGE."
        )
    shards = _shards()
    row = {shards.key(i): i for i in range(len(shards))}
    keys = list(row) if name == "all" else read_protocol()["train" if name == "transfer" else name]
    if not chosen:
        return Split(shards, [row[key] for key in keys])
    languages = chosen.split("+")
    if unknown := [language for language in languages if language not in LANGUAGES]:
        raise UserError(
            f"The emoji sample has no names in {', '.join(unknown)}: choose from {', '.join(LANGUAGES)}."
        )
    names, held = read_names(), held_back()
    shown: list[tuple[int, list[str]]] = []
    for key in keys:
        code = read_meta()[key]["hexcode"]
        texts = [
            names[code][language]
            for language in languages
            if code in names
            and (name in ("combination", "all") or (code in held[language]) == (name == "transfer"))
        ]
        if texts:
            shown.append((row[key], texts))
    return Split(shards, [number for number, _ in shown], [texts for _, texts in shown])


@cache
def read_names() -> dict[str, dict[str, str]]:
    """hexcode -> language -> the name of each concept."""
    return {concept["hexcode"]: {"en": concept["label"], **concept["labels"]} for concept in read_concepts()}


@cache
def held_back() -> dict[str, frozenset[str]]:
    """language -> hexcodes of the trained concepts whose name in it is never trained on.

    Each of its words comes in another trained name of that language, and the name itself in no language
    besides. Three languages in nine ask for a concept, by a hash of its code; English for none.
    """
    names = read_names()
    trained = {read_meta()[key]["hexcode"] for key in read_protocol()["train"]} & names.keys()
    lot = {code: int(hashlib.sha256(code.encode()).hexdigest(), 16) for code in trained}
    spelled = Counter(_plain(name) for code in names for name in names[code].values())
    held: dict[str, frozenset[str]] = {"en": frozenset()}
    for number, language in enumerate(LANGUAGES[1:]):
        words = {code: set(_WORDS.findall(_plain(names[code][language]))) for code in trained}
        left = Counter(word for code in trained for word in words[code])
        chosen: set[str] = set()
        for code in sorted(trained, key=lot.__getitem__):
            asked = (lot[code] - number) % len(LANGUAGES[1:]) < HELD_LANGUAGES
            alone = spelled[_plain(names[code][language])] == 1
            if asked and alone and all(left[word] > 1 for word in words[code]):
                chosen.add(code)
                left.subtract(words[code])
        held[language] = frozenset(chosen)
    return held


def _plain(name: str) -> str:
    return unicodedata.normalize("NFKC", name).lower()


@cache
def _shards() -> Shards:
    return Shards(str(path) for path in sorted(FOLDER.glob("*.tar")))


@cache
def read_protocol() -> dict[str, list[str]]:
    """The keys of each split, from protocol.json."""
    read = json.loads((FOLDER / "protocol.json").read_text(encoding="utf-8"))
    return {split: keys for split, keys in read.items() if isinstance(keys, list)}


@cache
def read_meta() -> dict[str, dict[str, Any]]:
    """key -> vendor, hexcode, label, group, subgroup, tone, licence of every drawing."""
    rows = (json.loads(line) for line in (FOLDER / "meta.jsonl").read_text(encoding="utf-8").splitlines())
    return {row["key"]: row for row in rows}


@cache
def read_concepts() -> tuple[dict[str, Any], ...]:
    """hexcode, label, tags, group and the labels in nine more languages of the 1,514 concepts."""
    lines = (FOLDER / "concepts.jsonl").read_text(encoding="utf-8").splitlines()
    return tuple(json.loads(line) for line in lines)
