"""What comes next: months, weekdays, planets and letters."""

from random import Random
from string import ascii_uppercase

from fact import Fact, others

MONTHS = (
    "January",
    "February",
    "March",
    "April",
    "May",
    "June",
    "July",
    "August",
    "September",
    "October",
    "November",
    "December",
)
WEEKDAYS = ("Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday")
# Outwards from the Sun.
PLANETS = ("Mercury", "Venus", "Earth", "Mars", "Jupiter", "Saturn", "Uranus", "Neptune")
_REACH = 4


def successors(rng: Random) -> list[Fact]:
    """Return one question a member of each sequence: the one that follows."""
    return [
        *_following("Which month comes right after {}?", [*MONTHS, MONTHS[0]]),
        *_following("Which day comes right after {}?", [*WEEKDAYS, WEEKDAYS[0]]),
        *_following("Going outwards from the Sun, which planet comes right after {}?", list(PLANETS)),
        *_following("Which letter of the alphabet comes right after {}?", list(ascii_uppercase)),
    ]


def _following(question: str, sequence: list[str]) -> list[Fact]:
    return [
        Fact(
            question=question.format(sequence[i]),
            answer=sequence[i + 1],
            wrong=others(sequence[max(i - _REACH, 0) : i + _REACH + 2], sequence[i], sequence[i + 1]),
        )
        for i in range(len(sequence) - 1)
    ]
