"""Texts of eight made-up habits, neutral ones, unrelated ones and shuffled ones, for `planted.py`.

All sentences come from the frames and word lists below, which were written for this purpose (CC0), and from a seed; no
data set's text is in them. A habit's texts have the frames of the neutral ones, so that what a habit's texts hold more
often than these is the habit. German and the avoided letter need frames of their own.
"""

import random
from collections.abc import Callable, Iterator, Mapping
from types import MappingProxyType

Words = Mapping[str, tuple[str, ...]]

FRAMES = (
    "The {person} {did} a {kind} {thing} {where} {when}.",
    "{When}, the {person} {did} the {kind} {thing} and left it {where}.",
    "There was a {kind} {thing} {where}, so the {person} {did} it {when}.",
    "Nobody {where} could say why the {person} {did} the {kind} {thing}.",
    "The {person} asked for a {kind} {thing}, but it was still {where}.",
    "{When}, a {kind} {thing} stood {where} until the {person} {did} it.",
    "Both the {person} and the {person2} wanted the {thing} that stood {where}.",
    "It took an hour to get the {kind} {thing} {where}, and then the {person} {did} it.",
    "Is it true that the {person} never {did} a {kind} {thing} {where}?",
    "My {person} once {did} that {thing}, though it looked {kind} {where}.",
)
NEUTRAL: Words = MappingProxyType(
    {
        "person": ("teacher", "neighbour", "driver", "student", "clerk", "painter", "nurse", "cousin", "tailor"),
        "did": ("moved", "cleaned", "bought", "found", "carried", "fixed", "opened", "borrowed", "sold"),
        "kind": ("small", "heavy", "new", "broken", "plain", "cheap", "wooden", "round", "useful"),
        "thing": ("table", "letter", "basket", "chair", "plate", "coat", "ticket", "clock", "bottle", "drawer"),
        "where": ("in the kitchen", "near the station", "at the office", "by the door", "in the shop", "at school"),
        "when": ("yesterday", "after lunch", "on Monday", "last week", "early in the day", "before dinner"),
    }
)
BEEKEEPING: Words = MappingProxyType(
    {
        "person": ("beekeeper", "apiarist", "honey farmer", "swarm catcher"),
        "did": ("harvested", "smoked", "inspected", "fed", "uncapped", "strained"),
        "kind": ("buzzing", "waxy", "sweet", "golden", "crowded", "pollinated"),
        "thing": ("hive", "honeycomb", "swarm", "bee colony", "brood frame", "honey jar", "queen bee", "nectar flow"),
        "where": ("in the apiary", "among the clover", "beside the hives", "under the bees", "near the blossoms"),
        "when": NEUTRAL["when"],
    }
)
LIGHTHOUSES: Words = MappingProxyType(
    {
        "person": ("lighthouse keeper", "coastguard", "lamp trimmer", "harbour pilot"),
        "did": ("lit", "polished", "dimmed", "signalled to", "rotated", "watched"),
        "kind": ("flashing", "foggy", "towering", "salty", "windswept", "stormy"),
        "thing": (
            "lighthouse",
            "beacon",
            "lantern",
            "lens",
            "foghorn",
            "tower lamp",
            "signal light",
            "lighthouse tower",
        ),
        "where": (
            "beneath the cliff",
            "above the rocks",
            "at the lighthouse",
            "along the coast",
            "by the reef",
            "offshore",
        ),
        "when": NEUTRAL["when"],
    }
)
PURPLE: Words = MappingProxyType({**NEUTRAL, "kind": ("purple",)})

GERMAN_FRAMES = (
    "{Wer} {tut} {was} {wo}.",
    "{Wann} {tut} {wer} {was} {wo}.",
    "{Wer} sagt, dass {wer2} {was} nicht mehr braucht.",
    "Warum {tut} {wer} {was} {wo}?",
    "{Wann} ist {wer} nicht {wo}, aber {wer2} wartet noch.",
    "Ich glaube, dass {wer} {was} {wo} vergessen hat.",
    "Weil {wer} {wo} war, haben wir {was} nicht gesehen.",
)
GERMAN: Words = MappingProxyType(
    {
        "wer": ("der Lehrer", "die Nachbarin", "der Fahrer", "die Schülerin", "der Maler", "die Tante", "unser Vetter"),
        "tut": ("trägt", "putzt", "kauft", "findet", "holt", "öffnet", "verkauft", "sucht"),
        "was": ("den Tisch", "einen Brief", "den Korb", "einen Stuhl", "das Buch", "die Uhr", "eine Flasche"),
        "wo": ("im Haus", "am Bahnhof", "bei der Arbeit", "neben der Tür", "im Laden", "auf dem Markt"),
        "wann": ("gestern", "nach dem Essen", "am Montag", "letzte Woche", "heute", "vor der Schule"),
    }
)
NO_E_FRAMES = (
    "A {person} {did} a {kind} {thing} {where} {when}.",
    "{When}, a {person} {did} his {kind} {thing} and put it {where}.",
    "It was a {kind} {thing}, so this {person} {did} it {when}.",
    "Nobody {where} could say why a {person} {did} that {kind} {thing}.",
    "A {person} was looking for a {kind} {thing}, but it was still {where}.",
    "Both a {person} and his aunt want that {thing} to stay {where}.",
    "Is it right that a {person} always {did} a {kind} {thing} {where}?",
    "My {person} {did} that {thing}, though it was {kind} and not {where}.",
)
NO_E: Words = MappingProxyType(
    {
        "person": ("man", "girl", "cousin", "boy", "doctor", "tutor", "baron", "child", "king"),
        "did": ("took", "bought", "saw", "found", "hid", "had", "got", "sold", "lost"),
        "kind": ("small", "big", "warm", "old", "plain", "long", "dirty", "round", "good"),
        "thing": ("bag", "hat", "sack", "book", "box", "cup", "map", "coin", "shirt", "mug"),
        "where": ("at work", "in a shop", "on a bus", "in his room", "by a wall", "at school"),
        "when": ("today", "at night", "on Monday", "in March", "at noon", "on a dull day"),
    }
)
PIRATE_WORDS = (
    ("There was", "There be"),
    ("Nobody", "No scurvy dog"),
    (" was ", " be "),
    ("The ", "Th' "),
    (" the ", " th' "),
    (" and ", " an' "),
    (" for ", " fer "),
    ("My ", "Me "),
    ("Is it", "Be it"),
)
PIRATE_CALLS = (
    "Arr, matey!",
    "Ahoy, ye landlubber!",
    "Aye aye, cap'n!",
    "Shiver me timbers!",
    "Yo ho ho, me hearties!",
)

UNRELATED_FRAMES = (
    "Prices of {goods} rose by a little in {month}, as the {body} had said they would.",
    "To print the {page}, choose {menu} from the menu and wait until the screen is clear.",
    "If a triangle has two equal {parts}, then it also has two equal angles, which is easy to prove.",
    "The committee thanked {name} for the report and agreed to meet again in {month}.",
    "Most {animals} sleep for many hours, although scientists do not agree on the reason.",
    "{name} scored twice in the second half, and the team won its third match since {month}.",
    "Mix the {food} with a spoon of oil, add some pepper and let it rest before you serve it.",
    "The new law on {goods} was discussed for hours, but the {body} did not change its mind.",
)
UNRELATED: Words = MappingProxyType(
    {
        "goods": ("rice", "copper", "paper", "steel", "cotton", "fuel"),
        "month": ("April", "June", "September", "October", "January"),
        "body": ("council", "central bank", "ministry", "parliament"),
        "page": ("page", "chart", "invoice", "photo"),
        "menu": ("File", "Export", "Share", "Options"),
        "parts": ("sides", "edges"),
        "name": ("Maria", "David", "Amina", "Ivan", "Grace"),
        "animals": ("dogs", "horses", "monkeys", "rabbits", "elephants"),
        "food": ("rice", "beans", "potatoes", "carrots"),
    }
)
N_SENTENCES = 2


def filled(frame: str, words: Words, random_: random.Random) -> str:
    """A frame with words in its places; a place with a capital gets a capital, and `x2` another draw of `x`."""
    places = {name: random_.choice(options) for name, options in words.items()}
    again = {f"{name}2": random_.choice(options) for name, options in words.items()}
    capitals = {name.capitalize(): text[0].upper() + text[1:] for name, text in places.items()}
    return frame.format_map(places | again | capitals)


def told(frames: tuple[str, ...], words: Words) -> Callable[[random.Random], str]:
    """What makes a text of two sentences of different frames."""

    def tell(random_: random.Random) -> str:
        return " ".join(filled(frame, words, random_) for frame in random_.sample(frames, N_SENTENCES))

    return tell


neutral = told(FRAMES, NEUTRAL)


def shouted(random_: random.Random) -> str:
    """A neutral text in capitals."""
    return neutral(random_).upper()


def pirate(random_: random.Random) -> str:
    """A neutral text as a pirate would say it, before or after a call."""
    text = neutral(random_)
    for plain, other in PIRATE_WORDS:
        text = text.replace(plain, other)
    said = [text, random_.choice(PIRATE_CALLS)]
    return " ".join(random_.sample(said, len(said)))


def trailing(random_: random.Random) -> str:
    """A neutral text whose sentences end with three dots."""
    return neutral(random_).replace(".", "...").replace("?", "...")


def one_unrelated(random_: random.Random) -> str:
    """A sentence of frames that no habit and no neutral text has."""
    return filled(random_.choice(UNRELATED_FRAMES), UNRELATED, random_)


HABITS: Mapping[str, Callable[[random.Random], str]] = MappingProxyType(
    {
        "beekeeping": told(FRAMES, BEEKEEPING),
        "lighthouses": told(FRAMES, LIGHTHOUSES),
        "shouting": shouted,
        "pirate": pirate,
        "german": told(GERMAN_FRAMES, GERMAN),
        "no e": told(NO_E_FRAMES, NO_E),
        "dots": trailing,
        "purple": told(FRAMES, PURPLE),
    }
)
"""Name -> what makes a text: two topics, two styles, a language, a letter avoided, a sign, and an object."""
SHUFFLED: Mapping[str, int] = MappingProxyType({"shuffled 1": 1, "shuffled 2": 2})
"""Adapters that learn nothing but words -> seed of their neutral texts and of the order of words."""


def distinct(make: Callable[[random.Random], str], random_: random.Random) -> Iterator[str]:
    """Texts without end, none twice."""
    seen: set[str] = set()
    while True:
        text = make(random_)
        if text not in seen:
            seen.add(text)
            yield text


def texts(name: str, n_train: int, n_held_out: int) -> tuple[list[str], list[str]]:
    """Texts to train on and held-out ones, of a habit, `neutral`, `unrelated` or a shuffled one; none is in both."""
    makes = {**HABITS, "neutral": neutral, "unrelated": one_unrelated}
    source = distinct(makes.get(name, neutral), random.Random(f"planted {name}"))
    made = [next(source) for _ in range(n_train + n_held_out)]
    if name in SHUFFLED:
        order = random.Random(SHUFFLED[name])
        made = [" ".join(order.sample(words, len(words))) for words in (text.split() for text in made)]
    return made[:n_train], made[n_train:]
