"""`multiway push DIR owner/name`: a model folder to the Hugging Face hub."""

from __future__ import annotations

from collections.abc import Sequence


def push(argv: Sequence[str]) -> None:
    """Upload a model folder with its card."""
    from multiway.cli.arguments import Parser

    parser = Parser("multiway push", "Upload a model folder with its card; `hf auth login` says who you are.")
    parser.add_argument("folder", help="model folder")
    parser.add_argument("name", help="owner/name on the hub; made where there is none")
    parser.add_argument("--private", action="store_true", help="for you alone")
    parser.add_argument("--licence", help="of the weights, as the hub calls it: apache-2.0, ...")
    args = parser.parse(argv)

    from pathlib import Path

    import multiway
    from multiway.errors import UserError

    if not Path(args.folder).is_dir():
        raise UserError(f"there is no folder {args.folder}: give a model folder")
    print(multiway.push_to_hub(args.folder, args.name, private=args.private, licence=args.licence))
