"""Texts to token ids and back: WordPiece (BERT's), CLIP's BPE and SentencePiece behind one class.

"A dog, running!" --clean--> "a dog running" --pieces--> a dog run ##ning --> [CLS] a dog run ##ning
"""

from __future__ import annotations

import re
import warnings
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from types import ModuleType
from typing import Literal

import tokenizers
import torch
from jaxtyping import Bool, Int
from torch import Tensor

from multiway.errors import UserError
from multiway.text import cleaning, clip_bpe, spm, wordpiece

#: What is done to a text first: see `TokenizerConfig`.
Cleaning = Literal["albef", "blip", "blip_question", "multilingual", "none"]
CLEANERS: dict[str, Callable[[str, int], str]] = {
    "albef": cleaning.pre_caption,
    "blip": cleaning.blip_caption,
    "blip_question": cleaning.blip_question,
    "multilingual": cleaning.clean_multilingual,
    "none": lambda text, max_words: text,
}

KINDS: dict[str, ModuleType] = {"wordpiece": wordpiece, "clip_bpe": clip_bpe, "sentencepiece": spm}

#: What cuts words into pieces.
Backend = tokenizers.Tokenizer | spm.Pieces


@dataclass(frozen=True, kw_only=True)
class TokenizerConfig:
    """Which vocabulary cuts a text into tokens, and what happens to the text before.

    Attributes:
        kind: `wordpiece` as BERT has it, `clip_bpe` as CLIP has it, or `sentencepiece` as BEiT-3 has it.
        vocab: a shipped name (`bert-base-uncased`, `clip`), a path (vocab.txt, BPE merges, or an spm file),
            or `trained`: the vocabulary lies beside the model.
        cleaning: the official rules of ALBEF's or BLIP's captions or of BLIP's questions, one that is safe
            for every language, or none.
            CLIP's own (ftfy, lower case) is part of its BPE and always happens; give it `none` here.
        add_sep: end WordPiece texts with [SEP], SentencePiece's with </s>. ALBEF's have none.
        max_length: tokens a text may have, special ones included.
        max_words: words a cleaned caption may have.
        extra: further special tokens behind a WordPiece vocabulary: [DEC] and [ENC] of BLIP.
        locations: so many tokens `<0>`, `<1>`, ... behind all others, for coordinates (Unified-IO).
        turns: a tab in a text becomes [SEP]: a prompt and its answer in one.
    """

    kind: Literal["wordpiece", "clip_bpe", "sentencepiece"] = "wordpiece"
    vocab: str = "bert-base-uncased"
    cleaning: Cleaning = "albef"
    add_sep: bool = False
    max_length: int = 25
    max_words: int = 30
    extra: tuple[str, ...] = ()
    locations: int = 0
    turns: bool = False


#: How a location token is written in a text.
LOCATION = re.compile(r"<(\d+)>")


class Tokenizer:
    """A vocabulary with its rules. Ids that the vocabulary lacks are None; CLIP pads with 0, a word.

    Attributes:
        words: ids below this are pieces of words; location tokens follow.
        truncated: texts cut so far, to `max_length` tokens or to `max_words` words.
        ends_with_sep: whether every text ends with `sep_id`.
    """

    def __init__(self, config: TokenizerConfig, backend: Backend) -> None:
        self.config = config
        self.truncated = 0
        self._backend = backend
        self.words: int = backend.get_vocab_size()
        self.vocab_size: int = self.words + config.locations
        cls_id, sep_id = backend.token_to_id(self._kind.CLS), backend.token_to_id(self._kind.SEP)
        if cls_id is None or sep_id is None:
            names = f"{self._kind.CLS} and {self._kind.SEP}"
            raise UserError(
                f"the vocabulary is no {config.kind} one (no {names}): check the model's config.json"
            )
        self.cls_id, self.sep_id = cls_id, sep_id
        self.mask_id: int | None = backend.token_to_id(self._kind.MASK)
        self.unk_id: int | None = backend.token_to_id(self._kind.UNK)
        pad_id = backend.token_to_id(self._kind.PAD)
        self.pad_id: int = 0 if pad_id is None else pad_id
        self.dec_id: int | None = backend.token_to_id("[DEC]")
        self.enc_id: int | None = backend.token_to_id("[ENC]")
        ids = [pad_id, self.cls_id, self.sep_id, self.mask_id, self.unk_id]
        ids += [backend.token_to_id(token) for token in config.extra]
        self.special_ids: tuple[int, ...] = tuple(sorted(i for i in ids if i is not None))
        self.ends_with_sep = config.add_sep or config.kind == "clip_bpe"
        self._begins_word = torch.tensor(
            [
                i >= self.words or self._kind.begins_word(backend.id_to_token(i))
                for i in range(self.vocab_size)
            ]
        )

    @property
    def _kind(self) -> ModuleType:
        return KINDS[
            self.config.kind
        ]  # looked up, not kept: a module can't be pickled, and loader workers need that

    def __len__(self) -> int:
        return self.vocab_size

    def __call__(
        self,
        texts: Sequence[str],
        *,
        max_length: int | None = None,
        padding: Literal["longest", "max_length"] = "longest",
        clean: bool = True,
    ) -> tuple[Int[Tensor, "B T"], Int[Tensor, "B T"]]:
        """Token ids `[B, T]` and attention mask `[B, T]` (1 = real token), both int64.

        Args:
            texts: B texts.
            max_length: tokens a text may have, special ones included; the config's if None.
            padding: T is the longest text here, or `max_length`.
            clean: apply the config's caption rule first.
        """
        limit = self.config.max_length if max_length is None else max_length
        rows = [self.encode(text, max_length=limit, clean=clean) for text in texts]
        width = limit if padding == "max_length" else max(map(len, rows), default=0)
        input_ids = torch.full((len(rows), width), self.pad_id, dtype=torch.int64)
        attention_mask = torch.zeros_like(input_ids)
        for b, row in enumerate(rows):
            input_ids[b, : len(row)] = torch.tensor(row)
            attention_mask[b, : len(row)] = 1
        return input_ids, attention_mask

    def encode(self, text: str, *, max_length: int | None = None, clean: bool = True) -> list[int]:
        """One text's token ids, framed by the special tokens and cut to `max_length`."""
        limit = self.config.max_length if max_length is None else max_length
        cut = False
        if clean:
            # One word more than is kept tells whether anything was cut.
            cleaned = self._clean(text, self.config.max_words)
            cut = self._clean(text, self.config.max_words + 1) != cleaned
            text = cleaned
        # One text at a time: the backend's own batches start threads, which then break forked loader workers.
        parts = text.split("\t") if self.config.turns else [text]
        pieces = [i for part in parts for i in [self.sep_id, *self._pieces(part)]][1:]
        tail = [self.sep_id] if self.ends_with_sep else []
        room = limit - 1 - len(tail)
        if cut or len(pieces) > room:
            self._count_truncation(limit)
        if self.config.turns and len(pieces) > room and pieces[room - 1 : room] == [self.sep_id]:
            room -= 1  # what was cut off behind the tab is not an answer that was left empty
        return [self.cls_id, *pieces[: max(room, 0)], *tail]

    def _clean(self, text: str, max_words: int) -> str:
        """A text by the config's rule; prompt and answer by themselves, as a tab is a blank to some rules."""
        parts = text.split("\t") if self.config.turns else [text]
        return "\t".join(CLEANERS[self.config.cleaning](part, max_words) for part in parts)

    def _pieces(self, text: str) -> list[int]:
        """Words cut into pieces, and location tokens, in order."""
        if not self.config.locations:
            return self._backend.encode(self._kind.normalise(text), add_special_tokens=False).ids
        ids: list[int] = []
        for i, part in enumerate(LOCATION.split(text)):  # words and numbers of locations in turn
            if i % 2 and int(part) >= self.config.locations:
                raise UserError(f"there is no location <{part}>: give <0> to <{self.config.locations - 1}>")
            words = self._backend.encode(self._kind.normalise(part), add_special_tokens=False)
            ids += [self.words + int(part)] if i % 2 else words.ids
        return ids

    def decode(self, input_ids: Int[Tensor, "B T"] | Sequence[Sequence[int]]) -> list[str]:
        """The texts of B rows of ids, without special tokens."""
        rows = input_ids.tolist() if isinstance(input_ids, Tensor) else input_ids
        return [self._text(self._until_end(row)) for row in rows]

    def _text(self, row: list[int]) -> str:
        row = [i for i in row if i < self.vocab_size]  # a table of words may have rows that no word has
        runs = groupby(row, key=lambda i: i >= self.words)
        said = [
            "".join(f"<{i - self.words}>" for i in run)
            if located
            else self._kind.decode(self._backend, [*run])
            for located, run in runs
        ]
        return " ".join(said)

    def word_starts(self, input_ids: Int[Tensor, "B T"]) -> Bool[Tensor, "B T"]:
        """True where a token begins a word, for whole-word masking."""
        begins = self._begins_word.to(input_ids.device)
        if self._kind.MARKS_WORD_ENDS:  # then "begins" says that the token ends its word: the next one begins
            first = torch.ones_like(input_ids[:, :1], dtype=torch.bool)
            return torch.cat([first, begins[input_ids[:, :-1]]], dim=1)
        return begins[input_ids]

    def report(self) -> str:
        """One sentence on the texts cut so far."""
        limit = f"{self.config.max_length} tokens or {self.config.max_words} words"
        return f"{self.truncated:,} text{'s were' if self.truncated != 1 else ' was'} cut to at most {limit}"

    def save(self, folder: Path | str) -> None:
        """Write tokenizer.json (and WordPiece's vocab.txt) into `folder`."""
        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        _write(folder / "tokenizer.json", self._backend.to_str())
        if self.config.kind == "wordpiece":
            tokens = (self._backend.id_to_token(i) for i in range(self.words))
            _write(folder / "vocab.txt", "".join(f"{token}\n" for token in tokens))

    @classmethod
    def load(cls, config: TokenizerConfig, folder: Path | str | None = None) -> Tokenizer:
        """The tokenizer that lies in `folder` (a model's), or else the one that `config.vocab` names.

        Raises:
            UserError: the vocabulary is missing, unreadable, or of the other kind.
        """
        saved = None if folder is None else Path(folder) / "tokenizer.json"
        if saved is not None and saved.is_file():
            return cls(config, _read_saved(saved, config.kind))
        if config.vocab == "trained":
            where = "no folder was given" if folder is None else f"{folder} has no tokenizer.json"
            raise UserError(
                f"the vocabulary is a trained one, but {where}: train it first or name a vocabulary file"
            )
        kind = KINDS[config.kind]
        path = kind.SHIPPED.get(config.vocab) or Path(config.vocab)
        if not path.is_file():
            known = " or ".join([*kind.SHIPPED, "a vocabulary file"])
            raise UserError(f"no {config.kind} vocabulary {config.vocab!r}: name {known}")
        if not config.extra:
            return cls(config, kind.build(path))
        if config.kind != "wordpiece":
            raise UserError(f"a {config.kind} vocabulary takes no extra tokens: set tokenizer.extra to ()")
        return cls(config, wordpiece.build(path, config.extra))

    def under(self, config: TokenizerConfig) -> Tokenizer:
        """The same vocabulary with other rules.

        Raises:
            UserError: it is of another kind.
        """
        return type(self)(config, self._backend)

    def _count_truncation(self, limit: int) -> None:
        self.truncated += 1
        if self.truncated == 1:
            words = self.config.max_words
            warnings.warn(
                f"a text was cut to {limit} tokens or {words} words; more are only counted", stacklevel=4
            )

    def _until_end(self, row: Iterable[int]) -> list[int]:
        kept: list[int] = []
        for token in row:
            if token == self.sep_id and self._kind.MARKS_WORD_ENDS:
                break  # CLIP's padding is a word: only [EOT] says where the text ends
            if token not in self.special_ids:
                kept.append(token)
        return kept


def _read_saved(path: Path, kind: str) -> Backend:
    try:
        if kind == "sentencepiece":
            return spm.Pieces.from_str(path.read_text(encoding="utf-8"))
        return tokenizers.Tokenizer.from_file(str(path))
    except Exception as error:  # the backend raises bare Exceptions
        raise UserError(f"{path} is not a tokenizer file ({error}): save the model again") from error


def _write(path: Path, text: str) -> None:
    aside = path.with_name(path.name + ".tmp")
    aside.write_text(text, encoding="utf-8")
    aside.replace(path)
