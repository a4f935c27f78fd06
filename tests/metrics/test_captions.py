"""Caption scores: by hand where one can count, and beside pycocoevalcap on thousands of random captions."""

import math
import random
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest

from multiway.metrics import captions as m
from multiway.metrics.ptb import DROPPED, characters, words


def cut(candidates, references):
    return m.tokenize(candidates, references, cut="blanks")


def test_bleu_by_hand():
    got, given = cut(["the cat sat"], [["the cat sat down", "a cat"]])
    # All 3 words, 2 pairs and the 1 triple are right; lengths 4 and 2 are equally close, the shorter counts.
    assert m.bleu(got, given)[:3] == pytest.approx([1, 1, 1], abs=1e-6)
    got, given = cut(["the the"], [["the cat sat on it"]])  # clipped, and too short
    assert m.bleu(got, given)[0] == pytest.approx(0.5 * math.exp(1 - 5 / 2), abs=1e-6)


def test_bleu_is_of_the_corpus_and_no_mean():
    got, given = cut(["a b c d", "x"], [["a b c d"], ["y"]])
    assert m.bleu(got, given)[0] == pytest.approx(4 / 5)


def test_rouge_by_hand():
    got, given = cut(["a b c d"], [["a c x", "b"]])
    precision, recall = 2 / 4, 1  # each of another reference
    expected = (1 + 1.44) * precision * recall / (recall + 1.44 * precision)
    assert m.rouge_l(got, given) == pytest.approx([expected])


def test_cider_by_hand():
    got, given = cut(["a b", "a b"], [["a b"], ["a c"]])
    # "a" is in both pictures and weighs nothing; of n = 1..4 only words and pairs exist.
    assert m.cider(got, given, variant="plain") == pytest.approx([10 * 2 / 4, 0])
    longer, given = cut(["b b", "z"], [["b"], ["y"]])
    assert m.cider(longer, given, variant="plain")[0] == pytest.approx(10 / 4)  # the angle is none
    clipped = 10 / 4 / 2 * math.exp(-1 / 72)  # min(2, 1) over a norm of 2, and a pair more than it has
    assert m.cider(longer, given)[0] == pytest.approx(clipped)


def test_exact_forgives_case_accents_and_punctuation_alone():
    candidates = ["pinata", "woman ' s hat", "eight o ' clock", "a red dog", "red a dog", "dogs"]
    references = [
        ["piñata"],
        ["woman’s hat"],
        ["eight o’clock"],
        ["a cat", "A red dog."],
        ["a red dog"],
        ["dog"],
    ]
    assert m.exact(candidates, references).tolist() == [1, 1, 1, 1, 0, 0]
    assert m.summary(candidates, references)["exact"] == pytest.approx(400 / 6)
    assert m.exact(["一 只 狗"], [["一只狗。"]], cut="characters") == [1]


def test_exact_keeps_what_is_no_spelling():
    """Vowel signs, the marks of kana, emoji and punctuation alone; an empty caption matches nothing."""

    def same(pairs, cut="ptb"):
        return m.exact([a for a, _ in pairs], [[b] for _, b in pairs], cut=cut).tolist()

    apart = [("", "!!!"), ("", ""), ("🐶", "🐱"), ("?", "!"), ("がき", "かき"), ("か\u3099", "か")]
    alike = [("🐶", "🐶"), ("か\u3099き", "がき"), ("Café!", "café")]
    for cut in ("ptb", "characters"):
        assert same(apart + alike, cut) == [0] * len(apart) + [1] * len(alike)
    assert same([("की", "का"), ("ёлка", "елка"), ("άλφα", "αλφα"), ("❤️ 1️⃣", "❤ 1")]) == [0, 1, 1, 1]


def test_common_subsequence_beside_the_table():
    draw = random.Random(0)
    for _ in range(2000):
        a, b = (draw.choices("abcde", k=draw.randint(0, 12)) for _ in range(2))
        table = np.zeros((len(a) + 1, len(b) + 1), int)
        for i, x in enumerate(a):
            for j, y in enumerate(b):
                table[i + 1, j + 1] = table[i, j] + 1 if x == y else max(table[i, j + 1], table[i + 1, j])
        assert m.common_subsequence(a, b) == table[-1, -1]


def corpora(seed, count, *, least=1, distinct=False):
    """Random corpora of one to eight pictures with one to five references."""
    draw = random.Random(seed)
    vocabulary = list("abcdefghijkl")

    def caption():
        some, size = vocabulary[: draw.randint(2, 12)], draw.randint(least, 9)
        picked = draw.sample(some, min(size, len(some))) if distinct else draw.choices(some, k=size)
        return " ".join(picked)

    for _ in range(count):
        pictures = draw.randint(1, 8)
        yield (
            [caption() for _ in range(pictures)],
            [[caption() for _ in range(draw.randint(1, 5))] for _ in range(pictures)],
        )


def official(scorer, candidates, references):
    given = dict(enumerate(references))
    return scorer.compute_score(given, {i: [text] for i, text in enumerate(candidates)})


def test_scores_equal_pycocoevalcap():
    """Some 1,300 captions with 4,000 references; they may be of one word, and repeat words."""
    bleu = pytest.importorskip("pycocoevalcap.bleu.bleu")
    rouge = pytest.importorskip("pycocoevalcap.rouge.rouge")
    cider = pytest.importorskip("pycocoevalcap.cider.cider")
    for candidates, references in corpora(0, 300):
        got, given = cut(candidates, references)
        scorer = bleu.Bleu(4)
        expected, _ = scorer.compute_score(
            dict(enumerate(references)), {i: [text] for i, text in enumerate(candidates)}, verbose=0
        )
        np.testing.assert_allclose(m.bleu(got, given), expected, rtol=1e-9, atol=1e-12)
        np.testing.assert_allclose(
            m.rouge_l(got, given), official(rouge.Rouge(), candidates, references)[1], rtol=1e-9
        )
        np.testing.assert_allclose(
            m.cider(got, given), official(cider.Cider(), candidates, references)[1], rtol=1e-9, atol=1e-12
        )


def test_an_empty_candidate_scores_nothing_and_agrees():
    bleu = pytest.importorskip("pycocoevalcap.bleu.bleu")
    cider = pytest.importorskip("pycocoevalcap.cider.cider")
    candidates, references = ["", "a b c"], [["a b"], ["a b c", "d"]]
    got, given = cut(candidates, references)
    expected = bleu.Bleu(4).compute_score({0: references[0], 1: references[1]}, {0: [""], 1: ["a b c"]}, 0)[0]
    np.testing.assert_allclose(m.bleu(got, given), expected, rtol=1e-9)
    np.testing.assert_allclose(m.cider(got, given), official(cider.Cider(), candidates, references)[1])
    assert m.rouge_l(got, given)[0] == m.cider(got, given)[0] == 0


def test_plain_cider_equals_cider_d_where_nothing_is_clipped_and_lengths_do_not_count():
    """No word comes twice in a caption, so clipping changes nothing; a wide sigma forgets the lengths."""
    cider = pytest.importorskip("pycocoevalcap.cider.cider")
    for candidates, references in corpora(1, 150, distinct=True):
        got, given = cut(candidates, references)
        expected = official(cider.Cider(sigma=1e9), candidates, references)[1]
        np.testing.assert_allclose(m.cider(got, given, variant="plain"), expected, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("A man's T-shirt, isn't it?", "a man 's t-shirt is n't it"),
        ("Two dogs (one black) can't play...", "two dogs -lrb- one black -rrb- ca n't play"),
        ("He's on St. Mark's St., 10:30 a.m.", "he 's on st. mark 's st. 10:30 a.m."),
        ("a 3-year-old's “red” ball -- 50% off", "a 3-year-old 's red ball 50 % off"),
        ("they cannot; I'm gonna", "they can not i 'm gon na"),
        ("rock'n'roll in the '90s & AT&T", "rock 'n' roll in the '90s & at&t"),
        ("eight o’clock, woman’s hat", "eight o’clock woman 's hat"),
        ("  ", ""),
    ],
)
def test_words_by_hand(text, expected):
    assert words(text) == expected.split()


USUAL = "a an the two of in on with red blue big dog man woman running standing ball"
ODD = """
    t-shirt black-and-white man's dogs' St. Mr. U.S. o'clock couldn't can't cannot gonna it's they're
    we'll I'm 3,000 10:30 1/2 5.50 $5 50% twenty-one café 2nd '90s isn't 4x4 3-year-old ma'am
"""


def test_words_equal_stanford_s():
    """On captions put together from what captions hold, beside the tokenizer that pycocoevalcap runs."""
    package = pytest.importorskip("pycocoevalcap")
    jars = [jar for path in package.__path__ for jar in Path(path).glob("tokenizer/*.jar")]
    java = shutil.which("java")
    if java is None or not jars:
        pytest.skip("the tokenizer to compare with is a Java program: there is no java, or no jar of it")
    draw, usual, odd = random.Random(0), USUAL.split(), ODD.split()
    lines = []
    for _ in range(1000):
        text = [draw.choice(odd if draw.random() < 0.15 else usual) for _ in range(draw.randint(3, 14))]
        text = [word + draw.choices(("", ",", " -"), (93, 5, 2))[0] for word in text]
        lines.append(f"{' '.join(text)} grass{draw.choice(['.', ' .', '!', ''])}")
    options = ("edu.stanford.nlp.process.PTBTokenizer", "-preserveLines", "-lowerCase")
    command = [java, "-cp", jars[0].name, *options]
    done = subprocess.run(
        command, cwd=jars[0].parent, input="\n".join(lines), capture_output=True, text=True, timeout=120
    )
    theirs = [[w for w in line.split(" ") if w not in DROPPED] for line in done.stdout.splitlines()]
    assert len(theirs) == len(lines)
    assert [words(line) for line in lines] == theirs


def test_characters_of_chinese_and_japanese():
    assert characters("一只狗在草地上。") == list("一只狗在草地上")
    assert characters("赤いT-shirtのネコ、2匹!") == [*"赤い", "t", "shirt", *"のネコ", "2", "匹"]
    assert characters("ラーメン ー café 10月") == [*"ラーメンー", "café", "10", "月"]
    scores = m.summary(["一只红狗"], [["一只红色的狗"]], cut="characters")
    assert scores["bleu_1"] == pytest.approx(100 * math.exp(1 - 6 / 4), abs=1e-4)
    assert scores["exact"] == 0


def test_numbers_that_do_not_fit_are_refused():
    for candidates, references in ((["a"], []), ([], []), (["a"], [[]])):
        with pytest.raises(ValueError, match="one caption"):
            m.summary(candidates, references)
