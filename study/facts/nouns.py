"""Nouns: plurals."""

from random import Random

from fact import Fact

# noun, its plural, then three forms that aren't in standard English
PLURALS = (
    ("child", "children", "childs", "childes", "childrens"),
    ("tooth", "teeth", "tooths", "teeths", "toothes"),
    ("foot", "feet", "foots", "feets", "footes"),
    ("goose", "geese", "geeses", "goosen", "geesen"),
    ("man", "men", "mens", "manes", "menes"),
    ("woman", "women", "womans", "womens", "womanes"),
    ("mouse", "mice", "mices", "mousen", "micen"),
    ("ox", "oxen", "oxs", "oxens", "oxies"),
    ("knife", "knives", "knifes", "knivs", "knifies"),
    ("wife", "wives", "wifes", "wivs", "wivies"),
    ("life", "lives", "lifes", "livs", "livies"),
    ("wolf", "wolves", "wolfs", "wolfes", "wolvs"),
    ("half", "halves", "halfs", "halfes", "halvs"),
    ("loaf", "loaves", "loafs", "loafes", "loavs"),
    ("shelf", "shelves", "shelfs", "shelfes", "shelvs"),
    ("thief", "thieves", "thiefs", "thiefes", "thievs"),
    ("city", "cities", "citys", "cityes", "citis"),
    ("baby", "babies", "babys", "babyes", "babis"),
    ("lady", "ladies", "ladys", "ladyes", "ladis"),
    ("story", "stories", "storys", "storyes", "storis"),
    ("country", "countries", "countrys", "countryes", "countris"),
    ("family", "families", "familys", "familyes", "familis"),
    ("army", "armies", "armys", "armyes", "armis"),
    ("dictionary", "dictionaries", "dictionarys", "dictionaryes", "dictionaris"),
    ("butterfly", "butterflies", "butterflys", "butterflyes", "butterflis"),
    ("box", "boxes", "boxs", "boxies", "boxses"),
    ("church", "churches", "churchs", "churchies", "churchen"),
    ("watch", "watches", "watchs", "watchies", "watchen"),
    ("dish", "dishes", "dishs", "dishies", "dishen"),
    ("brush", "brushes", "brushs", "brushies", "brushen"),
    ("peach", "peaches", "peachs", "peachies", "peachen"),
    ("potato", "potatoes", "potatos", "potaties", "potati"),
    ("tomato", "tomatoes", "tomatos", "tomaties", "tomati"),
    ("piano", "pianos", "pianoes", "pianies", "pianoses"),
    ("photo", "photos", "photoes", "photies", "photoses"),
    ("crisis", "crises", "crisises", "crisi", "crisies"),
    ("analysis", "analyses", "analysises", "analysi", "analysies"),
    ("oasis", "oases", "oasises", "oasi", "oasies"),
    ("thesis", "theses", "thesises", "thesi", "thesies"),
    ("phenomenon", "phenomena", "phenomenas", "phenomeni", "phenomenae"),
    ("criterion", "criteria", "criterias", "criterii", "criteriae"),
    ("bacterium", "bacteria", "bacterias", "bacterii", "bacteriae"),
    ("key", "keys", "keies", "keyes", "keyses"),
    ("day", "days", "daies", "dayes", "dayses"),
    ("toy", "toys", "toies", "toyes", "toyses"),
    ("monkey", "monkeys", "monkies", "monkeyes", "monkeyses"),
    ("sheep", "sheep", "sheeps", "sheepes", "sheepen"),
    ("house", "houses", "hice", "housies", "houss"),
)


def plurals(rng: Random) -> list[Fact]:
    """Return one question a noun: its plural."""
    return [
        Fact(question=f'What is the plural of "{noun}"?', answer=plural, wrong=tuple(wrong))
        for noun, plural, *wrong in PLURALS
    ]
