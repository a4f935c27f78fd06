"""SentencePiece with fairseq's ids, as XLM-RoBERTa and BEiT-3 have them.

    id          0    1      2     3      4 ...                last
    token      <s>  <pad>  </s>  <unk>   piece 3 of the file  <mask>

A piece p > 2 of the file is the id p + 1; its own <unk>, <s> and </s> (0, 1, 2) are the four above.
"""

from __future__ import annotations

import base64
import json
from pathlib import Path
from typing import Any, NamedTuple

import sentencepiece

from multiway.errors import UserError

CLS, PAD, SEP, UNK = SPECIAL = ("<s>", "<pad>", "</s>", "<unk>")
MASK = "<mask>"
SHIPPED: dict[str, Path] = {}
MARKS_WORD_ENDS = False
SPACE = "▁"


class Encoded(NamedTuple):
    """What `Pieces.encode` returns; `tokenizers` has the same field."""

    ids: list[int]


class Pieces:
    """A SentencePiece model under the names that `Tokenizer` calls its backend by."""

    def __init__(self, model: bytes):
        self.model = model
        self._processor = sentencepiece.SentencePieceProcessor(model_proto=model)
        self._count = len(self._processor)

    def __getstate__(self) -> bytes:  # loader workers need it pickled
        return self.model

    def __setstate__(self, model: bytes) -> None:
        Pieces.__init__(self, model)

    def get_vocab_size(self) -> int:
        """Pieces, <pad> and <mask>."""
        return self._count + 2

    def token_to_id(self, token: str) -> int | None:
        """The id of a token, or None."""
        if token in SPECIAL:
            return SPECIAL.index(token)
        if token == MASK:
            return self._count + 1
        piece = self._processor.piece_to_id(token)
        return None if piece == self._processor.unk_id() else piece + 1

    def id_to_token(self, number: int) -> str:
        """The token of an id."""
        if number < len(SPECIAL):
            return SPECIAL[number]
        return MASK if number == self._count + 1 else self._processor.id_to_piece(number - 1)

    def encode(self, text: str, *, add_special_tokens: bool = False) -> Encoded:
        """The ids of a text's pieces."""
        unknown = SPECIAL.index(UNK)
        pieces = self._processor.encode(text)
        return Encoded([piece + 1 if piece != self._processor.unk_id() else unknown for piece in pieces])

    def decode(self, ids: list[int]) -> str:
        """Pieces as a text."""
        return "".join(self.id_to_token(i) for i in ids).replace(SPACE, " ").strip()

    def to_str(self) -> str:
        """All of it as JSON, which `from_str` reads."""
        return json.dumps({"sentencepiece": base64.b64encode(self.model).decode()})

    @classmethod
    def from_str(cls, text: str) -> Pieces:
        """What `to_str` wrote.

        Raises:
            ValueError: it is something else.
        """
        values: Any = json.loads(text)
        if not isinstance(values, dict) or "sentencepiece" not in values:
            raise ValueError("no SentencePiece model")
        return cls(base64.b64decode(values["sentencepiece"]))


def begins_word(token: str) -> bool:
    """Whether this token begins a word."""
    return token.startswith(SPACE)


def normalise(text: str) -> str:
    """Nothing here: the model holds its own rules."""
    return text


def build(path: Path) -> Pieces:
    """The backend of a SentencePiece file (.spm, .model).

    Raises:
        UserError: the file is none.
    """
    try:
        pieces = Pieces(path.read_bytes())
    except RuntimeError:
        pieces = None
    if pieces is None or pieces.get_vocab_size() <= len(SPECIAL):
        raise UserError(f"{path} is no SentencePiece model: name one, as BEiT-3's beit3.spm")
    return pieces


def decode(backend: Pieces, row: list[int]) -> str:
    """The text of one row of ids."""
    return backend.decode(row)
