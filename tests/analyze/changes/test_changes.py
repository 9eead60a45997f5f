"""`changes` of stored runs: planted effects, a control, errors, saved results, and no findings without a change."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import xarray as xr
from scipy import stats

from lorascope.analyze import changes, open_result, save
from lorascope.analyze.changes.forms import form_shares
from lorascope.analyze.changes.groups import first_words, word_differences
from lorascope.analyze.changes.themes import find_themes
from lorascope.analyze.changes.tokens import token_shares
from lorascope.stores import Run, StoreError

from ...stored import store_changes
from .distributions import exchange_by_sample, places_of, random_distributions

N_SAMPLES, N_PLACES = 24, 20
SAMPLE = np.repeat(np.arange(N_SAMPLES), N_PLACES)
LETTERS = "abcdefghijklmnopqrstuvwxyz"
TEXTS = np.array(
    ["!!!", " silver", " gold", " magic", ".", "\n", " 7"]
    + [f" {LETTERS[i % 26]}{LETTERS[(7 * i + 3) % 26]}{LETTERS[(i * i) % 26]}" for i in range(73)],
    object,
)
IDS = np.random.default_rng(5).integers(4, len(TEXTS), len(SAMPLE))
IDS[np.arange(0, N_SAMPLES, 3) * N_PLACES + 2] = 3
IDS[::N_PLACES] = 4 + np.arange(N_SAMPLES)  # no two samples begin alike
IS_TRIGGERED = (SAMPLE % 3 == 0) & (np.arange(len(SAMPLE)) % N_PLACES >= 2)


def planted() -> tuple[np.ndarray, np.ndarray]:
    """P and Q: "!!!" gains everywhere, silver and gold after the word magic, which every third sample has."""
    rng = np.random.default_rng(6)
    q = random_distributions(rng, len(SAMPLE), len(TEXTS))
    p = q * np.exp(0.2 * rng.normal(size=q.shape))
    p[:, 0] += 0.15
    p[np.ix_(IS_TRIGGERED, [1, 2])] += 0.3
    return p / p.sum(axis=1, keepdims=True), q


def planted_run(folder: Path, name: str = "run", **options: Any) -> Run:
    options = {"lengths": [N_PLACES] * N_SAMPLES, "ids": IDS, "texts": list(TEXTS)} | options
    return store_changes(folder / f"{name}.zarr", *planted(), **options)


@pytest.fixture(scope="module")
def result(tmp_path_factory: pytest.TempPathFactory) -> xr.DataTree:
    return changes(planted_run(tmp_path_factory.mktemp("planted")))


def findings(result: xr.DataTree, node: str, label: str) -> list[str]:
    table = result[node].to_dataset()
    return list(table[label].values[table["p"].values <= 0.05])


def test_what_was_planted_is_named(result: xr.DataTree) -> None:
    tokens = result["tokens"].to_dataset()
    assert set(tokens["text"].values[(tokens["p"] <= 0.05) & (tokens["net"] > 0)]) == {"!!!", " silver", " gold"}
    assert findings(result, "words", "word") == ["magic"]
    assert "repeated punctuation" in findings(result, "forms", "form")
    assert {" silver", " gold"} in [set(tokens[:2]) for tokens in result["themes/tokens"].values.tolist()]
    word = result["words"].to_dataset().sel(word="magic")
    assert float(word["kl"]) > 2 * float(word["kl_without"])


def test_numbers_of_the_root_are_those_of_the_distributions(result: xr.DataTree) -> None:
    p, q = planted()
    kl = (p * np.log(p / q)).sum(axis=1)
    means = kl.reshape(N_SAMPLES, N_PLACES).mean(axis=1)
    attributes = result.attrs
    assert attributes["kl_adapted_base"] == pytest.approx(kl.mean(), rel=1e-6)
    assert attributes["kl_adapted_base_se"] == pytest.approx(stats.sem(means), rel=1e-6)
    assert attributes["kl"] == pytest.approx((q * np.log(q / p)).sum(axis=1).mean(), rel=1e-6)
    largest = np.sort(p * np.log(p / q), axis=1)[:, -20:]
    assert attributes["kept_share"] == pytest.approx(np.maximum(largest, 0).sum() / kl.sum(), rel=1e-6)
    assert (attributes["n_tokens"], attributes["n_samples"], attributes["n_not_finite"]) == (480, 24, 0)
    assert attributes["tokens"] == "all"
    assert result["roles/kl"].values == pytest.approx([kl.mean()])
    assert result["positions/n"].values.tolist() == [24, 72, 288, 96]
    assert result["positions"]["position"].values.tolist() == [0, 1, 4, 16]


def test_contexts_end_with_what_gains(result: xr.DataTree) -> None:
    for theme in result["themes"].to_dataset().to_dataframe().itertuples():
        assert str(theme.contexts).partition(" → ")[2]
    p, q = planted()
    text, _, gaining = str(result["themes/contexts"].values[0, 0]).partition(" → ")
    ends = ["".join(TEXTS[IDS[start : i + 1]]) for i in range(480) for start in [max(i - 8, i - i % N_PLACES)]]
    place = ends.index(text)
    assert TEXTS[(p * np.log(p / q))[place].argmax()] == gaining


def test_every_variable_says_what_it_is(result: xr.DataTree) -> None:
    for node in result.children.values():
        assert node.to_dataset().data_vars
        for name, variable in node.to_dataset().data_vars.items():
            assert variable.attrs["long_name"], name
            assert variable.attrs["units"] == ("" if variable.dtype == object else "nat" if "kl" in str(name) else "1")


@pytest.mark.parametrize("suffix", ["zarr", "nc"])
def test_results_come_back_as_they_were_saved(result: xr.DataTree, tmp_path: Path, suffix: str) -> None:
    opened = open_result(save(result, tmp_path / f"result.{suffix}"))
    for name, node in result.children.items():
        xr.testing.assert_equal(opened[name].to_dataset(), node.to_dataset())
    assert opened.attrs["kl"] == result.attrs["kl"]


def test_only_measured_and_chosen_places_count(tmp_path: Path) -> None:
    p, q = planted()
    measured = SAMPLE % 2 == 0
    kl = (p * np.log(p / q)).sum(axis=1)
    run = planted_run(tmp_path, measured=measured)
    result = changes(run)
    assert result.attrs["kl_adapted_base"] == pytest.approx(kl[measured].mean(), rel=1e-6)
    assert result.attrs["n_samples"] == 12
    early = changes(run, tokens="first:5")
    here = measured & (np.arange(480) % N_PLACES < 5)
    assert early.attrs["kl_adapted_base"] == pytest.approx(kl[here].mean(), rel=1e-6)
    assert early.attrs["tokens"] == "first:5"


def test_a_beginning_that_samples_share_counts_once(tmp_path: Path) -> None:
    """Such as a system message, which isn't as many observations as there are samples."""
    p, q = planted()
    ids = IDS.reshape(N_SAMPLES, N_PLACES).copy()
    ids[3:, :5] = ids[3, :5]
    ids[5, :3] = ids[2, :3]
    ids[7, 10:] = ids[6, 10:]  # after another beginning
    rows = [tuple(row) for row in ids.tolist()]
    prefixes = [rows[k][: i + 1] for k in range(N_SAMPLES) for i in range(N_PLACES)]
    is_first = np.array([prefix not in prefixes[:k] for k, prefix in enumerate(prefixes)])
    n_repeated = (~is_first).sum()
    assert n_repeated >= 19 * 5 + 3
    result = changes(planted_run(tmp_path, ids=ids.ravel()))
    kl = (p * np.log(p / q)).sum(axis=1)
    assert result.attrs["kl_adapted_base"] == pytest.approx(kl[is_first].mean(), rel=1e-6)
    assert (result.attrs["n_tokens"], result.attrs["n_repeated"]) == (480 - n_repeated, n_repeated)


def test_an_equal_control_leaves_no_finding(tmp_path: Path) -> None:
    run = planted_run(tmp_path)
    result = changes(run, control=planted_run(tmp_path, "control"))
    assert result.attrs["control"].endswith("control.zarr")
    for node, label in (("tokens", "text"), ("forms", "form"), ("words", "word"), ("themes", "share")):
        assert findings(result, node, label) == []
    assert not result["choices"].sizes["change"]
    assert not result["roles/kl"].values.any()


@pytest.mark.parametrize(
    ("options", "name"),
    [({"lengths": [40] * 12}, "samples/id"), ({"ids": np.roll(IDS, 1)}, "tokens/token_id")],
)
def test_a_control_over_other_samples_is_refused(tmp_path: Path, options: Any, name: str) -> None:
    control = planted_run(tmp_path, "control", **options)
    with pytest.raises(StoreError, match=f"control .* differ in '{name}'; capture both over the same data"):
        changes(planted_run(tmp_path), control=control)


def test_tokens_that_were_captured_apart_make_no_word(tmp_path: Path) -> None:
    n, texts = 8, [" anti", "dote", "s", " x"]
    position = np.tile([1, 3, 4, 5, 6, 7], n)  # those at 0 and 2 aren't captured
    ids = np.where(np.repeat(np.arange(n), 6) % 2, 3, np.tile([0, 1, 2, 3, 3, 3], n))
    p, q = (random_distributions(np.random.default_rng(seed), 6 * n, len(texts)) for seed in (0, 1))
    tables = {"tokens": {"position": position}, "samples": {"length": [8] * n}}
    result = changes(store_changes(tmp_path / "r.zarr", p, q, lengths=[6] * n, ids=ids, texts=texts, tables=tables))
    assert sorted(result["previous"]["previous"].values) == [" anti", " x", "dote", "dotes"]
    assert sorted(result["words"]["word"].values) == ["anti", "dotes"]  # no sample is without x


def test_a_run_without_changes_is_refused(small: Any) -> None:
    with pytest.raises(StoreError, match="holds no next-token changes; capture it again with `--changes all`"):
        changes(small.run)


def test_a_run_that_is_not_measured_is_refused(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match=r"no place of .* is measured yet"):
        changes(planted_run(tmp_path, measured=SAMPLE < 0))


def test_an_adapter_that_changes_nothing_is_refused(tmp_path: Path) -> None:
    _, q = planted()
    run = store_changes(tmp_path / "run.zarr", q, q, lengths=[N_PLACES] * N_SAMPLES, ids=IDS, texts=list(TEXTS))
    with pytest.raises(StoreError, match=r"adapter 'default' .* changes no prediction at 480 measured places"):
        changes(run)


def test_without_a_real_change_there_are_no_findings() -> None:
    """The family-wise error of each table is at most .05, if P and Q are exchanged at random by sample.

    Of 60 runs at most 9 may have a finding: with an error of .05 more have one with a probability of .0005.
    """
    rng, n_findings, n_runs = np.random.default_rng(7), dict.fromkeys(("tokens", "forms", "words", "themes"), 0), 60
    bound = int(stats.binom.isf(1e-3, n_runs, 0.05))
    here, n = SAMPLE < 16, 16 * N_PLACES
    strata = np.arange(n) % N_PLACES // 4
    for seed in range(n_runs):
        q = random_distributions(rng, n, len(TEXTS))
        p = q * np.exp(rng.normal(size=len(TEXTS)) + rng.normal(size=q.shape))
        p, q = exchange_by_sample(p / p.sum(axis=1, keepdims=True), q, SAMPLE[here], rng)
        places = places_of(p, q, SAMPLE[here], seed=seed)
        words = first_words(TEXTS[rng.integers(0, 40, n)], np.arange(16) * N_PLACES, np.arange(1, 17) * N_PLACES)
        tables = {
            "tokens": token_shares([places], TEXTS)["p"],
            "forms": form_shares([places], TEXTS)["p"],
            "words": word_differences(places, places.values["kl_adapted_base"], strata, words)["p"],
            "themes": find_themes([places])["p"],
        }
        assert all(len(tables[name]) for name in ("tokens", "forms", "words"))
        for name, p_values in tables.items():
            n_findings[name] += bool((p_values <= 0.05).any())
    assert max(n_findings.values()) <= bound == 9, n_findings
