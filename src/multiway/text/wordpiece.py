"""WordPiece: BERT's vocabulary file, and the rules that cut words into its pieces (Devlin et al. 2019)."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers

from multiway.errors import UserError

PAD, UNK, CLS, SEP, MASK = SPECIAL = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]")
SHIPPED = {"bert-base-uncased": Path(__file__).parent / "vocab" / "bert-base-uncased.txt"}
MARKS_WORD_ENDS = False
#: What decoding joins, in this order, over the whole text (transformers, `clean_up_tokenization`).
JOINED = [(f" {mark}", mark) for mark in ".?!,"]
JOINED += [(" ' ", "'"), *((f" {ending}", ending) for ending in ("n't", "'m", "'s", "'ve", "'re"))]


def begins_word(token: str) -> bool:
    """Whether this token begins a word."""
    return not token.startswith("##")


def normalise(text: str) -> str:
    """Nothing here: the backend lower-cases and strips accents itself."""
    return text


def build(path: Path, extra: Sequence[str] = ()) -> Tokenizer:
    """BERT's uncased tokenizer over a vocab.txt, one token a line; `extra` tokens follow those of the file.

    The words of a tokenizer.json, which transformers writes instead, are read too.

    Raises:
        UserError: the file is no vocabulary: a special token is missing, or a line comes twice.
    """
    try:
        content = path.read_text(encoding="utf-8")
        tokens = _saved(content, path) if path.suffix == ".json" else content.rstrip("\n").split("\n")
        tokens += [token for token in extra if token not in tokens]
    except UnicodeDecodeError as error:
        raise UserError(f"{path} is not a text file: name a vocab.txt with one token a line") from error
    vocab = {token.rstrip("\r"): i for i, token in enumerate(tokens)}
    missing = [token for token in SPECIAL if token not in vocab]
    if missing:
        raise UserError(
            f"{path} has no {' '.join(missing)}: name a WordPiece vocab.txt with one token a line"
        )
    if len(vocab) != len(tokens):
        raise UserError(f"{path} names a token twice, so its ids are ambiguous: remove the repeated lines")
    return assemble(models.WordPiece(vocab, unk_token=UNK, max_input_chars_per_word=100))


def _saved(content: str, path: Path) -> list[str]:
    """The words of a tokenizer.json in the order of their ids."""
    try:
        values = json.loads(content)
        vocab = dict(values["model"]["vocab"])
        vocab |= {token["content"]: token["id"] for token in values.get("added_tokens", ())}
        tokens = sorted(vocab, key=vocab.__getitem__)
        if values["model"]["type"] == "WordPiece" and [vocab[t] for t in tokens] == list(range(len(tokens))):
            return tokens
    except (ValueError, KeyError, TypeError, AttributeError):
        pass
    raise UserError(f"{path} holds no WordPiece vocabulary: put the model's vocab.txt beside it")


def assemble(model: models.WordPiece, *, every_script: bool = False) -> Tokenizer:
    """Put BERT's rules around a model: lower case, accents stripped, punctuation and ideographs apart.

    Stripping accents takes Devanagari's vowels and splits Hangul, and BERT's own clean-up drops the joiners
    of Persian: `every_script` leaves both out. Special tokens are not registered: "[SEP]" in a text is
    three ordinary pieces, as in ALBEF's recorded ids.
    """
    tokenizer = Tokenizer(model)
    tokenizer.normalizer = normalizers.BertNormalizer(
        clean_text=not every_script, handle_chinese_chars=True, lowercase=True, strip_accents=not every_script
    )
    tokenizer.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    tokenizer.decoder = decoders.WordPiece(prefix="##", cleanup=True)
    return tokenizer


def decode(backend: Tokenizer, row: list[int]) -> str:
    """The text of one row of ids, punctuation joined to its words as BERT's own decoding does."""
    text = backend.decode(row)
    for apart, joined in JOINED:
        text = text.replace(apart, joined)
    return text
