"""Questions with numbers and orders: arithmetic, numerals, sequences, shapes, units; tables.json has what they know."""

from collections.abc import Iterator
from itertools import pairwise
from random import Random
from string import ascii_uppercase

from fact import TABLES, Fact, near_numbers, neighbours, others, shuffled, with_article

# Numbers: arithmetic on small integers, and Roman numerals.
# Enough for both splits; a sum and its difference count as one fact.
_N_ADDITIVE = 20
_N_MULTIPLICATIVE = 20
_ROMAN = TABLES["roman"]
# Slips in reading a numeral: a sign missed or added, or one taken from the wrong side.
_ROMAN_SLIPS = (-20, -10, -9, -5, -2, -1, 1, 2, 5, 9, 10, 20)


def arithmetic(rng: Random) -> list[Fact]:
    """Return questions on sums, differences, products and quotients, no two about the same three numbers."""
    pairs = [(a, b) for a in range(11, 60) for b in range(a, 60)]
    terms = shuffled(rng, pairs)[:_N_ADDITIVE]
    factors = shuffled(rng, [(a, b) for a in range(3, 13) for b in range(a, 13)])[:_N_MULTIPLICATIVE]
    return [*_sums_and_differences(rng, terms), *_products_and_quotients(rng, factors)]


def roman_numerals(rng: Random) -> list[Fact]:
    """Return one question per number from 11 to 120: which number its Roman numeral is."""
    return [
        Fact(
            f"Which number is the Roman numeral {to_roman(number)}?",
            str(number),
            tuple(str(number + slip) for slip in _ROMAN_SLIPS if number + slip > 0),
        )
        for number in range(11, 121)
    ]


def to_roman(number: int) -> str:
    """Return the Roman numeral of a number from 1 to 399."""
    numeral = ""
    for value, signs in _ROMAN:
        count, number = divmod(number, value)
        numeral += signs * count
    return numeral


def _sums_and_differences(rng: Random, terms: list[tuple[int, int]]) -> Iterator[Fact]:
    """Yield one question per pair of terms: on their sum and on a difference, in turn."""
    for i, (a, b) in enumerate(terms):
        a, b = shuffled(rng, (a, b))
        text, result = (f"{a} plus {b}", a + b) if i % 2 else (f"{a + b} minus {a}", b)
        # Near misses, and the results of a forgotten or needless carry.
        yield _calculation(text, result, (*near_numbers(rng, result), str(result - 10), str(result + 10)))


def _products_and_quotients(rng: Random, factors: list[tuple[int, int]]) -> Iterator[Fact]:
    """Yield one question per pair of factors: on their product and on a quotient, in turn."""
    for i, (a, b) in enumerate(factors):
        a, b = shuffled(rng, (a, b))
        if i % 2:
            yield _calculation(f"{a} times {b}", a * b, near_numbers(rng, a * b, step=a))
        else:
            yield _calculation(f"{a * b} divided by {a}", b, near_numbers(rng, b))


def _calculation(text: str, result: int, wrong: tuple[str, ...]) -> Fact:
    """Return the question `What is {text}?` with its result and the distinct wrong answers."""
    return Fact(f"What is {text}?", str(result), others(wrong, str(result)))


# What comes next: months, weekdays, planets and letters.
MONTHS = TABLES["months"]
WEEKDAYS = ("Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday")
# Outwards from the Sun.
PLANETS = ("Mercury", "Venus", "Earth", "Mars", "Jupiter", "Saturn", "Uranus", "Neptune")
_REACH = 4


def successors(rng: Random) -> list[Fact]:
    """Return one question per month, weekday, planet and letter: what comes right after it."""
    return [
        *_successor_facts("Which month comes right after {}?", [*MONTHS, MONTHS[0]]),
        *_successor_facts("Which day comes right after {}?", [*WEEKDAYS, WEEKDAYS[0]]),
        *_successor_facts("Going outwards from the Sun, which planet comes right after {}?", list(PLANETS)),
        *_successor_facts("Which letter of the alphabet comes right after {}?", list(ascii_uppercase)),
    ]


def _successor_facts(question: str, sequence: list[str]) -> list[Fact]:
    """Return one question per member of a sequence except the last: what comes right after it."""
    return [
        Fact(question.format(value), successor, others(sequence[max(i - _REACH, 0) : i + _REACH + 2], value, successor))
        for i, (value, successor) in enumerate(pairwise(sequence))
    ]


# Geometry: polygons and solids.
# polygon, sides
POLYGONS = TABLES["polygons"]
# solid, faces, edges, corners
SOLIDS = TABLES["solids"]


def geometry(rng: Random) -> list[Fact]:
    """Return questions on sides, angle sums and diagonals of polygons; faces, edges and corners of solids."""
    facts = []
    for name, n in POLYGONS:
        shape = with_article(name)
        facts.append(_count_fact(rng, f"How many sides does {shape} have?", n))
        facts.append(_count_fact(rng, f"How many degrees do the angles inside {shape} sum to?", 180 * (n - 2), 180))
        if n > 3:
            facts.append(_count_fact(rng, f"How many diagonals does {shape} have?", n * (n - 3) // 2))
    for name, *counts in SOLIDS:
        for part, n in zip(("faces", "edges", "corners"), counts, strict=True):
            facts.append(_count_fact(rng, f"How many {part} does {with_article(name)} have?", n))
    return facts


def _count_fact(rng: Random, question: str, n: int, step: int = 1) -> Fact:
    """Return a question whose answer is the number `n`, with numbers near it as wrong answers."""
    return Fact(question, str(n), near_numbers(rng, n, step=step))


# Units: how many of the smaller one make up a few of the larger one.
# larger unit, smaller unit, how many of it; "US" where other countries' units of that name differ
UNITS = TABLES["units"]
_COUNTS = (2, 3, 4, 5)
_POWERS = (10, 100, 1000, 10000)


def unit_conversions(rng: Random) -> list[Fact]:
    """Return one question per pair of units of measure: how many of one are in a few of the other.

    Wrong answers use other factors of the table.
    """
    facts = []
    for larger, smaller, factor in UNITS:
        count = shuffled(rng, _COUNTS)[0]
        facts.append(
            Fact(
                f"How many {smaller} are in {count} {larger}?",
                str(count * factor),
                others((str(count * other) for other in _similar_factors(factor)), str(count * factor)),
            )
        )
    return facts


def _similar_factors(factor: int) -> tuple[int, ...]:
    """Return factors for wrong answers: all powers of ten for a power of ten, else those nearest in size.

    So a round number gives nothing away.
    """
    if factor in _POWERS:
        return _POWERS
    uneven = sorted({other for _, _, other in UNITS if other not in _POWERS})
    return tuple(neighbours(uneven, uneven.index(factor), reach=3))
