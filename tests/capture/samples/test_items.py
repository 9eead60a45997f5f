import json
import os
import random
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from lorascope.capture.samples.items import (
    ChoiceItem,
    Item,
    TextItem,
    articles,
    item_length,
    pick_articles,
    pick_by_length,
    pick_items,
    shortfall_messages,
)
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


WIKI = (
    " \n = One = \n \n First . \n \n = = Part = = \n \n x = 2 \n = no heading = \n"
    " \n = Two ( 1 = 1 ) = \n \n Second . \n \n"
)


def item(
    name: str, question: str = "Which?", *, dataset: str = "d", choices: tuple[str, ...] = ("a", "b")
) -> ChoiceItem:
    return ChoiceItem(id=name, dataset=dataset, split="test", question=question, choices=choices, answer=0)


def of_words(*n_words: int) -> list[Item]:
    """Items of these numbers of words, with their choices."""
    return [item(str(n), " ".join(["w"] * (count - 2))) for n, count in enumerate(n_words)]


def ids(items: Any) -> list[str]:
    return [one.id for one in items]


def test_length_is_of_question_and_choices_joined_by_single_spaces(tiny_tokenizer: Any) -> None:
    one = item("a", "the  four the", choices=("the four", "An"))
    assert item_length(one, "characters") == len("the  four the the four An")
    assert item_length(one, "words") == 6
    expected = tiny_tokenizer("the  four the the four An")["input_ids"]
    assert expected[0] == tiny_tokenizer.bos_token_id
    assert item_length(one, tokenizer=tiny_tokenizer) == len(expected) - 1
    text = TextItem(id="t", dataset="d", split="", text="the four")
    assert item_length(text, "tokens", tiny_tokenizer) == len(tiny_tokenizer("the four")["input_ids"]) - 1


def test_length_refuses_other_units_and_tokens_without_a_tokenizer() -> None:
    with pytest.raises(ValueError, match="`unit` is 'lines'; allowed are tokens, words, characters"):
        item_length(item("a"), "lines")  # type: ignore[arg-type]  # what is tested
    with pytest.raises(ValueError, match="`unit` is 'tokens', but there is no tokenizer; give one, or count words"):
        item_length(item("a"))


def test_a_draw_depends_on_seed_data_set_and_id_alone() -> None:
    items = [item(str(n)) for n in range(50)]
    drawn = pick_items(items, 20, seed=3)
    assert len(set(ids(drawn))) == 20
    assert ids(drawn) == sorted(ids(drawn), key=int)
    shuffled = random.Random(0).sample(items, 50)
    again = pick_items(shuffled, 20, seed=3)
    assert {*ids(again)} == {*ids(drawn)}
    assert ids(again) == [one.id for one in shuffled if one in again]
    # What is drawn of fewer is what was drawn of all, as far as it is there.
    assert {*ids(pick_items(items[:30], 20, seed=3))} >= {one.id for one in drawn if one in items[:30]}
    assert {*ids(pick_items(items, 10, seed=3))} < {*ids(drawn)}
    others = [pick_items(items, 20, seed=4), pick_items([item(str(n), dataset="e") for n in range(50)], 20, seed=3)]
    assert all(ids(other) != ids(drawn) for other in others)


def test_every_item_is_as_likely_as_another() -> None:
    """Of 20 items 5 are drawn by each of 400 seeds: 100 times each, with a deviation of 8.7."""
    items = [item(str(n)) for n in range(20)]
    counts = Counter(name for seed in range(400) for name in ids(pick_items(items, 5, seed)))
    assert all(abs(counts[one.id] - 100) < 5 * 8.7 for one in items)


def test_too_few_items_are_all_taken() -> None:
    items = [item("b"), item("a")]
    assert pick_items(items, 5) == tuple(items)
    assert pick_items([], 1) == ()
    with pytest.raises(ValueError, match="`n` is 0; give at least 1"):
        pick_items(items, 0)


def test_buckets_include_both_ends_and_leave_out_what_is_between_and_beyond() -> None:
    items = of_words(3, 4, 5, 6, 7, 8, 9)
    pick = pick_by_length(items, buckets=((4, 5), (7, 8)), unit="words", n=10)
    assert (pick.dataset, pick.unit, pick.n) == ("d", "words", 10)
    assert {span: ids(members) for span, members in pick.items.items()} == {(4, 5): ["1", "2"], (7, 8): ["4", "5"]}
    assert shortfall_messages(pick) == ["d: 2 of 10 items of 4 to 5 words", "d: 2 of 10 items of 7 to 8 words"]


def test_buckets_draw_as_items_do() -> None:
    items = of_words(*[5, 15] * 40)
    pick = pick_by_length(items, buckets=((1, 10), (11, 20)), unit="words", n=7, seed=2)
    assert pick.items[1, 10] == pick_items(items[::2], 7, seed=2)
    assert pick.items[11, 20] == pick_items(items[1::2], 7, seed=2)
    assert shortfall_messages(pick) == []


def test_buckets_count_tokens_and_have_the_papers_lengths_by_default(tiny_tokenizer: Any) -> None:
    items = [item("short"), item("long", "z" * 150)]
    pick = pick_by_length(items, tokenizer=tiny_tokenizer, n=1)
    assert {span: ids(members) for span, members in pick.items.items()} == {
        (1, 100): ["short"],
        (101, 200): ["long"],
        (201, 300): [],
    }
    assert shortfall_messages(pick) == ["d: 0 of 1 items of 201 to 300 tokens"]


@pytest.mark.parametrize("buckets", [((1, 100), (100, 200)), ((101, 200), (1, 100)), ((0, 5),), ((7, 5),)])
def test_buckets_that_overlap_or_fall_are_refused(buckets: Any) -> None:
    with pytest.raises(
        ValueError, match=r"`buckets` is \[\(.*\)\]; give spans of 1 or more that rise and don't overlap"
    ):
        pick_by_length(of_words(3), buckets=buckets, unit="words")


def test_buckets_want_items_of_one_data_set() -> None:
    with pytest.raises(ValueError, match=r"the items are of the data sets \['d', 'e'\]; draw from one at a time"):
        pick_by_length([item("a"), item("a", dataset="e")], unit="words")
    with pytest.raises(ValueError, match=r"the items are of the data sets \[\]"):
        pick_by_length([], unit="words")
    with pytest.raises(ValueError, match="`buckets` is empty; give at least one span of lengths"):
        pick_by_length(of_words(3), buckets=(), unit="words")


def test_articles_begin_at_headings_of_the_first_level() -> None:
    first, second = articles(WIKI)
    assert first + second == WIKI
    assert first.startswith(" \n = One = \n")
    assert first.endswith(" \n = no heading = \n")
    assert second == " \n = Two ( 1 = 1 ) = \n \n Second . \n \n"


@pytest.mark.parametrize(
    "text", ["Plain.\n", " = = Part = = \n \n Text . \n", " = Three = \n Text . \n", "= Title =\n\n"]
)
def test_a_text_without_articles(text: str) -> None:
    with pytest.raises(ValueError, match="the text has no headings of the first level"):
        articles(text)


def test_a_text_that_begins_within_an_article() -> None:
    with pytest.raises(ValueError, match=r"the text begins with ' The end .*, before the first heading; cut"):
        articles(" The end . \n \n = One = ")


def test_some_articles_of_a_text() -> None:
    whole = TextItem(id="w", dataset="w", split="test", text=WIKI)
    assert pick_articles(whole, 1, 2) == whole
    assert pick_articles(whole, 2, 2) == TextItem(id="w", dataset="w", split="test", text=articles(WIKI)[1])
    for first, last in ((0, 1), (2, 1), (2, 3)):
        with pytest.raises(ValueError, match=f"articles {first} to {last} are asked for; text 'w' has 2"):
            pick_articles(whole, first, last)
