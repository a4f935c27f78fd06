"""Rebuild the bundled emoji drawings from the public packages they come from.

    python scripts/build_emoji.py --out DIR [--packages DIR]

Reads which drawings belong to the sample (and their order) from `src/multiway/data/emoji/meta.jsonl`,
fetches the four npm packages named below with `npm pack` (or takes their .tgz files from `--packages`),
draws every SVG with resvg on white at 80 px, and writes the tars, meta.jsonl and concepts.jsonl to DIR. Then
it compares each file with the bundled one, byte for byte, and exits with 1 if one differs. Needs
`resvg_py==0.5.0` and Pillow.
"""

from __future__ import annotations

import argparse
import io
import json
import shutil
import subprocess
import sys
import tarfile
from pathlib import Path

import resvg_py
from PIL import Image

BUNDLED = Path(__file__).parents[1] / "src/multiway/data/emoji"
PACKAGES = {
    "noto": "@iconify-json/noto@1.2.9",
    "twemoji": "@iconify-json/twemoji@1.2.5",
    "fluent": "@iconify-json/fluent-emoji-flat@1.2.6",
    "names": "emojibase-data@17.0.0",
}
LICENCES = {
    "noto": "Apache-2.0 (Google Noto Emoji)",
    "twemoji": "CC-BY-4.0 (Twitter/jdecked Twemoji)",
    "fluent": "MIT (Microsoft Fluent Emoji flat)",
}
LANGUAGES = ("de", "fr", "es", "pt", "ru", "zh", "ja", "hi", "ko")
SIDE = 80
SHARD_SIZE = 2000


class Package:
    """The JSON files of one npm package."""

    def __init__(self, spec: str, folder: Path):
        name, _, version = spec.rpartition("@")
        self.tgz = folder / f"{name.lstrip('@').replace('/', '-')}-{version}.tgz"
        if not self.tgz.exists():
            folder.mkdir(parents=True, exist_ok=True)
            subprocess.run([shutil.which("npm") or "npm", "pack", spec, "--silent"], cwd=folder, check=True)

    def json(self, path: str):
        with tarfile.open(self.tgz) as tar:
            return json.load(tar.extractfile(f"package/{path}"))


class Drawings:
    """One vendor's SVGs, by code points."""

    def __init__(self, package: Package):
        self.icons = package.json("icons.json")
        self.names = package.json("chars.json")

    def svg(self, hexcode: str) -> str:
        """The SVG of `1f468-200d-1f393`; the packages leave the variation selector fe0f out of some names."""
        code = hexcode.lower()
        bare = "-".join(part for part in code.split("-") if part != "fe0f")
        name = self.names.get(code) or self.names[bare]
        while name in self.icons.get("aliases", {}):
            name = self.icons["aliases"][name]["parent"]
        icon = self.icons["icons"][name]
        left, top = icon.get("left", 0), icon.get("top", 0)
        width, height = (icon.get(side, self.icons.get(side, 16)) for side in ("width", "height"))
        view = f"{left} {top} {width} {height}"
        return f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="{view}">{icon["body"]}</svg>'

    def jpeg(self, hexcode: str) -> bytes:
        """The drawing as an 80x80 JPEG on white; one that is not square lies in the middle."""
        png = resvg_py.svg_to_bytes(svg_string=self.svg(hexcode), width=SIDE, height=SIDE)
        drawn = Image.open(io.BytesIO(bytes(png))).convert("RGBA")
        page = Image.new("RGBA", (SIDE, SIDE), "white")
        page.alpha_composite(drawn, ((SIDE - drawn.width) // 2, (SIDE - drawn.height) // 2))
        out = io.BytesIO()
        page.convert("RGB").save(out, "JPEG", quality=82, optimize=True)
        return out.getvalue()


def read_names(package: Package, language: str) -> dict[str, dict]:
    """hexcode -> emojibase's entry; a skin-tone variant gets its parent's group and no tags of its own."""
    names = {}
    for entry in package.json(f"{language}/data.json"):
        names[entry["hexcode"]] = {**entry, "tone": None}
        for skin in entry.get("skins", []):
            names[skin["hexcode"]] = {
                "group": entry.get("group"),
                "subgroup": entry.get("subgroup"),
                **skin,
                "tags": [],
            }
    return names


def caption(name: dict) -> str:
    """Line 1 the CLDR name, line 2 the tags; a skin-tone variant has its name alone."""
    return "\n".join([name["label"], ", ".join(name["tags"])] if name.get("tags") else [name["label"]])


def add(tar: tarfile.TarFile, name: str, content: bytes) -> None:
    info = tarfile.TarInfo(name)  # mode 644, owner 0, time 0: the same bytes on every machine
    info.size = len(content)
    tar.addfile(info, io.BytesIO(content))


def build(out: Path, packages: Path) -> list[Path]:
    """Write the sample to `out`; returns the files."""
    out.mkdir(parents=True, exist_ok=True)
    emojibase = Package(PACKAGES["names"], packages)
    drawings = {vendor: Drawings(Package(PACKAGES[vendor], packages)) for vendor in LICENCES}
    names = read_names(emojibase, "en")
    groups = emojibase.json("meta/groups.json")
    wanted = [json.loads(line)["key"] for line in (BUNDLED / "meta.jsonl").read_text().splitlines()]

    files, meta = [], []
    for start in range(0, len(wanted), SHARD_SIZE):
        files.append(out / f"emoji-train-{start // SHARD_SIZE:06d}.tar")
        with tarfile.open(files[-1], "w", format=tarfile.USTAR_FORMAT) as tar:
            for key in wanted[start : start + SHARD_SIZE]:
                vendor, _, code = key.partition("_")
                name = names[code.upper()]
                add(tar, f"{key}.jpg", drawings[vendor].jpeg(code))
                add(tar, f"{key}.txt", caption(name).encode())
                meta.append(
                    {
                        "key": key,
                        "vendor": vendor,
                        "hexcode": code.upper(),
                        "label": name["label"],
                        "group": groups["groups"][str(name["group"])],
                        "subgroup": groups["subgroups"][str(name["subgroup"])],
                        "split": "train",
                        "tone": name["tone"],
                        "licence": LICENCES[vendor],
                    }
                )

    translated = {language: read_names(emojibase, language) for language in LANGUAGES}
    drawn = {row["hexcode"] for row in meta if row["tone"] is None}
    concepts = [
        {
            "hexcode": code,
            "label": name["label"],
            "tags": name["tags"],
            "group": groups["groups"][str(name["group"])],
            "labels": {language: translated[language][code]["label"] for language in LANGUAGES},
        }
        for code, name in names.items()
        if code in drawn
    ]
    for filename, rows in (("meta.jsonl", meta), ("concepts.jsonl", concepts)):
        files.append(out / filename)
        files[-1].write_text(
            "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8"
        )
    return files


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--packages", type=Path, help="folder of the .tgz files (default: OUT/packages)")
    args = parser.parse_args()
    files = build(args.out, args.packages or args.out / "packages")
    same = [file.read_bytes() == (BUNDLED / file.name).read_bytes() for file in files]
    for file, equal in zip(files, same, strict=True):
        print(f"{file.name}: {'identical' if equal else 'DIFFERS from the bundled file'}")
    return 0 if all(same) else 1


if __name__ == "__main__":
    sys.exit(main())
