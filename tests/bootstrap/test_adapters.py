"""Captioners and filters of every kind give what their parts give, one by one."""

from __future__ import annotations

import base64
import io
import json
import threading
from http.server import BaseHTTPRequestHandler, HTTPServer

import fakes
import numpy as np
import pytest
import torch
from PIL import Image
from tiny import bert, vit

import multiway
from multiway.bootstrap import captioner, filter
from multiway.bootstrap.endpoint import Endpoint, EndpointFailed
from multiway.bootstrap.filters import DualEncoderFilter, ModelFilter
from multiway.bootstrap.pipeline import AnswerFailed
from multiway.bootstrap.run import bootstrap
from multiway.errors import UserError
from multiway.systems.vilt_config import vilt_vit
from multiway.systems.vlmo_config import TextConfig
from multiway.text import TokenizerConfig


def pictures(n: int) -> list[Image.Image]:
    draw = np.random.default_rng(0)
    return [Image.fromarray(draw.integers(0, 255, (20, 20, 3), dtype=np.uint8)) for _ in range(n)]


class Service(BaseHTTPRequestHandler):
    """The documented protocol over the fakes; `trouble` is what it does first."""

    trouble: list = []
    asked: list = []

    def do_POST(self):
        question = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        Service.asked.append(question)
        status = self.trouble.pop(0) if self.trouble else 200
        images = [
            Image.open(io.BytesIO(base64.b64decode(row["image"]))).convert("RGB")
            for row in question["pictures"]
        ]
        if question["task"] == "caption":
            keys = [row["key"] for row in question["pictures"]]
            answer = {"captions": fakes.caption(images, keys)}
        else:
            answer = {"scores": fakes.score(images, [row["texts"] for row in question["pictures"]])}
        content = json.dumps({} if status == "empty" else answer).encode()
        self.send_response(200 if status == "empty" else status)
        self.end_headers()
        self.wfile.write(content if status in (200, "empty") else b"too many")

    def log_message(self, *args):
        """Nothing on stderr."""


@pytest.fixture
def service():
    Service.trouble, Service.asked = [], []
    server = HTTPServer(("127.0.0.1", 0), Service)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    thread.join()
    server.server_close()


def test_an_endpoint_gives_what_the_function_gives(web, config, tmp_path, service):
    data = web(12)
    here = bootstrap(config(data), tmp_path / "here", workers=1)
    settings = config(data, captioner=service, filter=service, seed=3, captions=2)
    there = bootstrap(settings, tmp_path / "there", workers=1)
    assert here["texts"] == there["texts"]
    asked = [question for question in Service.asked if question["task"] == "caption"]
    assert {(question["number"], question["seed"]) for question in asked} == {(2, 3)}
    assert asked[0]["pictures"][0]["key"] == "00000/000000"


def test_an_endpoint_is_tried_again(service):
    Service.trouble = [503, 429]
    endpoint = Endpoint(service, retries=2, pause=0.01)
    assert endpoint.scores(pictures(1), [["a red thing"]]) == fakes.score(pictures(1), [["a red thing"]])
    assert len(Service.asked) == 3
    Service.trouble = [500] * 3
    with pytest.raises(EndpointFailed, match="3 tries .*status 500"):
        endpoint.scores(pictures(1), [["a"]])
    Service.trouble = [404]
    with pytest.raises(UserError, match="404.*too many"):
        endpoint.scores(pictures(1), [["a"]])
    Service.trouble = ["empty"]
    with pytest.raises(EndpointFailed, match="without 'scores'"):
        endpoint.scores(pictures(1), [["a"]])


def test_nobody_listens():
    with pytest.raises(EndpointFailed, match="2 tries"):
        Endpoint("http://127.0.0.1:9", retries=1, pause=0.01, timeout=2).scores(pictures(1), [["a"]])


def test_a_slow_endpoint_times_out():
    import socket

    with socket.create_server(("127.0.0.1", 0)) as silent:
        url = f"http://127.0.0.1:{silent.getsockname()[1]}"
        with pytest.raises(EndpointFailed, match="timed out"):
            Endpoint(url, retries=0, timeout=0.2).scores(pictures(1), [["a"]])


@pytest.fixture(scope="module")
def model():
    torch.manual_seed(0)
    return multiway.create("albef", image=vit(), text=bert(vocab_size=30522), queue_size=16).eval()


def test_a_model_scores_as_its_match_does(model):
    images, texts = pictures(3), [["a cat", "a dog on a mat"], [], ["a bird"]]
    found = ModelFilter(model)(images, texts)
    for image, lines, row in zip(images, texts, found, strict=True):
        one_by_one = [float(model.match(image, text)) for text in lines]
        assert row == pytest.approx(one_by_one, abs=1e-5)
    assert filter.threshold_of(ModelFilter(model), None) == 0.5


def test_a_model_without_features_scores_by_its_head():
    model = multiway.create(
        "vilt",
        image=vilt_vit(image_size=32, patch_size=16, width=24, depth=1, heads=2, hidden=40, dropout=0.0),
        text=TextConfig(positions=16, dropout=0.0),
        tokenizer=TokenizerConfig(cleaning="none", add_sep=True, max_length=16),
        longest_side=64,
    ).eval()
    (image,), texts = pictures(1), ["a cat", "a dog on a mat"]
    found = ModelFilter(model)([image], [texts])
    assert found[0] == pytest.approx([float(model.match(image, text)) for text in texts], abs=1e-5)
    model.has_itm = False
    with pytest.raises(UserError, match="neither contrastive features nor a matching head"):
        ModelFilter(model)


class Towers(torch.nn.Module):
    """Like open_clip's models: two encoders of prepared inputs, not normalised."""

    def encode_image(self, pixels):
        return pixels.flatten(1)[:, :4] * 3

    def encode_text(self, ids):
        return ids.float()


def test_a_dual_encoder_scores_by_cosine():
    def prepare(picture):
        return torch.from_numpy(np.asarray(picture, np.float32)).permute(2, 0, 1) / 255

    def tokenize(texts):
        return torch.tensor([[len(text), text.count("a"), 1, 2] for text in texts])

    scores = DualEncoderFilter(Towers(), prepare, tokenize)
    images, texts = pictures(2), [["a cat", "banana"], ["dog"]]
    found = scores(images, texts)
    for image, lines, row in zip(images, texts, found, strict=True):
        left = prepare(image).flatten()[:4]
        right = tokenize(lines).float()
        assert row == pytest.approx(torch.cosine_similarity(left[None], right).tolist(), abs=1e-6)
    with pytest.raises(UserError, match="--threshold"):
        filter.threshold_of(scores, None)
    assert filter.threshold_of(scores, 0.2) == 0.2


@pytest.mark.parametrize(
    "answer", [[["a"]], [["a"], "b"], [["a"], [1]], [["a"], None]], ids=["few", "a str", "a number", "none"]
)
def test_a_captioner_must_answer_for_each_picture(web, config, tmp_path, answer):
    settings = config(web(2))
    with pytest.raises(AnswerFailed, match="the captioner fakes:caption failed at the 2 pictures from"):
        bootstrap(settings, tmp_path / "out", workers=1, captioner=lambda pictures, keys: answer)


def test_captions_are_one_line_each_and_not_repeated(web, config, tmp_path):
    rows = [[" a  red\nthing ", "a red thing", "", "a green thing"]]
    settings = config(web(1), threshold=0.0, captions=4)
    bootstrap(settings, tmp_path / "out", workers=1, captioner=lambda pictures, keys: rows)
    from multiway.data.shards import Shards, expand

    texts = Shards(expand(str(tmp_path / "out"))).texts(0)
    assert texts[1:] == ["a red thing", "a green thing"]


def test_a_model_that_does_not_generate_is_refused(config, model):
    with pytest.raises(UserError, match="ALBEF does not generate text"):
        captioner.from_model(model, config("x"))(pictures(1), ["k"])
