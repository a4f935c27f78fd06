"""`multiway evaluate TASK`: measure a model on held-back data."""

from __future__ import annotations

from collections.abc import Sequence

from multiway.cli.arguments import Command, Parser, dispatch
from multiway.cli.flags import positive

COMMANDS = {
    "retrieval": Command(
        "multiway.cli.evaluate_retrieval:retrieval", "texts of pictures and pictures of texts, in two stages"
    ),
    "caption": Command("multiway.cli.evaluate:caption", "captions against the texts of pictures"),
    "nlvr2": Command("multiway.cli.evaluate_labels:nlvr2", "is a sentence true of two pictures?"),
    "classify": Command("multiway.cli.evaluate_labels:classify", "which class is a picture of?"),
    "zero_shot": Command(
        "multiway.cli.evaluate_zero_shot:zero_shot", "the same, by the classes' names alone"
    ),
    "entailment": Command("multiway.cli.evaluate_labels:entailment", "is a sentence true of a picture?"),
    "vqa": Command("multiway.cli.evaluate_vqa:vqa", "what is the answer to a question about a picture?"),
    "grounding": Command("multiway.cli.evaluate_grounding:grounding", "where is what a text says?"),
    "probe": Command("multiway.cli.evaluate_probe:probe", "a linear classifier of frozen features"),
}


def evaluate(argv: Sequence[str]) -> None:
    """Measure a model."""
    dispatch("multiway evaluate", "Measure a model on data that it was not trained on.", COMMANDS, argv)


def caption(argv: Sequence[str]) -> None:
    """Print BLEU, ROUGE-L, CIDEr-D and exact match, beside those of captions dealt to other pictures."""
    from multiway.cli import decide
    from multiway.cli.decided import NO_OTHER
    from multiway.cli.generation import add_generation, options_of
    from multiway.cli.labelled import add_source, source_of

    parser = Parser(
        "multiway evaluate caption",
        "BLEU, ROUGE-L, CIDEr-D (what the COCO evaluation and papers call CIDEr) and the share of captions "
        "that are right word for word, in percent; and the same when each caption is given to another one.",
    )
    add_source(parser, "--data")
    add_generation(parser)
    parser.add_argument(
        "--cut",
        choices=("ptb", "characters", "blanks"),
        default="ptb",
        help="captions into words: as Penn Treebank has them, every character (Chinese, Japanese), at blanks",
    )
    parser.add_argument(
        "--scorer",
        action="append",
        default=[],
        metavar="MODULE:CLASS",
        help="a further score by pycocoevalcap's interface, as pycocoevalcap.meteor.meteor:Meteor",
    )
    parser.add_argument("--batch-size", type=positive, default=8, help="pictures at a time")
    decide.add_deciding(parser, upload="image_id and caption, as COCO's and NoCaps' servers take it")
    args = parser.parse(argv)
    decide.check(args)
    options = {name: getattr(args, name) for name in ("texts", "cut", "predictions", "batch_size")}
    options["options"] = options_of(args)

    from multiway.data.dataset import Dataset
    from multiway.tasks.caption import measure
    from multiway.tasks.caption_many import captioning
    from multiway.tasks.caption_scorers import load_scorer

    options["scorers"] = {name.rpartition(":")[2].lower(): load_scorer(name) for name in args.scorer}
    samples = Dataset(source_of(args), unlabelled=args.predictions is not None)

    def show(found) -> None:
        further = [name for name in found.outcomes.values() if name not in _SHOWN and name[:4] != "bleu"]
        for label, scores in (("model", found.result), ("shuffled", found.result["shuffled"])):
            if scores is None:
                print(f"{label:<8}  {NO_OTHER}")
                continue
            line = "  ".join(f"{_SHOWN[n]} {scores[n]:.1f}" for n in _SHOWN)
            print(f"{label:<8}  {line}" + "".join(f"  {n} {scores[n]:.1f}" for n in further if n in scores))

    def made(model, data, progress):
        return measure(captioning(model), data, progress=progress, **options)

    decide.decide(args, lambda _: samples, made, show)


_SHOWN = {"bleu_1": "bleu_1", "bleu_4": "bleu_4", "rouge_l": "rouge_l", "cider": "cider_d", "exact": "exact"}
