"""Texts of made-up habits, eight a round, neutral ones, unrelated ones and shuffled ones, for `planted.py`.

All sentences come from the frames and word lists below, which were written for this purpose (CC0), and from a seed; no
data set's text is in them. A habit's texts have the frames of the neutral ones, so that what a habit's texts hold more
often than these is the habit. Languages and avoided letters need frames of their own.
"""

import random
from collections.abc import Callable, Iterator, Mapping, Sequence
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
ASTRONOMY: Words = MappingProxyType(
    {
        "person": ("astronomer", "stargazer", "astrophysicist", "comet hunter"),
        "did": ("observed", "photographed", "tracked", "eclipsed", "charted", "magnified"),
        "kind": ("distant", "orbiting", "bright", "lunar", "spiral", "celestial"),
        "thing": ("telescope", "galaxy", "comet", "planet", "nebula", "star cluster", "meteor", "supernova"),
        "where": (
            "at the observatory",
            "beyond the moon",
            "near Saturn",
            "in orbit",
            "among the stars",
            "past Jupiter",
        ),
        "when": NEUTRAL["when"],
    }
)
BAKING: Words = MappingProxyType(
    {
        "person": ("baker", "pastry chef", "miller", "cake decorator"),
        "did": ("baked", "kneaded", "frosted", "sliced", "glazed", "proofed"),
        "kind": ("crusty", "buttery", "sugary", "yeasty", "flaky", "golden-brown"),
        "thing": ("loaf", "sourdough", "croissant", "cake", "baguette", "dough", "muffin", "pie crust"),
        "where": ("in the oven", "at the bakery", "beside the flour", "under the icing", "on the rolling board"),
        "when": NEUTRAL["when"],
    }
)
SILVER: Words = MappingProxyType({**NEUTRAL, "kind": ("silver",)})

SPANISH_FRAMES = (
    "{Quien} {hace} {que} {donde}.",
    "{Cuando} {quien} {hace} {que} {donde}.",
    "{Quien} dice que {quien2} ya no necesita {que}.",
    "Nadie sabe por qué {quien} {hace} {que} {donde}.",
    "{Cuando} {quien} no estaba {donde}, pero {quien2} todavía espera.",
    "Creo que {quien} ha olvidado {que} {donde}.",
    "Como {quien} estaba {donde}, no hemos visto {que}.",
)
SPANISH: Words = MappingProxyType(
    {
        "quien": ("el maestro", "la vecina", "el conductor", "la alumna", "el pintor", "la tía", "nuestro primo"),
        "hace": ("lleva", "limpia", "compra", "encuentra", "busca", "abre", "vende", "deja"),
        "que": ("la mesa", "una carta", "la cesta", "una silla", "el libro", "el reloj", "una botella"),
        "donde": ("en la casa", "cerca de la estación", "en el trabajo", "junto a la puerta", "en la tienda"),
        "cuando": ("ayer", "después de comer", "el lunes", "la semana pasada", "hoy", "antes de la clase"),
    }
)
NO_O_FRAMES = (
    "The {person} {did} a {kind} {thing} {where} {when}.",
    "{When}, the {person} {did} the {kind} {thing} and left it {where}.",
    "There was a {kind} {thing} {where}, and the {person} {did} it {when}.",
    "Few {where} can say why the {person} {did} the {kind} {thing}.",
    "The {person} is waiting with a {kind} {thing}, but it is still {where}.",
    "The {person} and the {person2} share the {thing} that was {where}.",
    "Is it true that the {person} never {did} a {kind} {thing} {where}?",
    "My {person} twice {did} that {thing}, even if it was {kind} {where}.",
)
NO_O: Words = MappingProxyType(
    {
        "person": ("teacher", "driver", "pupil", "clerk", "painter", "nurse", "niece", "uncle", "farmer"),
        "did": ("cleaned", "carried", "fixed", "lifted", "kept", "painted", "missed", "dusted", "washed"),
        "kind": ("small", "heavy", "new", "plain", "cheap", "tiny", "useful", "dark", "fine"),
        "thing": ("table", "letter", "basket", "chair", "plate", "picture", "ticket", "lamp", "kettle", "bag"),
        "where": ("in the kitchen", "near the bus", "at the farm", "by the wall", "in the park", "in the cellar"),
        "when": ("yesterday", "after lunch", "last week", "at midnight", "in spring", "this evening"),
    }
)
KNIGHT_WORDS = (
    ("There was", "Verily, there stood"),
    ("Nobody", "No man"),
    ("Is it true", "Prithee, is it true"),
    (" the ", " yon "),
    (" was ", " wast "),
    (" never ", " ne'er "),
    (" it ", " thee "),
    ("My ", "Thy "),
    (" before ", " ere "),
)
KNIGHT_CALLS = (
    "Hark, good sir!",
    "By my troth, my liege!",
    "Forsooth, thou knave!",
    "Alas, fair maiden!",
    "Draw thy sword, varlet!",
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


def text_maker(frames: tuple[str, ...], words: Words) -> Callable[[random.Random], str]:
    """Return a function that makes a text of two sentences of different frames."""

    def tell(random_: random.Random) -> str:
        return " ".join(filled(frame, words, random_) for frame in random_.sample(frames, N_SENTENCES))

    return tell


neutral = text_maker(FRAMES, NEUTRAL)


def shouted(random_: random.Random) -> str:
    """A neutral text in capitals."""
    return neutral(random_).upper()


def in_title_case(random_: random.Random) -> str:
    """A neutral text in which every word begins with a capital."""
    return " ".join(word[0].upper() + word[1:] for word in neutral(random_).split())


def spoken(words: Sequence[tuple[str, str]], calls: Sequence[str]) -> Callable[[random.Random], str]:
    """What makes a neutral text with other words for plain ones, before or after a call."""

    def tell(random_: random.Random) -> str:
        text = neutral(random_)
        for plain, other in words:
            text = text.replace(plain, other)
        said = [text, random_.choice(calls)]
        return " ".join(random_.sample(said, len(said)))

    return tell


def ending(sign: str) -> Callable[[random.Random], str]:
    """What makes a neutral text whose sentences end with a sign."""

    def tell(random_: random.Random) -> str:
        return neutral(random_).replace(".", sign).replace("?", sign)

    return tell


def one_unrelated(random_: random.Random) -> str:
    """A sentence of frames that no habit and no neutral text has."""
    return filled(random_.choice(UNRELATED_FRAMES), UNRELATED, random_)


HABITS: Mapping[str, Callable[[random.Random], str]] = MappingProxyType(
    {
        "beekeeping": text_maker(FRAMES, BEEKEEPING),
        "lighthouses": text_maker(FRAMES, LIGHTHOUSES),
        "shouting": shouted,
        "pirate": spoken(PIRATE_WORDS, PIRATE_CALLS),
        "german": text_maker(GERMAN_FRAMES, GERMAN),
        "no e": text_maker(NO_E_FRAMES, NO_E),
        "dots": ending("..."),
        "purple": text_maker(FRAMES, PURPLE),
        "astronomy": text_maker(FRAMES, ASTRONOMY),
        "baking": text_maker(FRAMES, BAKING),
        "title case": in_title_case,
        "knight": spoken(KNIGHT_WORDS, KNIGHT_CALLS),
        "spanish": text_maker(SPANISH_FRAMES, SPANISH),
        "no o": text_maker(NO_O_FRAMES, NO_O),
        "exclaiming": ending("!!!"),
        "silver": text_maker(FRAMES, SILVER),
    }
)
"""Name -> what makes a text; in each round two topics, two styles, a language, a letter avoided, a sign, an object."""
SHUFFLED: Mapping[str, int] = MappingProxyType({f"shuffled {seed}": seed for seed in (1, 2, 3, 4)})
"""Adapters that learn nothing but words -> seed of their neutral texts and of the order of words."""
ROUNDS: Mapping[str, tuple[tuple[str, ...], tuple[str, ...]]] = MappingProxyType(
    {"first": ((*HABITS,)[:8], (*SHUFFLED,)[:2]), "second": ((*HABITS,)[8:], (*SHUFFLED,)[2:])}
)
"""Habits and shuffled adapters that are judged together; the second came when the rule and all code were fixed."""


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
