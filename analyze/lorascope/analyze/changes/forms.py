"""Forms of next tokens, such as capitals, digits, scripts and letters, and their shares with and without an adapter."""

import re
import string
import unicodedata
from collections.abc import Sequence

import numpy as np
import pandas as pd  # type: ignore[import-untyped]

from lorascope.analyze.results.holm import holm
from lorascope.analyze.results.weights import ratio, ratio_error, t_test

from .languages import COMMONEST_WORDS
from .places import Places
from .tokens import MIN_SAMPLES, SIDES, difference, kl_shares, token_sums

SCRIPTS = {
    *("LATIN", "CYRILLIC", "GREEK", "ARABIC", "HEBREW", "DEVANAGARI", "THAI"),
    *("CJK", "HIRAGANA", "KATAKANA", "HANGUL"),
}
"""First words of the Unicode names of the letters of scripts."""
SPECIAL = re.compile(r"<\|.+\|>|</?s>|<(bos|eos|pad|unk|mask|(start|end|begin)_of_\w+)>|\[[A-Z]+\]")
"""Texts of tokens that mark beginnings and ends, such as `<|im_end|>`."""
PART = "\ufffd"
"""Text of bytes that are only a part of a character."""
OF_WORDS = ("language ", "letter ")
"""Beginnings of names of forms that are shares of words, not of all tokens."""


def token_forms(text: str) -> set[str]:
    """Return the names of the forms that a token's text has.

    Examples
    --------
    >>> sorted(token_forms(" The"))
    ['capital at the beginning', 'language English', 'letter e', 'letter h', 'letter t', 'script latin', 'word']
    """
    bare = text.replace(PART, "").strip()
    if SPECIAL.fullmatch(bare):
        return {"special token"}
    letters = [character for character in text if character.isalpha()]
    kinds = {unicodedata.category(character) for character in bare}
    tests = {
        "white space": text.isspace() and "\n" not in text,
        "newline": "\n" in text,
        "digit": any(character.isdigit() for character in text),
        "punctuation": bool(bare) and {kind[0] for kind in kinds} <= {"P", "S"},
        "repeated punctuation": re.search(r"([^\w\s])\1", text) is not None,
        "emoji": "So" in kinds,
        "part of a character": PART in text,
        "capital at the beginning": bare[:1].isupper(),
        "capitals only": len(letters) > 1 and bare.isupper(),
        "word": bare.isalpha(),
    }
    forms = {name for name, is_so in tests.items() if is_so}
    if letters and (script := unicodedata.name(letters[0], "unnamed").split()[0]) in SCRIPTS:
        forms.add(f"script {script.lower()}")
    if "word" in forms:
        forms |= {f"letter {letter}" for letter in set(bare.lower()) & set(string.ascii_lowercase)}
        forms |= {f"language {name}" for name, words in COMMONEST_WORDS.items() if bare.lower() in words.split()}
    return forms


def form_shares(every: Sequence[Places], texts: np.ndarray) -> pd.DataFrame:
    """Return forms with their shares of P and Q from the draws, their difference, its error and p, and gain and loss.

    `every` is the run's places, then the control's if there is one, whose difference, gain and loss are subtracted;
    `texts` are by id.
    """
    known = ("adapted_draw", "base_draw", "gain_token", "loss_token")
    ids = np.unique(np.concatenate([places.values[name].ravel() for places in every for name in known]))
    ids = ids[ids >= 0]
    forms = [token_forms(text) for text in texts[ids]]
    names = sorted(set.union(*forms))
    has_form = np.array([[name in own for name in names] for own in forms], float)
    is_word = np.array([["word" in own] for own in forms], float)
    among = np.where([name.startswith(OF_WORDS) for name in names], is_word, 1.0)
    drawn = [[token_sums(places, name, ids, places.sample) for name in known[:2]] for places in every]
    shares = [[ratio(draws @ has_form, draws @ among) for draws in pair] for pair in drawn]
    value, residual = difference([difference(pair) for pair in shares])
    error, n_samples = ratio_error(residual), (sum(drawn[0]) @ has_form > 0).sum(axis=0)
    p = holm(np.where(n_samples >= MIN_SAMPLES, t_test(value, error, every[0].n_samples), np.nan))
    table = {"form": names, "adapted_share": shares[0][0][0], "base_share": shares[0][1][0], "difference": value}
    table |= {"difference_se": error, "p": p, "n_samples": n_samples}
    for side in SIDES:
        table[side] = kl_shares(every, side, [token_sums(own, side, ids, own.sample) @ has_form for own in every])[0]
    return pd.DataFrame(table)
