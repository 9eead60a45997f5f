from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import xarray as xr
from scipy import stats

from lorascope.analyze.miub.compare_runs import group_runs, paired
from lorascope.analyze.miub.miub import miub
from lorascope.analyze.results.tree import result_tree
from lorascope.stores import pull


@pytest.fixture(scope="module")
def base(make_small: Any) -> xr.DataTree:
    return miub(make_small().run)


def like(base: xr.DataTree, *, run: str, rank: int, seed: int, shift: float = 0.0) -> xr.DataTree:
    """The same samples and components with other numbers."""
    rng = np.random.default_rng(seed)
    samples = base["samples"].to_dataset()
    values = samples["js"].values * rng.uniform(0.5, 1.5, samples["js"].shape) + shift
    samples = samples.assign(js=samples["js"].copy(data=values), miub=samples["miub"].copy(data=values.sum(axis=1)))
    tokens = base["tokens"].to_dataset().drop_vars("rank")
    found = result_tree(tokens.assign_coords(rank=("component", np.full(base.sizes["component"], rank))), samples)
    found.attrs = {**base.attrs, "run": run}
    return found


def with_labels(result: xr.DataTree, **labels: Any) -> xr.DataTree:
    found = result.copy()
    found["samples"] = xr.DataTree(result["samples"].to_dataset().assign_coords(labels))
    return found


def test_runs_by_their_properties(base: xr.DataTree) -> None:
    results = [
        like(base, run=run, rank=rank, seed=seed) for run, rank, seed in (("a", 8, 1), ("b", 16, 2), ("c", 8, 3))
    ]
    table = group_runs(results)
    assert table["run"].values.tolist() == ["a", "b", "c"]
    np.testing.assert_allclose(table["miub"], [float(r["miub"]) for r in results])
    np.testing.assert_allclose(table["miub_se"], [float(r["miub_se"]) for r in results])
    ranks = group_runs(results, ["rank"])
    pair = [float(results[0]["miub"]), float(results[2]["miub"])]
    assert ranks["rank"].values.tolist() == [8, 16]
    assert ranks["n_runs"].values.tolist() == [2, 1]
    np.testing.assert_allclose(ranks["miub"], [np.mean(pair), float(results[1]["miub"])])
    np.testing.assert_allclose(ranks["miub_sd"], [np.std(pair, ddof=1), np.nan])
    spread = np.std(pair, ddof=1)
    np.testing.assert_allclose(ranks["miub_se"], [spread / np.sqrt(2), float(results[1]["miub_se"])])
    assert ranks["n_samples"].values.tolist() == [24, 12]


def test_what_isnt_finite_is_never_averaged_away(base: xr.DataTree) -> None:
    bad = like(base, run="bad", rank=8, seed=1)
    bad["samples/js"].values[0] = np.nan
    bad["miub"] = bad["miub"] * np.nan
    good = like(base, run="good", rank=8, seed=2)
    assert np.isnan(group_runs([bad, good], ["rank"])["miub"].values).all()
    assert np.isnan(group_runs([bad, good], ["rank", "kind"])["miub"].values).all()
    table = group_runs([bad, good])
    assert np.isnan(table["miub"].values).tolist() == [True, False]
    assert table["n_runs"].values.tolist() == [1, 1]


def test_groups_that_one_run_lacks(base: xr.DataTree) -> None:
    one = like(base, run="one", rank=8, seed=1)
    two = like(base, run="two", rank=8, seed=2)
    one, two = (with_labels(r, length=("sample", [50] * 6 + [n] * 6)) for r, n in ((one, 1050), (two, 150)))
    table = group_runs([one, two], ["length"])
    assert table["length"].values.tolist() == ["1-100", "101-200", "1001-1100"]
    assert table["n_runs"].values.tolist() == [2, 1, 1]
    assert np.isfinite(table["miub_se"].values).all()


def test_nothing_and_the_same_twice_are_refused(base: xr.DataTree) -> None:
    with pytest.raises(ValueError, match="`results` is empty"):
        group_runs([])
    with pytest.raises(ValueError, match="is given twice; give each run and adapter once"):
        group_runs([base, base])


def test_pairs_by_keys_whose_combinations_only_one_result_has(base: xr.DataTree) -> None:
    """A combination that only one of them holds counts as 0 in the other; one that neither holds is NaN."""
    nodes = [base[name].to_dataset().drop_vars(["kind", "layer"]) for name in ("tokens", "samples")]
    first, second = (
        result_tree(*(node.isel(component=places).assign_coords(labels) for node in nodes))
        for places, layers in (([0, 1], [0, 0]), ([0, 2], [0, 1]))
        for labels in [{"kind": ("component", ["q", "k"]), "layer": ("component", layers)}]
    )
    first.attrs = second.attrs = base.attrs
    found = paired(first, second, ["layer", "kind"])["difference"]
    js = base["samples/js"].values.mean(axis=0)
    expected = {(0, "q"): 0.0, (0, "k"): -js[1], (1, "k"): js[2], (1, "q"): np.nan}
    for (layer, kind), value in expected.items():
        np.testing.assert_allclose(found.sel(layer=layer, kind=kind), value, atol=1e-15)


def test_pairs_are_the_usual_tests(base: xr.DataTree) -> None:
    other = like(base, run="b", rank=8, seed=4, shift=0.001)
    found = paired(base, other)
    a, b = base["samples/miub"].values, other["samples/miub"].values
    assert int(found["n_samples"]) == len(a)
    assert float(found["difference"]) == pytest.approx((b - a).mean())
    test = stats.ttest_rel(b, a)
    assert (float(found["t"]), float(found["p_t"])) == pytest.approx((test.statistic, test.pvalue))
    assert float(found["p_wilcoxon"]) == pytest.approx(stats.wilcoxon(b - a).pvalue)
    assert found.attrs["second"].startswith("b")


@pytest.mark.parametrize("by", [["component"], ["kind"], ["layer", "kind"]])
def test_pairs_by_component(base: xr.DataTree, by: list[str]) -> None:
    other = like(base, run="b", rank=8, seed=4)
    found = paired(base, other, by)
    assert set(found["difference"].dims) == set(by)
    total = paired(base, other)
    assert float(found["difference"].sum()) == pytest.approx(float(total["difference"]))
    p = found["p_t"].values.ravel()
    np.testing.assert_allclose(found["p_adjusted"].values.ravel(), stats.false_discovery_control(p))


def test_only_shared_samples_and_components_are_paired(base: xr.DataTree) -> None:
    other = like(base, run="b", rank=8, seed=4)
    fewer = other.isel(sample=slice(3, None)).isel(component=slice(1, None))
    found = paired(base, fewer, ["component"])
    assert int(found["n_samples"]) == base["samples"].sizes["sample"] - 3
    first = base["component"].values[0]
    gone = found["difference"].sel(component=first)
    assert float(gone) == pytest.approx(-base["samples/js"].values[3:, 0].mean())


def test_equal_results_differ_by_nothing(base: xr.DataTree) -> None:
    found = paired(base, base)
    assert float(found["difference"]) == 0
    assert np.isnan(float(found["p_wilcoxon"]))
    assert np.isnan(float(found["t"]))


def test_what_cant_be_compared_is_refused(base: xr.DataTree, make_small: Any) -> None:
    bits = miub(make_small().run, unit="bit")
    with pytest.raises(ValueError, match="results of different units can't be compared: \\['bit', 'nat'\\]"):
        paired(base, bits)
    with pytest.raises(ValueError, match="share 1 whole samples; at least 2 must be in both"):
        paired(base, base.isel(sample=[0]))
    with pytest.raises(ValueError, match="paired differences are grouped by"):
        paired(base, base, ["dataset"])
    with pytest.raises(ValueError, match="paired differences are grouped by"):
        paired(base, base, ["rank"])
    twice = with_labels(base, sample=["x"] * base["samples"].sizes["sample"])
    with pytest.raises(ValueError, match="several samples of .* share a name"):
        paired(twice, base)


def with_texts(result: xr.DataTree, texts: Mapping[int, str], role: str = "prompt") -> xr.DataTree:
    """The result with other texts of some tokens, and one role of all."""
    found, tokens = result.copy(), result["tokens"].to_dataset()
    words = tokens["text"].values.copy()
    words[list(texts)] = list(texts.values())
    roles = np.full(len(words), role, object)
    tokens = tokens.drop_vars("role").assign_coords(text=("token", words), role=("token", roles))
    found["tokens"] = xr.DataTree(tokens)
    return found


def test_what_has_a_samples_name_and_other_tokens_is_no_pair_of_it(base: xr.DataTree) -> None:
    """As where a line was put into a file whose items have no ids."""
    other = like(base, run="b", rank=8, seed=4)
    changed = with_texts(other, {7: " another"})
    name, position = base["tokens/sample"].values[7], int(base["tokens/position"].values[7])
    words = f"sample '{name}' of 'facts' isn't the same text in both: at position {position} .* has ' word', .* ' anoth"
    with pytest.raises(ValueError, match=words):
        paired(base, changed)
    whole = float(paired(base, other)["difference"])
    generated = with_texts(other, {7: " another"}, role="generated")
    assert float(paired(base, generated)["difference"]) == whole
    others = changed.copy()
    others.attrs = {**changed.attrs, "tokenizer": "another"}
    assert float(paired(base, others)["difference"]) == whole


@pytest.mark.parametrize("reduction", ["mean", "sum", "answer", "last"])
def test_means_over_other_kinds_of_tokens_are_not_compared(make_small: Any, reduction: Any) -> None:
    """Where all tokens were captured of one run and the answers alone of the other."""
    runs = [make_small(attributes={"provenance": {"population": one}}).run for one in ("all tokens", "the answer's")]
    results = [miub(run, reduction=reduction) for run in runs]
    for compare in (lambda: paired(*results), lambda: group_runs(results)):
        if reduction in ("answer", "last"):
            assert compare().attrs["units"] == "nat"
            continue
        words = "about different tokens can't be compared: all tokens, the answer's; all have the reduction 'answer': "
        with pytest.raises(ValueError, match=words):
            compare()


def test_a_copy_of_some_tokens_is_not_compared_with_its_source(make_small: Any, tmp_path: Path) -> None:
    source = make_small(attributes={"provenance": {"population": "all tokens"}}).run
    answers = pull(source.path, tmp_path / "answers.zarr", tokens="answer")
    first = pull(source.path, tmp_path / "first.zarr", tokens="first:4")
    words = "can't be compared: all tokens, the tokens of the answer; all have the reduction 'answer': `lorascope miub"
    for compare in (paired, lambda *results: group_runs(results)):
        with pytest.raises(ValueError, match=words):
            compare(miub(source), miub(answers))
        assert compare(*(miub(run, reduction="answer") for run in (source, answers))).attrs["units"] == "nat"
        for reduction in ("mean", "last"):  # the last token that was captured is another one
            with pytest.raises(ValueError, match="tokens of each sequence; capture with the same `tokens`$"):
                compare(*(miub(run, reduction=reduction) for run in (source, first)))
