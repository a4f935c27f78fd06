"""`multiway embed SOURCE`: features of pictures and texts, for a vector database that exists already."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

USES: dict[str, Any] = {
    "image": ("images", ("image",)),
    "text": ("texts", ("text",)),
    "both": ("pairs", ("image", "text")),
}


def embed(argv: Sequence[str]) -> None:
    """Write features and their keys, and go on where a run was stopped."""
    from multiway.cli.arguments import Parser
    from multiway.cli.flags import check_folder, positive
    from multiway.cli.labelled import add_source
    from multiway.cli.model import add_device, load_model, progress_bar

    parser = Parser(
        "multiway embed",
        "Write the normalised features of pictures, texts or both, float32, in parts of npy with keys in a "
        "jsonl beside, or of parquet. The same command goes on where one was stopped.",
    )
    add_source(parser, "source")
    parser.add_argument("--model", required=True, help="model folder, hub id or official checkpoint")
    parser.add_argument("--out", required=True, help="folder of the features")
    parser.add_argument(
        "--of",
        choices=tuple(USES),
        default="image",
        help="pictures (a folder or tars without texts will do), texts (a .txt of lines will do), both",
    )
    parser.add_argument("--format", choices=("npy", "parquet"), default="npy", help="parquet needs pyarrow")
    parser.add_argument("--part-size", type=positive, default=10_000, help="samples in a file")
    parser.add_argument("--batch-size", type=positive, default=32, help="pictures or texts at a time")
    add_device(parser)
    args = parser.parse(argv)
    check_folder("--out", args.out)

    import time
    from pathlib import Path

    from multiway.data.dataset import Dataset, Source
    from multiway.tasks.embed import embed as run

    use, kinds = USES[args.of]
    samples = Dataset(
        Source(path=args.source, images=args.images, split=args.split, texts=args.texts, use=use)
    )
    model, began = load_model(args), time.monotonic()
    with progress_bar() as progress:
        report = run(
            model,
            samples,
            Path(args.out),
            kinds=kinds,
            format=args.format,
            part_size=args.part_size,
            batch_size=args.batch_size,
            progress=progress,
        )
    rate = sum(report.written.values()) / max(time.monotonic() - began, 1e-9)
    print(f"{report.sentence()} ({rate:.1f}/s); features in {args.out}")
