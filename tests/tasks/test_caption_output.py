"""Captions as files: every format, what a kill leaves, and what is refused."""

from __future__ import annotations

import json
import shutil

import pytest
from fake_captioner import FakeCaptioner
from PIL import Image

from multiway.cli.main import main
from multiway.data.pictures import open_pictures
from multiway.data.shards import Shards, expand, write_shards
from multiway.errors import UserError
from multiway.tasks.caption_many import caption_pictures
from multiway.tasks.caption_output import Output, opener

COLOURS = {"red": (255, 0, 0), "green": (0, 255, 0), "blue": (0, 0, 255)}
SETTINGS = {"model": "fake", "batch_size": 2}


@pytest.fixture
def folder(tmp_path):
    """Nine pictures, three of them in a folder below, and one that is none."""
    root = tmp_path / "pictures"
    (root / "below").mkdir(parents=True)
    for i in range(9):
        name = f"{'below/' if i % 3 == 2 else ''}{i}.png"
        Image.new("RGB", (8, 8), list(COLOURS.values())[i % 3]).save(root / name)
    (root / "4bad.jpg").write_bytes(b"no picture")
    return root


def caption(source, format, out=None, *, model=None, settings=SETTINGS, **options):
    """Run to the end (or to where the model stops it) and return the model."""
    pictures = open_pictures(*([str(source)] if not isinstance(source, list) else source))
    output = Output(pictures, format, out, **options)
    model = model or FakeCaptioner()
    load = opener(pictures, output.numbers)

    def make(start):
        return caption_pictures(model, output.keys, load, batch_size=settings["batch_size"], start=start)

    for _ in output.run(settings, make):
        pass
    return model


def rows_of(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


def files_of(folder):
    return {
        p.relative_to(folder).as_posix(): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()
    }


def test_jsonl(folder, tmp_path):
    out = tmp_path / "out" / "captions.jsonl"
    caption(folder, "jsonl", out)
    rows = rows_of(out)
    assert rows[0] == {"key": "0.png", "caption": "a red picture", "logprob": -1.0}
    assert {row["key"]: row["caption"].split()[1] for row in rows}["below/8.png"] == "blue"
    assert len(rows) == 9
    assert rows_of(tmp_path / "out" / "captions.skipped.jsonl") == [
        {"key": "4bad.jpg", "error": "not_an_image"}
    ]
    assert sorted(p.name for p in out.parent.iterdir()) == ["captions.jsonl", "captions.skipped.jsonl"]


def test_imagefolder_is_what_text_to_image_training_reads(folder):
    caption(folder, "imagefolder")
    rows = rows_of(folder / "metadata.jsonl")
    assert rows[0] == {"file_name": "0.png", "text": "a red picture"}
    assert all((folder / row["file_name"]).is_file() for row in rows)
    assert len(rows) == 9


def test_texts_beside_their_pictures(folder):
    caption(folder, "txt")
    assert (folder / "below" / "2.txt").read_text() == "a blue picture\n"
    assert len(list(folder.rglob("*.txt"))) == 9


def test_texts_in_another_folder(folder, tmp_path):
    caption(folder, "txt", tmp_path / "texts")
    assert (tmp_path / "texts" / "below" / "2.txt").read_text() == "a blue picture\n"
    assert not list(folder.rglob("*.txt"))
    single = str(folder / "below" / "5.png")
    caption([single], "txt", tmp_path / "one")
    assert (tmp_path / "one" / "5.txt").read_text() == "a blue picture\n"


def test_a_text_that_is_there_stays(folder):
    (folder / "1.txt").write_text("my own words\n")
    model = caption(folder, "txt")
    assert (folder / "1.txt").read_text() == "my own words\n"
    assert "1.png" not in sum(model.calls, [])
    assert caption(folder, "txt").calls == []  # the second time there is nothing left but the bad one
    caption(folder, "txt", overwrite=True)
    assert (folder / "1.txt").read_text() == "a green picture\n"


def test_tars_are_img2dataset_s(folder, tmp_path):
    caption(folder, "tar", tmp_path / "tars", shard_size=4)
    shards = Shards(expand(str(tmp_path / "tars")))
    assert sorted(p.name for p in (tmp_path / "tars").glob("*.tar")) == [
        "00000.tar",
        "00001.tar",
        "00002.tar",
    ]
    assert len(shards) == 9
    assert shards.texts(0) == ["a red picture"]
    assert shards.image(0) == (folder / "0.png").read_bytes()
    assert shards.meta(0) == {"file": "0.png", "key": "0.png", "caption": "a red picture", "logprob": -1.0}


def test_tars_to_tars_keep_keys_and_what_they_said(folder, tmp_path):
    content = (folder / "0.png").read_bytes()
    samples = [
        {"__key__": "a", "png": content, "txt": "web words", "json": {"url": "http://x"}},
        {"__key__": "b", "png": content},  # no text at all
    ]
    write_shards(tmp_path / "web", samples)
    caption(tmp_path / "web", "tar", tmp_path / "new")
    shards = Shards(expand(str(tmp_path / "new")))
    assert [shards.key(i) for i in range(len(shards))] == ["a", "b"]
    assert shards.meta(0)["url"] == "http://x"
    assert shards.meta(0)["texts"] == ["web words"]
    assert shards.texts(1) == ["a red picture"]


@pytest.mark.parametrize("format", ["jsonl", "imagefolder", "txt", "tar"])
def test_a_run_that_is_stopped_goes_on_and_ends_alike(folder, tmp_path, format):
    """Stopped after each possible number of batches; what was made is not made again."""
    twin = tmp_path / "twin"
    shutil.copytree(folder, twin)
    out = {"jsonl": "c.jsonl", "tar": "tars"}.get(format)

    def go(root, **options):
        return caption(root, format, out and tmp_path / root.name / "out" / out, shard_size=3, **options)

    go(twin)
    calls = 0
    for stop in (1, 2, 1):
        with pytest.raises(KeyboardInterrupt):
            go(folder, model=(model := FakeCaptioner(stop_after=stop)))
        calls += len(model.calls)
    calls += len(go(folder).calls)
    assert calls == 5
    assert files_of(folder) == files_of(twin)


def test_a_torn_line_of_the_journal_is_made_again(folder, tmp_path):
    out = tmp_path / "c.jsonl"
    with pytest.raises(KeyboardInterrupt):
        caption(folder, "jsonl", out, model=FakeCaptioner(stop_after=2))
    part = tmp_path / ".c.jsonl.part"
    part.write_bytes(part.read_bytes()[:-5])
    assert len(caption(folder, "jsonl", out).calls) == 4
    assert len(rows_of(out)) == 9


def test_another_setting_does_not_go_on(folder, tmp_path):
    out = tmp_path / "c.jsonl"
    with pytest.raises(KeyboardInterrupt):
        caption(folder, "jsonl", out, model=FakeCaptioner(stop_after=1))
    with pytest.raises(UserError, match="model"):
        caption(folder, "jsonl", out, settings={**SETTINGS, "model": "another"})
    caption(folder, "jsonl", out, settings={**SETTINGS, "model": "another"}, overwrite=True)
    assert len(rows_of(out)) == 9


@pytest.mark.parametrize("what", ["shard_size", "source", "format"])
def test_another_output_does_not_go_on(folder, tmp_path, what):
    format, out = ("jsonl", tmp_path / "c.jsonl") if what == "source" else ("tar", tmp_path / "tars")
    with pytest.raises(KeyboardInterrupt):
        caption(folder, format, out, model=FakeCaptioner(stop_after=2), shard_size=3)
    shutil.copytree(folder, tmp_path / "twin")
    source = tmp_path / "twin" if what == "source" else folder
    format = "txt" if what == "format" else format
    with pytest.raises(UserError, match=what):
        caption(source, format, out, shard_size=2 if what == "shard_size" else 3)
    if what == "source":  # a jsonl has no tars, and goes on with any size of them
        assert len(caption(folder, format, out, shard_size=7).calls) == 3


def test_overwrite_keeps_old_tars_until_there_are_captions(folder, tmp_path):
    out = tmp_path / "tars"
    caption(folder, "tar", out, shard_size=5)
    before = files_of(out)
    with pytest.raises(KeyboardInterrupt):  # as a wrong option does in the first batch
        caption(folder, "tar", out, model=FakeCaptioner(stop_after=0), shard_size=5, overwrite=True)
    assert {name: files_of(out)[name] for name in before} == before
    with pytest.raises(UserError, match="overwrite"):
        caption(folder, "tar", out, shard_size=5)
    changed = {**SETTINGS, "beams": 5}
    caption(folder, "tar", out, shard_size=5, settings=changed, overwrite=True)
    assert files_of(out) == before


def test_wrong_options_cost_nothing(folder, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr("multiway.cli.caption.load_model", lambda args: FakeCaptioner())
    monkeypatch.setattr("multiway.search.index.fingerprint", lambda model: "fake")
    out = tmp_path / "tars"
    argv = ["caption", str(folder), "--model", "x", "--format", "tar", "--out", str(out)]
    assert main([*argv, "--shard-size", "5"]) == 0
    before = files_of(out)
    for flags, words in (
        (["--n", "5", "--beams", "3"], "n_best is 5"),
        (["--top-p", "0.5"], "--top-p would do nothing with --method beam"),
        (["--seed", "1"], "--seed would do nothing with --method beam"),
        (["--method", "sample", "--beams", "3"], "--beams would do nothing with --method sample"),
    ):
        capsys.readouterr()
        assert main([*argv, "--overwrite", *flags]) == 2
        assert words in capsys.readouterr().err
        assert files_of(out) == before
    assert main([*argv, "--overwrite", "--method", "sample", "--seed", "1"]) == 0


def test_pictures_that_changed_are_noticed(folder, tmp_path):
    out = tmp_path / "c.jsonl"
    with pytest.raises(KeyboardInterrupt):
        caption(folder, "jsonl", out, model=FakeCaptioner(stop_after=1))
    (folder / "0.png").unlink()
    with pytest.raises(UserError, match="have changed"):
        caption(folder, "jsonl", out)


@pytest.mark.parametrize("format", ["jsonl", "imagefolder", "tar"])
def test_what_is_there_is_not_lost_without_asking(folder, tmp_path, format):
    out = {"jsonl": tmp_path / "c.jsonl", "tar": tmp_path / "tars"}.get(format)
    caption(folder, format, out, shard_size=2)
    with pytest.raises(UserError, match="overwrite"):
        caption(folder, format, out)
    assert len(caption(folder, format, out, overwrite=True).calls) == 5
    if format == "tar":
        assert len(list(out.glob("*.tar"))) == 1


def test_what_does_not_fit_is_refused(folder, tmp_path):
    write_shards(tmp_path / "web", [{"__key__": "a", "png": (folder / "0.png").read_bytes(), "txt": "x"}])
    for source, format, out, words in (
        (tmp_path / "web", "txt", None, "folder of pictures"),
        (tmp_path / "web", "imagefolder", None, "folder of pictures"),
        (folder, "imagefolder", tmp_path / "x", "without --out"),
        ([str(folder / "0.png")], "imagefolder", None, "without --out"),
        (folder, "jsonl", None, "needs --out"),
        (folder, "tar", None, "needs --out"),
    ):
        with pytest.raises(UserError, match=words):
            caption(source, format, out)
    with pytest.raises(UserError, match="shard-size"):
        caption(folder, "tar", tmp_path / "x", shard_size=0)
    Image.new("RGB", (8, 8)).save(folder / "0.jpg")
    with pytest.raises(UserError, match=r"would share one \.txt"):
        caption(folder, "txt")


def test_nothing_but_bad_pictures(tmp_path):
    (tmp_path / "a.png").write_bytes(b"no picture")
    with pytest.raises(UserError, match="not_an_image"):
        caption(tmp_path, "jsonl", tmp_path / "c.jsonl")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["a.png"]


def test_sources_that_do_not_go_together(folder, tmp_path):
    for sources, words in (
        ([str(folder), str(folder)], "one source too many"),
        ([str(folder), str(folder / "0.png")], "no picture file"),
        ([str(folder / "none.png")], "there is no"),
    ):
        with pytest.raises(UserError, match=words):
            open_pictures(*sources)


def test_tars_are_not_written_over_those_that_are_read(folder, tmp_path):
    caption(folder, "tar", tmp_path / "tars", shard_size=3)
    before = files_of(tmp_path / "tars")
    with pytest.raises(UserError, match="is read, and tars would be written over it"):
        caption(str(tmp_path / "tars"), "tar", tmp_path / "tars", overwrite=True)
    assert files_of(tmp_path / "tars") == before


def test_overwrite_starts_anew_where_the_pictures_have_changed(folder, tmp_path):
    class Stops(FakeCaptioner):
        def generate(self, images, **options):
            if len(self.calls) == 2:
                raise KeyboardInterrupt
            return super().generate(images, **options)

    out = tmp_path / "captions.jsonl"
    with pytest.raises(KeyboardInterrupt):
        caption(folder, "jsonl", out, model=Stops())
    Image.new("RGB", (8, 8), "red").save(folder / "-first.png")
    with pytest.raises(UserError, match="the pictures have changed"):
        caption(folder, "jsonl", out)
    caption(folder, "jsonl", out, overwrite=True)
    assert len(rows_of(out)) == 10
