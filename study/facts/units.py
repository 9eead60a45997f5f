"""Units: how many of the smaller one make up a few of the larger one."""

from random import Random

from fact import Fact, others, shuffled

# larger unit, smaller unit, how many of it; "US" where other countries' units of that name differ
UNITS = (
    ("minutes", "seconds", 60),
    ("hours", "minutes", 60),
    ("hours", "seconds", 3600),
    ("days", "hours", 24),
    ("weeks", "days", 7),
    ("fortnights", "days", 14),
    ("years", "months", 12),
    ("leap years", "days", 366),
    ("decades", "years", 10),
    ("centuries", "years", 100),
    ("millennia", "years", 1000),
    ("kilometres", "metres", 1000),
    ("metres", "centimetres", 100),
    ("metres", "millimetres", 1000),
    ("centimetres", "millimetres", 10),
    ("nautical miles", "metres", 1852),
    ("feet", "inches", 12),
    ("yards", "feet", 3),
    ("yards", "inches", 36),
    ("miles", "feet", 5280),
    ("miles", "yards", 1760),
    ("miles", "furlongs", 8),
    ("fathoms", "feet", 6),
    ("tonnes", "kilograms", 1000),
    ("kilograms", "grams", 1000),
    ("grams", "milligrams", 1000),
    ("carats", "milligrams", 200),
    ("stone", "pounds", 14),
    ("litres", "millilitres", 1000),
    ("litres", "centilitres", 100),
    ("cubic metres", "litres", 1000),
    ("gallons", "quarts", 4),
    ("gallons", "pints", 8),
    ("quarts", "pints", 2),
    ("US pints", "US cups", 2),
    ("US tablespoons", "US teaspoons", 3),
    ("hectares", "square metres", 10000),
    ("square metres", "square centimetres", 10000),
    ("kilowatts", "watts", 1000),
    ("volts", "millivolts", 1000),
    ("bytes", "bits", 8),
    ("kibibytes", "bytes", 1024),
    ("dozen", "eggs", 12),
    ("gross", "dozens", 12),
    ("right angles", "degrees", 90),
    ("full turns", "degrees", 360),
    ("US dollars", "cents", 100),
    ("US quarters", "cents", 25),
)
_COUNTS = (2, 3, 4, 5)
_POWERS = (10, 100, 1000, 10000)
_NEIGHBOURS = 3


def unit_conversions(rng: Random) -> list[Fact]:
    """Return one question a pair of units; wrong answers use other factors of the table."""
    facts = []
    for larger, smaller, factor in UNITS:
        count = shuffled(rng, _COUNTS)[0]
        facts.append(
            Fact(
                question=f"How many {smaller} are in {count} {larger}?",
                answer=str(count * factor),
                wrong=others((str(count * other) for other in _alike(factor)), str(count * factor)),
            )
        )
    return facts


def _alike(factor: int) -> tuple[int, ...]:
    """Return the powers of ten for one of them, else neighbouring factors: roundness must not tell."""
    if factor in _POWERS:
        return _POWERS
    uneven = sorted({other for _, _, other in UNITS if other not in _POWERS})
    i = uneven.index(factor)
    return tuple(uneven[max(i - _NEIGHBOURS, 0) : i + _NEIGHBOURS + 1])
