"""Numbers: arithmetic on small integers, and Roman numerals."""

from collections.abc import Iterator
from random import Random

from fact import Fact, near_numbers, others, shuffled

# Enough for both splits, half of them additive; a sum and its difference count as one fact.
_N_ADDITIVE = 20
_N_MULTIPLICATIVE = 20
_ROMAN = (
    (100, "C"),
    (90, "XC"),
    (50, "L"),
    (40, "XL"),
    (10, "X"),
    (9, "IX"),
    (5, "V"),
    (4, "IV"),
    (1, "I"),
)
# Slips in reading a numeral: a sign missed or added, or one taken from the wrong side.
_ROMAN_SLIPS = (-20, -10, -9, -5, -2, -1, 1, 2, 5, 9, 10, 20)


def arithmetic(rng: Random) -> list[Fact]:
    """Return sums, differences, products and quotients, no two about the same three numbers."""
    pairs = [(a, b) for a in range(11, 60) for b in range(a, 60)]
    terms = shuffled(rng, pairs)[:_N_ADDITIVE]
    factors = shuffled(rng, [(a, b) for a in range(3, 13) for b in range(a, 13)])[:_N_MULTIPLICATIVE]
    return [*_additive(rng, terms), *_multiplicative(rng, factors)]


def roman_numerals(rng: Random) -> list[Fact]:
    """Return one question a number from 11 to 120: which number a Roman numeral is."""
    return [
        Fact(
            question=f"Which number is the Roman numeral {to_roman(number)}?",
            answer=str(number),
            wrong=tuple(str(number + slip) for slip in _ROMAN_SLIPS if number + slip > 0),
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


def _additive(rng: Random, terms: list[tuple[int, int]]) -> Iterator[Fact]:
    for i, (a, b) in enumerate(terms):
        a, b = shuffled(rng, (a, b))
        text, result = (f"{a} plus {b}", a + b) if i % 2 else (f"{a + b} minus {a}", b)
        # Beside near misses, what a forgotten or needless carry gives.
        yield _computed(text, result, (*near_numbers(rng, result), str(result - 10), str(result + 10)))


def _multiplicative(rng: Random, factors: list[tuple[int, int]]) -> Iterator[Fact]:
    for i, (a, b) in enumerate(factors):
        a, b = shuffled(rng, (a, b))
        if i % 2:
            yield _computed(f"{a} times {b}", a * b, near_numbers(rng, a * b, step=a))
        else:
            yield _computed(f"{a * b} divided by {a}", b, near_numbers(rng, b))


def _computed(text: str, result: int, wrong: tuple[str, ...]) -> Fact:
    return Fact(question=f"What is {text}?", answer=str(result), wrong=others(wrong, str(result)))
