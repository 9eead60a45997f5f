"""Questions about the world: elements, countries and cities; tables.json has what they know."""

from random import Random

from fact import TABLES, Fact, others

# Chemical elements: symbols and atomic numbers (IUPAC names).
# In order of atomic number, from 1.
ELEMENTS = TABLES["elements"]
_NEIGHBOURS = 4


def element_symbols(rng: Random) -> list[Fact]:
    """Return one question an element: its chemical symbol."""
    symbols = [symbol for _, symbol in ELEMENTS]
    return [
        Fact(
            question=f"What is the chemical symbol of {name}?",
            answer=symbol,
            wrong=_lookalikes(symbols, name, symbol),
        )
        for name, symbol in ELEMENTS
    ]


def atomic_numbers(rng: Random) -> list[Fact]:
    """Return one question an atomic number: the element that has it."""
    names = [name for name, _ in ELEMENTS]
    return [
        Fact(
            question=f"Which element has the atomic number {i + 1}?",
            answer=name,
            wrong=others(names[max(i - _NEIGHBOURS, 0) : i + _NEIGHBOURS + 1], name),
        )
        for i, name in enumerate(names)
    ]


def _lookalikes(symbols: list[str], name: str, symbol: str) -> tuple[str, ...]:
    """Return symbols with the first letter of the name or of its symbol; all others where these are few."""
    alike = others([other for other in symbols if other[0] in {name[0].upper(), symbol[0]}], symbol)
    return alike if len(alike) >= 3 else others(symbols, symbol)


# Countries: capital, continent and currency; and cities that aren't capitals.
AFRICA, ASIA, EUROPE = "Africa", "Asia", "Europe"
NORTH, SOUTH, OCEANIA = "North America", "South America", "Oceania"
CONTINENTS = (AFRICA, ASIA, EUROPE, NORTH, SOUTH, OCEANIA)

# country, capital, continent, currency
COUNTRIES = TABLES["countries"]
# The answer stands in the name; for Australia it is the name.
_TELLING_CAPITAL = {"Algeria", "Brazil", "Guatemala", "Mexico", "Tunisia"}
_TELLING_CONTINENT = {"Australia", "South Africa"}
# Forms of one word, never offered against each other.
_ONE_WORD = ({"krona", "krone", "koruna"}, {"riel", "riyal"})

CITIES = TABLES["cities"]


def capitals(rng: Random) -> list[Fact]:
    """Return one question a country: its capital, among capitals of the same continent."""
    return [
        Fact(
            question=f"What is the capital of {_named(country)}?",
            answer=capital,
            wrong=others([row[1] for row in COUNTRIES if row[1] and row[2] == continent], capital),
        )
        for country, capital, continent, _ in COUNTRIES
        if capital and continent and country not in _TELLING_CAPITAL
    ]


def continents(rng: Random) -> list[Fact]:
    """Return one question a country: the continent it lies on."""
    return [
        Fact(
            question=f"On which continent is {_named(country)}?",
            answer=continent,
            wrong=others(CONTINENTS, continent),
        )
        for country, _, continent, _ in COUNTRIES
        if continent and country not in _TELLING_CONTINENT
    ]


def currencies(rng: Random) -> list[Fact]:
    """Return one question a country: the name of its currency."""
    names = [row[3] for row in COUNTRIES if row[3]]
    return [
        Fact(
            question=f"What is the currency of {_named(country)}?",
            answer=currency,
            wrong=others(names, currency, *_forms(currency)),
        )
        for country, _, _, currency in COUNTRIES
        if currency
    ]


def cities(rng: Random) -> list[Fact]:
    """Return one question a city: its country, among countries of the same continent."""
    continent_of = {row[0]: row[2] for row in COUNTRIES}
    return [
        Fact(
            question=f"In which country is the city of {city}?",
            answer=country,
            wrong=others([name for name, at in continent_of.items() if at == continent_of[country]], country),
        )
        for city, country in CITIES
    ]


def _named(country: str) -> str:
    return f"the {country}" if country in {"Czech Republic", "Philippines", "United Kingdom"} else country


def _forms(currency: str) -> set[str]:
    return set().union(*(group for group in _ONE_WORD if currency in group))
