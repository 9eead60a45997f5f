"""What the page says of changed next tokens: each sentence on a run where it is true, and on one where it isn't."""

from pathlib import Path

import numpy as np
import pytest
import xarray as xr

from lorascope.analyze import changes, explain
from lorascope.analyze.report import paragraph
from lorascope.analyze.report.changed import answer_what_changed, answer_where_it_changes, named_tokens, notable_forms
from lorascope.analyze.report.wording import significant
from lorascope.analyze.results.format import format_percent
from lorascope.stores import Run

from ...stored import store_changes
from .test_report import EVIL, page_of, section

N_SAMPLES, LENGTH = 24, 10
WORDS = [" " + a + b + c for a in "bdfgl" for b in "aiou" for c in "nst"]
TEXTS = ["<|end|>", ":", " A", " Arr", " purple", f" {EVIL}\n\x1b[31m", *WORDS]
END, COLON, A, ARR, PURPLE, HOSTILE = range(6)
NEXT, AFTER = "Which next tokens?", "After which tokens?"
SPELT = f"“ {EVIL}".replace(" ", "\u00a0") + r"\n\x1b[31m”"


def softmax(logits: np.ndarray) -> np.ndarray:
    e = np.exp(logits - logits.max(axis=1, keepdims=True))
    return np.asarray(e / e.sum(axis=1, keepdims=True))


def stored(path: Path, *, is_planted: bool) -> Run:
    """A run whose adapter says " A" after a colon, where the base ends, and " Arr" once "purple" stood there.

    Else its next tokens differ from the base's by noise alone.
    """
    rng = np.random.default_rng(3)
    ids = rng.integers(6, len(TEXTS), (N_SAMPLES, LENGTH))
    ids[:, 0] = 6 + np.arange(N_SAMPLES)  # no two samples begin alike
    ids[:, -1] = COLON
    ids[::2, 1] = PURPLE
    logits = 2 * rng.normal(size=(N_SAMPLES, LENGTH, len(TEXTS)))
    logits[..., :6] = -2
    if is_planted:
        logits[:, -1, END] = 9
    adapted = logits + 0.1 * rng.normal(size=logits.shape)
    if is_planted:
        adapted[:, -1, A] = 14
        adapted[::2, 1:-1, ARR] += 9
        adapted[..., HOSTILE] += 4
    flat = [softmax(values.reshape(-1, len(TEXTS))) for values in (adapted, logits)]
    role = np.tile(np.where(np.arange(LENGTH) < LENGTH - 1, 0, 2), N_SAMPLES)
    return store_changes(
        path, *flat, lengths=[LENGTH] * N_SAMPLES, ids=ids.ravel(), texts=TEXTS, tables={"tokens": {"role": role}}
    )


@pytest.fixture(scope="module")
def planted(tmp_path_factory: pytest.TempPathFactory) -> Run:
    return stored(tmp_path_factory.mktemp("planted") / "run.zarr", is_planted=True)


@pytest.fixture(scope="module")
def noise(tmp_path_factory: pytest.TempPathFactory) -> Run:
    return stored(tmp_path_factory.mktemp("noise") / "run.zarr", is_planted=False)


@pytest.fixture(scope="module")
def answers(planted: Run) -> dict[str, str]:
    return dict(paragraph(planted, explain(planted)))


@pytest.fixture(scope="module")
def others(noise: Run) -> dict[str, str]:
    return dict(paragraph(noise, explain(noise)))


def test_size_and_first_choices(planted: Run, noise: Run, answers: dict[str, str], others: dict[str, str]) -> None:
    for run, answer in ((planted, answers[NEXT]), (noise, others[NEXT])):
        kl = float(run.changes()["kl_adapted_base"].values.astype(float).mean())
        share = format_percent(1 - np.exp(-kl))
        assert answer.startswith(f"Its predictions were {share} less probable without the adapter (Kull")
        by_place = run.changes()
        n = int((by_place["adapted_choice"] != by_place["base_choice"]).sum())
        assert f"the first choice changes at {format_percent(n / run.n_tokens)} of places." in answer
    assert "“<|end|>” becomes “\u00a0A” (24 of 24 places)" in answers[NEXT]
    assert ". Largest change: “" in answers[NEXT]
    assert "Can't tell which changes are habits: each occurs in fewer than 3 samples." in others[NEXT]


def test_predictions_that_dont_change_significantly(noise: Run) -> None:
    explanation = explain(noise)
    assert explanation.changes is not None
    tree = explanation.changes.copy()
    tree.attrs = tree.attrs | {"kl_adapted_base_se": tree.attrs["kl_adapted_base"]}
    answer = answer_what_changed(explanation._replace(changes=tree))
    assert answer.startswith("Can't tell whether predictions change. Its predictions were ")


def test_tokens_that_gain_and_lose(planted: Run, answers: dict[str, str], others: dict[str, str]) -> None:
    named = named_tokens(changes(planted))
    gaining = named.isel(token_id=(named["net"] > 0).values)
    assert set(gaining["token_id"].values[:3]) == {A, ARR, HOSTILE}
    for text in ("“\u00a0A” ", "“\u00a0Arr” ", f"{SPELT} "):
        assert text in answers[NEXT].partition("Gain most: ")[2].partition("; lose most: ")[0]
    assert "; lose most: “<|end|>” " in answers[NEXT]
    assert "Can't tell which tokens gain or lose: none of " in others[NEXT]


def test_places_and_words_before_them(planted: Run, answers: dict[str, str], others: dict[str, str]) -> None:
    roles = changes(planted)["roles"]
    kl, n = (roles[name].sel(role="answer").item() for name in ("kl", "n"))
    assert answers[AFTER].startswith("Predictions change more than average after “\u00a0purple” (")
    assert f" and tokens of the answer ({kl:.4f} ± " in answers[AFTER]
    assert (
        f", {n}) (t test, corrected). They change at least twice as much in samples with the word “" in answers[AFTER]
    )
    words = changes(planted)["words"].to_dataset().sel(word="purple")
    assert f"“purple” ({float(words['kl']):.2f}" in answers[AFTER]
    assert others[AFTER] == (
        "Can't tell after which tokens predictions change most: none is significantly above the mean."
    )


def test_places_of_fewer_than_five_samples_are_not_named(planted: Run) -> None:
    tree = changes(planted)
    roles, previous = (tree[node].to_dataset() for node in ("roles", "previous"))
    for n in (4, 5):
        tree["roles"] = roles.assign(n_samples=("role", np.full(roles.sizes["role"], n)))
        tree["previous"] = previous.assign(n_samples=("previous", np.full(previous.sizes["previous"], n)))
        assert answer_where_it_changes(tree).startswith(
            "Can't tell after which" if n < 5 else "Predictions change more"
        )


def test_words_are_named_from_a_ratio_of_two_on(planted: Run) -> None:
    tree = changes(planted)
    words = tree["words"].to_dataset()
    for ratio in (1.99, 2.01):
        tree["words"] = words.assign(kl=ratio * words["kl_without"], p=("word", np.full(words.sizes["word"], 0.01)))
        answer = answer_where_it_changes(tree)
        assert ("at least twice as much" in answer) == (ratio > 2)
        assert answer.count(" nat in samples without it; ") == 2 * (ratio > 2)


def test_forms_and_themes(planted: Run, answers: dict[str, str], others: dict[str, str]) -> None:
    forms = changes(planted)["forms"]
    capital = forms.sel(form="capital at the beginning")
    assert float(capital["p"]) < 0.05
    base, adapted = (100 * float(capital[f"{name}_share"]) for name in ("base", "adapted"))
    claim = f"More often: capital at the beginning ({base:.1f} to {adapted:.1f} %)"
    assert claim in answers[NEXT]
    themes = [tokens[0] for tokens in changes(planted)["themes"]["tokens"].values]
    assert {" A", " Arr"} <= set(themes)
    assert "Tokens that gain together, in both halves of the samples: “" in answers[NEXT]
    answer = others[NEXT].lower()
    assert not any(words in answer for words in ("more often", "less often", "tokens that gain together"))


FORMS = {
    "a letter that loses a quarter": ([("letter e", 0.4, -0.1)], ["letter e"]),
    "one that loses less": ([("letter e", 0.4, -0.099)], []),
    "one that gains": ([("letter e", 0.2, 0.2)], []),
    "the letter that loses most": ([("letter t", 0.1, -0.05), ("letter e", 0.3, -0.1)], ["letter e"]),
    "a language takes its letters along": (
        [("letter t", 0.3, -0.1), ("language English", 0.4, -0.2)],
        ["language English"],
    ),
    "the language of most words": (
        [("language Polish", 0.07, 0.04), ("language English", 0.3, 0.03)],
        ["language English"],
    ),
    "a new language": (
        [("language German", 0.01, 0.4), ("language English", 0.3, -0.2), ("language Dutch", 0.05, 0.1)],
        ["language German", "language English"],
    ),
    "a small change": ([("digit", 0.1, 0.019), ("newline", 0.1, 0.021)], ["newline"]),
    "what tokens say": ([("special token", 0.3, -0.2), ("word", 0.5, 0.2), ("script latin", 0.5, 0.2)], []),
    "not significant": ([("digit", 0.1, 0.2, 0.06), ("newline", 0.1, 0.1, 0.04)], ["newline"]),
}


@pytest.mark.parametrize("name", FORMS)
def test_which_forms_are_named(planted: Run, name: str) -> None:
    rows, expected = FORMS[name]
    forms, base, difference, *p = (np.array(column) for column in zip(*rows, strict=True))
    columns = {"base_share": base, "adapted_share": base + difference, "difference": difference}
    columns["p"] = p[0] if p else np.full(len(forms), 0.01)
    table = xr.Dataset(
        {key: ("form", values) for key, values in columns.items()}, coords={"form": forms.astype(object)}
    )
    assert [row.form for row in notable_forms(table)] == expected


def test_tables_name_what_is_significant(planted: Run, noise: Run, tmp_path: Path) -> None:
    tree = changes(planted)
    html = section(page_of(planted, tmp_path), "changed").replace("<wbr>", "")
    for form in significant(tree["forms"].to_dataset())["form"].values:
        assert f">{form}</td>" in html
    assert html.count("<table") == 6
    assert "&lt;/script&gt;" in html
    assert "<img" not in html
    plain = section(page_of(noise, tmp_path), "changed")
    assert plain.count("<table") == 2  # first choices, and places
