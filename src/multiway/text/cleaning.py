"""What is done to a caption before it is tokenized.

ALBEF  pre_caption, pre_question            (salesforce/ALBEF dataset/utils.py)
BLIP   blip_caption, blip_question          (salesforce/BLIP data/utils.py)
any    clean_multilingual                   (ours: safe for every script)
"""

from __future__ import annotations

import re
import unicodedata

_ALBEF_DROPPED = str.maketrans({**dict.fromkeys(",.'!?\"()*#:;~"), "-": " ", "/": " "})
_BLIP_DROPPED = '.!"()*#:;~'
_BLIP_BLANKED = str.maketrans(_BLIP_DROPPED, " " * len(_BLIP_DROPPED))
_BLIP_DELETED = str.maketrans("", "", _BLIP_DROPPED)
_BLANKS = re.compile(r"\s{2,}")

# Joiners are letters' business in Persian, in Indic scripts and in emoji sequences; other format characters
# (byte-order mark, soft hyphen, direction marks) only make equal texts look different.
_KEPT_FORMAT = "\u200c\u200d"


def _cut_words(text: str, max_words: int) -> str:
    words = text.split(" ")
    return text if len(words) <= max_words else " ".join(words[:max_words])


def pre_caption(text: str, max_words: int = 30) -> str:
    """ALBEF's caption rule: lower case, no punctuation, `-` and `/` become blanks, at most `max_words`."""
    text = text.lower().translate(_ALBEF_DROPPED).replace("<person>", "person")
    return _cut_words(_BLANKS.sub(" ", text).rstrip("\n").strip(" "), max_words)


def pre_question(text: str, max_words: int = 30) -> str:
    """ALBEF's question rule: as `pre_caption`, but blanks are kept as they are, except at the end."""
    return _cut_words(text.lower().translate(_ALBEF_DROPPED).rstrip(" "), max_words)


def blip_caption(text: str, max_words: int = 50) -> str:
    """BLIP's caption rule: lower case, `.!"()*#:;~` become blanks; commas, hyphens and apostrophes stay."""
    text = _BLANKS.sub(" ", text.lower().translate(_BLIP_BLANKED))
    return _cut_words(text.rstrip("\n").strip(" "), max_words)


def blip_question(text: str, max_words: int = 50) -> str:
    """BLIP's question rule: lower case, `.!"()*#:;~` deleted, blanks cut at the end."""
    return _cut_words(text.lower().translate(_BLIP_DELETED).rstrip(" "), max_words)


def clean_multilingual(text: str, max_words: int = 30) -> str:
    """Clean a caption of any language: NFKC, no control characters, single blanks, at most `max_words`.

    Letters, marks and punctuation of every script stay, and so does case. Words are runs between blanks, so
    scripts that write none (Chinese, Thai) are cut by the tokenizer's `max_length` alone.
    """
    text = unicodedata.normalize("NFKC", text)
    kept = "".join(
        c for c in text if c.isspace() or c in _KEPT_FORMAT or unicodedata.category(c) not in ("Cc", "Cf")
    )
    return _cut_words(" ".join(kept.split()), max_words)
