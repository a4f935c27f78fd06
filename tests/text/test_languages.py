"""The drawings' names in ten languages through one vocabulary: nothing unknown, nothing lost, none merged."""

from collections import defaultdict

import pytest

from multiway.data import emoji
from multiway.text import Tokenizer, TokenizerConfig, train_vocabulary
from multiway.text.cleaning import clean_multilingual

WORDS = TokenizerConfig(vocab="trained", cleaning="multilingual", add_sep=True, max_length=100)
WRITTEN = {
    name: clean_multilingual(name).lower().replace(" ", "")  # what an uncased WordPiece keeps
    for names in emoji.read_names().values()
    for name in names.values()
}
LETTERS = set("".join(WRITTEN.values()))
IDEOGRAPHS = {letter for letter in LETTERS if "\u3400" <= letter <= "\u9fff"}


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    """As large as all letters take and no larger: every name is spelled out."""
    return train_vocabulary(WRITTEN, size=5 + 2 * len(LETTERS) - len(IDEOGRAPHS), config=WORDS)


def test_every_name_survives(tokenizer):
    assert len(emoji.read_names()) == 1514
    assert all(set(names) == set(emoji.LANGUAGES) for names in emoji.read_names().values())
    rows = [tokenizer.encode(name) for name in WRITTEN]
    assert not [name for name, row in zip(WRITTEN, rows, strict=True) if tokenizer.unk_id in row]
    assert [text.replace(" ", "") for text in tokenizer.decode(rows)] == list(WRITTEN.values())
    same = defaultdict(set)
    for written, row in zip(WRITTEN.values(), rows, strict=True):
        same[tuple(row)].add(written)
    assert all(len(names) == 1 for names in same.values())
    assert not tokenizer.truncated


@pytest.mark.parametrize("cleaning", ["albef", "blip", "none"])
@pytest.mark.parametrize(("word", "stripped"), [("कुत्ता", "कतता"), ("küche", "kuche"), ("ガム", "カム")])
def test_other_rules_merge_words(cleaning, word, stripped):
    """BERT's stripping of accents takes Devanagari's vowels, umlauts and the marks of kana."""
    for rule, merged in ((cleaning, True), ("multilingual", False)):
        config = TokenizerConfig(cleaning=rule, max_length=100)
        tokenizer = train_vocabulary([word, stripped] * 2, size=60, config=config)
        assert (tokenizer.encode(word) == tokenizer.encode(stripped)) is merged


def test_ideographs_take_one_token_each():
    """Words never go on with one, so that twice as many fit."""
    tokenizer = train_vocabulary(["猫狗 cat", "鱼鸟 cat"], size=5 + 4 + 2 * 3, config=WORDS)
    tokens = [tokenizer._backend.id_to_token(i) for i in range(tokenizer.vocab_size)]
    assert sorted(tokens[5:]) == sorted([*"cat猫狗鱼鸟", "##c", "##a", "##t"])
    assert tokenizer.unk_id not in tokenizer.encode("cat鸟狗cat")
