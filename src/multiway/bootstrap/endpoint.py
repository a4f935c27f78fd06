"""A captioner or filter behind an HTTP address: one POST a batch, JSON both ways.

captioner   {"task": "caption", "number": 2, "seed": 0, "pictures": [{"key": "00000/01", "image": BASE64}]}
            -> {"captions": [["a cat", "a grey cat"]]}
filter      {"task": "score", "pictures": [{"image": BASE64, "texts": ["a cat", "a dog"]}]}
            -> {"scores": [[0.98, 0.03]]}

`image` is a PNG file in base64. Answers come in the order of the pictures. 429, 5xx, a time-out and a broken
connection are tried again after 1, 2, 4, ... seconds; any other status is final, and its body is shown.
"""

from __future__ import annotations

import base64
import http.client
import io
import json
import time
import urllib.error
import urllib.request
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from PIL import Image

from multiway.errors import UserError


class EndpointFailed(RuntimeError):
    """The endpoint gave no usable answer; the message says what it did instead."""


@dataclass(frozen=True)
class Endpoint:
    """An address that captions or scores.

    Attributes:
        url: http or https. timeout: seconds for one answer. retries: further tries after the first.
        pause: seconds before the first of them, doubled each time.
    """

    url: str
    timeout: float = 120.0
    retries: int = 4
    pause: float = 1.0

    def captions(
        self, pictures: Sequence[Image.Image], keys: Sequence[str], *, number: int, seed: int
    ) -> list[list[str]]:
        """`number` captions of each picture."""
        rows = [{"key": key, "image": _png(image)} for key, image in zip(keys, pictures, strict=True)]
        return self._ask({"task": "caption", "number": number, "seed": seed, "pictures": rows}, "captions")

    def scores(self, pictures: Sequence[Image.Image], texts: Sequence[Sequence[str]]) -> list[list[float]]:
        """The score of each text of each picture."""
        rows = [{"image": _png(image), "texts": list(t)} for image, t in zip(pictures, texts, strict=True)]
        return self._ask({"task": "score", "pictures": rows}, "scores")

    def _ask(self, question: dict[str, Any], field: str) -> Any:
        content = self._post(json.dumps(question).encode())
        try:
            return json.loads(content)[field]
        except (ValueError, KeyError, TypeError):
            said = content[:200].decode("utf-8", "replace")
            raise EndpointFailed(f"{self.url} answered without {field!r}: {said}") from None

    def _post(self, content: bytes) -> bytes:
        request = urllib.request.Request(self.url, content, {"Content-Type": "application/json"})
        why = ""
        for tried in range(self.retries + 1):
            if tried:
                time.sleep(self.pause * 2 ** (tried - 1))
            try:
                with urllib.request.urlopen(request, timeout=self.timeout) as answer:
                    return answer.read()
            except urllib.error.HTTPError as error:
                why = f"status {error.code}"
                if error.code != 429 and error.code < 500:
                    body = error.read(300).decode("utf-8", "replace")
                    raise UserError(f"{self.url} refused the request with {why} ({body}); mend it") from None
            except (OSError, http.client.HTTPException) as error:  # URLError and time-outs are OSErrors
                why = str(getattr(error, "reason", error)) or type(error).__name__
        raise EndpointFailed(
            f"{self.url} gave no answer in {self.retries + 1} tries (the last: {why}); start it again and "
            "repeat the command, which goes on where it stopped"
        )


def _png(image: Image.Image) -> str:
    file = io.BytesIO()
    image.save(file, "PNG", compress_level=1)
    return base64.b64encode(file.getvalue()).decode()
