"""The official caption rules on strings one can check by eye."""

import pytest

from multiway.text import cleaning


@pytest.mark.parametrize(
    ("raw", "clean"),
    [
        (
            "A man riding a bike-share bicycle, on the 5th street!",
            "a man riding a bike share bicycle on the 5th street",
        ),
        ('  The  cat\'s   tail ~ is #1; "fluffy"... \n', "the cats tail is 1 fluffy"),
        ("<person> wearing a T-shirt / blue jeans?", "person wearing a t shirt blue jeans"),
        ("", ""),
    ],
)
def test_albef_captions(raw, clean):
    assert cleaning.pre_caption(raw) == clean


def test_words_are_cut():
    assert cleaning.pre_caption("one two three four", max_words=3) == "one two three"
    assert cleaning.clean_multilingual("one two three four", max_words=3) == "one two three"


def test_albef_questions_keep_inner_blanks():
    assert cleaning.pre_question("How many (red) cars / trucks?  ") == "how many red cars   trucks"


def test_blip_blanks_where_albef_deletes():
    assert cleaning.blip_caption("at 10:30 p.m.") == "at 10 30 p m"
    assert cleaning.blip_caption("A bike-share, on it!") == "a bike-share, on it"
    assert cleaning.blip_question("Is it 10:30 a.m.? ") == "is it 1030 am?"


@pytest.mark.parametrize(
    "text",
    [
        "नमस्ते दुनिया",  # vowel signs are marks, not accents
        "안녕하세요 세계",
        "สวัสดีชาวโลก",
        "می\u200cخواهم",  # the joiner is part of the spelling
        "¿Qué pasa, señor?",
        "l'été, c'est-à-dire",
        "你好，世界".replace("，", ","),  # NFKC narrows the comma
    ],
)
def test_multilingual_keeps_what_is_written(text):
    assert cleaning.clean_multilingual(text) == text


def test_multilingual_drops_what_cannot_be_seen():
    assert cleaning.clean_multilingual("\ufeffa\u00adb\u200e  c\x00\t\nd\u3000e") == "ab c d e"
    assert cleaning.clean_multilingual("ｆｕｌｌ ﬁne") == "full fine"
