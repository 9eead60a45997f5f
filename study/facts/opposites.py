"""Words and their opposites."""

from random import Random

from fact import Fact, others, shuffled

# word, its opposite, a word of like meaning, and a field: opposites of one field could be mistaken for each other
ADJECTIVES = (
    ("big", "small", "large", "size"),
    ("tall", "short", "lofty", "size"),
    ("wide", "narrow", "broad", "size"),
    ("deep", "shallow", "bottomless", "size"),
    ("thick", "thin", "chunky", "size"),
    ("strong", "weak", "mighty", "strength"),
    ("brave", "cowardly", "bold", "strength"),
    ("bright", "dim", "radiant", "edge"),
    ("sharp", "blunt", "pointed", "edge"),
    ("wise", "foolish", "clever", "edge"),
    ("smooth", "rough", "even", "manner"),
    ("polite", "rude", "courteous", "manner"),
    ("hot", "cold", "warm", "heat"),
    ("friendly", "hostile", "kind", "manner"),
    ("fast", "slow", "quick", "pace"),
    ("early", "late", "premature", "pace"),
    ("hardworking", "lazy", "busy", "pace"),
    ("alive", "dead", "living", "life"),
    ("awake", "asleep", "alert", "life"),
    ("rich", "poor", "wealthy", "money"),
    ("generous", "stingy", "charitable", "money"),
    ("cheap", "expensive", "affordable", "money"),
    ("full", "empty", "packed", "room"),
    ("present", "absent", "attending", "room"),
    ("open", "closed", "ajar", "room"),
    ("public", "private", "shared", "room"),
    ("happy", "sad", "glad", "mood"),
    ("wet", "dry", "damp", "water"),
    ("loud", "quiet", "noisy", "sound"),
    ("clean", "dirty", "spotless", "dirt"),
    ("ancient", "modern", "antique", "time"),
    ("safe", "dangerous", "secure", "danger"),
    ("innocent", "guilty", "blameless", "guilt"),
    ("true", "false", "correct", "guilt"),
    ("straight", "crooked", "direct", "guilt"),
    ("beautiful", "ugly", "pretty", "looks"),
)
VERBS = (
    ("buy", "sell", "purchase", "trade"),
    ("borrow", "lend", "rent", "trade"),
    ("win", "lose", "triumph", "match"),
    ("remember", "forget", "recall", "memory"),
    ("love", "hate", "adore", "feeling"),
    ("laugh", "cry", "giggle", "feeling"),
    ("increase", "decrease", "grow", "change"),
    ("ascend", "descend", "climb", "change"),
    ("push", "pull", "shove", "force"),
    ("attack", "defend", "assault", "fight"),
    ("arrive", "depart", "come", "travel"),
    ("accept", "reject", "agree", "feeling"),
)


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
