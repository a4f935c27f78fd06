"""A WordPiece vocabulary of one's own captions.

Ours, because the `tokenizers` package's trainer breaks ties by the order of a randomly seeded hash table: two
runs over the same captions give two vocabularies. Here equal captions give equal ids, on every machine.
"""

from __future__ import annotations

import heapq
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable
from dataclasses import replace

from tokenizers import models

from multiway.errors import UserError
from multiway.text import wordpiece
from multiway.text.tokenizer import CLEANERS, LOCATION, Tokenizer, TokenizerConfig

Pair = tuple[str, str]


def train_vocabulary(texts: Iterable[str], *, size: int, config: TokenizerConfig | None = None) -> Tokenizer:
    """Learn a WordPiece vocabulary of at most `size` tokens, special ones and locations included.

    Pairs of pieces that stand together most often are merged until the vocabulary is full or no pair comes
    twice (ties: the pair first in code-point order). Texts are cleaned by the config's rule, without its cut.
    With `cleaning="multilingual"` accents stay.

    Raises:
        UserError: no text holds a word, the size leaves no room for a letter, or the config asks for BPE.
    """
    config = replace(config or TokenizerConfig(), vocab="trained")
    if config.kind != "wordpiece":
        raise UserError("only a WordPiece vocabulary can be trained: set kind to 'wordpiece'")
    every_script = config.cleaning == "multilingual"
    rules = wordpiece.assemble(models.WordPiece({}, unk_token=wordpiece.UNK), every_script=every_script)
    normalise, split = rules.normalizer.normalize_str, rules.pre_tokenizer.pre_tokenize_str
    clean = CLEANERS[config.cleaning]
    words: Counter[str] = Counter()
    for text in texts:
        if config.locations:
            text = LOCATION.sub(" ", text)
        words.update(word for word, _ in split(normalise(clean(text, len(text) + 1))))
    if not words:
        raise UserError("no caption holds a word: a vocabulary needs texts to learn from")
    special = (*wordpiece.SPECIAL, *config.extra)
    size -= config.locations
    room = size - len(special)
    if room < 2:
        raise UserError(f"a vocabulary of {size} tokens has no room for a letter: ask for at least 1,000")

    letters = _letters(words, room, normalise)
    tokens = [*special, *letters, *("##" + letter for letter in letters if not _is_word(letter, normalise))]
    tokens += _merges(words, set(letters), size - len(tokens), set(tokens))
    # Scripts without blanks make "words" of whole sentences, which BERT's limit of 100 letters calls unknown.
    model = models.WordPiece(
        {t: i for i, t in enumerate(tokens)}, unk_token=wordpiece.UNK, max_input_chars_per_word=1000
    )
    return Tokenizer(config, wordpiece.assemble(model, every_script=every_script))


def _letters(words: Counter[str], room: int, normalise: Callable[[str], str]) -> list[str]:
    """The commonest letters in code-point order: as many as take `room` tokens, where one that can go on
    with a word takes two.
    """
    counts: Counter[str] = Counter()
    for word, count in words.items():
        for letter in word:
            counts[letter] += count
    kept: list[str] = []
    for letter in sorted(counts, key=lambda letter: (-counts[letter], letter)):
        room -= 1 if _is_word(letter, normalise) else 2
        if room < 0:
            break
        kept.append(letter)
    return sorted(kept)


def _is_word(letter: str, normalise: Callable[[str], str]) -> bool:
    """Whether it is an ideograph, which BERT's rules cut apart: a word never goes on with one."""
    return normalise(letter) == f" {letter} "


def _merges(words: Counter[str], letters: set[str], number: int, known: set[str]) -> list[str]:
    """The first `number` new pieces, commonest pair first."""
    # Words of unknown letters teach nothing: WordPiece will call them unknown as a whole.
    spelled = [[w[0], *("##" + c for c in w[1:])] for w in sorted(words) if letters.issuperset(w)]
    counts = [words[w] for w in sorted(words) if letters.issuperset(w)]
    pairs: Counter[Pair] = Counter()
    where: defaultdict[Pair, set[int]] = defaultdict(set)
    for i, pieces in enumerate(spelled):
        for pair in zip(pieces, pieces[1:], strict=False):
            pairs[pair] += counts[i]
            where[pair].add(i)
    heap = [(-count, pair) for pair, count in pairs.items()]
    heapq.heapify(heap)
    merged: list[str] = []
    while heap and len(merged) < number:
        count, pair = heapq.heappop(heap)
        if -count != pairs[pair]:  # an old entry: the pair's count has moved since
            continue
        if -count < 2:
            break
        piece = pair[0] + pair[1].removeprefix("##")
        if piece not in known:  # two pairs can spell the same piece
            known.add(piece)
            merged.append(piece)
        changed: set[Pair] = set()
        for i in where.pop(pair):
            before = spelled[i]
            after = _merge(before, pair, piece)
            spelled[i] = after
            for old in zip(before, before[1:], strict=False):
                pairs[old] -= counts[i]
                changed.add(old)
            for new in zip(after, after[1:], strict=False):
                pairs[new] += counts[i]
                where[new].add(i)
                changed.add(new)
        for touched in changed:
            if pairs[touched] > 0:
                heapq.heappush(heap, (-pairs[touched], touched))
            else:
                del pairs[touched]
    return merged


def _merge(pieces: list[str], pair: Pair, piece: str) -> list[str]:
    out: list[str] = []
    i = 0
    while i < len(pieces):
        if i + 1 < len(pieces) and (pieces[i], pieces[i + 1]) == pair:
            out.append(piece)
            i += 2
        else:
            out.append(pieces[i])
            i += 1
    return out
