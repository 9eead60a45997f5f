"""Questions about words: animals, categories, plurals, opposites, past tenses; tables.json has what they know."""

from random import Random

from fact import TABLES, Fact, others, shuffled

# Animals and their young.
_ANY_BIRD = ("chick", "poult", "squab")
_ANY_CARNIVORE = ("cub", "pup", "puppy", "kit", "kitten")

# animal, its young, other words that are used for it or come close
YOUNG = TABLES["young"]


def young_animals(rng: Random) -> list[Fact]:
    """Return one question an animal: the word for its young."""
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
    """Return one question a thing: which of four categories it belongs to."""
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
    """Return one question a noun: its plural."""
    return [
        Fact(question=f'What is the plural of "{noun}"?', answer=plural, wrong=tuple(wrong))
        for noun, plural, *wrong in PLURALS
    ]


# Words and their opposites.
# word, its opposite, a word of like meaning, and a field: opposites of one field could be mistaken for each other
ADJECTIVES = TABLES["adjectives"]
VERBS = TABLES["verbs"]


def opposites(rng: Random) -> list[Fact]:
    """Return one question a word: its opposite, among a word of like meaning and other opposites."""
    return [*_of_one_class(rng, ADJECTIVES), *_of_one_class(rng, VERBS)]


def _of_one_class(rng: Random, rows: tuple[tuple[str, str, str, str], ...]) -> list[Fact]:
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
    """Return one question a verb: its past tense."""
    return [
        Fact(question=f'What is the past tense of "{verb}"?', answer=past, wrong=tuple(wrong))
        for verb, past, *wrong in PAST_TENSES
    ]
