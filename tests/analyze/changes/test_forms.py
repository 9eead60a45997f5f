"""Forms of tokens, and their shares from draws."""

import numpy as np
import pytest

from lorascope.analyze.changes.forms import form_shares, token_forms
from lorascope.analyze.changes.places import Places

from .distributions import places_of, random_distributions

LATIN = {"word", "script latin"}
SAMPLE = np.repeat(np.arange(8), 40)


@pytest.mark.parametrize(
    ("text", "forms"),
    [
        (" The", {"capital at the beginning", "language English", *LATIN, *map("letter {}".format, "the")}),
        ("NASA", {"capital at the beginning", "capitals only", *LATIN, *map("letter {}".format, "nas")}),
        ("A", {"capital at the beginning", *LATIN, "letter a"}),
        (" 42", {"digit"}),
        ("!!!", {"punctuation", "repeated punctuation"}),
        (" ...", {"punctuation", "repeated punctuation"}),
        ("?!", {"punctuation"}),
        ("  ", {"white space"}),
        ("\n\n", {"newline"}),
        (".\n", {"punctuation", "newline"}),
        ("<|im_end|>", {"special token"}),
        ("</s>", {"special token"}),
        ("<b>", {"script latin"}),
        (" и", {"word", "script cyrillic", "language Russian"}),
        ("猫", {"word", "script cjk"}),
        ("カ", {"word", "script katakana"}),
        ("ب", {"word", "script arabic"}),
        ("😀", {"punctuation", "emoji"}),
        ("\ufffd", {"part of a character"}),
        ("", set()),
    ],
)  # fmt: skip
def test_forms(text: str, forms: set[str]) -> None:
    assert token_forms(text) == forms


def form_table(p: np.ndarray, q: np.ndarray, texts: list[str], **options: object) -> tuple[Places, object]:
    places = places_of(p, q, SAMPLE, **options)  # type: ignore[arg-type]
    return places, form_shares([places], np.array(texts, object)).set_index("form")


def test_shares_are_those_of_the_draws() -> None:
    rng = np.random.default_rng(0)
    texts = [" The", " cat", "!!!", " 7", "dog", "\n"]
    p, q = (random_distributions(rng, len(SAMPLE), len(texts)) for _ in range(2))
    places, table = form_table(p, q, texts, weight=np.repeat(rng.uniform(1, 3, 8), 40))
    adapted, base = (places.values[f"{name}_draw"] for name in ("adapted", "base"))
    weight = np.repeat(places.weight[:, None], 8, axis=1)
    assert table["adapted_share"]["digit"] == pytest.approx(np.average(adapted == 3, weights=weight))
    assert table["base_share"]["digit"] == pytest.approx(np.average(base == 3, weights=weight))
    words = [np.isin(draws, [0, 1, 4]) for draws in (adapted, base)]  # letters are shares of words
    shares = [
        np.average(np.isin(draws, [0, 1])[is_word], weights=weight[is_word])
        for draws, is_word in zip((adapted, base), words, strict=True)
    ]
    assert table["difference"]["letter t"] == pytest.approx(shares[0] - shares[1])
    gain = places.weight[:, None] * np.maximum(p * np.log(p / q), 0)
    kl = (places.weight * (p * np.log(p / q)).sum(axis=1)).sum()
    assert table["gain"]["repeated punctuation"] == pytest.approx(gain[:, 2].sum() / kl)


def test_capitals_that_are_planted_are_found_and_nothing_else() -> None:
    texts = [" The", " the", " Cat", " cat", ".", " 7"]
    q = random_distributions(np.random.default_rng(1), len(SAMPLE), 6, sharpness=1.0)
    p = q.copy()
    for capital, small in ((0, 1), (2, 3)):
        p[:, capital] += 0.6 * q[:, small]
        p[:, small] *= 0.4
    _, table = form_table(p, q, texts)
    assert set(table.index[table["p"] <= 0.05]) == {"capital at the beginning"}
    row = table.loc["capital at the beginning"]
    expected = (p - q)[:, [0, 2]].sum(axis=1).mean()
    assert abs(row["difference"] - expected) < 4 * row["difference_se"]


def test_a_control_is_subtracted() -> None:
    texts = np.array([" The", " the", "."], object)
    rng = np.random.default_rng(2)
    p, q, other = (random_distributions(rng, len(SAMPLE), 3) for _ in range(3))
    places, control = places_of(p, q, SAMPLE), places_of(other, q, SAMPLE, seed=1)
    tables = [form_shares(every, texts).set_index("form") for every in ([places], [control], [places, control])]
    for name in ("difference", "gain", "loss"):
        np.testing.assert_allclose(tables[2][name], tables[0][name] - tables[1][name], atol=1e-12)
    same = form_shares([places, places], texts)
    assert (same["difference"].fillna(0) == 0).all()
    assert same["p"].isna().all()
