"""Tables as they are found: line ends that are none, quotes that nothing closes, and columns of splits."""

from __future__ import annotations

import csv
from pathlib import Path

import pytest

from multiway.data.licences import opts_out
from multiway.data.tables import listed, of_split, read_table, truth
from multiway.errors import UserError


@pytest.mark.parametrize("kind", ["jsonl", "json", "token"])
def test_only_a_newline_ends_a_line(kind: str, tmp_path: Path) -> None:
    said = "one\u2028two\u0085three"
    path = tmp_path / f"x.{kind}"
    row = f"a.jpg#0\t{said}" if kind == "token" else f'{{"image": "a.jpg", "caption": "{said}"}}'
    path.write_bytes(f"{row}\r\n{row}\r\n".encode())
    assert read_table(path) == [{"image": "a.jpg", "caption": said}] * 2


@pytest.mark.parametrize("name", ["x.tsv", "x.csv"])
@pytest.mark.parametrize(
    "texts",
    [
        ['"stray', "b", "c"],
        ['"stray', 'closed elsewhere"', "c"],
        ['"said" he', "b", '"again'],
        ['"whole"', '"stray', "c"],
    ],
)
def test_a_quote_that_begins_a_text_between_tabs(name: str, texts: list[str], tmp_path: Path) -> None:
    path = tmp_path / name
    path.write_text("image\ttext\n" + "".join(f"{i}.jpg\t{text}\n" for i, text in enumerate(texts)))
    assert [row["text"] for row in read_table(path)] == texts


@pytest.mark.parametrize("quoting", [csv.QUOTE_ALL, csv.QUOTE_MINIMAL])
@pytest.mark.parametrize("text", ["two\nlines", "a\ttab", 'he said "hi"', "plain"])
def test_quoted_fields_between_tabs(quoting: int, text: str, tmp_path: Path) -> None:
    with (tmp_path / "x.tsv").open("w", newline="") as file:
        csv.writer(file, delimiter="\t", quoting=quoting).writerows([["image", "text"], ["a.jpg", text]])
    assert read_table(tmp_path / "x.tsv") == [{"image": "a.jpg", "text": text}]


def test_rows_of_a_split() -> None:
    rows = [{"n": 0, "split": "train"}, {"n": 1, "split": "val"}, {"n": 2}, {"n": 3, "split": "test"}]
    assert of_split(rows, None, Path("x")) == rows
    assert [row["n"] for row in of_split(rows, "train+test", Path("x"))] == [0, 3]
    with pytest.raises(UserError, match="x has no split dev: choose from test, train, val"):
        of_split(rows, "dev", Path("x"))
    with pytest.raises(UserError, match="x has no splits"):
        of_split(rows[2:3], "train", Path("x"))


def test_cells_that_the_header_does_not_name(tmp_path: Path) -> None:
    path = tmp_path / "x.csv"
    path.write_text("image,text\na.jpg,one,,\nb.jpg\n")
    assert read_table(path) == [{"image": "a.jpg", "text": "one"}, {"image": "b.jpg", "text": None}]
    path.write_text("image,text\na.jpg,one\nb.jpg,a red, round ball\n")
    with pytest.raises(UserError, match="row 2 has 3 cells and the header 2: put a text .* into quotes"):
        read_table(path)
    (tmp_path / "x.tsv").write_text("image\ttext\na.jpg\tone\ttwo\n")
    with pytest.raises(UserError, match="row 1 has 3 cells"):
        read_table(tmp_path / "x.tsv")


def test_tables_as_spreadsheets_write_them(tmp_path: Path) -> None:
    path = tmp_path / "x.csv"
    path.write_bytes("\ufeffimage;text\r\na.jpg;one, two\r\n".encode())
    assert read_table(path) == [{"image": "a.jpg", "text": "one, two"}]
    path.write_bytes("image,text\na.jpg,café\n".encode("latin-1"))
    with pytest.raises(UserError, match="is no UTF-8 .*: save it as UTF-8"):
        read_table(path)


@pytest.mark.parametrize("space", ["", " "])
def test_blanks_behind_the_delimiter_are_no_part_of_a_cell(space: str, tmp_path: Path) -> None:
    path = tmp_path / "x.csv"
    path.write_text(f'image,{space}text\na.jpg,{space}"a dog, with hat"\n')
    assert read_table(path) == [{"image": "a.jpg", "text": "a dog, with hat"}]


@pytest.mark.parametrize("kind", ["json", "jsonl"])
def test_what_pandas_writes_for_an_empty_cell(kind: str, tmp_path: Path) -> None:
    path, row = tmp_path / f"x.{kind}", '{"image": "a.jpg", "caption": NaN}'
    path.write_text(f"[{row}]" if kind == "json" else row)
    assert read_table(path) == [{"image": "a.jpg", "caption": None}]


@pytest.mark.parametrize(
    ("cell", "texts"),
    [
        ([{"raw": "a cat", "tokens": ["a", "cat"]}, {"answer": "yes", "answer_id": 1}], ["a cat", "yes"]),
        ('[{"answer": "no"}, NaN]', ["no"]),
        ({"caption": " one "}, ["one"]),
        ([{"id": 3}, ["two"], "three"], ["three"]),
        ("[brackets]", ["[brackets]"]),
    ],
)
def test_texts_of_a_cell(cell: object, texts: list[str]) -> None:
    assert listed(cell) == texts


def test_a_column_of_splits_is_found_however_it_is_written() -> None:
    rows = [{"n": 0, " Split": "train "}, {"n": 1, " Split": "val"}]
    assert [row["n"] for row in of_split(rows, "train", Path("x"))] == [0]


def test_words_of_truth() -> None:
    said = ("True", "1", 0, "false", True, 1.0, "0.0", "n", None, "maybe")
    assert [truth(v) for v in said] == [True, True, False, False, True, True, False, False, None, None]


@pytest.mark.parametrize(
    ("cell", "out"),
    [("", False), (None, False), (0.0, False), ("0.0", False), ("f", False), ("opt-out", True)],
)
def test_who_opts_out(cell: object, out: bool) -> None:
    assert opts_out({"Opt_Out": cell}) is out
