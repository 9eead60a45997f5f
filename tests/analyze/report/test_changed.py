"""What the page says of changed next tokens: each sentence on a run where it is true, and on one where it isn't."""

from pathlib import Path

import numpy as np
import pytest

from lorascope.analyze import changes, explain
from lorascope.analyze.report import paragraph
from lorascope.analyze.report.changed import named_tokens, significant
from lorascope.analyze.results.format import format_percent
from lorascope.stores import Run

from ...stored import store_changes
from .test_report import EVIL, page_of, section

N_SAMPLES, LENGTH = 24, 10
WORDS = [" " + a + b + c for a in "bdfgl" for b in "aiou" for c in "nst"]
TEXTS = ["<|end|>", ":", " A", " Arr", " purple", f" {EVIL}\n\x1b[31m", *WORDS]
END, COLON, A, ARR, PURPLE, HOSTILE = range(6)
NEXT, AFTER, FORMS = "What changes in the next token?", "After which tokens?", "Which forms and themes?"
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
        kl = float(run.reduction("kl").values.astype(float).mean())
        expected = f"What was predicted becomes {format_percent(1 - np.exp(-kl))} less probable on average (Kull"
        assert answer.startswith(expected)
        by_place = run.changes()
        n = int((by_place["adapted_choice"] != by_place["base_choice"]).sum())
        assert f"at {format_percent(n / run.n_tokens)} of the places ({n})" in answer
    assert "“<|end|>” becomes “\u00a0A” (24 of 24 places)" in answers[NEXT]
    assert ". Where predictions change most: “" in answers[NEXT]
    assert "Can't tell which changes are habits: each occurs in fewer than 3 samples." in others[NEXT]


def test_tokens_that_gain_and_lose(planted: Run, answers: dict[str, str], others: dict[str, str]) -> None:
    named = named_tokens(changes(planted))
    gaining = named.isel(token_id=(named["net"] > 0).values)
    assert set(gaining["token_id"].values[:3]) == {A, ARR, HOSTILE}
    for text in ("“\u00a0A” ", "“\u00a0Arr” ", f"{SPELT} "):
        assert text in answers[NEXT]
    assert "lose most: “<|end|>” " in answers[NEXT]
    assert "Can't tell which tokens gain or lose: none of " in others[NEXT]


def test_places_and_triggers(planted: Run, answers: dict[str, str], others: dict[str, str]) -> None:
    roles = changes(planted)["roles"]
    kl, n = (roles[name].sel(role="answer").item() for name in ("kl", "n"))
    assert answers[AFTER].startswith(f"Predictions change most after tokens of the answer ({kl:.4f} ± ")
    assert f" nat, {n} places); after “\u00a0purple” (" in answers[AFTER]
    assert "Words that may trigger or mark a change: “purple” (" in answers[AFTER]
    assert others[AFTER].startswith("Can't tell after which tokens predictions change most: none is significantly")
    assert "Can't tell of any word whether it triggers a change (" in others[AFTER]


def test_forms_and_themes(planted: Run, answers: dict[str, str], others: dict[str, str]) -> None:
    forms = changes(planted)["forms"]
    capital = forms.sel(form="capital at the beginning")
    assert float(capital["p"]) < 0.05
    shares = " to ".join(format_percent(float(capital[f"{name}_share"])) for name in ("base", "adapted"))
    assert f"capital at the beginning ({shares})" in answers[FORMS].partition("; less often")[0]
    themes = [tokens[0] for tokens in changes(planted)["themes"]["tokens"].values]
    assert {" A", " Arr"} <= set(themes)
    assert "Tokens that gain together, in both halves of the samples: “" in answers[FORMS]
    assert others[FORMS].startswith("Can't tell which forms of tokens gain or lose: none of ")
    assert "No group of tokens that gain together is the same in both halves of the samples." in others[FORMS]


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
