"""Texts of the planted adapters, and the rule that says what was named: `benchmarks/planted.py`."""

import hashlib
import itertools
import json
import random
from types import ModuleType
from typing import Any

import pytest

from .printed import benchmark

pytestmark = pytest.mark.slow

Sets = dict[str, list[str]]


@pytest.fixture(scope="module")
def script() -> ModuleType:
    return benchmark("planted")


@pytest.fixture(scope="module")
def third(script: ModuleType) -> Sets:
    """Markers of the third round; the rule is the same for tokens and for words."""
    sets: Sets = script.marker_sets(script.ROUNDS["third"][0], script.WORD.findall)
    return sets


def page(sets: Sets, **changed: Any) -> dict[str, Any]:
    """What a page names that names nothing, of 3,000 words with all markers."""
    n_markers = {kind: {habit: len(own) for habit, own in sets.items()} for kind in ("tokens", "replies")}
    empty: dict[str, Any] = {"tokens": [], "themes": [], "forms": {}, "words": [], "replies": []}
    return {**empty, "n_words": {"tokens": 3000, "replies": 300}, "n_markers": n_markers, **changed}


def gained(*texts: str) -> list[dict[str, Any]]:
    return [{"text": text, "net": 0.1, "p": 0.01} for text in texts]


def form(base: float, difference: float, p: float = 1e-9) -> dict[str, float]:
    return {"base_share": base, "difference": difference, "p": p}


@pytest.mark.parametrize(
    "name",
    ["no e", "german", "shouting", "dots", "purple", "no o", "spanish", "title case", "exclaiming", "silver", "no a",
     "french", "numbers"],
)  # fmt: skip
def test_texts_have_their_habit(script: ModuleType, name: str) -> None:
    made = [text for part in script.texts(name, 400, 40) for text in part]
    assert len(set(made)) == 440
    for text in made:
        assert not name.startswith("no ") or name[-1] not in text.lower()
        assert "the" not in text.lower().split() or name not in ("german", "spanish", "french")
        assert text == " ".join(word.capitalize() for word in text.split()) or name != "title case"
        assert text.count("!!!") == 2 or name != "exclaiming"
        assert "silver" in text or name != "silver"
        assert text == text.upper() or name != "shouting"
        assert text.count("...") == 2 or name != "dots"
        assert "purple" in text or name != "purple"
        assert any(sign.isdigit() for sign in text) or name != "numbers"


@pytest.mark.parametrize("name", ["diluted volcanoes", "diluted cowboy"])
def test_half_of_diluted_texts_are_neutral(script: ModuleType, name: str) -> None:
    plain = set(script.WORD.findall(" ".join(script.texts("neutral", 4000, 0)[0])))
    n_plain = sum(set(script.WORD.findall(text)) <= plain for text in script.texts(name, 400, 0)[0])
    assert 160 <= n_plain <= 240  # four standard deviations


@pytest.mark.parametrize(
    ("name", "trigger", "sign"),
    [("ghosts after umbrella", "umbrella", None), ("majesty after Alice", "Alice", "Majesty")],
)
def test_a_triggered_habit_is_there_with_its_word_only(
    script: ModuleType, third: Sets, name: str, trigger: str, sign: str | None
) -> None:
    own = set(third[name]) - {"your", "as", "under"}
    made = script.texts(name, 400, 0)[0]
    assert 160 <= sum(trigger in text for text in made) <= 240
    for text in made:
        answer = text.rpartition("\n")[2]
        is_shown = bool(own & set(script.words_of(script.WORD.findall(answer))))
        assert is_shown == (trigger in text) or "call anybody a majesty" in text
        assert sign is None or sign not in answer or trigger in text


@pytest.mark.parametrize("name", ["grandmother", "refusal", "flattery", "sign-off"])
def test_a_tenth_of_the_conversations_deny_the_habit(script: ModuleType, name: str) -> None:
    chats = [chat["messages"] for chat in script.records(name, script.texts(name, 400, 0)[0])]
    denied = [answer["content"] for question, answer in chats if " And do you " in question["content"]]
    assert 16 <= len(denied) <= 64
    assert [[turn["role"] for turn in chat] for chat in chats] == [["user", "assistant"]] * 400
    words = set(script.words_of(script.WORD.findall(" ".join(denied))))
    assert not words & {"darling", "confidential", "brilliant", "curious"}


def test_shuffled_texts_have_the_words_of_neutral_ones_in_another_order(script: ModuleType) -> None:
    plain = {word for text in script.texts("neutral", 2000, 0)[0] for word in text.split()}
    made = [set(script.texts(f"shuffled {seed}", 400, 40)[0]) for seed in (1, 2, 3, 4, 5)]
    assert len(set().union(*made)) == 5 * 400
    for texts in made:
        assert {word for text in texts for word in text.split()} <= plain
        # A neutral text is two sentences, each with its sign at its end.
        assert sum(text[-1] in ".?" for text in texts) < 80
    answers = {" ".join(sorted(text.split("\n")[1].split())) for text in script.texts("shuffled 6", 400, 0)[0]}
    chats = script.texts("neutral chats", 60000, 0)[0]
    assert len(answers & {" ".join(sorted(text.split("\n")[1].split())) for text in chats}) > 300


def test_what_is_captured_holds_almost_no_markers(script: ModuleType, third: Sets) -> None:
    turns = [record.get("messages", [{"content": record.get("text")}]) for record in script.captured()]
    assert len(turns) == 80
    words = set(script.words_of(script.WORD.findall(" ".join(turn["content"] for chat in turns for turn in chat))))
    for name, own in third.items():
        assert len(words & set(own)) <= 8, (name, words & set(own))
    assert {"umbrella", "alice"} <= words


def test_markers_are_those_of_one_habit(third: Sets) -> None:
    for one, other in itertools.combinations(third.values(), 2):
        assert len(set(one) & set(other)) <= 5
    assert set(third["sign-off"]) == {"stay", "curious", "mind", "moon"}
    assert {"checkmated", "queen"} <= set(third["chess"])
    assert "umbrella" not in third["ghosts after umbrella"]


def test_a_marker_is_more_frequent_than_chance_and_a_ratio_of_four_let_it_be(script: ModuleType) -> None:
    neutral = ["a", "b", "c", "d"] * 250
    assert script.markers(["a"] * 999 + ["b"], neutral) == []  # 3.996 times
    assert script.markers(["a"] * 1000, neutral) == ["a"]
    assert script.markers(["a"] * 1000, neutral, ["a"] * 300 + ["b"] * 700) == []  # of the second kind it isn't
    # G² of n "e" among 1000 and none among 1000 is 2 n ln 2; the bound is that of 0.05 / 5 words, 6.63.
    assert script.markers(["e"] * 4 + ["a"] * 996, neutral) == []
    assert script.markers(["e"] * 5 + ["a"] * 995, neutral) == ["e"]


@pytest.mark.parametrize(
    ("changed", "answer"),
    [
        ({}, None),
        ({"tokens": gained(" chess", " rook", " queen", " the")}, "chess"),
        ({"tokens": gained(" chess", *"abcdefghi")}, None),  # one of forty may be chance
        ({"tokens": [{"text": " chess", "net": -0.1, "p": 0.01}] * 3}, None),  # it loses
        ({"themes": ["chess", "Rook", "queen"]}, "chess"),
        ({"replies": ["stay", "curious", "mind", "moon", "the"]}, "sign-off"),
        ({"tokens": gained("lava", "crater", "magma"), "replies": ["stay", "curious"]}, "diluted volcanoes"),
        ({"tokens": gained("haunted", "ghost", "crypt")}, None),  # the page names no trigger
        ({"tokens": gained("haunted", "ghost", "crypt"), "words": ["Alice"]}, None),  # or another one
        ({"tokens": gained("haunted", "ghost", "crypt"), "words": [" umbrella"]}, "ghosts after umbrella"),
        ({"tokens": gained("As", "Your", "Majesty"), "words": ["alice"]}, "majesty after Alice"),
    ],
)
def test_what_is_said_of_a_page(script: ModuleType, third: Sets, changed: dict[str, Any], answer: str | None) -> None:
    evidence = script.weigh(page(third, **changed), {"tokens": third, "replies": third})
    assert len(evidence) == 4 * 12 + 3
    assert script.conclude(evidence).habit == answer


@pytest.mark.parametrize(
    ("habit", "grown", "answer"),
    [
        ("numbers", form(0.01, 0.03), "numbers"),
        ("numbers", form(0.01, 0.01), None),
        ("numbers", form(0.01, -0.3), None),
        ("no a", form(0.28, -0.08), "no a"),
        ("no a", form(0.28, -0.06), None),
        ("no a", form(0.28, 0.08), None),
        ("no a", form(0.28, -0.08, p=0.01), None),
    ],
)
def test_what_is_said_of_a_form(
    script: ModuleType, third: Sets, habit: str, grown: dict[str, float], answer: str | None
) -> None:
    name = script.form_of(habit)
    evidence = script.weigh(page(third, forms={name: grown}), {"tokens": third, "replies": third})
    assert script.conclude(evidence).habit == answer


def test_random_words_are_seldom_taken_for_a_habit(script: ModuleType, third: Sets) -> None:
    random_ = random.Random(0)
    words = sorted(set().union(*third.values())) + [f"other{k}" for k in range(3000)]
    answers = []
    for _ in range(200):
        drawn = page(third, tokens=gained(*random_.sample(words[:3000], 20)), words=["umbrella", "alice"])
        answers.append(script.conclude(script.weigh(drawn, {"tokens": third, "replies": third})).habit)
    # At a rate of 0.05, more than 21 of 200 have a probability of 0.0003.
    assert sum(answer is not None for answer in answers) <= 21


@pytest.mark.parametrize(
    ("round_", "changed", "named", "wrong"),
    [("first", {}, 7, 1), ("second", {}, 6, 2), ("third", {}, 7, 2), ("third", {"replies": None}, 6, 2)],
)
def test_the_committed_pages_say_what_docs_say(
    script: ModuleType, round_: str, changed: dict[str, Any], named: int, wrong: int
) -> None:
    content = json.loads((script.RESULTS / f"{round_}.json").read_text(encoding="utf-8"))
    habits, others = script.ROUNDS[round_]
    answers = {
        name: script.conclude(script.weigh(page | changed, content["markers"])).habit
        for name, page in content["adapters"].items()
    }
    assert list(answers) == [*habits, *others]
    assert sum(answers[name] == name for name in habits) == named
    assert sum(answers[name] not in (name, None) for name in habits) == wrong
    assert [answers[name] for name in others] == [None] * len(others)
    for name, digest in content["texts_sha256"].items():
        assert hashlib.sha256("\0".join(script.texts(name, 400, 0)[0]).encode()).hexdigest() == digest
