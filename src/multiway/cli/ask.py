"""`multiway ask IMAGE PROMPT`: any task of a generalist, by its prompt."""

from __future__ import annotations

import argparse
from collections.abc import Sequence

ABOUT = """Answer a prompt: a caption, an answer, a class, boxes, or a picture (--out). IMAGE is - for none.
Boxes are printed in pixels (left, top, right, bottom); in a prompt they are location tokens, as the model was
trained with: <4><1><11><8>."""


def ask(argv: Sequence[str]) -> None:
    """Print the answer; or the candidates, best first; or write a picture."""
    from multiway.cli.arguments import Parser
    from multiway.cli.model import add_device, load_model
    from multiway.errors import UserError

    parser = Parser("multiway ask", ABOUT)
    parser.add_argument("image", help="a picture, or - for none")
    parser.add_argument("prompt", help='as in "what does the picture show?"')
    parser.add_argument("--model", required=True, help="model folder of a generalist")
    parser.add_argument("--candidates", nargs="+", metavar="TEXT", help="answers of which one must come")
    parser.add_argument(
        "--by", choices=("words", "cosine"), default="words", help="what orders the candidates: likelihood of"
    )
    parser.add_argument("--box", action="store_true", help="the answer is a box, and nothing else")
    parser.add_argument("--out", metavar="PICTURE", help="the answer is a picture: write it there")
    parser.add_argument("--seed", type=int, help="of a picture (--out); 0 without")
    add_device(parser)
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    args = parser.parse(argv)
    if sum(bool(value) for value in (args.candidates, args.box, args.out)) > 1:
        raise UserError("--candidates, --box and --out say what the answer is: give one of them")

    if args.by == "cosine" and not args.candidates:
        raise UserError("--by orders candidates: give --candidates, or leave it out")
    if args.seed is not None and args.out is None:
        raise UserError("--seed is of a picture that is drawn: give --out, or leave it out")

    from multiway.systems.asking import Asking

    model = load_model(args)
    if not isinstance(model, Asking):
        raise UserError(
            f"{type(model).__name__} answers no prompts: give a generalist, or use caption, match or classify"
        )
    _print(_answer(model, args), args.json)


def _answer(model, args: argparse.Namespace) -> dict:
    """What the model says, as it is printed with --json."""
    from multiway.errors import UserError

    said: dict = {"image": None if args.image == "-" else args.image, "prompt": args.prompt}
    if args.out is not None:
        if said["image"] is not None:
            raise UserError("a picture is drawn from a prompt alone: give - for IMAGE")
        return said | {"picture": _draw(model, args)}
    image, pixels = None, None
    if said["image"] is not None:
        from multiway.systems.pictures import opened

        image = [opened(args.image)]
        pixels = image[0].size
    if args.candidates:
        candidates = [*dict.fromkeys(args.candidates)]  # one that comes twice would count twice
        scores = model.likelihoods(image, args.prompt, candidates, by=args.by)[0]
        found = dict(zip(candidates, scores.softmax(0).tolist(), strict=True))
        ordered = sorted(found.items(), key=lambda pair: -pair[1])
        return said | {"answer": ordered[0][0], "candidates": dict(ordered)}
    if args.box:
        return said | {"box": _in_pixels(model.locate(image, args.prompt)[0], pixels)}
    from multiway.data.locations import read

    (text,) = model.answer(image, args.prompt)
    box = read(text, model.words.config.locations)
    return said | {"answer": text} | ({} if box is None else {"box": _in_pixels(box, pixels)})


def _in_pixels(box: Sequence[float], size: tuple[int, int] | None) -> list[float]:
    """A box in pixels of its picture; in shares where there is none."""
    width, height = size or (1, 1)
    return [round(share * side, 1) for share, side in zip(box, (width, height) * 2, strict=True)]


def _draw(model, args: argparse.Namespace) -> str:
    from multiway.errors import UserError
    from multiway.generation import GenerationConfig
    from multiway.tasks.generalist import pictured

    config = GenerationConfig(method="sample", top_p=0.9, seed=args.seed or 0)
    (picture,) = pictured(model.draw(args.prompt, config=config))
    try:
        picture.save(args.out)
    except (OSError, ValueError) as error:
        raise UserError(f"{args.out} can't be written ({error}): give a path as drawing.png") from None
    return args.out


def _print(said: dict, as_json: bool) -> None:
    if as_json:
        import json

        print(json.dumps(said))
    elif "picture" in said:
        print(f"picture in {said['picture']}")
    elif "candidates" in said:
        for text, probability in said["candidates"].items():
            print(f"{probability:.3f}  {text}")
    else:
        if "answer" in said:
            print(said["answer"])
        if "box" in said:
            print("box " + " ".join(f"{value:g}" for value in said["box"]))
