"""SentencePiece with fairseq's ids; what the official code makes of texts is a recorded case of its own."""

from __future__ import annotations

import json
import pickle

import pytest
import tiny_beit3 as tiny

from multiway.errors import UserError
from multiway.text import Tokenizer, TokenizerConfig

CASES = json.loads((tiny.SPM.parent / "tokenizer_cases.json").read_text())["cases"]
CONFIG = TokenizerConfig(
    kind="sentencepiece", vocab=str(tiny.SPM), cleaning="none", add_sep=True, max_length=64
)


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    return Tokenizer.load(CONFIG)


@pytest.mark.parametrize("case", CASES, ids=lambda case: case["text"])
def test_ids_are_the_recorded_ones_and_name_the_recorded_pieces(tokenizer, case) -> None:
    assert tokenizer.encode(case["text"]) == case["ids_with_special"]
    known = [
        (t, i) for t, i in zip(case["tokens"], case["ids_no_special"], strict=True) if i != tokenizer.unk_id
    ]
    assert [tokenizer._backend.id_to_token(i) for _, i in known] == [t for t, _ in known]
    assert [tokenizer._backend.token_to_id(t) for t, _ in known] == [i for _, i in known]


def test_special_ids_are_fairseqs(tokenizer) -> None:
    assert (tokenizer.cls_id, tokenizer.pad_id, tokenizer.sep_id, tokenizer.unk_id) == (0, 1, 2, 3)
    assert tokenizer.mask_id == tokenizer.vocab_size - 1 == 66
    assert [tokenizer._backend.id_to_token(i) for i in (0, 1, 2, 3, 66)] == [
        "<s>",
        "<pad>",
        "</s>",
        "<unk>",
        "<mask>",
    ]


def test_decoding_joins_pieces_and_leaves_special_tokens_out(tokenizer) -> None:
    assert tokenizer.decode([[*tokenizer.encode("a red dog"), 66, 2, 1]]) == ["a red dog"]


def test_words_begin_at_their_mark(tokenizer) -> None:
    ids, _ = tokenizer(["a dog"])
    pieces = [tokenizer._backend.id_to_token(int(i)) for i in ids[0]]
    assert tokenizer.word_starts(ids)[0].tolist() == [piece.startswith("▁") for piece in pieces]


def test_it_survives_a_folder_and_a_worker(tokenizer, tmp_path) -> None:
    tokenizer.save(tmp_path)
    for other in (Tokenizer.load(CONFIG, tmp_path), pickle.loads(pickle.dumps(tokenizer))):
        assert other.encode("Two happy dogs?") == tokenizer.encode("Two happy dogs?")
        assert other.vocab_size == tokenizer.vocab_size


def test_wrong_files_are_refused(tmp_path) -> None:
    with pytest.raises(UserError, match="no sentencepiece vocabulary 'nowhere.spm'"):
        Tokenizer.load(TokenizerConfig(kind="sentencepiece", vocab="nowhere.spm"))
    (tmp_path / "words.spm").write_text("no model")
    with pytest.raises(UserError, match="no SentencePiece model"):
        Tokenizer.load(TokenizerConfig(kind="sentencepiece", vocab=str(tmp_path / "words.spm")))
    (tmp_path / "tokenizer.json").write_text("{}")
    with pytest.raises(UserError, match="not a tokenizer file"):
        Tokenizer.load(CONFIG, tmp_path)
