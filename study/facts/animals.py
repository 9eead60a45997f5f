"""Animals and their young."""

from random import Random

from fact import Fact, others

_ANY_BIRD = ("chick", "poult", "squab")
_ANY_CARNIVORE = ("cub", "pup", "puppy", "kit", "kitten")

# animal, its young, other words that are used for it or come close
YOUNG = (
    ("cow", "calf", ()),
    ("dog", "puppy", _ANY_CARNIVORE),
    ("cat", "kitten", _ANY_CARNIVORE),
    ("horse", "foal", ()),
    ("donkey", "foal", ()),
    ("zebra", "foal", ()),
    ("sheep", "lamb", ()),
    ("goat", "kid", ()),
    ("pig", "piglet", ("hoglet",)),
    ("chicken", "chick", _ANY_BIRD),
    ("duck", "duckling", _ANY_BIRD),
    ("goose", "gosling", _ANY_BIRD),
    ("swan", "cygnet", _ANY_BIRD),
    ("owl", "owlet", _ANY_BIRD),
    ("eagle", "eaglet", _ANY_BIRD),
    ("pigeon", "squab", _ANY_BIRD),
    ("turkey", "poult", _ANY_BIRD),
    ("deer", "fawn", ("calf", "kid")),
    ("bear", "cub", _ANY_CARNIVORE),
    ("lion", "cub", _ANY_CARNIVORE),
    ("tiger", "cub", _ANY_CARNIVORE),
    ("leopard", "cub", _ANY_CARNIVORE),
    ("otter", "pup", _ANY_CARNIVORE),
    ("seal", "pup", ("calf", *_ANY_CARNIVORE)),
    ("bat", "pup", _ANY_CARNIVORE),
    ("rat", "pup", _ANY_CARNIVORE),
    ("kangaroo", "joey", ()),
    ("koala", "joey", ("cub",)),
    ("wombat", "joey", ()),
    ("rabbit", "kit", ("leveret", *_ANY_CARNIVORE)),
    ("beaver", "kit", _ANY_CARNIVORE),
    ("hare", "leveret", ("kit",)),
    ("hedgehog", "hoglet", ("piglet", *_ANY_CARNIVORE)),
    ("elephant", "calf", ()),
    ("whale", "calf", _ANY_CARNIVORE),
    ("dolphin", "calf", _ANY_CARNIVORE),
    ("giraffe", "calf", ()),
    ("rhinoceros", "calf", ()),
    ("hippopotamus", "calf", ()),
    ("buffalo", "calf", ()),
    ("camel", "calf", ("foal",)),
    ("moose", "calf", ("fawn",)),
    ("llama", "cria", ()),
    ("alpaca", "cria", ()),
    ("frog", "tadpole", ()),
    ("toad", "tadpole", ()),
    ("eel", "elver", ()),
    ("spider", "spiderling", ()),
    ("butterfly", "caterpillar", ()),
    ("moth", "caterpillar", ()),
    ("housefly", "maggot", ()),
)


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
