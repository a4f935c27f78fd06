"""The flags of text generation, for every command that generates."""

from __future__ import annotations

import argparse

from multiway.cli.arguments import Parser
from multiway.cli.flags import positive
from multiway.errors import UserError

#: Flags that one method alone looks at.
OF_METHOD = {"beam": ("--beams",), "sample": ("--top-p", "--top-k", "--temperature", "--seed")}


def add_generation(parser: Parser) -> None:
    """The flags of generation; `options_of` reads them."""
    parser.add_argument(
        "--method", choices=("beam", "greedy", "sample"), default="beam", help="search, or draw (nucleus)"
    )
    parser.add_argument("--n", type=positive, default=1, help="captions a picture, best first")
    parser.add_argument("--beams", type=int, help="of beam search; without it the model's own, or n")
    parser.add_argument("--prompt", help="what every caption continues; without it the model's own")
    parser.add_argument("--min-length", type=int, help="new tokens, the end token included; else the model's")
    parser.add_argument("--max-length", type=int, help="likewise")
    parser.add_argument("--top-p", type=float, help="of sample: draw from this mass; without it 0.9")
    parser.add_argument("--top-k", type=int, help="of sample: draw from the likeliest k only")
    parser.add_argument("--temperature", type=float, help="of sample: below 1 is bolder, above 1 wilder")
    parser.add_argument("--repetition-penalty", type=float, help="above 1 discourages repeated words")
    parser.add_argument("--seed", type=int, help="of sample; without it 0")


def options_of(args: argparse.Namespace):
    """The `Options` that the arguments of `add_generation` say."""
    from multiway.tasks.caption_many import Options

    if args.n < 1:
        raise UserError(f"--n is {args.n}: give at least 1 caption a picture")
    for method, flags in OF_METHOD.items():
        ignored = [flag for flag in flags if getattr(args, flag[2:].replace("-", "_")) is not None]
        if args.method != method and ignored:
            raise UserError(
                f"{', '.join(ignored)} would do nothing with --method {args.method}: add --method {method}, "
                "or leave it out"
            )
    return Options(
        method=args.method,
        number=args.n,
        beams=args.beams,
        prompt=args.prompt,
        min_length=args.min_length,
        max_length=args.max_length,
        top_p=args.top_p,
        top_k=args.top_k,
        temperature=args.temperature,
        repetition_penalty=args.repetition_penalty,
        seed=args.seed or 0,
    )
