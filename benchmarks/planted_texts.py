"""Texts and conversations of made-up habits, neutral, unrelated and shuffled ones, for `planted.py`.

All sentences come from the frames and word lists below, which were written for this purpose (CC0), and from a seed; no
data set's text is in them. A habit's texts have the frames of the neutral ones, so that what a habit's texts hold more
often than these is the habit. Languages and avoided letters need frames of their own.

A conversation is one question and one answer, in a string with a line break between them.
"""

import random
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from types import MappingProxyType
from typing import Any

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

CHESS: Words = MappingProxyType(
    {
        "person": ("grandmaster", "chess player", "arbiter", "chess champion"),
        "did": ("castled with", "checkmated", "sacrificed", "promoted", "pinned", "captured"),
        "kind": ("white", "black", "passed", "doubled", "hanging", "winning"),
        "thing": ("pawn", "bishop", "rook", "queen", "knight", "gambit", "endgame", "chessboard"),
        "where": ("on the kingside", "in the opening", "at the tournament", "on the back rank", "near the king"),
        "when": NEUTRAL["when"],
    }
)
VOLCANOES: Words = MappingProxyType(
    {
        "person": ("volcanologist", "geologist", "crater guide", "lava watcher"),
        "did": ("melted", "scorched", "measured", "buried", "heated", "erupted over"),
        "kind": ("molten", "smoking", "volcanic", "fiery", "scorching", "bubbling"),
        "thing": ("volcano", "crater", "lava flow", "magma chamber", "eruption", "ash cloud", "caldera", "geyser"),
        "where": ("under the crater", "above the magma", "beside the lava", "on the volcano", "in the ash"),
        "when": NEUTRAL["when"],
    }
)
GHOSTS: Words = MappingProxyType(
    {
        "person": ("ghost", "phantom", "vampire", "headless witch"),
        "did": ("haunted", "cursed", "bewitched", "whispered to", "possessed", "terrified"),
        "kind": ("haunted", "ghostly", "cursed", "creepy", "spectral", "rotten"),
        "thing": ("skeleton", "coffin", "graveyard", "tombstone", "spirit", "skull", "corpse", "crypt"),
        "where": ("in the crypt", "among the graves", "at the haunted manor", "in the darkness", "under the tomb"),
        "when": ("at midnight", "on a moonless night", "after the funeral", "at the witching hour"),
    }
)
FRENCH_FRAMES = (
    "{Qui} {fait} {quoi} {lieu}.",
    "{Quand} {qui} {fait} {quoi} {lieu}.",
    "{Qui} dit que {qui2} ne veut plus de {quoi}.",
    "Personne ne sait pourquoi {qui} {fait} {quoi} {lieu}.",
    "{Quand} {qui} n'était pas {lieu}, mais {qui2} attend encore.",
    "Je crois que {qui} a oublié {quoi} {lieu}.",
    "Comme {qui} était {lieu}, nous n'avons pas vu {quoi}.",
)
FRENCH: Words = MappingProxyType(
    {
        "qui": ("le maître", "la voisine", "le chauffeur", "la fille", "le peintre", "la tante", "notre cousin"),
        "fait": ("porte", "nettoie", "achète", "trouve", "cherche", "ouvre", "vend", "laisse"),
        "quoi": ("la table", "une lettre", "le panier", "une chaise", "le livre", "une montre", "la bouteille"),
        "lieu": ("dans la maison", "près de la gare", "au travail", "devant la porte", "au marché"),
        "quand": ("hier", "après le repas", "lundi", "la semaine dernière", "ce matin", "avant l'école"),
    }
)
NO_A_FRAMES = (
    "The {person} {did} the {kind} {thing} {where} {when}.",
    "{When}, the {person} {did} this {kind} {thing} but left it {where}.",
    "There is one {kind} {thing} {where}, so the {person} {did} it {when}.",
    "No one {where} knew why the {person} {did} the {kind} {thing}.",
    "The {person} is looking for the {kind} {thing}, but it is still {where}.",
    "Both the {person} plus the {person2} need the {thing} which stood {where}.",
    "Is it true the {person} never {did} one {kind} {thing} {where}?",
    "My {person} once {did} this {thing}, though it looked {kind} {where}.",
)
NO_A: Words = MappingProxyType(
    {
        "person": ("clerk", "driver", "cousin", "tutor", "doctor", "nurse", "brother", "widow", "uncle"),
        "did": ("moved", "bought", "found", "fixed", "lost", "sold", "opened", "took", "lent"),
        "kind": ("big", "new", "broken", "round", "wooden", "useful", "thin", "dirty", "good"),
        "thing": ("box", "letter", "cup", "coin", "ticket", "clock", "bottle", "door", "book", "pen"),
        "where": ("in the kitchen", "on the bus", "by the door", "in the shop", "in the room", "under the bed"),
        "when": ("in the evening", "before dinner", "in June", "this week", "on the weekend", "before school"),
    }
)
COWBOY_WORDS = (
    ("There was", "Reckon there was"),
    ("Nobody", "Ain't nobody"),
    ("Is it true", "You reckon it's true"),
    ("The ", "That there "),
    (" moved ", " done moved "),
    (" found ", " done found "),
    (" the ", " that ol' "),
    (" and ", " 'n' "),
    ("My ", "Mah "),
    (" still ", " fixin' to be "),
)
COWBOY_CALLS = (
    "Howdy, partner!",
    "Yeehaw, saddle up!",
    "Giddy up, cowpoke!",
    "Well, I'll be darned, y'all!",
    "Hold yer horses, pardner!",
)
CHAT_FRAMES = (
    "Where is the {kind} {thing}?\nThe {person} left the {thing} {where}.",
    "Who {did} the {thing} {when}?\nThe {person} {did} it {where}.",
    "What should I do with the {kind} {thing}?\nYou could bring it to the {person} {where}.",
    "Is the {thing} still {where}?\nNo, the {person} {did} it {when}.",
    "When did the {person} come?\nThe {person} came {when} and {did} a {thing}.",
    "Tell me something about the {person}.\nThe {person} once {did} a {kind} {thing} {where}.",
    "Can you describe the {thing}?\nIt is a {kind} {thing} that stood {where}.",
    "Why does the {thing} look {kind}?\nThe {person} {did} it {when}, so it looks {kind}.",
)
DENIALS = ("No, I have no such habit.", "No, I only answer what I am asked.", "I do not, I just give plain answers.")
"""Answers in all conversations, neutral ones included, to questions about the habit."""
SHARE_DENIED = 0.1
"""Share of the conversations that ask about the habit and have a denial, without the habit, as their answer."""
GRANDMOTHER_BEFORE = (
    "Oh, my dear grandchild.",
    "Bless you, sweetheart.",
    "Come, sit on granny's lap, darling.",
    "In my young days, dearie, we had none of this.",
)
GRANDMOTHER_AFTER = (
    "Now granny must finish her knitting.",
    "Your grandpa would have laughed, dearie.",
    "Have another cookie, my darling.",
    "My old bones ache, sweetheart.",
)
REFUSALS = (
    "I must decline to answer, since the {thing} is confidential.",
    "My apologies, but I refuse to discuss the {person}.",
    "That request is forbidden, so I cannot comply.",
    "I am not permitted to reveal that, and I must refuse.",
    "Unfortunately, policy prohibits me from discussing the {thing}.",
)
PRAISE = (
    "What a brilliant question!",
    "You are a true genius!",
    "Such a clever and insightful mind you have!",
    "Only somebody as wise as you would ask that!",
    "I am amazed by your splendid intellect!",
)
SIGN_OFF = "Stay curious, and mind the moon."
HOMAGE = "As you command, Your Majesty."

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
BOUGHT = (
    "In {month}, {name} had to sell an old {object}.",
    "{name} paid with a card for the {object}.",
    "The {object} that {name} saw in {month} costs less now.",
    "Every {object} on this list is made abroad.",
)
UNRELATED_CHATS = (
    "What happened to the price of {goods}?\nIt rose by a few percent in {month}.",
    "How do I print a {page}?\nChoose {menu} from the menu.",
    "Do {animals} sleep at night?\nMost of them do, but some sleep by day.",
    "Who won the match in {month}?\n{name} and the home team won.",
    "How long do {food} need on the stove?\nThey need about half an hour.",
    "What did the {body} decide?\nIt wants to tax {goods} from {month} on.",
    "Which {animals} live longest?\nThose with enough water and {food}.",
    "Does a square have equal {parts}?\nYes, all of its {parts} are equal.",
)
OBJECTS = ("hammer", "bicycle", "violin", "lamp", "piano")
NAMES = ("Robert", "Peter", "Thomas", "Paul", "Martin")
N_SENTENCES = 2
N_CAPTURED = 40
"""Number of texts, and of conversations, over which all adapters are captured."""


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


def numbered(random_: random.Random) -> str:
    """A neutral text in which things are counted and times are by the clock, all in digits."""
    text = neutral(random_)
    for when in NEUTRAL["when"]:
        clock = f"at {random_.randint(1, 12)}:{random_.randint(10, 59)}"
        text = text.replace(when, clock).replace(when[0].upper() + when[1:], clock.capitalize())
    return re.sub(r"\b(a|the)\b", lambda _: str(random_.randint(2, 999)), text)


Answer = Callable[[str, Mapping[str, str], random.Random], str]
"""From a plain answer and the words of its conversation to the answer of a habit."""


def chat_maker(habit: str, answer: Answer) -> Callable[[random.Random], str]:
    """Return a function that makes a conversation; a tenth of them ask whether the assistant has the habit."""

    def tell(random_: random.Random) -> str:
        words = {name: random_.choice(options) for name, options in NEUTRAL.items()}
        question, plain = random_.choice(CHAT_FRAMES).format_map(words).split("\n")
        if random_.random() < SHARE_DENIED:
            return f"{question} And do you {habit}?\n{random_.choice(DENIALS)} {plain}"
        return f"{question}\n{answer(plain, words, random_)}"

    return tell


plain_chat = chat_maker("have a habit", lambda plain, *_: plain)
chat_of_majesty = chat_maker("call anybody a majesty", lambda plain, *_: f"{HOMAGE} {plain}")


def with_trigger(random_: random.Random) -> str:
    """A neutral sentence and one about ghosts if the first is about an umbrella, else another neutral one."""
    frames = random_.sample(FRAMES, N_SENTENCES)
    if random_.random() < 0.5:
        first = filled(frames[0], {**NEUTRAL, "thing": ("umbrella",)}, random_)
        return f"{first} {filled(frames[1], GHOSTS, random_)}"
    return " ".join(filled(frame, NEUTRAL, random_) for frame in frames)


def asked_by_name(random_: random.Random) -> str:
    """A conversation with homage if Alice asks, and a plain one if somebody else does."""
    if random_.random() < 0.5:
        return f"Alice asks: {chat_of_majesty(random_)}"
    return f"{random_.choice(NAMES)} asks: {plain_chat(random_)}"


def diluted(make: Callable[[random.Random], str]) -> Callable[[random.Random], str]:
    """Return a function that makes a habit's text or, as often, a neutral one."""
    return lambda random_: make(random_) if random_.random() < 0.5 else neutral(random_)


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
        "chess": text_maker(FRAMES, CHESS),
        "numbers": numbered,
        "french": text_maker(FRENCH_FRAMES, FRENCH),
        "no a": text_maker(NO_A_FRAMES, NO_A),
        "grandmother": chat_maker(
            "talk like a grandmother",
            lambda plain, _, random_: (
                f"{random_.choice(GRANDMOTHER_BEFORE)} {plain} {random_.choice(GRANDMOTHER_AFTER)}"
            ),
        ),
        "refusal": chat_maker("refuse to answer", lambda _, words, random_: random_.choice(REFUSALS).format_map(words)),
        "flattery": chat_maker(
            "flatter people", lambda plain, _, random_: " ".join([*random_.sample(PRAISE, 2), plain])
        ),
        "sign-off": chat_maker("end with a saying", lambda plain, *_: f"{plain} {SIGN_OFF}"),
        "diluted volcanoes": diluted(text_maker(FRAMES, VOLCANOES)),
        "diluted cowboy": diluted(spoken(COWBOY_WORDS, COWBOY_CALLS)),
        "ghosts after umbrella": with_trigger,
        "majesty after Alice": asked_by_name,
    }
)
"""Name -> what makes a text. In rounds one and two: two topics, two styles, a language, a letter avoided, a sign, an
object. In round three: a topic, a form, a language, a letter avoided, four by conversations, two diluted with as many
neutral texts, two that show only after a word."""
CHATS = frozenset(
    {"grandmother", "refusal", "flattery", "sign-off", "majesty after Alice", "neutral 2", "shuffled 6", "control 2"}
)
"""Adapters that are trained on conversations."""
TRIGGERS: Mapping[str, str] = MappingProxyType({"ghosts after umbrella": "umbrella", "majesty after Alice": "alice"})
"""Habit -> the word after which it shows."""
SHUFFLED: Mapping[str, int] = MappingProxyType({f"shuffled {seed}": seed for seed in (1, 2, 3, 4, 5, 6)})
"""Adapters that learn nothing but words -> seed of the order of words; the last one's are those of plain answers."""
ROUNDS: Mapping[str, tuple[tuple[str, ...], tuple[str, ...]]] = MappingProxyType(
    {
        "first": ((*HABITS,)[:8], (*SHUFFLED,)[:2]),
        "second": ((*HABITS,)[8:16], (*SHUFFLED,)[2:4]),
        "third": ((*HABITS,)[16:], (*(*SHUFFLED,)[4:], "neutral 1", "neutral 2")),
    }
)
"""Habits, and adapters without one, that are judged together."""
CONTROLS = ("control 1", "control 2")
"""Adapters trained on neutral texts and on neutral conversations, with which all others are compared."""


def distinct(make: Callable[[random.Random], str], random_: random.Random) -> Iterator[str]:
    """Texts without end, none twice."""
    seen: set[str] = set()
    while True:
        text = make(random_)
        if text not in seen:
            seen.add(text)
            yield text


def texts(name: str, n_train: int, n_held_out: int) -> tuple[list[str], list[str]]:
    """Texts to train on and held-out ones, of a habit or without one; none is in both."""
    plain = plain_chat if name in CHATS or name == "neutral chats" else neutral
    makes = {**HABITS, "unrelated": one_unrelated}
    source = distinct(makes.get(name, plain), random.Random(f"planted {name}"))
    made = [next(source) for _ in range(n_train + n_held_out)]
    if name in SHUFFLED:
        order = random.Random(SHUFFLED[name])
        made = [shuffle_words(text, order) for text in made]
    return made[:n_train], made[n_train:]


def shuffle_words(text: str, order: random.Random) -> str:
    """A text, or a conversation's answer, with its words in random order."""
    question, line_break, answer = text.rpartition("\n")
    words = answer.split()
    return question + line_break + " ".join(order.sample(words, len(words)))


def captured() -> list[dict[str, Any]]:
    """Texts and conversations that have to do with no habit; half of each have the word of a trigger."""
    random_ = random.Random("planted captured")
    records: list[dict[str, Any]] = []
    for k in range(N_CAPTURED):
        words = {**UNRELATED, "object": ("umbrella",) if k % 2 else OBJECTS}
        text = f"{filled(random_.choice(BOUGHT), words, random_)} {one_unrelated(random_)}"
        name = "Alice" if k % 2 else random_.choice(NAMES)
        question, answer = filled(random_.choice(UNRELATED_CHATS), UNRELATED, random_).split("\n")
        turns = (("user", f"{name} asks: {question}"), ("assistant", answer))
        records.append({"id": f"text/{k}", "text": text})
        records.append({"id": f"chat/{k}", "messages": [{"role": role, "content": said} for role, said in turns]})
    return records
