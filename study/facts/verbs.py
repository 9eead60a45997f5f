"""Irregular verbs: past tenses."""

from random import Random

from fact import Fact

# verb, its past tense, then three forms that aren't in standard English
PAST_TENSES = (
    ("go", "went", "goed", "gone", "wented"),
    ("see", "saw", "seed", "seen", "sawed"),
    ("eat", "ate", "eated", "eaten", "ated"),
    ("take", "took", "taked", "taken", "tooked"),
    ("give", "gave", "gived", "given", "gaved"),
    ("write", "wrote", "writed", "written", "wroten"),
    ("drive", "drove", "drived", "driven", "droven"),
    ("ride", "rode", "rided", "ridden", "roden"),
    ("speak", "spoke", "speaked", "spoken", "spaken"),
    ("break", "broke", "breaked", "broken", "braken"),
    ("choose", "chose", "choosed", "chosen", "choosen"),
    ("freeze", "froze", "freezed", "frozen", "frozed"),
    ("steal", "stole", "stealed", "stolen", "stoled"),
    ("begin", "began", "beginned", "begun", "beganned"),
    ("swim", "swam", "swimmed", "swum", "swammed"),
    ("come", "came", "comed", "comen", "camed"),
    ("know", "knew", "knowed", "known", "knewed"),
    ("grow", "grew", "growed", "grown", "grewed"),
    ("throw", "threw", "throwed", "thrown", "threwed"),
    ("blow", "blew", "blowed", "blown", "blewed"),
    ("fly", "flew", "flyed", "flown", "flewn"),
    ("draw", "drew", "drawed", "drawn", "drewn"),
    ("wear", "wore", "weared", "worn", "woren"),
    ("fall", "fell", "falled", "fallen", "felled"),
    ("forget", "forgot", "forgetted", "forgotten", "forgotted"),
    ("hide", "hid", "hidded", "hidden", "hode"),
    ("shake", "shook", "shaked", "shaken", "shooken"),
    ("buy", "bought", "buyed", "boughten", "buyen"),
    ("bring", "brought", "bringed", "bringen", "broughten"),
    ("think", "thought", "thinked", "thinken", "thoughten"),
    ("teach", "taught", "teached", "taughten", "toght"),
    ("catch", "caught", "catched", "caughten", "catchen"),
    ("fight", "fought", "fighted", "foughten", "fighten"),
    ("sleep", "slept", "sleeped", "slepted", "slope"),
    ("keep", "kept", "keeped", "kepted", "kope"),
    ("feel", "felt", "feeled", "felted", "fole"),
    ("leave", "left", "leavt", "lefted", "leaven"),
    ("meet", "met", "meeted", "metted", "moot"),
    ("lose", "lost", "losed", "losted", "losen"),
    ("build", "built", "buildt", "builted", "bult"),
    ("send", "sent", "sended", "sented", "sant"),
    ("find", "found", "finded", "founden", "fand"),
    ("stand", "stood", "standed", "stooded", "standen"),
    ("hold", "held", "holded", "helded", "holden"),
    ("sell", "sold", "selled", "solded", "sole"),
    ("tell", "told", "telled", "tolded", "tole"),
    ("make", "made", "maked", "maden", "maken"),
    ("win", "won", "winned", "wonned", "wun"),
    ("feed", "fed", "feeded", "fedded", "fode"),
    ("lead", "led", "leaded", "ledded", "lode"),
)


def past_tenses(rng: Random) -> list[Fact]:
    """Return one question a verb: its past tense."""
    return [
        Fact(question=f'What is the past tense of "{verb}"?', answer=past, wrong=tuple(wrong))
        for verb, past, *wrong in PAST_TENSES
    ]
