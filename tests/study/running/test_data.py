"""What the units of a study train and test on."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

pytestmark = pytest.mark.torch
pytest.importorskip("torch")

from lorascope.capture import read_items  # noqa: E402
from lorascope.study.demo_inputs import facts_path  # noqa: E402
from lorascope.study.running.data import TaskData, draw_items, items_hash, write_files  # noqa: E402
from lorascope.study.settings import read_settings  # noqa: E402

Write = Callable[[dict[str, Any]], Path]


def drawn(path: Path, train_items: int | None = 8) -> TaskData:
    settings = read_settings(path)
    return draw_items(settings.tasks["facts"], settings, train_items, lambda: pytest.fail("no tokenizer is needed"))


def ids(items: Any) -> list[str]:
    return [item.id for item in items]


def test_draws_are_those_of_the_seed_and_of_it_alone(write: Write, content: dict[str, Any]) -> None:
    first, again = drawn(write(content)), drawn(write(content))
    assert first == again
    assert len(first.train) == 8
    assert len(first.runs["main"].items) == len(first.tested) == 6
    other = drawn(write(content | {"seed": 1}))
    assert ids(other.train) != ids(first.train)
    # More items are the same ones and others.
    assert set(ids(first.train)) < set(ids(drawn(write(content), 20).train))


def test_other_prompts_get_a_part_of_the_test_items(write: Write, content: dict[str, Any]) -> None:
    content["tasks"]["facts"] |= {"prompts": ["main", "prompt1", "prompt3"], "prompt_items": 2}
    data = drawn(write(content))
    assert {name: run.prompts for name, run in data.runs.items()} == {
        "main": ("main",),
        "prompts": ("prompt1", "prompt3"),
    }
    assert len(data.runs["prompts"].items) == len(data.prompted) == 2
    assert data.prompted < data.tested
    assert len(data.examples) == len(read_items(facts_path("train")))


def test_buckets_are_drawn_from_the_whole_set_and_what_lacks_is_said(write: Write, content: dict[str, Any]) -> None:
    buckets = [[1, 8], [9, 12], [13, 900]]
    content["tasks"]["facts"]["lengths"] = {"unit": "words", "buckets": buckets, "items": 5}
    data = drawn(write(content))
    lengths = {
        item.id: len(" ".join([item.question, *item.choices]).split())  # type: ignore[union-attr]
        for item in read_items(facts_path("test"))
    }
    for (dataset, split, name), (bucket, length) in data.lengths.items():
        shortest, longest = map(int, bucket.split("-"))
        assert (dataset, split) == ("facts", "test")
        assert shortest <= lengths[name] <= longest
        assert length == lengths[name]
    counts = {span: sum(span[0] <= n <= span[1] for n in lengths.values()) for span in map(tuple, buckets)}
    assert [bucket for bucket, _ in data.lengths.values()].count("13-900") == min(5, counts[13, 900])
    short = [span for span, n in counts.items() if n < 5]
    assert len(data.notes) == len(short)
    assert set(ids(data.runs["main"].items)) == {key[2] for key in data.tested | data.lengths.keys()}


def test_test_items_that_are_trained_on_are_refused(write: Write, content: dict[str, Any], tmp_path: Path) -> None:
    item = json.loads(facts_path("test").read_text().splitlines()[3])
    item |= {"id": "copied", "choices": item["choices"][::-1], "answer": 3 - item["answer"]}
    (tmp_path / "leaky.train.jsonl").write_text(json.dumps(item) + "\n")
    content["tasks"]["facts"]["train"] = ["facts.train.jsonl", str(tmp_path / "leaky.train.jsonl")]
    with pytest.raises(ValueError, match="is trained on too, as 'copied'"):
        drawn(write(content))


def test_two_test_sets_of_one_name_are_refused(write: Write, content: dict[str, Any]) -> None:
    content["tasks"]["facts"]["test"] = ["facts.test.jsonl", "facts.test.jsonl"]
    with pytest.raises(ValueError, match=r"two test sets are named 'facts\.test'"):
        drawn(write(content))


def test_too_few_items_are_said(write: Write, content: dict[str, Any]) -> None:
    content["tasks"]["facts"]["test_items"] = 1000
    assert drawn(write(content)).notes == ("facts: 840 of 1000 test items are missing; there are 160",)


@pytest.fixture
def wiki(content: dict[str, Any], tmp_path: Path) -> dict[str, Any]:
    """Settings of a task on four articles, trained on the first two and tested on the last."""
    (tmp_path / "wiki.test.txt").write_text("".join(f" \n = Title {n} = \n \n Words of {n} . \n" for n in range(1, 5)))
    train, test = ({"data": "wiki.test.txt", "articles": span} for span in ([1, 2], [4, 4]))
    return content | {"tasks": {"facts": {"train": train, "test": test}}}


def test_articles(write: Write, wiki: dict[str, Any]) -> None:
    data = drawn(write(wiki), None)
    texts = [items[0].text for items in (data.train, data.runs["main"].items)]  # type: ignore[union-attr]
    assert [[n for n in range(1, 5) if f"Title {n}" in text] for text in texts] == [[1, 2], [4]]
    wiki["tasks"]["facts"]["train"] = {"data": str(facts_path("train")), "articles": [1, 2]}
    with pytest.raises(ValueError, match="has questions, which have no articles"):
        drawn(write(wiki), None)


@pytest.mark.parametrize(
    ("train", "test"), [([1, 3], [3, 4]), ([2, 2], None), (None, [4, 4])], ids=["overlap", "part of", "whole"]
)
def test_articles_that_are_trained_on_are_refused(
    write: Write, wiki: dict[str, Any], train: list[int] | None, test: list[int] | None
) -> None:
    sets = [{"data": "wiki.test.txt", "articles": span} if span else "wiki.test.txt" for span in (train, test)]
    wiki["tasks"]["facts"] = {"train": sets[0], "test": sets[1]}
    with pytest.raises(ValueError, match="is trained on too"):
        drawn(write(wiki), None)


def test_files_hold_the_items(write: Write, content: dict[str, Any], tmp_path: Path) -> None:
    data = drawn(write(content))
    paths = write_files(data.train, tmp_path / "made")
    assert paths == (str(tmp_path / "made/facts.train.jsonl"),)
    assert read_items(paths[0]) == list(data.train)
    assert items_hash(data.train) == items_hash(read_items(paths[0]))
    assert items_hash(data.train[::-1]) != items_hash(data.train)


def test_a_file_that_changed_is_read_again(write: Write, content: dict[str, Any], tmp_path: Path) -> None:
    for name in ("train", "test"):
        (tmp_path / f"facts.{name}.jsonl").write_text(facts_path(name).read_text())
    path = write(content | {"data": "."})
    before = drawn(path)
    changed = tmp_path / "facts.test.jsonl"
    changed.write_text(changed.read_text().replace("What", "Which"))
    assert items_hash(drawn(path).runs["main"].items) != items_hash(before.runs["main"].items)
