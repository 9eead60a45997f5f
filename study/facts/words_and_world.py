"""Questions about words and the world: plurals, opposites, animals, elements, countries; tables.json has the facts."""

from random import Random

from fact import TABLES, Fact, neighbours, others, shuffled, with_article

# Animals and their young.
# animal, its young, other words that are used for it or come close
YOUNG = TABLES["young"]


def young_animals(rng: Random) -> list[Fact]:
    """Return one question per animal: the word for its young."""
    words = [young for _, young, _ in YOUNG]
    return [
        Fact(f"What is the young of {with_article(animal)} called?", young, others(words, young, *close))
        for animal, young, close in YOUNG
    ]


# What kind of thing something is, from categories that share no member.
CATEGORIES = TABLES["categories"]


def kinds_of_things(rng: Random) -> list[Fact]:
    """Return one question per thing: which of four categories it belongs to."""
    return [
        Fact(f"What is {with_article(thing)}?", category, others(CATEGORIES, category))
        for category, things in CATEGORIES.items()
        for thing in things
    ]


# Plurals of nouns, and past tenses of irregular verbs.
# word, the form that is asked for, then three forms that aren't in standard English
PLURALS = TABLES["plurals"]
PAST_TENSES = TABLES["past_tenses"]


def plurals(rng: Random) -> list[Fact]:
    """Return one question per noun: its plural."""
    return _form_facts("plural", PLURALS)


def past_tenses(rng: Random) -> list[Fact]:
    """Return one question per verb: its past tense."""
    return _form_facts("past tense", PAST_TENSES)


def _form_facts(form: str, rows: list[list[str]]) -> list[Fact]:
    """Return one question per row: the given form, such as `plural`, of its word."""
    return [Fact(f'What is the {form} of "{word}"?', answer, tuple(wrong)) for word, answer, *wrong in rows]


# Words and their opposites.
# word, its opposite, a word of like meaning, and a field: opposites of one field could be mistaken for each other
ADJECTIVES = TABLES["adjectives"]
VERBS = TABLES["verbs"]


def opposites(rng: Random) -> list[Fact]:
    """Return one question per word: its opposite, among a word of like meaning and other opposites."""
    return [
        Fact(
            f'What is the opposite of "{word}"?',
            opposite,
            (like, *shuffled(rng, others(row[1] for row in rows if row[3] != field))[:2]),
        )
        for rows in (ADJECTIVES, VERBS)
        for word, opposite, like, field in rows
    ]


# Chemical elements: symbols and atomic numbers (IUPAC names).
# In order of atomic number, from 1.
ELEMENTS = TABLES["elements"]


def element_symbols(rng: Random) -> list[Fact]:
    """Return one question per element: its chemical symbol."""
    symbols = [symbol for _, symbol in ELEMENTS]
    return [
        Fact(f"What is the chemical symbol of {name}?", symbol, _lookalikes(symbols, name, symbol))
        for name, symbol in ELEMENTS
    ]


def atomic_numbers(rng: Random) -> list[Fact]:
    """Return one question per atomic number: its element."""
    names = [name for name, _ in ELEMENTS]
    return [
        Fact(f"Which element has the atomic number {i + 1}?", name, others(neighbours(names, i), name))
        for i, name in enumerate(names)
    ]


def _lookalikes(symbols: list[str], name: str, symbol: str) -> tuple[str, ...]:
    """Return symbols for wrong answers: with the first letter of the name or symbol, or all if these are few."""
    alike = others([other for other in symbols if other[0] in {name[0].upper(), symbol[0]}], symbol)
    return alike if len(alike) >= 3 else others(symbols, symbol)


# Countries: capital, continent and currency; and cities that aren't capitals.
CONTINENTS = ("Africa", "Asia", "Europe", "North America", "South America", "Oceania")

# country, capital, continent, currency
COUNTRIES = TABLES["countries"]
# The answer stands in the name; for Australia it is the name.
_TELLING_CAPITAL = {"Algeria", "Brazil", "Guatemala", "Mexico", "Tunisia"}
_TELLING_CONTINENT = {"Australia", "South Africa"}
# Forms of one word, never offered against each other.
_ONE_WORD = ({"krona", "krone", "koruna"}, {"riel", "riyal"})

CITIES = TABLES["cities"]


def capitals(rng: Random) -> list[Fact]:
    """Return one question per country: its capital, among capitals of the same continent."""
    return [
        Fact(
            f"What is the capital of {_with_the(country)}?",
            capital,
            others([row[1] for row in COUNTRIES if row[1] and row[2] == continent], capital),
        )
        for country, capital, continent, _ in COUNTRIES
        if capital and continent and country not in _TELLING_CAPITAL
    ]


def continents(rng: Random) -> list[Fact]:
    """Return one question per country: its continent."""
    return [
        Fact(f"On which continent is {_with_the(country)}?", continent, others(CONTINENTS, continent))
        for country, _, continent, _ in COUNTRIES
        if continent and country not in _TELLING_CONTINENT
    ]


def currencies(rng: Random) -> list[Fact]:
    """Return one question per country: the name of its currency."""
    names = [row[3] for row in COUNTRIES if row[3]]
    return [
        Fact(
            f"What is the currency of {_with_the(country)}?",
            currency,
            others(names, currency, *set().union(*(forms for forms in _ONE_WORD if currency in forms))),
        )
        for country, _, _, currency in COUNTRIES
        if currency
    ]


def cities(rng: Random) -> list[Fact]:
    """Return one question per city: its country, among countries of the same continent."""
    continent_of = {row[0]: row[2] for row in COUNTRIES}
    return [
        Fact(
            f"In which country is the city of {city}?",
            country,
            others([name for name, at in continent_of.items() if at == continent_of[country]], country),
        )
        for city, country in CITIES
    ]


def _with_the(country: str) -> str:
    """Return a country's name as it stands in a sentence, such as `the Philippines` or `Chad`."""
    return f"the {country}" if country in {"Czech Republic", "Philippines", "United Kingdom"} else country
