"""Videos: which frames are taken, what is made of them, and retrieval."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import tiny_blip
import torch
from PIL import Image

import multiway
from multiway.cli.main import main
from multiway.data import videos
from multiway.data.dataset import Source
from multiway.data.sample import BadSample
from multiway.data.videos import Videos, read_frames
from multiway.errors import UserError
from multiway.systems.frames import OverFrames

COLOURS = [(20 * i, 0, 0) for i in range(12)]


@pytest.fixture
def films(tmp_path: Path) -> Path:
    """A folder of twelve frames, an animated picture of twelve, and a table of both."""
    frames = [Image.new("RGB", (8, 6), colour) for colour in COLOURS]
    (tmp_path / "clip").mkdir()
    for i, frame in enumerate(frames):
        frame.save(tmp_path / f"clip/{i:03d}.png")
    frames[0].save(tmp_path / "clip.webp", save_all=True, append_images=frames[1:], lossless=True)
    rows = [
        {"video": "clip", "caption": "it gets red"},
        {"video": "clip.webp", "caption": ["the same", "again"]},
        {"video": "gone", "caption": "nothing"},
    ]
    (tmp_path / "videos.jsonl").write_text("\n".join(map(json.dumps, rows)))
    return tmp_path


def test_frames_at_equal_distances(films: Path) -> None:
    for name in ("clip", "clip.webp"):
        found = [frame.getpixel((0, 0)) for frame in read_frames(films / name, 8)]
        assert found == [COLOURS[i] for i in (0, 1, 3, 4, 6, 7, 9, 10)]
    assert len(read_frames(films / "clip", 16)) == 16
    data = Videos(Source(path=str(films / "videos.jsonl")), frames=2, size=(10, 5))
    assert data.sample(1).texts == ["the same", "again"]
    assert data.image(0).size == (5, 20)
    assert data.image(0).getpixel((2, 15)) == COLOURS[6]
    with pytest.raises(BadSample):
        data.image(2)


def test_a_table_of_videos_is_read_as_one_of_pictures(films: Path) -> None:
    def opened(name: str, content: str, **options) -> Videos:
        (films / name).write_text(content)
        return Videos(Source(path=str(films / name), **options), frames=2, size=(4, 4))

    rows = '{"video": "clip", "caption": "one\u2028line"}\n{"video": "clip.webp"}\n{"caption": "x"}\n'
    data = opened("t.jsonl", rows)
    assert [data.texts(i) for i in range(len(data))] == [["one\u2028line"]]
    assert data.problems == {"empty_caption": 1, "no_image": 1}
    data = opened("t.csv", '\ufeffVideo,Caption,split\nclip,"[""a"", ""b""]",val\nclip.webp,c,test\n')
    assert [data.texts(i) for i in range(len(data))] == [["a", "b"], ["c"]]
    split = opened(
        "t.csv", "video,caption,split\nclip,a,val\nclip.webp,c,test\n", split="test", texts="first"
    )
    assert (len(split), split.texts(0), split.meta(0)["split"]) == (1, ["c"], "test")
    for content, said in (
        ('{"video": "clip", "capt', "can't be read as jsonl"),
        ('{"video": "clip", "caption": ""}', "No picture with a caption in"),
        ('{"film": "clip", "caption": "a"}', "has no column video or image"),
        ('{"video": "elsewhere", "caption": "a"}', "are not under"),
    ):
        with pytest.raises(UserError, match=said):
            opened("t.jsonl", content)


def test_a_video_is_the_mean_of_its_frames_and_all_of_their_tokens() -> None:
    model, _ = tiny_blip.blip()
    model.eval()
    seen = OverFrames(model, 3)
    frames = torch.randn(2, 3, 3, 32, 32)
    strip = frames.transpose(1, 2).flatten(2, 3)
    with torch.no_grad():
        feature, context = seen.image_context(strip)
        tokens = model.image_tower(frames.flatten(0, 1))
        each = model.encoders.image_proj(tokens[:, 0]).view(2, 3, -1).mean(1)
    torch.testing.assert_close(feature, each / each.norm(dim=-1, keepdim=True))
    assert context.layers[0].key.shape[2] == 3 * tokens.shape[1]
    with pytest.raises(UserError, match="does not look at videos"):
        OverFrames(seen, 3)


def test_the_command(albef, films: Path, monkeypatch, capsys) -> None:
    multiway.save(albef, films / "model")
    monkeypatch.chdir(films)
    command = ["evaluate", "retrieval", "--model", "model", "--data", "videos.jsonl", "--frames", "4"]
    assert main([*command, "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert (found["n_images"], found["n_texts"]) == (2, 3)


def test_a_bomb_of_many_frames_is_left_out(tmp_path: Path, monkeypatch) -> None:
    film = Image.new("L", (60, 40))
    film.save(tmp_path / "a.gif", save_all=True, append_images=[film.rotate(90)])
    monkeypatch.setattr(videos, "MAX_PIXELS", 2000)
    with pytest.raises(BadSample, match="bomb"):
        read_frames(tmp_path / "a.gif", 2)
    monkeypatch.setattr(videos, "MAX_PIXELS", 10**9)
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 100)
    with pytest.raises(BadSample, match="bomb"):
        read_frames(tmp_path / "a.gif", 2)


def test_what_is_transparent_shows_white_in_every_frame(tmp_path):
    clear = [Image.new("RGBA", (8, 8), (grey, 0, 0, 0)) for grey in (1, 2)]
    clear[0].save(tmp_path / "a.webp", save_all=True, append_images=clear[1:], lossless=True)
    assert [frame.getpixel((0, 0)) for frame in read_frames(tmp_path / "a.webp", 2)] == [(255,) * 3] * 2
