"""`multiway ground IMAGE TEXT`: where in a picture a text's words are seen."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path


def ground(argv: Sequence[str]) -> None:
    """Print the hottest point, and write the picture with its heat."""
    from multiway.cli.arguments import Parser
    from multiway.cli.evaluate_grounding import add_looking
    from multiway.cli.model import add_device, load_model

    parser = Parser(
        "multiway ground",
        "Where in a picture is what a text says? Grad-CAM: what of the picture raises the score of a match.",
    )
    parser.add_argument("image", help="a picture")
    parser.add_argument("text", help="what to look for")
    parser.add_argument("--model", required=True, help="model folder or official checkpoint of ALBEF or BLIP")
    parser.add_argument("--out", metavar="HEAT.png", help="write the picture, hot where the text is seen")
    add_looking(parser)
    add_device(parser)
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    args = parser.parse(argv)
    if args.out is not None:
        _check_picture(args.out)

    import json

    import numpy as np

    from multiway.explain import overlay
    from multiway.systems.pictures import opened
    from multiway.tasks.grounding import heat_of

    picture = opened(args.image)
    (heat,) = heat_of(load_model(args), [picture], [args.text], by=args.by, layer=args.layer)
    y, x = np.unravel_index(int(heat.argmax()), heat.shape)
    if args.out is not None:
        overlay(picture, heat).save(args.out)
    if args.json:
        print(json.dumps({"image": args.image, "text": args.text, "x": int(x), "y": int(y)}))
        return
    print(f"hottest at x {x}, y {y} of {picture.width} x {picture.height}")
    if args.out is not None:
        print(f"heat in {args.out}")


def _check_picture(out: str) -> None:
    """Refuse a picture that can't be written, before a model is loaded."""
    from PIL import Image

    from multiway.cli.flags import check_file
    from multiway.errors import UserError

    if Image.registered_extensions().get(Path(out).suffix.lower()) not in Image.SAVE:
        raise UserError(f"--out {out} names no kind of picture that can be written: name it x.png")
    check_file("--out", out)
    if not Path(out).parent.is_dir():
        raise UserError(f"--out {out} lies in a folder that is not there: make {Path(out).parent} first")
