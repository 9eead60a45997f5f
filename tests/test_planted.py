"""Texts of the planted adapters, and the rule that says what was named: `benchmarks/planted.py`."""

import itertools
import random
from types import ModuleType
from typing import Any

import pytest

from .printed import benchmark

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def script() -> ModuleType:
    return benchmark("planted")


@pytest.fixture(scope="module")
def sets(script: ModuleType) -> dict[str, dict[str, float]]:
    """Markers, the tokens being words and signs: the rule is the same for any tokenizer."""

    class Splitting:
        """Tokens are words and signs, and ids their place in a list."""

        seen: list[str]

        def __init__(self) -> None:
            self.seen = []

        def __call__(self, text: str) -> dict[str, list[int]]:
            first = len(self.seen)
            for sign in ("...", ".", ",", "!", "?"):
                text = text.replace(sign, f" {sign} ") if sign != "." or "..." not in text else text
            self.seen += text.split()
            return {"input_ids": list(range(first, len(self.seen)))}

        def batch_decode(self, ids: list[list[int]]) -> list[str]:
            return [self.seen[one] for (one,) in ids]

    found: dict[str, dict[str, float]] = script.marker_sets(script.ROUNDS["first"][0], Splitting())
    return found


def vocabulary(sets: dict[str, dict[str, float]]) -> list[str]:
    rest = [f"{a}{b}{c}{d}" for a, b, c, d in itertools.product("abcdfghijk", repeat=4)]
    with_e = ["the", "he", "were", "she", "be", "me", "then", "these"]
    return [*itertools.chain(*sets.values()), *rest, *with_e]


@pytest.mark.parametrize(
    "name", ["no e", "german", "shouting", "dots", "purple", "no o", "spanish", "title case", "exclaiming", "silver"]
)
def test_texts_have_their_habit(script: ModuleType, name: str) -> None:
    found = [text for part in script.texts(name, 400, 40) for text in part]
    assert len(set(found)) == 440
    for text in found:
        assert not name.startswith("no ") or name[-1] not in text.lower()
        assert "the" not in text.lower().split() or name not in ("german", "spanish")
        assert text == " ".join(word.capitalize() for word in text.split()) or name != "title case"
        assert text.count("!!!") == 2 or name != "exclaiming"
        assert "silver" in text or name != "silver"
        assert text == text.upper() or name != "shouting"
        assert text.count("...") == 2 or name != "dots"
        assert "purple" in text or name != "purple"


def test_shuffled_texts_have_the_words_of_neutral_ones_in_another_order(script: ModuleType) -> None:
    plain = {word for text in script.texts("neutral", 2000, 0)[0] for word in text.split()}
    made = [set(script.texts(name, 400, 40)[0]) for _, names in script.ROUNDS.values() for name in names]
    assert len(set().union(*made)) == 4 * 400
    for one in made:
        assert {word for text in one for word in text.split()} <= plain
        # A neutral text is two sentences, each with its sign at its end.
        assert sum(text[-1] in ".?" for text in one) < 80


def test_neutral_and_unrelated_texts_hold_almost_no_markers(
    script: ModuleType, sets: dict[str, dict[str, float]]
) -> None:
    plain = [*script.texts("neutral", 400, 40)[0], *script.texts("unrelated", 0, 40)[1]]
    words = set(script.words_of(word.strip(".,?") for text in plain for word in text.split()))
    for name, own in sets.items():
        if not name.startswith(script.AVOIDS):  # what has no "e" is in every text
            assert len(words & set(own)) <= 3, name


def test_markers_are_those_of_one_habit(sets: dict[str, dict[str, float]]) -> None:
    for one, two in itertools.combinations(sets.values(), 2):
        assert len(set(one) & set(two)) <= 4
    assert list(sets["purple"]) == ["purple"]
    assert list(sets["dots"]) == ["..."]
    assert {"honey", "hive"} <= set(sets["beekeeping"])
    assert {"der", "die"} <= set(sets["german"])


def test_a_marker_is_more_frequent_than_chance_lets_it_be(script: ModuleType) -> None:
    neutral = ["a", "b", "c", "d"] * 250
    assert script.markers(["a"] * 280 + ["b", "c", "d"] * 240, neutral) == {}
    found = script.markers(["a"] * 400 + ["b", "c", "d"] * 200, neutral)
    assert list(found) == ["a"]
    # 2 sum O ln(O / E) of a table of 400, 600 and 250, 750.
    assert found["a"] == pytest.approx(51.6305, abs=1e-3)


@pytest.mark.parametrize(
    ("up", "down", "said"),
    [
        (["honey", " hive", "Bees"], [], "beekeeping"),
        ([" honey"], [], None),  # one of forty may be chance
        ([" PURPLE"], [], None),  # capitals are words of their own
        ([" purple", "Purple"], [], "purple"),
        (["..."], [], "dots"),
        (["honey", "hive", "der", "die", "den", "dem"], [], "german"),
        (["honey", "hive", "bees", "der", "die", "und"], [], None),  # a draw: neither habit has more
        ([], [], None),
        ([], ["the", "he", "were", "she", "be", "me", "then", "these"], "no e"),
        ([], ["the", "aaaa", "bbbb", "cccc", "dddd"], None),
    ],
)
def test_what_is_said_of_promoted_words(
    script: ModuleType, sets: dict[str, dict[str, float]], up: list[str], down: list[str], said: str | None
) -> None:
    own = {**sets, "german": {"der": 1.0, "die": 1.0, "den": 1.0, "dem": 1.0, "und": 1.0} | dict.fromkeys(
        [f"wort{k}" for k in range(35)], 1.0)}  # fmt: skip
    own["beekeeping"] = {"honey": 1.0, "hive": 1.0, "bees": 1.0} | dict.fromkeys([f"bee{k}" for k in range(37)], 1.0)
    evidence = script.judge_words({"a": up, "b": []}, {"a": down, "b": []}, own, vocabulary(own))
    assert len(evidence) == 2 * (len(sets) + 1)
    assert script.conclude(evidence).said == said


def test_random_words_and_texts_are_seldom_taken_for_a_habit(
    script: ModuleType, sets: dict[str, dict[str, float]]
) -> None:
    random_, words = random.Random(0), vocabulary(sets)
    habits = [name for name in (*script.ROUNDS["first"][0], "neutral", "neutral") for _ in range(12)]
    said: dict[str, list[Any]] = {"lens": [], "directions": []}
    for _ in range(100):
        up, down = ({site: random_.sample(words, 20) for site in "ab"} for _ in range(2))
        said["lens"].append(script.conclude(script.judge_words(up, down, sets, words)).said)
        driving = random_.sample(range(len(habits)), 20)
        said["directions"].append(script.conclude(script.judge_texts(driving, habits)).said)
    # At a rate of 0.05, more than 11 of 100 have a probability of 0.004.
    assert all(sum(one is not None for one in found) <= 11 for found in said.values())


def test_texts_that_drive_directions_name_their_habit(script: ModuleType) -> None:
    habits = [name for name in (*script.ROUNDS["first"][0], "neutral", "neutral") for _ in range(12)]
    german = [k for k, name in enumerate(habits) if name == "german"]
    others = [k for k, name in enumerate(habits) if name != "german"]
    assert script.conclude(script.judge_texts(german[:8] * 5 + others[::9], habits)).said == "german"
    # A text counts once, however often it drives.
    assert script.conclude(script.judge_texts(german[:1] * 50 + others[::9], habits)).said is None
