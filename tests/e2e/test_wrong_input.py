"""Whatever a user gets wrong is answered by one sentence and exit code 2."""

from __future__ import annotations

import shutil

import pytest

#: What is wrong -> the command, and words that its sentence must have. Names in capitals are made by `paths`.
WRONG = {
    "no such command": (["trian", "albef"], ["trian", "did you mean train?"]),
    "no such task": (["evaluate", "retreival"], ["did you mean retrieval?"]),
    "no such recipe": (["train", "albef_emojis"], ["albef_emojis", "albef_emoji"]),
    "no recipe": (["train", "--device", "cpu"], ["needs a recipe", "albef_emoji"]),
    "misspelt flag": (["match", "--modle", "x", "PICTURE", "a cat"], ["--modle", "--model"]),
    "misspelt flag of a recipe": (
        ["train", "albef_emoji", "--train.lrr", "1"],
        ["--train.lrr", "--train.lr"],
    ),
    "misspelt short flag": (["train", "albef_emoji", "--lrr", "1"], ["--lrr", "--train.lr"]),
    "wrong type": (["train", "albef_emoji", "--train.lr", "high"], ["--train.lr", "high"]),
    "wrong choice": (["train", "albef_emoji", "--train.precision", "fp8"], ["fp8", "bf16"]),
    "impossible value": (["train", "albef_emoji", "--batch-size", "0"], ["batch_size"]),
    "left-over word": (["train", "albef_emoji", "please"], ["please"]),
    "missing flag": (["match", "PICTURE", "a cat"], ["--model", "--help"]),
    "missing run.json": (["train", "--from", "MISSING"], ["MISSING"]),
    "run.json of no system": (["train", "--from", "NO_SYSTEM"], ["names no system"]),
    "run.json is not one": (["train", "--from", "PICTURE"], ["PICTURE"]),
    "missing data": (["data", "inspect", "MISSING"], ["MISSING"]),
    "missing data to train on": (
        ["train", "albef_emoji", "--data.train.0.path", "MISSING", "--out", "OUT"],
        ["MISSING"],
    ),
    "missing data to evaluate": (
        ["evaluate", "retrieval", "--model", "MODEL", "--data", "MISSING"],
        ["MISSING"],
    ),
    "empty data": (["data", "inspect", "EMPTY"], ["EMPTY"]),
    "empty data to train on": (
        ["train", "albef_emoji", "--data.train.0.path", "EMPTY", "--out", "OUT"],
        ["EMPTY"],
    ),
    "empty data to evaluate": (["evaluate", "retrieval", "--model", "MODEL", "--data", "EMPTY"], ["EMPTY"]),
    "no such split": (["data", "inspect", "emoji", "--split", "tests"], ["tests", "combination"]),
    "missing model": (["match", "PICTURE", "a cat", "--model", "MISSING"], ["MISSING"]),
    "model without weights": (["match", "PICTURE", "a cat", "--model", "WEIGHTLESS"], ["model.safetensors"]),
    "model without config": (["match", "PICTURE", "a cat", "--model", "EMPTY"], ["config.json"]),
    "missing picture": (["match", "MISSING", "a cat", "--model", "MODEL"], ["MISSING"]),
    "picture that is a text file": (["match", "TEXT", "a cat", "--model", "MODEL"], ["TEXT"]),
    "missing folder to search": (
        ["search", "index", "MISSING", "--model", "MODEL", "--out", "OUT"],
        ["MISSING"],
    ),
    "empty folder to search": (["search", "index", "EMPTY", "--model", "MODEL", "--out", "OUT"], ["EMPTY"]),
    "no batch": (
        ["calibrate", "--model", "MODEL", "--data", "x.csv", "--batch-size", "0"],
        ["--batch-size", "'0'"],
    ),
    "less than no pictures a batch": (
        ["evaluate", "retrieval", "--model", "MODEL", "--data", "EMPTY", "--batch-size=-1"],
        ["--batch-size", "'-1'", "at least 1"],
    ),
    "no candidates": (["answer", "PICTURE", "what?", "--model", "MODEL", "--k", "0"], ["--k", "'0'"]),
    "no answers": (["answer", "PICTURE", "what?", "--model", "MODEL", "--top", "0"], ["--top", "'0'"]),
    "heat of no kind": (["ground", "PICTURE", "a cat", "--model", "MISSING", "--out", "x.xyz"], ["x.png"]),
    "heat into no folder": (
        ["ground", "PICTURE", "a cat", "--model", "MISSING", "--out", "MISSING/x.png"],
        ["MISSING", "not there"],
    ),
    "features over a file": (["embed", "EMPTY", "--model", "MISSING", "--out", "TEXT"], ["TEXT", "a file"]),
    "index below a file": (
        ["search", "index", "EMPTY", "--model", "MISSING", "--out", "TEXT/index"],
        ["TEXT", "a file"],
    ),
    "captions below a file": (
        ["caption", "EMPTY", "--model", "MISSING", "--out", "TEXT/x.jsonl"],
        ["TEXT", "a file"],
    ),
    "sheet below a file": (
        ["evaluate", "retrieval", "--model", "MISSING", "--data", "EMPTY", "--sheet", "TEXT/x.html"],
        ["TEXT", "a file"],
    ),
    "words behind two dashes are texts": (["match", "MISSING", "--model", "MODEL", "--", "--x"], ["MISSING"]),
    "missing index": (["search", "query", "a cat", "--index", "MISSING", "--model", "MODEL"], ["MISSING"]),
}


@pytest.fixture
def paths(tmp_path, model_folder, pictures):
    """What the names in capitals stand for."""
    empty = tmp_path / "empty"
    empty.mkdir()
    text = tmp_path / "note.jpg"
    text.write_text("this is not a picture\n")
    (tmp_path / "run.json").write_text('{"run": {"system": 3}}')
    weightless = tmp_path / "weightless"
    shutil.copytree(model_folder, weightless)
    (weightless / "model.safetensors").unlink()
    return {
        "PICTURE": pictures / "red.png",
        "MISSING": tmp_path / "missing",
        "EMPTY": empty,
        "TEXT": text,
        "NO_SYSTEM": tmp_path / "run.json",
        "WEIGHTLESS": weightless,
        "MODEL": model_folder,
        "OUT": tmp_path / "out",
    }


def _path(word, paths):
    """What a word stands for: a name, or a name and what is below it."""
    name, slash, rest = word.partition("/")
    return f"{paths[name]}{slash}{rest}" if name in paths else word


@pytest.mark.parametrize("case", WRONG)
def test_one_sentence_and_exit_code_2(case, cli, paths):
    argv, words = WRONG[case]
    code, out, err = cli(*(_path(word, paths) for word in argv))
    assert code == 2, err
    assert err.startswith("error: "), err
    assert err.count("\n") == 1, err
    assert "Traceback" not in out + err
    for word in words:
        assert str(paths.get(word, word)) in err, err
    assert not paths["OUT"].exists()


def test_the_process_exits_with_the_same_code(process):
    done = process("trian")
    assert done.returncode == 2
    assert done.stderr == "error: multiway has no command 'trian'; did you mean train?\n"
    assert done.stdout == ""
