"""The commands as a user meets them: help at once, results on stdout, failures short."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

import multiway
from multiway.cli import main as entry
from multiway.cli.arguments import Command
from multiway.cli.main import COMMANDS, main
from multiway.systems import SYSTEMS
from multiway.systems.parts import profile

HELP = [
    [],
    *([name] for name in COMMANDS),
    ["evaluate", "retrieval"],
    ["evaluate", "caption"],
    ["search", "index"],
    ["search", "query"],
]
HELP += [["data", "inspect"]]


@pytest.mark.parametrize("words", HELP, ids=" ".join)
def test_help_is_instant(words, process):
    """Half a second of computing: the clock on the wall also counts what else the machine does."""
    seconds = []
    for _ in range(3):
        before = os.times()
        done = process(*words, "--help")
        after = os.times()
        seconds.append(sum(after[2:4]) - sum(before[2:4]))  # of child processes, user and system
        assert done.returncode == 0, done.stderr
        assert f"usage: multiway {' '.join(words)}".strip() in done.stdout
    assert min(seconds) < 0.5


def test_help_imports_nothing_heavy():
    """Timings may lie on a busy machine; what is imported does not."""
    code = (
        "import sys\nfrom multiway.cli.main import main\n"
        f"for words in {HELP!r}: main([*words, '--help'])\n"
        "heavy = {'torch', 'numpy', 'PIL', 'pydantic', 'tyro', 'rich'} & set(sys.modules)\n"
        "sys.exit(f'imported {heavy}' if heavy else 0)"
    )
    source = str(Path(multiway.__file__).parents[1])
    done = subprocess.run(
        [sys.executable, "-c", code], env={**os.environ, "PYTHONPATH": source}, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr


def test_version_is_the_package_s(cli):
    from importlib.metadata import PackageNotFoundError, version

    code, out, _ = cli("--version")
    assert code == 0
    try:
        assert out.strip() == version("multiway")
    except PackageNotFoundError:
        pytest.skip("the package is not installed")


def test_match_ranks_texts(cli, model_folder, pictures):
    argv = ["match", pictures / "red.png", "a red picture", "a blue picture", "--model", model_folder]
    code, out, err = cli(*argv, "--json")
    assert code == 0, err
    found = json.loads(out)
    assert {row["text"] for row in found["texts"]} == {"a red picture", "a blue picture"}
    scores = [row["probability"] for row in found["texts"]]
    assert scores == sorted(scores, reverse=True)
    assert all(0 <= score <= 1 for score in scores)
    assert cli(*argv)[0] == 0


@pytest.mark.slow
@pytest.mark.parametrize("name", SYSTEMS)
def test_every_system_tells_its_shares(name):
    parts = profile(name)
    assert set(parts) == {"vision", "text", "interaction"}
    assert all(value >= 0 for part in parts.values() for value in part.values())


def test_systems_shares(cli, monkeypatch):
    monkeypatch.setattr("multiway.systems.SYSTEMS", {name: SYSTEMS[name] for name in ("albef", "clip")})
    code, out, err = cli("systems", "--json")
    assert code == 0, err
    found = json.loads(out)
    assert set(found) == {"albef", "clip"}
    assert found["clip"]["parts"]["interaction"]["parameters"] == 0
    monkeypatch.setattr("multiway.systems.parts.profile", lambda name: found[name]["parts"])
    _, out, _ = cli("systems")
    assert "albef" in out
    assert "210" in out or "209.9" in out


def test_data_inspect(cli, pictures):
    code, out, err = cli("data", "inspect", pictures, "--json")
    assert code == 0, err
    found = json.loads(out)
    assert (found["pictures"], found["read"], found["bad"]) == (6, 6, {})
    assert found["smallest"] == [40, 30]
    assert "6 pictures" in cli("data", "inspect", pictures)[1]


def test_data_inspect_counts_a_bad_picture(cli, tmp_path):
    from PIL import Image

    Image.new("RGB", (8, 8)).save(tmp_path / "good.png")
    (tmp_path / "bad.png").write_bytes(b"no picture")
    (tmp_path / "captions.csv").write_text("image,caption\ngood.png,a\nbad.png,b\n")
    code, out, err = cli("data", "inspect", tmp_path, "--json")
    assert code == 0, err
    assert sum(json.loads(out)["bad"].values()) == 1
    assert "100% of the pixels are of one colour" in cli("data", "inspect", tmp_path)[1]


def test_evaluate_retrieval_prints_one_object(cli, model_folder, pictures):
    argv = ["evaluate", "retrieval", "--model", model_folder, "--data", pictures, "--k", "3"]
    code, out, err = cli(*argv, "--json")
    assert code == 0, err
    found = json.loads(out)
    assert (found["n_images"], found["n_texts"], found["k"]) == (6, 6, 3)
    names = {f"{way}_{what}" for way in ("tr", "ir") for what in ("r1", "r5", "r10", "median_rank")}
    for stage in ("itc", "itm"):
        assert set(found[stage]) == names
        assert found[stage]["tr_r10"] == 100
    assert cli(*argv)[0] == 0


def test_search_finds_pictures(cli, model_folder, pictures, tmp_path):
    index = ["--index", tmp_path / "index", "--model", model_folder, "--top", "3"]
    code, out, err = cli("search", "index", pictures, "--model", model_folder, "--out", tmp_path / "index")
    assert code == 0, err
    assert "6 pictures encoded" in out
    code, out, err = cli("search", "query", "a red picture", *index, "--json")
    assert code == 0, err
    hits = json.loads(out)["hits"]
    assert len(hits) == 3
    assert all(hit["key"].endswith(".png") for hit in hits)
    code, out, err = cli("search", "query", pictures / "red.png", "--picture", *index)
    assert code == 0, err
    assert "red.png" in out.splitlines()[1]


def test_a_failure_is_short_and_says_where_its_traceback_is(monkeypatch, capsys):
    monkeypatch.setitem(COMMANDS, "fail", Command(f"{__name__}:fail", "fails"))
    monkeypatch.setattr(Command, "load", lambda self: fail)
    assert main(["fail"]) == 1
    err = capsys.readouterr().err
    assert err.startswith("failed: ZeroDivisionError")
    assert err.count("\n") == 1
    path = err.split("traceback in ")[1].strip()
    with open(path) as file:
        assert "1 / 0" in file.read()
    assert main(["fail", "--traceback"]) == 1
    assert "Traceback" in capsys.readouterr().err


def test_an_interrupt_is_quiet(monkeypatch, capsys):
    def interrupt(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(entry, "dispatch", interrupt)
    assert main(["train"]) == 130
    assert capsys.readouterr().err == "interrupted\n"


def fail(argv):
    return 1 / 0
