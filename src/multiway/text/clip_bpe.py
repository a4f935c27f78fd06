"""CLIP's byte-pair encoding over its published merges (Radford et al. 2021; openai/CLIP simple_tokenizer.py).

Bytes are written as printable characters, a word's last symbol carries `</w>`, and pairs merge in the order
of the file: 256 byte symbols, 256 word-final ones, 48,894 merges and two special tokens make 49,408 ids.
Equal to open_clip's SimpleTokenizer except on code points that the two regular-expression engines class
differently: unassigned ones, and U+0345.
"""

from __future__ import annotations

import gzip
import html
import zlib
from pathlib import Path

from tokenizers import Regex, Tokenizer, models, pre_tokenizers

from multiway.errors import UserError

CLS, SEP = "<start_of_text>", "<end_of_text>"
PAD = UNK = MASK = ""  # CLIP has none: `token_to_id` answers None
SHIPPED = {"clip": Path(__file__).parent / "vocab" / "bpe_simple_vocab_16e6.txt.gz"}
MARKS_WORD_ENDS = True

_MERGES = 49152 - 256 - 2
_WORDS = r"(?i)'s|'t|'re|'ve|'m|'ll|'d|[\p{L}]+|[\p{N}]|[^\s\p{L}\p{N}]+"


def byte_symbols() -> dict[str, int]:
    """The 256 characters that stand for bytes, in the order of the vocabulary: printable ones come first."""
    spans = (("!", "~"), ("¡", "¬"), ("®", "ÿ"))
    printable = [b for first, last in spans for b in range(ord(first), ord(last) + 1)]
    rest = [b for b in range(256) if b not in printable]
    return {chr(b): b for b in printable} | {chr(256 + i): b for i, b in enumerate(rest)}


def begins_word(token: str) -> bool:
    """Whether the token after this one begins a word."""
    return token.endswith("</w>") or token in (CLS, SEP)


def normalise(text: str) -> str:
    """Mend broken encodings and HTML entities, single blanks, lower case."""
    import ftfy

    text = html.unescape(html.unescape(ftfy.fix_text(text)))
    return " ".join(text.split()).lower()


def build(path: Path) -> Tokenizer:
    """CLIP's tokenizer over a merges file (plain or .gz): a header line, then one pair a line.

    Raises:
        UserError: the file is not a list of merges.
    """
    problem = f"{path} is not a list of BPE merges: name a file with one pair of symbols a line"
    try:
        raw = path.read_bytes()
        lines = (gzip.decompress(raw) if path.suffix == ".gz" else raw).decode("utf-8").split("\n")
    except (OSError, EOFError, zlib.error, UnicodeDecodeError) as error:
        raise UserError(problem) from error
    pairs = [line.split() for line in lines[1 : 1 + _MERGES] if line.strip()]
    if not pairs or any(len(pair) != 2 for pair in pairs):
        raise UserError(problem)
    merges = [(first, second) for first, second in pairs]
    symbols = byte_symbols()
    tokens = [*symbols, *(s + "</w>" for s in symbols), *(a + b for a, b in merges), CLS, SEP]
    ids = {token: number for number, token in enumerate(tokens)}
    if len(ids) < len(tokens) or any(part not in ids for pair in merges for part in pair):
        raise UserError(problem)  # a pair that comes twice, or of symbols that are none
    model = models.BPE(ids, merges, end_of_word_suffix="</w>")
    tokenizer = Tokenizer(model)
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(_WORDS), behavior="removed", invert=True),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.add_special_tokens([CLS, SEP])
    return tokenizer


def decode(backend: Tokenizer, row: list[int]) -> str:
    """The text of one row of ids: symbols back to bytes, `</w>` to blanks."""
    values = byte_symbols()
    symbols = "".join(backend.id_to_token(i) or "" for i in row).replace("</w>", " ")
    data = bytes(values.get(symbol, ord(" ")) for symbol in symbols)
    return data.decode("utf-8", errors="replace").strip()
