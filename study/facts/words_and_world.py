"""Questions about words and the world: plurals, opposites, animals, elements, countries; tables.json has the facts."""

from random import Random

from fact import TABLES, Fact, others, shuffled

# Animals and their young.
_ANY_BIRD = ("chick", "poult", "squab")
_ANY_CARNIVORE = ("cub", "pup", "puppy", "kit", "kitten")

# animal, its young, other words that are used for it or come close
YOUNG = TABLES["young"]


def young_animals(rng: Random) -> list[Fact]:
    """Return one question per animal: the word for its young."""
    words = [young for _, young, _ in YOUNG]
    return [
        Fact(
            question=f"What is the young of {'an' if animal[0] in 'aeo' else 'a'} {animal} called?",
            answer=young,
            wrong=others(words, young, *close),
        )
        for animal, young, close in YOUNG
    ]


# What kind of thing something is, from categories that share no member.
CATEGORIES = TABLES["categories"]


def kinds_of_things(rng: Random) -> list[Fact]:
    """Return one question per thing: which of four categories it belongs to."""
    return [
        Fact(
            question=f"What is {'an' if thing[0] in 'aeio' else 'a'} {thing}?",
            answer=category,
            wrong=others(CATEGORIES, category),
        )
        for category, things in CATEGORIES.items()
        for thing in things
    ]


# Nouns: plurals.
# noun, its plural, then three forms that aren't in standard English
PLURALS = TABLES["plurals"]


def plurals(rng: Random) -> list[Fact]:
    """Return one question per noun: its plural."""
    return [
        Fact(question=f'What is the plural of "{noun}"?', answer=plural, wrong=tuple(wrong))
        for noun, plural, *wrong in PLURALS
    ]


# Words and their opposites.
# word, its opposite, a word of like meaning, and a field: opposites of one field could be mistaken for each other
ADJECTIVES = TABLES["adjectives"]
VERBS = TABLES["verbs"]


def opposites(rng: Random) -> list[Fact]:
    """Return one question per word: its opposite, among a word of like meaning and other opposites."""
    return [*_opposite_facts(rng, ADJECTIVES), *_opposite_facts(rng, VERBS)]


def _opposite_facts(rng: Random, rows: tuple[tuple[str, str, str, str], ...]) -> list[Fact]:
    """Return one question per row: the opposite of its word."""
    return [
        Fact(
            question=f'What is the opposite of "{word}"?',
            answer=opposite,
            wrong=(like, *shuffled(rng, others(row[1] for row in rows if row[3] != field))[:2]),
        )
        for word, opposite, like, field in rows
    ]


# Irregular verbs: past tenses.
# verb, its past tense, then three forms that aren't in standard English
PAST_TENSES = TABLES["past_tenses"]


def past_tenses(rng: Random) -> list[Fact]:
    """Return one question per verb: its past tense."""
    return [
        Fact(question=f'What is the past tense of "{verb}"?', answer=past, wrong=tuple(wrong))
        for verb, past, *wrong in PAST_TENSES
    ]


# Chemical elements: symbols and atomic numbers (IUPAC names).
# In order of atomic number, from 1.
ELEMENTS = TABLES["elements"]
_NEIGHBOURS = 4


def element_symbols(rng: Random) -> list[Fact]:
    """Return one question per element: its chemical symbol."""
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
    """Return one question per atomic number: its element."""
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
    """Return symbols for wrong answers: with the first letter of the name or symbol, or all if these are few."""
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
    """Return one question per country: its capital, among capitals of the same continent."""
    return [
        Fact(
            question=f"What is the capital of {_with_article(country)}?",
            answer=capital,
            wrong=others([row[1] for row in COUNTRIES if row[1] and row[2] == continent], capital),
        )
        for country, capital, continent, _ in COUNTRIES
        if capital and continent and country not in _TELLING_CAPITAL
    ]


def continents(rng: Random) -> list[Fact]:
    """Return one question per country: its continent."""
    return [
        Fact(
            question=f"On which continent is {_with_article(country)}?",
            answer=continent,
            wrong=others(CONTINENTS, continent),
        )
        for country, _, continent, _ in COUNTRIES
        if continent and country not in _TELLING_CONTINENT
    ]


def currencies(rng: Random) -> list[Fact]:
    """Return one question per country: the name of its currency."""
    names = [row[3] for row in COUNTRIES if row[3]]
    return [
        Fact(
            question=f"What is the currency of {_with_article(country)}?",
            answer=currency,
            wrong=others(names, currency, *_currency_forms(currency)),
        )
        for country, _, _, currency in COUNTRIES
        if currency
    ]


def cities(rng: Random) -> list[Fact]:
    """Return one question per city: its country, among countries of the same continent."""
    continent_of = {row[0]: row[2] for row in COUNTRIES}
    return [
        Fact(
            question=f"In which country is the city of {city}?",
            answer=country,
            wrong=others([name for name, at in continent_of.items() if at == continent_of[country]], country),
        )
        for city, country in CITIES
    ]


def _with_article(country: str) -> str:
    """Return a country's name as it stands in a sentence, such as `the Philippines` or `Chad`."""
    return f"the {country}" if country in {"Czech Republic", "Philippines", "United Kingdom"} else country


def _currency_forms(currency: str) -> set[str]:
    """Return all forms of a currency's word, such as krona and krone; empty for other words."""
    return set().union(*(group for group in _ONE_WORD if currency in group))
