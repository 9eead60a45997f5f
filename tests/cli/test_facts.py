import calendar
import json
import random
import re
from collections import Counter
from itertools import pairwise
from pathlib import Path
from string import ascii_uppercase

import pytest

from lorascope.cli import facts
from lorascope.cli.facts import __main__ as command
from lorascope.cli.facts import facts_path, make_items
from lorascope.cli.facts.animals import YOUNG
from lorascope.cli.facts.categories import CATEGORIES
from lorascope.cli.facts.countries import CITIES, CONTINENTS, COUNTRIES
from lorascope.cli.facts.elements import ELEMENTS
from lorascope.cli.facts.fact import Fact, near_numbers, others, shuffled
from lorascope.cli.facts.generate import KINDS, N_TEST, N_TRAIN, SEED, Item, to_json_lines
from lorascope.cli.facts.nouns import PLURALS
from lorascope.cli.facts.numerals import to_roman
from lorascope.cli.facts.opposites import ADJECTIVES, VERBS
from lorascope.cli.facts.order import MONTHS, PLANETS, WEEKDAYS
from lorascope.cli.facts.shapes import POLYGONS, SOLIDS
from lorascope.cli.facts.units import UNITS
from lorascope.cli.facts.verbs import PAST_TENSES

SPLITS = ("train", "test")
SEEDS = [SEED, 0, 2, 3, 4]
N_TOKENS_ALLOWED = 40


def committed(split: str) -> list[Item]:
    return [json.loads(line) for line in facts_path(split).read_text(encoding="utf-8").splitlines()]


def kind_of(item: Item) -> str:
    return item["id"].removeprefix("facts-").rsplit("-", 1)[0]


def all_facts(kind: str) -> list[Fact]:
    return [fact for seed in SEEDS for fact in KINDS[kind](random.Random(seed))]


def matches(kind: str, pattern: str) -> list[tuple[re.Match[str], str]]:
    """Return the questions of a kind that have a form, with their answers, for all seeds; there is one at least."""
    found = [(re.fullmatch(pattern, fact.question), fact.answer) for fact in all_facts(kind)]
    kept = [(match, answer) for match, answer in found if match]
    assert kept, pattern
    return kept


def assert_each_once(subjects: list[str]) -> None:
    assert [subject for subject, n in Counter(subjects).items() if n > 1] == []


# The files


@pytest.mark.parametrize(("index", "split"), [(0, "train"), (1, "test")])
def test_committed_files_are_what_the_generator_gives(index: int, split: str) -> None:
    made = to_json_lines(make_items(random.Random(SEED))[index])
    assert facts_path(split).read_bytes() == made.encode("ascii")


def test_command_writes_both_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(command, "facts_path", lambda split: tmp_path / split)
    command.main()
    for split in SPLITS:
        assert (tmp_path / split).read_bytes() == facts_path(split).read_bytes()


def test_path_of_another_split_is_refused() -> None:
    with pytest.raises(ValueError, match=r"`split` is 'valid'; the facts have the splits .*'train', 'test'"):
        facts_path("valid")


def test_public_names() -> None:
    assert facts.__all__ == ["facts_path", "make_items"]


def test_data_states_its_licence() -> None:
    assert "CC0-1.0" in (facts_path("train").parent / "LICENSE").read_text(encoding="utf-8")


# The items


@pytest.mark.parametrize("split", SPLITS)
def test_schema(split: str) -> None:
    for item in committed(split):
        assert set(item) == {"id", "question", "choices", "labels", "answer"}
        assert re.fullmatch(r"facts-[a-z-]+-\d{3}", item["id"])
        assert item["question"].endswith("?")
        assert item["labels"] == ["A", "B", "C", "D"]
        assert len(item["choices"]) == 4
        assert item["answer"] in range(4)


@pytest.mark.parametrize("seed", SEEDS)
def test_splits_share_nothing(seed: int) -> None:
    train, test = make_items(random.Random(seed))
    items = [*train, *test]
    assert_each_once([item["id"] for item in items])
    assert_each_once([item["question"].casefold() for item in items])


@pytest.mark.parametrize("seed", SEEDS)
def test_choices_are_distinct(seed: int) -> None:
    for items in make_items(random.Random(seed)):
        for item in items:
            assert_each_once([choice.casefold() for choice in item["choices"]])


@pytest.mark.parametrize("seed", SEEDS)
def test_answers_come_from_the_facts(seed: int) -> None:
    answers = {fact.question: fact.answer for kind in KINDS for fact in all_facts(kind)}
    computed = {"arithmetic", "unit", "geometry"}  # recomputed below, since they depend on the seed
    for items in make_items(random.Random(seed)):
        for item in items:
            if kind_of(item) not in computed:
                assert item["choices"][item["answer"]] == answers[item["question"]]


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize(("index", "n_of_a_kind"), [(0, N_TRAIN), (1, N_TEST)], ids=SPLITS)
def test_kinds_and_positions_are_balanced(seed: int, index: int, n_of_a_kind: int) -> None:
    items = make_items(random.Random(seed))[index]
    assert Counter(kind_of(item) for item in items) == dict.fromkeys(KINDS, n_of_a_kind)
    assert set(Counter(item["answer"] for item in items).values()) == {len(items) // 4}
    for kind in KINDS:
        positions = Counter(item["answer"] for item in items if kind_of(item) == kind)
        assert max(positions.values()) - min(positions.values()) <= 1


@pytest.mark.parametrize("split", SPLITS)
def test_the_answer_is_not_told_by_its_length(split: str) -> None:
    items = committed(split)
    lengths = [[len(choice) for choice in item["choices"]] for item in items]
    right = [row[item["answer"]] for row, item in zip(lengths, items, strict=True)]
    mean_right = sum(right) / len(items)
    mean_wrong = (sum(map(sum, lengths)) - sum(right)) / (3 * len(items))
    assert mean_right == pytest.approx(mean_wrong, rel=0.1)
    # Chance alone gives a quarter at most.
    n_longest = sum(max(row) == n and row.count(n) == 1 for row, n in zip(lengths, right, strict=True))
    assert n_longest / len(items) < 0.25


@pytest.mark.parametrize("kind", ["arithmetic", "geometry"])
def test_the_answer_is_not_told_by_its_rank(kind: str) -> None:
    ranks = Counter(
        sorted(map(int, item["choices"])).index(int(item["choices"][item["answer"]]))
        for seed in SEEDS
        for items in make_items(random.Random(seed))
        for item in items
        if kind_of(item) == kind
    )
    assert set(ranks) == {0, 1, 2, 3}
    assert max(ranks.values()) < 0.45 * ranks.total()


def tokens_at_most(item: Item) -> int:
    """Return a bound on an item's tokens: question and choices, without labels.

    SmolLM2's tokenizer gives each digit a token and the space before a number another. On every committed
    item, a token for each three letters of a word and one for each other sign gave at least one token more
    than the tokenizer did (its own counts: 34 at most, 16.7 on average).
    """
    text = " ".join([item["question"], *item["choices"]])
    words = sum(-(-len(word) // 3) for word in re.findall(r"[A-Za-z]+", text))
    numbers = sum(1 + len(number) for number in re.findall(r"[0-9]+", text))
    return words + numbers + len(re.findall(r"[^A-Za-z0-9\s]", text))


@pytest.mark.parametrize("seed", SEEDS)
def test_items_are_short(seed: int) -> None:
    for items in make_items(random.Random(seed)):
        assert [item for item in items if tokens_at_most(item) > N_TOKENS_ALLOWED] == []


@pytest.mark.torch
@pytest.mark.slow
def test_bound_on_tokens_holds_for_the_real_tokenizer(smollm2: Path) -> None:
    transformers = pytest.importorskip("transformers")
    tokenizer = transformers.AutoTokenizer.from_pretrained(smollm2.parent, gguf_file=smollm2.name)
    for split in SPLITS:
        for item in committed(split):
            texts = [item["question"], *(f" {choice}" for choice in item["choices"])]
            n_tokens = sum(map(len, tokenizer(texts, add_special_tokens=False).input_ids))
            assert n_tokens <= tokens_at_most(item)


# The facts


@pytest.mark.parametrize("kind", KINDS)
def test_facts_suffice_and_have_wrong_answers_only_beside_the_right_one(kind: str) -> None:
    made = KINDS[kind](random.Random(SEED))
    assert len(made) >= N_TRAIN + N_TEST
    assert_each_once([fact.question for fact in made])
    for fact in made:
        assert fact.answer
        assert fact.answer not in fact.wrong
        assert len(set(fact.wrong)) == len(fact.wrong) >= 3


def test_arithmetic_is_right_and_no_two_items_are_about_one_fact() -> None:
    operations = {
        "plus": lambda a, b: a + b,
        "minus": lambda a, b: a - b,
        "times": lambda a, b: a * b,
        "divided by": lambda a, b: a / b,
    }
    pattern = r"What is (\d+) (plus|minus|times|divided by) (\d+)\?"
    for seed in SEEDS:
        made = KINDS["arithmetic"](random.Random(seed))
        about = []
        for fact in made:
            match = re.fullmatch(pattern, fact.question)
            assert match is not None
            a, operation, b = int(match[1]), match[2], int(match[3])
            assert operations[operation](a, b) == int(fact.answer)
            numbers = sorted((a, b, int(fact.answer)))
            about.append(f"{operation in {'plus', 'minus'}} {numbers}")
        assert_each_once(about)


def from_roman(numeral: str) -> int:
    values = [{"I": 1, "V": 5, "X": 10, "L": 50, "C": 100}[sign] for sign in numeral]
    return sum(-a if a < b else a for a, b in pairwise([*values, 0]))


def test_roman_numerals_are_right() -> None:
    for match, answer in matches("roman", r"Which number is the Roman numeral ([IVXLC]+)\?"):
        assert from_roman(match[1]) == int(answer)


@pytest.mark.parametrize(("number", "numeral"), [(1, "I"), (14, "XIV"), (49, "XLIX"), (90, "XC"), (399, "CCCXCIX")])
def test_to_roman(number: int, numeral: str) -> None:
    assert to_roman(number) == numeral


# Each unit in the smallest of its sort: second, month, year, millimetre, square centimetre, milligram, ounce,
# millilitre, US teaspoon, pint, milliwatt, millivolt, bit, item, degree, cent.
SIZES = {
    "seconds": 1, "minutes": 60, "hours": 60 * 60, "days": 24 * 60 * 60, "weeks": 7 * 24 * 60 * 60,
    "fortnights": 14 * 24 * 60 * 60, "leap years": (365 + 1) * 24 * 60 * 60, "months": 1 / 12, "years": 1,
    "decades": 10, "centuries": 100, "millennia": 1000, "millimetres": 1, "centimetres": 10, "metres": 1000,
    "kilometres": 1000**2, "nautical miles": 1852 * 1000, "inches": 25.4, "feet": 304.8, "yards": 914.4,
    "fathoms": 1828.8, "furlongs": 201168, "miles": 1609344, "square centimetres": 1, "square metres": 100**2,
    "hectares": 100**4, "milligrams": 1, "carats": 200, "grams": 1000, "kilograms": 1000**2, "tonnes": 1000**3,
    "pounds": 453592.37, "stone": 6350293.18, "millilitres": 1, "centilitres": 10, "litres": 1000,
    "cubic metres": 1000**2, "pints": 1, "quarts": 2, "gallons": 8, "US teaspoons": 1, "US tablespoons": 3,
    "US cups": 48, "US pints": 96, "watts": 1, "kilowatts": 1000, "millivolts": 1, "volts": 1000, "bits": 1,
    "bytes": 8, "kibibytes": 8 * 2**10, "eggs": 1, "dozen": 12, "dozens": 12, "gross": 144, "degrees": 1,
    "right angles": 90, "full turns": 360, "cents": 1, "US quarters": 25, "US dollars": 100,
}  # fmt: skip


def test_unit_conversions_are_right() -> None:
    found = matches("unit", r"How many (.+) are in (\d) (.+)\?")
    assert {(match[3], match[1]) for match, _ in found} == {row[:2] for row in UNITS}
    for match, answer in found:
        assert int(match[2]) * SIZES[match[3]] == pytest.approx(int(answer) * SIZES[match[1]])


def test_solids_obey_euler() -> None:
    for name, n_faces, n_edges, n_corners in SOLIDS:
        assert (name, n_corners - n_edges + n_faces) == (name, 2)


def test_prisms_pyramids_and_regular_solids_have_their_counts() -> None:
    counts = {name: tuple(rest) for name, *rest in SOLIDS}
    for name, n in [("triangular", 3), ("square", 4), ("pentagonal", 5), ("hexagonal", 6)]:
        assert counts.get(f"{name} prism", (n + 2, 3 * n, 2 * n)) == (n + 2, 3 * n, 2 * n)
        assert counts.get(f"{name} pyramid", (n + 1, 2 * n, n + 1)) == (n + 1, 2 * n, n + 1)
    # sides of a face, faces at a corner
    regular = {"cube": (4, 3), "tetrahedron": (3, 3), "octahedron": (3, 4), "dodecahedron": (5, 3)}
    for name, (p, q) in {**regular, "icosahedron": (3, 5)}.items():
        n_faces, n_edges, n_corners = counts[name if name == "cube" else f"regular {name}"]
        assert p * n_faces == 2 * n_edges == q * n_corners


def test_polygons_are_right() -> None:
    sides = dict(POLYGONS)
    for match, answer in matches("geometry", r"How many sides does an? (\w+) have\?"):
        assert int(answer) == sides[match[1]]
    for match, answer in matches("geometry", r"How many degrees do the angles inside an? (\w+) sum to\?"):
        assert int(answer) == sides[match[1]] * 180 - 360
    for match, answer in matches("geometry", r"How many diagonals does an? (\w+) have\?"):
        n = sides[match[1]]
        assert int(answer) == sum(1 for a in range(n) for b in range(a) if (a - b) % n not in {1, n - 1})


def test_successors_are_right() -> None:
    assert list(MONTHS) == calendar.month_name[1:]
    assert list(WEEKDAYS) == list(calendar.day_name)
    for match, answer in matches("next", r"Which month comes right after (\w+)\?"):
        assert answer == calendar.month_name[list(calendar.month_name).index(match[1]) % 12 + 1]
    for match, answer in matches("next", r"Which day comes right after (\w+)\?"):
        assert answer == calendar.day_name[(list(calendar.day_name).index(match[1]) + 1) % 7]
    for match, answer in matches("next", r"Which letter of the alphabet comes right after (\w)\?"):
        assert ord(answer) == ord(match[1]) + 1
        assert answer in ascii_uppercase
    planets = matches("next", r"Going outwards from the Sun, which planet comes right after (\w+)\?")
    # mean distance from the Sun in astronomical units
    distances = dict(zip(PLANETS, (0.39, 0.72, 1, 1.52, 5.2, 9.58, 19.2, 30), strict=True))
    for match, answer in planets:
        farther = [name for name in distances if distances[name] > distances[match[1]]]
        assert answer == min(farther, key=distances.__getitem__)


@pytest.mark.parametrize(
    ("number", "name", "symbol"),
    [
        (1, "hydrogen", "H"), (8, "oxygen", "O"), (11, "sodium", "Na"), (19, "potassium", "K"),
        (26, "iron", "Fe"), (29, "copper", "Cu"), (36, "krypton", "Kr"), (47, "silver", "Ag"),
        (50, "tin", "Sn"), (53, "iodine", "I"), (56, "barium", "Ba"),
    ],
)  # fmt: skip
def test_elements_stand_at_their_numbers(number: int, name: str, symbol: str) -> None:
    assert ELEMENTS[number - 1] == (name, symbol)


@pytest.mark.parametrize(
    "subjects",
    [
        [name for name, _ in ELEMENTS],
        [symbol for _, symbol in ELEMENTS],
        [row[0] for row in COUNTRIES],
        [row[1] for row in COUNTRIES if row[1]],
        [city for city, _ in CITIES],
        [thing for things in CATEGORIES.values() for thing in things],
        [animal for animal, _, _ in YOUNG],
        [word for row in (*ADJECTIVES, *VERBS) for word in row[:3]],
        [noun for noun, *_ in PLURALS],
        [verb for verb, *_ in PAST_TENSES],
    ],
    ids=["names", "symbols", "countries", "capitals", "cities", "things", "animals", "words", "nouns", "verbs"],
)
def test_tables_say_nothing_twice(subjects: list[str]) -> None:
    assert_each_once(subjects)


def test_countries_and_cities_fit_together() -> None:
    continent_of = {country: continent for country, _, continent, _ in COUNTRIES}
    assert set(continent_of.values()) == {*CONTINENTS, ""}
    assert all(continent_of[country] for _, country in CITIES)
    capitals = {row[1] for row in COUNTRIES}
    assert [city for city, _ in CITIES if city in capitals] == []


def test_forms_of_one_word_are_never_alternatives() -> None:
    for fact in KINDS["currency"](random.Random(SEED)):
        if fact.answer in {"krona", "krone", "koruna"}:
            assert not {"krona", "krone", "koruna"} & set(fact.wrong)
    for fact in KINDS["young"](random.Random(SEED)):
        if fact.answer == "duckling":
            assert "chick" not in fact.wrong


def test_a_word_of_like_meaning_always_stands_beside_its_opposite() -> None:
    for fact, row in zip(KINDS["opposite"](random.Random(SEED)), (*ADJECTIVES, *VERBS), strict=True):
        assert row[2] in fact.wrong


# The draws


def test_the_generator_alone_decides() -> None:
    before = random.getstate()
    assert make_items(random.Random(7)) == make_items(random.Random(7))
    assert make_items(random.Random(7)) != make_items(random.Random(8))
    assert random.getstate() == before


def test_shuffled_keeps_every_value() -> None:
    assert sorted(shuffled(random.Random(0), range(50))) == list(range(50))
    assert shuffled(random.Random(0), range(50)) != list(range(50))


def test_others() -> None:
    assert others(["b", "a", "b", "c", "d"], "a", "d") == ("b", "c")


@pytest.mark.parametrize(("number", "step"), [(1, 1), (2, 1), (3, 1), (30, 1), (180, 180), (60, 5)])
def test_near_numbers_are_three_and_positive(number: int, step: int) -> None:
    for seed in range(20):
        near = [int(text) for text in near_numbers(random.Random(seed), number, step=step)]
        assert len(set(near)) == 3
        assert number not in near
        assert all(0 < other <= number + 5 * step for other in near)
        assert all((other - number) % step == 0 for other in near)
