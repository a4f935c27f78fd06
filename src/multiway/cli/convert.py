"""`multiway convert SRC OUT`: a model in another layout; with --check, what loading it would do."""

from __future__ import annotations

from collections.abc import Sequence

LAYOUTS = ("multiway", "transformers", "open_clip", "official")
SHOWN = 20  # names of each kind


def convert(argv: Sequence[str]) -> None:
    """Write a model anew, or report on it."""
    from multiway.cli.arguments import Parser
    from multiway.cli.flags import positive
    from multiway.errors import UserError

    parser = Parser(
        "multiway convert",
        "Write a model in another layout: a folder of ours (multiway), a folder that transformers reads "
        "(transformers: BEiT, BLIP, CLIP, MAE, ViLT) or open_clip (CLIP, CoCa), or a checkpoint as authors "
        "publish it (official: ALBEF, BEiT, BEiT-3, BLIP, CLIP, CoCa, dVAE, FLIP, MAE, ViLT, VLMo, VQ-KD). "
        "With --check nothing is written: it says which tensors match, are resized, missing or unexpected.",
    )
    parser.add_argument("source", help="model folder, hub id or official checkpoint")
    parser.add_argument("out", nargs="?", help="new folder, or x.pth or x.safetensors for official")
    parser.add_argument("--to", choices=LAYOUTS, default="multiway", help="the layout that is written")
    parser.add_argument("--image-size", type=positive, help="pixels; a ViT's positions are resized to it")
    parser.add_argument(
        "--text-length", type=positive, help="tokens; the table of text positions is stretched to it"
    )
    parser.add_argument("--check", "--dry-run", action="store_true", help="report and write nothing")
    parser.add_argument("--json", action="store_true", help="print the report as one JSON object")
    args = parser.parse(argv)
    if not args.check and args.out is None:
        raise UserError("where to? name the new folder or file, or give --check")

    import json
    from dataclasses import asdict
    from pathlib import Path

    from multiway.weights.convert import convert, examine, unsaid

    sizes = {"image_size": args.image_size, "text_length": args.text_length}
    if args.check:
        system, report = examine(args.source, **sizes)
        if args.json:
            print(json.dumps({"system": system, **asdict(report)}))
            return
        for kind, names in asdict(report).items():
            _show(kind, names, listed=kind != "matched")
        print(f"{args.source} is a {system}; nothing was written")
        return
    out = convert(args.source, args.out, to=args.to, **sizes)
    if Path(args.source).is_file():  # a folder fits its own config
        _, report = examine(args.source)
        state = [name for name in report.matched if name.startswith("state.")]
        for kind, names in (("dropped", state), ("unexpected", report.unexpected)):
            if names:  # momentum models and queues; what the layout does not know
                _show(kind, names)
    if args.to != "multiway":
        found = unsaid(args.source, out, **sizes)
        for kind, names in zip(("left out", "unsaid"), found, strict=True):
            if names:
                _show(kind, names)
        if any(found):
            print("these are not in it: tell the settings to what reads it, and keep the model folder")
    print(f"{args.to} layout in {out}")


def _show(kind: str, names: Sequence[str], *, listed: bool = True) -> None:
    """How many names are of a kind, and the first of them."""
    print(f"{kind:<10} {len(names):>5}")
    if listed:
        for name in names[:SHOWN]:
            print(f"  {name}")
        if len(names) > SHOWN:
            print(f"  ... and {len(names) - SHOWN} more (--check --json has all)")
