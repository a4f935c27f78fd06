"""A run from end to end: what is kept, what is written of it, and what is counted."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

import fakes
import pytest

from multiway.bootstrap.pipeline import AnswerFailed
from multiway.bootstrap.run import bootstrap
from multiway.data.dataset import Dataset, Source
from multiway.data.images import decode
from multiway.data.shards import Shards, expand
from multiway.errors import UserError


def test_right_texts_are_kept_and_wrong_ones_dropped(web, config, tmp_path):
    data, out = web(20), tmp_path / "out"
    report = bootstrap(config(data), out, workers=1)
    before, after = Shards(expand(data)), Shards(expand(str(out)))
    truth = {before.key(i): fakes.colour(decode(before.image(i))) for i in range(len(before))}
    place = {before.key(i): i for i in range(len(before))}
    kept = 0
    for i in range(len(after)):
        key, meta = after.key(i), after.meta(i)
        assert after.image(i) == before.image(place[key])
        assert all(truth[key] in text for text in after.texts(i))
        assert [t["text"] for t in meta["capfilt"]["kept"]] == after.texts(i)
        assert not any(truth[key] in t["text"] for t in meta["capfilt"]["dropped"])
        assert meta["caption"] == after.texts(i)[0]
        assert (meta["source"], meta["licence"]) == (f"https://example.org/{int(key)}", "CC0")
        assert meta["width"] == 24
        kept += len(after.texts(i))
    web_right = sum(truth[k] in before.texts(i)[0] for k, i in place.items())
    assert report["texts"]["web"] == {
        "kept": web_right,
        "dropped": 20 - web_right,
        "keep_rate": round(web_right / 20, 4),
    }
    assert kept == sum(counts["kept"] for counts in report["texts"].values())
    assert report["pictures"] == 20
    assert sum(report["histogram"]["web"].values()) == 20
    assert report["throughput"]["pictures"] == 20
    page = (out / "report.html").read_text()
    assert "web pictures with synthetic texts" in page
    assert "data:image/png;base64" in page
    assert len(Dataset(Source(path=str(out)))) == report["written"]


def test_human_pairs_are_taken_over_whole(web, config, tmp_path):
    out = tmp_path / "out"
    human = web(5, name="human", first=100)
    report = bootstrap(config(web(8), human=(human,)), out, workers=1)
    assert report["texts"]["human"] == {"kept": 5, "dropped": 0, "keep_rate": 1.0}
    after, before = Shards([str(out / "human-00000.tar")]), Shards(expand(human))
    assert [after.texts(i) for i in range(5)] == [before.texts(i) for i in range(5)]
    assert after.meta(0)["capfilt"]["kept"] == [{"text": after.texts(0)[0], "origin": "human"}]


def test_a_corrupt_picture_is_counted_and_named(web, config, tmp_path):
    good = web(1, name="one")
    cut = Shards(expand(good)).image(0)[:300]
    replace = {3: {"jpg": b"no picture"}, 9: {"jpg": cut}, 10: {"txt": b"\xff\xfe"}}
    report = bootstrap(config(web(12, replace=replace)), tmp_path / "out", workers=1)
    assert report["bad"] == {"not_an_image": 1, "undecodable": 1, "bad_text": 1}
    assert {(row["key"], row["shard"]) for row in report["bad_pictures"]} == {
        ("000003", "00000.tar"),
        ("000009", "00001.tar"),
        ("000010", "00001.tar"),
    }
    assert report["texts"]["synthetic"]["kept"] + report["texts"]["synthetic"]["dropped"] == 10
    assert report["texts"]["web"]["kept"] + report["texts"]["web"]["dropped"] == 9


def test_another_threshold_is_selected_without_any_model(web, config, tmp_path, monkeypatch):
    out, data = tmp_path / "out", web(20)
    first = bootstrap(config(data), out, workers=1)

    def fail(*_):
        raise AssertionError("nothing is left to caption or to score")

    monkeypatch.setattr(fakes, "caption", fail)
    monkeypatch.setattr(fakes, "score", fail)
    every = bootstrap(config(data, threshold=0.0), out, workers=1)
    assert every["texts"]["web"]["kept"] == 20
    assert every["written"] == 20 > first["written"]
    only = bootstrap(config(data, threshold=0.0, keep=("synthetic",)), out, workers=1)
    assert set(only["texts"]) == {"synthetic"}
    assert bootstrap(config(data, threshold=2.0), out, workers=1)["written"] == 0
    assert not list(out.glob("*.tar"))
    again = bootstrap(config(data), out, workers=1)
    assert again["texts"] == first["texts"]


def test_best_of_n_takes_the_filters_best(web, config, tmp_path):
    def captions(pictures, keys):
        return [[f"{colour} {key}" for colour in fakes.COLOURS] for key in keys]

    settings = {"captions": 1, "best_of": 3}
    report = bootstrap(config(web(9), **settings), tmp_path / "out", workers=1, captioner=captions)
    assert report["texts"]["synthetic"] == {"kept": 9, "dropped": 0, "keep_rate": 1.0}
    all_of_them = bootstrap(config(web(9), captions=3), tmp_path / "all", workers=1, captioner=captions)
    assert all_of_them["texts"]["synthetic"] == {"kept": 9, "dropped": 18, "keep_rate": 0.3333}


def test_web_texts_alone_need_no_captioner(web, config, tmp_path):
    report = bootstrap(config(web(9), captioner=None), tmp_path / "out", workers=1)
    assert set(report["texts"]) == {"web"}


def test_batches_are_cut_from_the_shard(web, config, tmp_path):
    met = []

    def captions(pictures, keys):
        met.append(list(keys))
        return fakes.caption(pictures, keys)

    replace = {1: {"jpg": b"broken"}}
    bootstrap(config(web(11, replace=replace)), tmp_path / "out", workers=1, captioner=captions)
    assert [len(keys) for keys in met] == [3, 4, 3]
    assert met[0] == ["00000/000000", "00000/000002", "00000/000003"]


@pytest.mark.parametrize(
    "changes", [{"seed": 1}, {"batch_size": 5}, {"captions": 2}, {"filter": "fakes:broken"}]
)
def test_a_folder_of_another_run_is_refused(web, config, tmp_path, changes):
    data = web(4)
    bootstrap(config(data), tmp_path / "out", workers=1)
    with pytest.raises(UserError, match=next(iter(changes))):
        bootstrap(config(data, **changes), tmp_path / "out", workers=1)


def test_a_changed_input_is_refused(web, config, tmp_path):
    data = web(4)
    bootstrap(config(data), tmp_path / "out", workers=1)
    web(4, replace={2: {"txt": "longer " * 400}})
    with pytest.raises(UserError, match="changed since this run began"):
        bootstrap(config(data, threshold=0.1), tmp_path / "out", workers=1)


@pytest.mark.parametrize("change", ["before", "gone", "changed", "skipped"])
def test_a_changed_input_is_refused_on_a_finished_run(web, config, contents, tmp_path, change):
    data, out = web(12, shard_size=4, first=100), tmp_path / "out"
    bootstrap(config(data), out, workers=1)
    made = contents(out)
    bootstrap(config(data), out, workers=1)
    if change == "before":
        shutil.copy(f"{data}/00000.tar", f"{data}/0.tar")
    elif change == "gone":
        Path(f"{data}/00002.tar").unlink()
    elif change == "changed":
        web(12, shard_size=4, first=100, replace={105: {"txt": "longer " * 400}})
    else:  # what was skipped for another reason, or not at all
        manifest = json.loads((out / "00001.json").read_text())
        manifest["of"]["skipped"] = "another"
        (out / "00001.json").write_text(json.dumps(manifest))
        made = contents(out)
    with pytest.raises(UserError, match="changed since this run began"):
        bootstrap(config(data), out, workers=1)
    assert contents(out) == made


def test_a_tar_more_at_the_end_is_taken_too(web, config, tmp_path):
    data, out = web(8, shard_size=4), tmp_path / "out"
    bootstrap(config(data), out, workers=1)
    web(12, shard_size=4)
    assert bootstrap(config(data), out, workers=1)["pictures"] == 12


@pytest.mark.parametrize(
    ("mistyped", "error"),
    [
        ({"data": ("wbe",)}, UserError),
        ({"filter": "fakes:scor"}, UserError),
        ({"seed": 1, "captioner": "fakes:forgets"}, AnswerFailed),  # at the first batch
    ],
)
def test_a_mistyped_command_may_be_corrected(web, config, tmp_path, mistyped, error):
    data, out = web(4), tmp_path / "out"
    with pytest.raises(error):
        bootstrap(replace(config(data), **mistyped), out, workers=1)
    assert bootstrap(config(data), out, workers=1)["pictures"] == 4
    with pytest.raises(UserError, match="begun with another"):
        bootstrap(config(data, seed=2), out, workers=1)


def test_a_filter_that_forgets_a_score_is_an_error(web, config, tmp_path):
    with pytest.raises(AnswerFailed, match="one score for each text"):
        bootstrap(config(web(4), filter="fakes:broken"), tmp_path / "out", workers=1)


def test_run_json_says_what_ran(web, config, tmp_path):
    bootstrap(config(web(4)), tmp_path / "out", workers=1)
    saved = json.loads((tmp_path / "out" / "run.json").read_text())
    assert saved["bootstrap"]["captioner"] == "fakes:caption"
    assert saved["versions"]["torch"]


@pytest.mark.parametrize(
    ("argv", "sentence"),
    [
        (["--filter", "fakes:nothing"], "has no nothing"),
        (["--filter", "nowhere:score"], "nowhere"),
        (["--filter", "fakes:COLOURS"], "name a function"),
        (["--filter", "fakes:score", "--captions", "0"], "captions is 0"),
        (["--filter", "fakes:score", "--method", "beam", "--beams", "1", "--captions", "2"], "beams"),
        (["--filter", "fakes:score", "--threshold", "0.5", "--labelled", "x.csv"], "both"),
        (["--filter", "fakes:score", "--labelled", "x.csv"], "x.csv"),
        (["--filter", "fakes:score", "--workers", "0"], "workers"),
    ],
)
def test_wrong_input_is_one_sentence(web, tmp_path, capsys, argv, sentence):
    from multiway.cli.main import main

    assert main(["bootstrap", "--data", web(4), "--out", str(tmp_path / "out"), *argv]) == 2
    assert sentence in capsys.readouterr().err


def test_tars_are_not_written_over_those_that_are_read(web, config, tmp_path):
    data = Path(web(4))
    folder = data if data.is_dir() else data.parent
    before = {path.name: path.read_bytes() for path in folder.glob("*.tar")}
    assert before
    with pytest.raises(UserError, match="is read, and tars would be written over it"):
        bootstrap(config(web(4)), folder, workers=1)
    assert {path.name: path.read_bytes() for path in folder.glob("*.tar")} == before
    assert not (folder / "run.json").exists()
