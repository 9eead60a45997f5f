import json
import os
from pathlib import Path
from typing import Any

import pytest

from lorascope.capture.samples.items import ChoiceItem, TextItem
from lorascope.capture.samples.sources import read_items

GOOD = {"id": "q1", "question": "2 + 2?", "choices": ["3", "4"], "answer": 1}


def write_lines(path: Path, *records: Any) -> Path:
    path.write_text("".join(json.dumps(record) + "\n" for record in records), encoding="utf-8")
    return path


def test_reads_choice_items_in_order(tmp_path: Path) -> None:
    second = GOOD | {"id": "q2", "choices": ["a", "b", "c"], "labels": ["A", "B", "C"], "answer": 2}
    items = read_items(write_lines(tmp_path / "sums.test.jsonl", GOOD, second))
    assert items == [
        ChoiceItem(id="q1", dataset="sums", split="test", question="2 + 2?", choices=("3", "4"), answer=1),
        ChoiceItem(id="q2", dataset="sums", split="test", question="2 + 2?", choices=("a", "b", "c"), answer=2),
    ]


def test_reads_a_text_as_it_stands(tmp_path: Path) -> None:
    path = tmp_path / "wiki.test.txt"
    path.write_text(" = Title = \n\nText.\n", encoding="utf-8")
    assert read_items(path) == [TextItem(id="wiki.test", dataset="wiki", split="test", text=" = Title = \n\nText.\n")]


@pytest.mark.parametrize(
    ("name", "split"), [("a.jsonl", ""), ("a.train.jsonl", "train"), ("a.train.v2.jsonl", "train")]
)
def test_names_data_set_and_split_by_the_file(tmp_path: Path, name: str, split: str) -> None:
    (item,) = read_items(write_lines(tmp_path / name, GOOD))
    assert (item.dataset, item.split) == ("a", split)


def test_passes_over_blank_lines_and_keeps_unicode_line_separators(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    record = json.dumps(GOOD | {"question": "one\u2028two\u0085three"}, ensure_ascii=False)
    path.write_text("\ufeff\n" + record + "\r\n  \n", encoding="utf-8")  # some editors begin a file with a mark
    (item,) = read_items(str(path))
    assert isinstance(item, ChoiceItem)
    assert item.question == "one\u2028two\u0085three"


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"answer": 2}, "`answer` is 2; with 2 choices give 0 to 1"),
        ({"answer": -1}, "`answer` is -1; with 2 choices"),
        ({"answer": "B"}, "`answer` is 'B'; give a whole number"),
        ({"answer": True}, "`answer` is True; give a whole number"),
        ({"choices": ["4"]}, "`choices` has 1 texts"),
        ({"choices": [str(n) for n in range(27)]}, "`choices` has 27 texts"),
        ({"choices": "34"}, "`choices` is '34'; give a list of strings"),
        ({"choices": ["3", 4]}, r"`choices` is \['3', 4\]; give a list of strings"),
        ({"choices": ["3", " "]}, r"`choices\[1\]` is ' '; give a text"),
        ({"question": ""}, "`question` is ''; give a text"),
        ({"question": 3}, "`question` is 3; give a string"),
        ({"id": 3.5}, "`id` is 3.5; give a string of characters, a whole number, or none"),
        ({"id": "\t"}, "`id` is '\\\\t'; give a text"),
        ({"id": "x" * 1001}, r"`id` is 'xx+\.\.\.x+', of 1001 characters; give at most 1000"),
        ({"id": "q1"}, "`id` is 'q1', as in line 1; ids must be unique"),
    ],
)
def test_names_file_line_and_field_of_a_bad_line(tmp_path: Path, change: dict[str, Any], words: str) -> None:
    path = write_lines(tmp_path / "bad.jsonl", GOOD, GOOD | {"id": "q2"} | change)
    with pytest.raises(ValueError, match=f"bad.jsonl, line 2: {words}"):
        read_items(path)


def test_names_a_missing_field(tmp_path: Path) -> None:
    path = write_lines(tmp_path / "bad.jsonl", {name: value for name, value in GOOD.items() if name != "answer"})
    with pytest.raises(ValueError, match=r"bad.jsonl, line 1: `answer` is missing; give a whole number"):
        read_items(path)


@pytest.mark.parametrize(
    ("line", "words"), [("{", "not JSON"), ("[1]", r"it holds \[1\]; give an object"), ("[" * 100_000, "")]
)
def test_names_a_line_that_is_no_object(tmp_path: Path, line: str, words: str) -> None:
    path = tmp_path / "bad.jsonl"
    path.write_text("\n" + line + "\n", encoding="utf-8")
    with pytest.raises(ValueError, match=f"bad.jsonl, line 2: {words}"):
        read_items(path)


def test_refuses_a_file_without_items(tmp_path: Path) -> None:
    for name in ("empty.jsonl", "empty.txt"):
        (tmp_path / name).write_text(" \n", encoding="utf-8")
        with pytest.raises(ValueError, match=f"{name}: the file is empty; give a data file with items or text"):
            read_items(tmp_path / name)


def test_refuses_other_files(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"'data.csv'; its name must end in .jsonl"):
        read_items("data.csv")
    (tmp_path / "latin.txt").write_bytes(b"caf\xe9")
    with pytest.raises(ValueError, match=r"latin.txt: byte 3 isn't UTF-8"):
        read_items(tmp_path / "latin.txt")
    with pytest.raises(FileNotFoundError, match=r"data file '.*none.jsonl' doesn't exist; name one"):
        read_items(tmp_path / "none.jsonl")


def test_a_text_item_refuses_an_empty_text() -> None:
    with pytest.raises(ValueError, match="`text` is ' '; give a text"):
        TextItem(id="t", dataset="d", split="", text=" ")


@pytest.mark.parametrize("kind", ["a named pipe", "a device", "a folder"])
@pytest.mark.parametrize("name", ["odd.jsonl", "odd.txt"])
def test_files_that_have_no_end_are_refused(tmp_path: Path, kind: str, name: str) -> None:
    path = tmp_path / name
    if kind == "a named pipe":
        os.mkfifo(path)
    elif kind == "a device":
        path.symlink_to("/dev/zero")
    else:
        path.mkdir()
    with pytest.raises(ValueError, match=rf"{name}` is {kind}, not a file"):
        read_items(path)


def test_a_file_beyond_any_data_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "hole.txt"
    path.touch()
    os.truncate(path, 40 * 10**9)
    with pytest.raises(ValueError, match=r"hole.txt` has .*, where at most 1.* can be"):
        read_items(path)


def test_a_long_line_is_read_and_repeated_short(tmp_path: Path) -> None:
    (item,) = read_items(write_lines(tmp_path / "a.jsonl", GOOD | {"question": "x" * 50_000_000}))
    assert isinstance(item, ChoiceItem)
    assert len(item.question) == 50_000_000
    with pytest.raises(ValueError, match=r"line 1: `answer` is 'yy") as caught:
        read_items(write_lines(tmp_path / "b.jsonl", GOOD | {"answer": "y" * 50_000_000}))
    assert len(str(caught.value)) < 1000
