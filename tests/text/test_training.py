"""A vocabulary of one's own captions: deterministic, within its size, safe for every script."""

import os
import subprocess
import sys

import pytest
import torch

from multiway.errors import UserError
from multiway.text import Tokenizer, TokenizerConfig, train_vocabulary

CAPTIONS = ["a red dog runs", "two red dogs running", "a dog is running in the park", "the runner runs"] * 3


def test_merges_by_hand():
    tokenizer = train_vocabulary(["ab ab ab ac"], size=5 + 2 * 3 + 2)
    # Letters a b c, first or ##later; then "ab" (3 times); "ac" comes once: no piece.
    assert [tokenizer._backend.id_to_token(i) for i in range(tokenizer.vocab_size)] == [
        "[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "a", "b", "c", "##a", "##b", "##c", "ab",
    ]  # fmt: skip


def test_common_words_become_one_token():
    tokenizer = train_vocabulary(CAPTIONS, size=100)
    assert tokenizer.vocab_size <= 100
    assert (tokenizer.pad_id, tokenizer.unk_id, tokenizer.cls_id, tokenizer.sep_id, tokenizer.mask_id) == (
        0,
        1,
        2,
        3,
        4,
    )
    assert len(tokenizer.encode("red dog")) == 3
    assert tokenizer.decode(tokenizer(["Two running dogs!"])[0]) == ["two running dogs"]
    assert tokenizer.unk_id not in tokenizer.encode("rude gun")  # new words of known letters


def test_saved_with_the_model(tmp_path):
    tokenizer = train_vocabulary(CAPTIONS, size=60)
    assert tokenizer.config.vocab == "trained"
    tokenizer.save(tmp_path)
    again = Tokenizer.load(tokenizer.config, tmp_path)
    assert torch.equal(again(CAPTIONS)[0], tokenizer(CAPTIONS)[0])


def test_size_is_kept_when_letters_are_many():
    tokenizer = train_vocabulary(["".join(map(chr, range(0x4E00, 0x4F00))), "一 一"], size=50)
    assert tokenizer.vocab_size <= 50
    assert tokenizer.encode("一")[1] != tokenizer.unk_id  # the commonest letter is in


@pytest.mark.parametrize(
    "text", ["नमस्ते दुनिया", "안녕하세요 세계", "สวัสดีชาวโลก" * 12, "می\u200cخواهم بروم", "été à la plage"]
)
def test_every_script_survives(text):
    tokenizer = train_vocabulary(
        [text, text], size=400, config=TokenizerConfig(cleaning="multilingual", max_length=200)
    )
    assert tokenizer.decode(tokenizer([text])[0]) == [text]


def test_equal_captions_give_equal_vocabularies_in_any_process():
    code = (
        "from multiway.text import train_vocabulary\n"
        "t = train_vocabulary([f'word{i % 37} thing{i % 11} of {i}' for i in range(400)], size=300)\n"
        "print([t._backend.id_to_token(i) for i in range(t.vocab_size)])"
    )
    outputs = {
        subprocess.run(
            [sys.executable, "-c", code],
            capture_output=True,
            check=True,
            env={**os.environ, "PYTHONHASHSEED": seed},
        ).stdout
        for seed in ("1", "2")
    }
    assert len(outputs) == 1


def test_wrong_requests():
    with pytest.raises(UserError, match="no caption holds a word"):
        train_vocabulary(["", "!?"], size=100)
    with pytest.raises(UserError, match="no room"):
        train_vocabulary(["a dog"], size=6)
    with pytest.raises(UserError, match="WordPiece"):
        train_vocabulary(["a dog"], size=100, config=TokenizerConfig(kind="clip_bpe"))
