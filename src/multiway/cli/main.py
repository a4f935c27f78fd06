"""`multiway COMMAND ...`: finds the command's file and turns its errors into exit codes.

0 done; 1 the run failed; 2 the user's input was wrong (one sentence, no traceback); 130 interrupted.
"""

from __future__ import annotations

import os
import sys
import tempfile
import traceback
import warnings
from collections.abc import Sequence

from multiway.cli.arguments import Command, dispatch
from multiway.errors import UserError

COMMANDS: dict[str, Command] = {
    "train": Command("multiway.cli.train:train", "train a recipe; the same command runs under torchrun"),
    "finetune": Command("multiway.cli.finetune:finetune", "fine-tune a model for a task"),
    "evaluate": Command("multiway.cli.evaluate:evaluate", "measure a model on held-back data"),
    "caption": Command("multiway.cli.caption:caption", "what pictures show: print it, or write data sets"),
    "classify": Command(
        "multiway.cli.classify:classify", "the class of pictures, learned or by its name alone"
    ),
    "answer": Command("multiway.cli.answer:answer", "answer a question about a picture"),
    "ground": Command("multiway.cli.ground:ground", "where in a picture is what a text says?"),
    "ask": Command("multiway.cli.ask:ask", "a prompt about a picture, or for one (generalist)"),
    "match": Command("multiway.cli.match:match", "how well texts fit a picture"),
    "calibrate": Command(
        "multiway.cli.calibrate:calibrate", "probabilities of a match that hold on gold pairs"
    ),
    "embed": Command("multiway.cli.embed:embed", "features of pictures and texts, as npy or parquet"),
    "search": Command("multiway.cli.search:search", "index a folder of pictures, and ask it"),
    "bootstrap": Command(
        "multiway.cli.bootstrap:bootstrap", "caption and filter a noisy web data set (CapFilt)"
    ),
    "convert": Command(
        "multiway.cli.convert:convert", "a model in another layout, or what loading it would do"
    ),
    "push": Command("multiway.cli.push:push", "a model folder to the Hugging Face hub"),
    "systems": Command(
        "multiway.cli.systems:systems", "the systems, and where their parameters and FLOPs lie"
    ),
    "data": Command("multiway.cli.data:data", "look at a source of pairs before training on it"),
}
ABOUT = (
    "Vision-language pre-training systems on one transformer core.\n--traceback shows where a failure arose."
)


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command and return the exit code."""
    argv = list(sys.argv[1:] if argv is None else argv)
    show_traceback = "--traceback" in argv
    argv = [word for word in argv if word != "--traceback"]
    warnings.showwarning = _one_line
    try:
        if argv[:1] == ["--version"]:
            from multiway import __version__

            print(__version__)
        else:
            dispatch("multiway", ABOUT, COMMANDS, argv)
        sys.stdout.flush()  # here, so that a closed pipe is met inside this try
    except UserError as error:
        if show_traceback:
            traceback.print_exc()
        print(f"error: {' '.join(str(error).split())}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("interrupted", file=sys.stderr)
        return 130
    except BrokenPipeError:
        # The reader (head, less) has left; the interpreter must not complain about it while it exits.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except SystemExit as left:  # argparse and tyro leave this way after printing their help
        return left.code if isinstance(left.code, int) else int(left.code is not None)
    except Exception as error:
        print(f"failed: {_brief(error)}; {_report(show_traceback)}", file=sys.stderr)
        return 1
    return 0


def _brief(error: Exception) -> str:
    text = str(error).strip().splitlines()
    return f"{type(error).__name__}: {text[0][:300]}" if text else type(error).__name__


def _report(show: bool) -> str:
    """Print the traceback or write it away, and say where it is."""
    if show:
        traceback.print_exc()
        return "traceback above"
    with tempfile.NamedTemporaryFile("w", prefix="multiway-", suffix=".txt", delete=False) as file:
        file.write(f"{' '.join(sys.argv)}\n{traceback.format_exc()}")
    return f"traceback in {file.name}"


def _one_line(message, category, filename, lineno, file=None, line=None) -> None:
    print(f"warning: {message}", file=sys.stderr if file is None else file)
