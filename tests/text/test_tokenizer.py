"""Ids of the official tokenizers, framing, truncation, saving, and what wrong files answer."""

import hashlib
import json
import pickle
import warnings
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from multiway.errors import UserError
from multiway.text import Tokenizer, TokenizerConfig, wordpiece
from multiway.text.clip_bpe import SHIPPED as CLIP_SHIPPED
from multiway.text.wordpiece import SHIPPED as BERT_SHIPPED

HERE = Path(__file__).parent
CLIP = TokenizerConfig(kind="clip_bpe", vocab="clip", cleaning="none", max_length=77)


@pytest.fixture(scope="module")
def bert():
    return Tokenizer.load(TokenizerConfig())


@pytest.fixture(scope="module")
def clip():
    return Tokenizer.load(CLIP)


def test_shipped_vocabularies_are_the_published_files():
    digests = {
        p.name: hashlib.sha256(p.read_bytes()).hexdigest()
        for p in (*BERT_SHIPPED.values(), *CLIP_SHIPPED.values())
    }
    assert digests == {
        "bert-base-uncased.txt": "07eced375cec144d27c900241f3e339478dec958f92fddbc551f295c992038a3",
        "bpe_simple_vocab_16e6.txt.gz": "924691ac288e54409236115652ad4aa250f48203de50a9e4722a6ecd48d6804a",
    }


def test_bert_ids(bert):
    input_ids, attention_mask = bert(["Two dogs!", "a T-shirt"])
    assert input_ids.tolist() == [[101, 2048, 6077, 0], [101, 1037, 1056, 3797]]
    assert attention_mask.tolist() == [[1, 1, 1, 0], [1, 1, 1, 1]]
    assert input_ids.dtype == attention_mask.dtype == torch.int64
    assert (bert.vocab_size, bert.pad_id, bert.unk_id, bert.cls_id, bert.sep_id, bert.mask_id) == (
        30522,
        0,
        100,
        101,
        102,
        103,
    )
    assert bert.special_ids == (0, 100, 101, 102, 103)


def test_sep_and_fixed_width():
    tokenizer = Tokenizer.load(TokenizerConfig(add_sep=True, max_length=6))
    input_ids, attention_mask = tokenizer(["two dogs"], padding="max_length")
    assert input_ids.tolist() == [[101, 2048, 6077, 102, 0, 0]]
    assert attention_mask.tolist() == [[1, 1, 1, 1, 0, 0]]


def test_special_tokens_written_in_a_text_are_plain_text(bert):
    assert bert.encode("yes[SEP]", clean=False) == [101, 2748, 1031, 19802, 1033]


def test_clip_ids_are_open_clips(clip):
    for text, ids in json.loads((HERE / "clip_ids.json").read_text(encoding="utf-8"))["cases"]:
        assert clip.encode(text) == [49406, *ids, 49407], text
    assert (clip.vocab_size, clip.pad_id, clip.cls_id, clip.sep_id, clip.mask_id, clip.unk_id) == (
        49408,
        0,
        49406,
        49407,
        None,
        None,
    )


def test_clip_keeps_its_end_when_cut(clip):
    with pytest.warns(UserWarning, match="cut"):
        ids = Tokenizer.load(CLIP).encode("dog " * 100)
    assert len(ids) == 77
    assert ids[-1] == 49407


def test_decode(bert, clip):
    assert bert.decode(bert(["two frisbees, playing"])[0]) == ["two frisbees playing"]
    assert clip.decode(clip(["a café 🐕", "dogs"])[0]) == ["a café 🐕", "dogs"]


def test_word_starts(bert, clip):
    ids = torch.tensor([bert.encode("skateboarders flipover")])
    pieces = [bert._backend.id_to_token(i) for i in ids[0].tolist()]
    assert bert.word_starts(ids)[0].tolist() == [not p.startswith("##") for p in pieces]
    assert any(p.startswith("##") for p in pieces)
    ids = torch.tensor([clip.encode("你好 dog")])
    assert clip.word_starts(ids)[0].tolist() == [True, True, False, False, False, True, True][: ids.shape[1]]


def test_truncation_warns_once_and_counts():
    tokenizer = Tokenizer.load(TokenizerConfig(max_length=4, max_words=5))
    assert tokenizer.truncated == 0
    with pytest.warns(UserWarning, match="cut to 4 tokens or 5 words") as caught:
        list(
            map(
                tokenizer.encode, ["one two three", "one two three four", "a b c d e f", "one two three four"]
            )
        )
    assert len(caught) == 1
    assert tokenizer.truncated == 3
    assert tokenizer.report() == "3 texts were cut to at most 4 tokens or 5 words"


def test_word_cut_counts_even_when_tokens_fit():
    tokenizer = Tokenizer.load(TokenizerConfig(max_words=2))
    with pytest.warns(UserWarning, match="cut"):
        assert tokenizer.encode("one two three") == tokenizer.encode("one two")
    assert tokenizer.truncated == 1


def test_nothing_is_counted_when_nothing_is_cut(bert):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        bert(["a dog", "", "one two   three"])
    assert bert.truncated == 0


@pytest.mark.parametrize("config", [TokenizerConfig(max_length=12), replace(CLIP, max_length=12)])
def test_saved_is_loaded(tmp_path, config):
    before = Tokenizer.load(config)
    before.save(tmp_path)
    (tmp_path / "vocab.txt").unlink(missing_ok=True)
    after = Tokenizer.load(replace(config, vocab="trained"), tmp_path)
    texts = ["A dog's café, 12", "", "skateboarders"]
    assert torch.equal(before(texts)[0], after(texts)[0])
    assert before.decode(before(texts)[0]) == after.decode(after(texts)[0])
    assert pickle.loads(pickle.dumps(before)).encode("a dog") == before.encode("a dog")


def test_saved_vocab_txt_is_the_shipped_one(tmp_path, bert):
    bert.save(tmp_path)
    assert (tmp_path / "vocab.txt").read_bytes() == BERT_SHIPPED["bert-base-uncased"].read_bytes()


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b"a\nb\n", "no .PAD."),
        (b"\xff\xfe\x00\x80", "not a text file"),
        (b"[PAD]\n[UNK]\n[CLS]\n[SEP]\n[MASK]\na\na\n", "twice"),
    ],
)
def test_wrong_vocabulary_file(tmp_path, content, says):
    (tmp_path / "vocab.txt").write_bytes(content)
    with pytest.raises(UserError, match=says):
        Tokenizer.load(TokenizerConfig(vocab=str(tmp_path / "vocab.txt")))


def test_wrong_merges_file(tmp_path):
    (tmp_path / "merges.txt").write_text("version\none two three\n")
    with pytest.raises(UserError, match="BPE merges"):
        Tokenizer.load(replace(CLIP, vocab=str(tmp_path / "merges.txt")))
    whole = CLIP_SHIPPED["clip"].read_bytes()
    for content in (b"not gzip", whole[:-9], whole[:40] + b"x" + whole[41:]):
        (tmp_path / "merges.txt.gz").write_bytes(content)
        with pytest.raises(UserError, match="BPE merges"):
            Tokenizer.load(replace(CLIP, vocab=str(tmp_path / "merges.txt.gz")))
    for content in ("version\nqq zz\n", "version\na b\na b\n"):  # no symbols of bytes; a pair twice
        (tmp_path / "merges.txt").write_text(content)
        with pytest.raises(UserError, match="BPE merges"):
            Tokenizer.load(replace(CLIP, vocab=str(tmp_path / "merges.txt")))


@pytest.mark.parametrize("cleaning", ["none", "multilingual", "blip"])
def test_prompt_and_answer_are_cleaned_apart(cleaning):
    tokenizer = Tokenizer.load(TokenizerConfig(cleaning=cleaning, add_sep=True, turns=True))
    ids = tokenizer.encode("what is it\ta dog")
    assert ids.count(tokenizer.sep_id) == 2
    assert tokenizer.decode([ids[ids.index(tokenizer.sep_id) :]]) == ["a dog"]


def test_a_text_has_no_more_tokens_than_it_may():
    words = Tokenizer.load(TokenizerConfig(max_length=1, cleaning="none"))
    with pytest.warns(UserWarning, match="cut to 1 tokens"):
        assert words.encode("one two three") == [words.cls_id]
    clip = Tokenizer.load(replace(CLIP, max_length=1))
    with pytest.warns(UserWarning, match="cut to 1 tokens"):
        assert clip.encode("one two three") == [clip.cls_id, clip.sep_id]


def test_missing_vocabularies(tmp_path):
    with pytest.raises(UserError, match="bert-base-uncased"):
        Tokenizer.load(TokenizerConfig(vocab="bert-large"))
    with pytest.raises(UserError, match="clip_bpe vocabulary 'bert-base-uncased'"):
        Tokenizer.load(TokenizerConfig(kind="clip_bpe"))
    with pytest.raises(UserError, match="no tokenizer.json"):
        Tokenizer.load(TokenizerConfig(vocab="trained"), tmp_path)
    (tmp_path / "tokenizer.json").write_text("{}")
    with pytest.raises(UserError, match="not a tokenizer file"):
        Tokenizer.load(TokenizerConfig(vocab="trained"), tmp_path)


def test_folder_of_the_other_kind(tmp_path, clip):
    clip.save(tmp_path)
    with pytest.raises(UserError, match="no wordpiece one"):
        Tokenizer.load(TokenizerConfig(), tmp_path)


@pytest.mark.parametrize(
    "content",
    [
        "{",
        "[]",
        '{"model": {"type": "BPE", "vocab": {"[PAD]": 0}}}',
        '{"model": {"type": "WordPiece", "vocab": {"[PAD]": 0, "[UNK]": 2}}}',
    ],
    ids=["cut off", "no tokenizer", "of another kind", "with a gap"],
)
def test_a_tokenizer_json_without_wordpieces_is_refused(tmp_path, content):
    (tmp_path / "tokenizer.json").write_text(content)
    with pytest.raises(UserError, match="no WordPiece vocabulary"):
        wordpiece.build(tmp_path / "tokenizer.json")
