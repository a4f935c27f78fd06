"""Data as the web has it, and users as they are: nothing is lost, what is wrong is one sentence."""

from __future__ import annotations

import io
import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from multiway.bootstrap.pipeline import AnswerFailed
from multiway.bootstrap.plan import plan
from multiway.bootstrap.report import sentences
from multiway.bootstrap.run import bootstrap
from multiway.bootstrap.sheet import write_report
from multiway.cli.main import main
from multiway.data.shards import Shards, write_shards


def picture(mode: str = "RGB", size: tuple[int, int] = (24, 24), format: str = "JPEG") -> bytes:
    draw = np.random.default_rng(0)
    channels = {"RGB": 3, "CMYK": 4, "RGBA": 4, "L": 1}[mode]
    values = draw.integers(0, 255, (size[1], size[0], channels), dtype=np.uint8)
    file = io.BytesIO()
    Image.fromarray(values if channels > 1 else values[..., 0], mode=mode).save(file, format)
    return file.getvalue()


def test_pictures_of_every_kind(config, tmp_path):
    """CMYK, transparent, grey, tiny: used. Empty, no picture, a bomb: counted and named."""
    bomb = io.BytesIO()
    Image.new("L", (10_000, 9_000)).save(bomb, "PNG")
    samples = {
        "cmyk": {"jpg": picture("CMYK")},
        "clear": {"png": picture("RGBA", format="PNG")},
        "grey": {"jpg": picture("L")},
        "dot": {"png": picture("RGB", (1, 1), "PNG")},
        "empty": {"jpg": b""},
        "drawing": {"jpg": b"<svg xmlns='http://www.w3.org/2000/svg'/>"},
        "bomb": {"png": bomb.getvalue()},
    }
    write_shards(tmp_path / "web", [{"__key__": k, **v, "txt": "a text"} for k, v in samples.items()])
    report = bootstrap(config(str(tmp_path / "web"), threshold=0.0), tmp_path / "out", workers=1)
    assert report["written"] == 4
    assert report["bad"] == {"not_an_image": 2, "bomb": 1}
    assert [row["key"] for row in report["bad_pictures"]] == ["empty", "drawing", "bomb"]


def test_shards_without_txt_without_json_and_with_empty_texts(config, tmp_path):
    rows = [{}, {"txt": ""}, {"txt": " \n \n"}, {"txt": "a text"}, {"json": [1]}, {"json": {"caption": None}}]
    rows += [{"json": {"caption": "from json", "license": None, "url": "https://example.org/6"}}]
    samples = [{"__key__": str(i), "jpg": picture(), **row} for i, row in enumerate(rows)]
    write_shards(tmp_path / "web", samples)
    settings = config(str(tmp_path / "web"), threshold=0.0, licence="CC BY 4.0", source="crawl 7")
    report = bootstrap(settings, tmp_path / "out", workers=1)
    assert report["texts"]["web"]["kept"] == 2
    assert report["written"] == report["texts"]["synthetic"]["kept"] == 7
    made = Shards([str(tmp_path / "out" / "00000.tar")])
    assert made.texts(6)[0] == "from json"
    assert [made.meta(6)[name] for name in ("source", "licence")] == ["https://example.org/6", "CC BY 4.0"]
    assert [made.meta(0)[name] for name in ("source", "licence")] == ["crawl 7", "CC BY 4.0"]


def test_a_truncated_tar_gives_what_is_whole_and_is_named(web, config, tmp_path):
    data = Path(web(20, shard_size=10))
    cut = data / "00001.tar"
    cut.write_bytes(cut.read_bytes()[: cut.stat().st_size // 2])
    report = bootstrap(config(str(data), threshold=0.0), tmp_path / "out", workers=1)
    assert 10 < report["written"] < 20
    assert report["bad"] == {"truncated_tar": 1}
    assert report["bad_pictures"] == [{"shard": "00001.tar", "key": "", "reason": "truncated_tar"}]
    assert "bad: truncated_tar 1 (00001.tar)" in sentences(report)
    broken = {i: {"jpg": b"no picture"} for i in range(7)}
    report = bootstrap(config(web(20, name="seven", replace=broken)), tmp_path / "some", workers=1)
    (line,) = [
        line for line in sentences(report) if line.startswith("bad: not_an_image 7 (00000.tar/000000, ")
    ]
    assert line.endswith("00000.tar/000004, ... all in report.json)")


def test_half_a_character_is_no_end(config, tmp_path):
    """A lone surrogate, which JSON can say and UTF-8 can't: in a caption of the data, of the captioner, and
    in what else the data says.
    """
    half = json.loads(r'"a red cat \ud83d"')
    about = [{"caption": "PLACED"}, {"title": "PLACED"}, {}]
    samples = [{"__key__": f"{i}", "jpg": picture(), "json": about[i]} for i in range(3)]
    (tar,) = write_shards(tmp_path / "web", samples)
    tar.write_bytes(tar.read_bytes().replace(b"PLACED", rb"\ud83d"))
    data, out = str(tmp_path / "web"), tmp_path / "out"
    settings = config(data, threshold=0.0)
    report = bootstrap(settings, out, workers=1, captioner=lambda pictures, keys: [[half] for _ in keys])
    after = Shards([str(out / "00000.tar")])
    assert report["written"] == len(after) == 3
    assert {after.texts(i)[-1] for i in range(3)} == {"a red cat ?"}


def test_a_filter_that_raises_loses_nothing(web, config, contents, tmp_path):
    data, out = web(20, shard_size=20), tmp_path / "out"
    with pytest.raises(AnswerFailed, match=r"fakes:burning failed at the 4 pictures from 00000/000012 on"):
        bootstrap(config(data, filter="fakes:burning"), out, workers=1)
    lines = (out / "scores" / "00000.jsonl").read_text().splitlines()
    assert len(lines) == 1 + 3  # the head, and the three batches before
    saved = json.loads((out / "run.json").read_text())
    saved["bootstrap"]["filter"] = "fakes:score"  # as if the user had mended his function
    saved["fingerprints"] = {"fakes:caption": "fakes:caption", "fakes:score": "fakes:score"}
    (out / "run.json").write_text(json.dumps(saved))
    bootstrap(config(data), out, workers=1)
    bootstrap(config(data), tmp_path / "whole", workers=1)
    assert contents(out) == contents(tmp_path / "whole")


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (["--filter", "fakes:numbers_as_text"], ["the filter fakes:numbers_as_text", "a list of scores"]),
        (["--filter", "fakes:forgets"], ["the filter fakes:forgets", "a list of scores"]),
        (["--captioner", "fakes:forgets"], ["the captioner fakes:forgets", "a list of texts"]),
    ],
)
def test_a_wrong_answer_is_named(flags, words, web, tmp_path, capsys):
    code = main(command(web(4), tmp_path / "out", *flags))
    err = capsys.readouterr().err
    assert code == 1
    assert err.count("\n") == 1
    assert all(word in err for word in [*words, "failed at", "00000/000000", "repeat the command"]), err


def command(data: str, out: Path, *flags: str) -> list[str]:
    own = ["bootstrap", "--data", data, "--out", str(out), "--workers", "1"]
    for name, value in (("--captioner", "fakes:caption"), ("--filter", "fakes:score")):
        own += [] if name in flags else [name, value]
    return [*own, *flags]


#: Beside those of `test_run.py`.
WRONG = {
    "a score that is none": (["--threshold", "nan"], ["threshold is nan"]),
    "a mass above one": (["--top-p", "2"], ["top_p is 2"]),
    "a precision without a sample": (["--precision", "0.9"], ["0.9", "labelled sample"]),
    "a precision above one": (["--precision", "2", "--labelled", "x.csv"], ["precision of 2"]),
    "a sample that is missing": (["--labelled", "none.csv"], ["none.csv"]),
    "lengths upside down": (["--min-length", "9", "--max-length", "3"], ["9 to 3"]),
    "nothing to keep out": (["--keep-out", "nowhere"], ["there is no nowhere"]),
    "flags that a function never hears of": (
        ["--prompt", "a", "--min-length", "3", "--method", "beam", "--captions", "2"],
        ["--captions, --method, --min-length, --prompt would do nothing", "fakes:caption"],
    ),
    "flags that an address never hears of": (
        ["--captioner", "http://127.0.0.1:9", "--top-p", "0.5", "--captions", "2"],
        ["error: --top-p would do nothing"],
    ),
    "a penalty of nothing": (["--repetition-penalty", "0"], ["repetition_penalty is 0"]),
}


@pytest.mark.parametrize("case", WRONG)
def test_wrong_settings_are_one_sentence(case, web, tmp_path, capsys):
    flags, words = WRONG[case]
    code = main(command(web(4), tmp_path / "out", *flags))
    err = capsys.readouterr().err
    assert code == 2, err
    assert err.startswith("error: ")
    assert err.count("\n") == 1
    assert all(word in err for word in words), err


def test_synthetic_captions_need_a_captioner(web, tmp_path, capsys):
    for flags in (["--keep", "synthetic"], ["--best-of", "3"]):
        argv = ["bootstrap", "--data", web(2), "--out", str(tmp_path / "out"), "--filter", "fakes:score"]
        assert main([*argv, *flags]) == 2
        assert "without a captioner" in capsys.readouterr().err


def test_an_output_that_is_no_folder_or_another_runs(web, tmp_path, capsys):
    (tmp_path / "file").write_text("mine")
    for place in ("file", "file/below"):
        assert main(command(web(2), tmp_path / place)) == 2
        assert "is no folder, or lies in a file" in capsys.readouterr().err
    assert (tmp_path / "file").read_text() == "mine"
    assert main(command(web(2), tmp_path / "out")) == 0
    tar = (tmp_path / "out" / "00000.tar").read_bytes()
    capsys.readouterr()
    assert main(command(web(2), tmp_path / "out", "--seed", "5")) == 2
    assert "begun with another seed" in capsys.readouterr().err
    assert (tmp_path / "out" / "00000.tar").read_bytes() == tar


def test_a_report_is_written_although_the_input_is_gone(web, config, tmp_path):
    data, out = web(6), tmp_path / "out"
    bootstrap(config(data), out, workers=1)
    assert "data:image/png" in (out / "report.html").read_text()
    jobs, _ = plan(config(data), out)
    Path(data, "00000.tar").unlink()
    report = write_report(out, jobs, {"value": 0.5, "from": "given"}, {"pictures": 0, "seconds": 0.0})
    assert report["throughput"]["pictures"] == 6  # of the run that scored them
    page = (out / "report.html").read_text()
    assert "data:image/png" not in page
    assert "web pictures with web texts" in page


def test_a_run_that_keeps_nothing_says_so(config, tmp_path):
    write_shards(tmp_path / "web", [{"__key__": "0", "jpg": picture(), "txt": "a red cat"}])
    report = bootstrap(config(str(tmp_path / "web"), threshold=1e9), tmp_path / "out", workers=1)
    assert any(line.startswith("no pair was kept") for line in sentences(report))
