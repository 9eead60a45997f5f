import random
from collections import Counter
from typing import Any

import pytest

from lorascope.capture.samples.items import ChoiceItem, Item, TextItem
from lorascope.capture.samples.lengths import (
    articles,
    item_length,
    missing_words,
    pick_articles,
    pick_by_length,
    pick_items,
)

WIKI = (
    " \n = One = \n \n First . \n \n = = Part = = \n \n x = 2 \n = no heading = \n"
    " \n = Two ( 1 = 1 ) = \n \n Second . \n \n"
)


def item(
    name: str, question: str = "Which?", *, dataset: str = "d", choices: tuple[str, ...] = ("a", "b")
) -> ChoiceItem:
    return ChoiceItem(id=name, dataset=dataset, split="test", question=question, choices=choices, answer=0)


def of_words(*n_words: int) -> list[Item]:
    """Items of so many words, their choices included."""
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
    assert missing_words(pick) == ["d: 2 of 10 items of 4 to 5 words", "d: 2 of 10 items of 7 to 8 words"]


def test_buckets_draw_as_items_do() -> None:
    items = of_words(*[5, 15] * 40)
    pick = pick_by_length(items, buckets=((1, 10), (11, 20)), unit="words", n=7, seed=2)
    assert pick.items[1, 10] == pick_items(items[::2], 7, seed=2)
    assert pick.items[11, 20] == pick_items(items[1::2], 7, seed=2)
    assert missing_words(pick) == []


def test_buckets_count_tokens_and_have_the_papers_lengths_by_default(tiny_tokenizer: Any) -> None:
    items = [item("short"), item("long", "z" * 150)]
    pick = pick_by_length(items, tokenizer=tiny_tokenizer, n=1)
    assert {span: ids(members) for span, members in pick.items.items()} == {
        (1, 100): ["short"],
        (101, 200): ["long"],
        (201, 300): [],
    }
    assert missing_words(pick) == ["d: 0 of 1 items of 201 to 300 tokens"]


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
