"""Captions to words, as the COCO caption evaluation cuts them: Penn Treebank tokens without punctuation.

    "A man's T-shirt, isn't it?" -> a man 's t-shirt is n't it

The official code runs Stanford CoreNLP's PTBTokenizer (3.4.1, `-lowerCase`) under Java, then drops a list of
punctuation tokens. These rules are our own and give the same words on captions as people write them; web
addresses, markup and the rarer abbreviations are where the two part. Brackets become `-lrb-` and the like
and stay, because the official list names them in capitals only.
"""

from __future__ import annotations

import re
import unicodedata

#: Tokens that are dropped (pycocoevalcap, tokenizer/ptbtokenizer.py, PUNCTUATIONS).
DROPPED = frozenset(("''", "'", "``", "`", ".", "?", "!", ",", ":", "-", "--", "...", ";"))
WRITTEN = {
    "(": "-lrb-", ")": "-rrb-", "[": "-lsb-", "]": "-rsb-", "{": "-lcb-", "}": "-rcb-",
    '"': "''", "‘": "`", "’": "'", "“": "``", "”": "''", "…": "...", "–": "--", "—": "--",
}  # fmt: skip

_SHORT = (
    "mr mrs ms dr st jr sr vs prof gen gov sen rep lt col sgt capt rev ave blvd mt etc inc corp co ltd "
    "bros no jan feb mar apr jun jul aug sept oct nov dec a.m p.m e.g i.e u.s u.k"
)
_SPLIT = {  # words that the Treebank takes as two
    "cannot": "can not", "gonna": "gon na", "gotta": "got ta", "wanna": "wan na", "gimme": "gim me",
    "lemme": "lem me", "'tis": "'t is", "'twas": "'t was",
}  # fmt: skip
_WORD = r"[^\W_]"
_END = r"(?![^\W_])"
_CLITIC = rf"['’](?:s|m|d|re|ve|ll){_END}"
_TOKEN = re.compile(
    rf"""
    (?P<split>(?:{"|".join(_SPLIT)}){_END})
    | {_WORD}+(?=n['’]t{_END}) | (?P<negation>n['’]t{_END}) | (?P<clitic>{_CLITIC})
    | {_WORD}+(?='n'{_WORD}) | 'n' | ['’]\d0s{_END}                    # rock'n'roll, '90s
    | (?:{"|".join(map(re.escape, sorted(_SHORT.split(), key=len, reverse=True)))})\.{_END}
    | (?:[^\W\d_]\.)+{_END}                                        # u.s.a.
    | @{_WORD}+ | (?-i:[A-Z]+&[A-Z]+){_END}                        # AT&T
    | [-+]?\d+(?:[.,:/]\d+)*(?![-/]?{_WORD})
    | {_WORD}+(?:[-/.]{_WORD}+|(?!{_CLITIC})['’]{_WORD}{{2,}})*
    | \.\.\. | --+ | [?!]{{2,}} | \S
    """,
    re.VERBOSE | re.IGNORECASE,
)


def words(text: str) -> list[str]:
    """The words of a caption, in lower case and without punctuation."""
    found: list[str] = []
    for match in _TOKEN.finditer(text):
        token, kind = match.group().lower(), match.lastgroup
        if kind == "split":
            found += _SPLIT[token].split()
        elif kind is not None:
            found.append(token.replace("’", "'"))
        else:
            found.append(WRITTEN.get(token, token))
    return [token for token in found if token not in DROPPED]


_IDEOGRAPH = r"\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\U00020000-\U0003ffff"  # Chinese, and Japanese kanji
_KANA = r"\u3041-\u3096\u309d\u309e\u30a1-\u30fa\u30fc-\u30fe\uff66-\uff9f"
_CHARACTER = re.compile(rf"[{_IDEOGRAPH}{_KANA}]|(?:(?![{_IDEOGRAPH}{_KANA}])[^\W_])+")


def characters(text: str) -> list[str]:
    """Every Chinese or Japanese character by itself, runs of other letters and digits whole, no punctuation.

    For languages that write no blanks between words; scores then compare with others counted so.
    """
    return [match.group().lower() for match in _CHARACTER.finditer(text)]


_ACCENTED = ("LATIN ", "GREEK ", "CYRILLIC ")  # elsewhere marks are vowels, or make another consonant


def letters(text: str) -> list[str]:
    """Runs of letters and digits, without case and accents: what is left when spelling is forgiven."""
    kept, base = "", ""
    for c in unicodedata.normalize("NFKD", text):
        if unicodedata.category(c)[0] == "M":
            kept += c if base.isalpha() and not _forgiven(c, base) else ""
        else:
            base = c
            kept += c if c.isalnum() else " "
    return kept.casefold().split()


def _forgiven(mark: str, base: str) -> bool:
    return unicodedata.name(base, "").startswith(_ACCENTED) or "VARIATION" in unicodedata.name(mark, "")
