import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import xarray as xr
from safetensors.numpy import save_file
from scipy.stats import rankdata, spearmanr

from lorascope.analyze import adapter_report, compare_measures, importance
from lorascope.analyze.adapters.factors import hash_adapter
from lorascope.analyze.fits.resampling import basic_interval, group_draws, percentile_interval
from lorascope.analyze.importance.compare_measures import (
    COMPARED_MEASURES,
    ablation_by_part,
    correlate,
    rank_correlation,
)
from lorascope.stores import Run, StoreError, open_run

from ..conftest import ABLATED, Small

KINDS = np.repeat([0, 1, 2, 0, 1, 2], 10)


def tables_of(seed: int, *, n_samples: int = 12, n: int = 60, noise: float = 0.3, tie: float = 0.6) -> dict[str, Any]:
    """Positive tables (sample, component), two with ties in logarithms, and their true correlation."""
    rng = np.random.default_rng(seed)
    first, second = rng.normal(size=(2, n))
    logs = {"ablation": first, "js": tie * first + np.sqrt(1 - tie**2) * second}
    logs |= {name: rng.normal(size=n) for name in ("js_permuted", "delta_ratio", "effective_width")}
    shared = rng.normal(size=(n_samples, 1)) / 2
    made = {name: np.exp(log + shared + noise * rng.normal(size=(n_samples, n))) for name, log in logs.items()}
    return {"tables": made, "truth": spearmanr(logs["js"], first)[0]}


def found_of(tables: Mapping[str, np.ndarray], n_draws: int = 100, **fixed: np.ndarray) -> Any:
    n, width = tables["ablation"].shape
    draws = group_draws(n, n_draws, np.random.default_rng(0))
    fixed = {"depth": np.arange(width) // 3.0, "weight_norm": np.full(width, np.nan)} | fixed
    return correlate(tables, fixed, np.resize(KINDS, width), draws)


def test_correlations_are_scipys_of_the_means() -> None:
    tables = tables_of(1)["tables"]
    found = found_of(tables, weight_norm=np.arange(60.0))
    means = {name: table.mean(axis=0) for name, table in tables.items()} | {"weight_norm": np.arange(60.0)}
    means |= {"js_over_permuted": means["js"] / means["js_permuted"], "depth": np.arange(60) // 3}
    for name in COMPARED_MEASURES:
        one = found.sel(measure=name)
        assert float(one["spearman"]) == pytest.approx(spearmanr(means[name], means["ablation"])[0], abs=1e-12)
        np.testing.assert_allclose(one["value"], means[name])
    np.testing.assert_allclose(found["ablation"], means["ablation"])
    np.testing.assert_allclose(found["ablation_se"], tables["ablation"].std(axis=0, ddof=1) / np.sqrt(12))


def test_partial_takes_off_what_kinds_alone_explain() -> None:
    rng = np.random.default_rng(2)
    level = 100.0 * KINDS  # far above what varies within a kind
    first, second = level + rng.normal(size=(2, 60))
    whole, partial = (rank_correlation(first[None], second[None], one)[0] for one in (np.zeros(60, int), KINDS))
    assert whole > 0.85
    assert abs(partial) < 0.3
    ranks = np.stack([rankdata(first), rankdata(second)])
    for kind in range(3):
        ranks[:, kind == KINDS] -= ranks[:, kind == KINDS].mean(axis=1, keepdims=True)
    assert partial == pytest.approx(np.corrcoef(ranks)[0, 1])


def test_what_does_not_vary_has_no_correlation() -> None:
    some = np.random.default_rng(3).normal(size=(1, 60))
    assert np.isnan(rank_correlation(some, np.ones((1, 60)), KINDS))
    assert np.isnan(rank_correlation(some, KINDS[None].astype(float), KINDS))  # within kinds
    assert not np.isnan(rank_correlation(some, KINDS[None].astype(float), np.zeros(60, int)))


def test_a_measure_that_misleads_is_told() -> None:
    """Js that grows where few features share the mass, and an ablation that doesn't."""
    rng = np.random.default_rng(4)
    ablation, width = np.exp(rng.normal(size=(2, 60)))
    rows = np.exp(0.1 * rng.normal(size=(20, 60)))
    tables = {"ablation": ablation * rows, "js": ablation / width**2, "effective_width": width}
    tables |= {"delta_ratio": ablation, "js_permuted": np.ones(60)}
    found = found_of({name: table * np.ones((20, 1)) for name, table in tables.items()})
    assert float(found["spearman_low"].sel(measure="delta_ratio")) > float(found["spearman_high"].sel(measure="js"))


def test_intervals_cover_the_truth_where_percentiles_do_not() -> None:
    """Noise of samples takes ranks apart, and a draw has more of it than what it is drawn from."""
    whole, draws = np.zeros(200, int), group_draws(20, 200, np.random.default_rng(0)).counts / 20
    within = []
    for seed in range(100):
        made = tables_of(seed, n_samples=20, n=200, noise=0.6)
        js, ablation = (made["tables"][name] for name in ("js", "ablation"))
        r = float(rank_correlation(js.mean(axis=0)[None], ablation.mean(axis=0)[None], whole)[0])
        drawn = rank_correlation(draws @ js, draws @ ablation, whole)
        ends = basic_interval(r, drawn, 0.95), percentile_interval(drawn, 0.95)
        within.append([low <= made["truth"] <= high for low, high in ends])
    basic, percentile = np.mean(within, axis=0)
    assert basic >= 0.85
    assert percentile < 0.5


def test_what_is_not_known_is_nan_and_takes_nothing_along() -> None:
    tables = tables_of(5)["tables"]
    tables["js_permuted"][:] = np.nan
    found = found_of(tables)
    unknown = ["js_permuted", "js_over_permuted", "weight_norm"]
    for name in ("spearman", "spearman_low", "partial_high"):
        assert np.isnan(found[name].sel(measure=unknown)).all()
        assert np.isfinite(found[name].drop_sel(measure=unknown)).all()


def test_a_component_at_which_a_measure_is_not_known_is_left_out_of_its_correlations() -> None:
    tables = tables_of(3)["tables"]
    tables["js_permuted"][:, 4] = 0  # js over it isn't known
    tables["delta_ratio"][3, 7] = np.inf
    found = found_of(tables)
    means = {name: table.mean(axis=0) for name, table in tables.items()}
    for name, values, out in (
        ("js_over_permuted", means["js"] / np.maximum(means["js_permuted"], 1e-9), 4),
        ("delta_ratio", means["delta_ratio"], 7),
    ):
        expected = spearmanr(np.delete(values, out), np.delete(means["ablation"], out))[0]
        assert float(found["spearman"].sel(measure=name)) == pytest.approx(expected, abs=1e-12)
        assert np.isfinite(found["partial_low"].sel(measure=name))
    whole = spearmanr(means["js"], means["ablation"])[0]
    assert float(found["spearman"].sel(measure="js")) == pytest.approx(whole, abs=1e-12)


def test_one_sample_has_no_intervals() -> None:
    found = found_of(tables_of(6, n_samples=1)["tables"])
    assert np.isfinite(found["spearman"].sel(measure=["js", "depth"])).all()
    assert np.isnan(found["spearman_low"]).all()
    assert np.isnan(found["ablation_se"]).all()


@pytest.mark.parametrize("options", [{}, {"is_weighted": True}, {"states": "none"}, {"stream": "pair"}])
def test_a_runs_numbers_are_means_over_ablated_samples(
    make_small: Callable[..., Small], options: dict[str, Any]
) -> None:
    small = make_small(ablate="components", **options)
    found = compare_measures(small.run, n_draws=100)
    used = np.arange(12) % ABLATED == 0
    js = small.by_sample(small.js())[used]
    ablation = small.by_sample(small.run.ablation().values)[used]
    np.testing.assert_allclose(found["value"].sel(measure="js"), js.mean(axis=0), rtol=1e-5)
    np.testing.assert_allclose(found["ablation"], ablation.mean(axis=0), rtol=1e-6)
    r = spearmanr(js.mean(axis=0), ablation.mean(axis=0))[0]
    assert float(found["spearman"].sel(measure="js")) == pytest.approx(r)
    assert (found.attrs["n_samples"], found.attrs["n_draws"]) == (6, 100)
    assert found.attrs["n_tokens"] == np.isfinite(small.run.ablation().values[:, 0]).sum()
    assert tuple(found["component"].values) == small.run.component_paths
    unknown = ["js_permuted", "js_over_permuted", "weight_norm"] if "states" in options else ["weight_norm"]
    assert np.isnan(found[["value", "spearman"]].sel(measure=unknown).to_array()).all()
    assert np.isfinite(found["value"].drop_sel(measure=unknown)).all()


def test_an_unfinished_sample_is_left_out(make_small: Callable[..., Small], monkeypatch: pytest.MonkeyPatch) -> None:
    small = make_small(ablate="components")
    ablation = small.run.ablation().compute()
    ablation[small.starts[0], 2] = np.nan
    monkeypatch.setattr(Run, "ablation", lambda run, adapter=None: ablation.chunk())
    assert compare_measures(small.run, n_draws=100).attrs["n_samples"] == 5
    monkeypatch.setattr(Run, "ablation", lambda run, adapter=None: (np.nan * ablation).assign_attrs(ablation.attrs))
    with pytest.raises(StoreError, match="no sample of '.*run.zarr' is completely ablated yet; capture more of it"):
        compare_measures(small.run)


def test_runs_that_cannot_be_compared_say_what_they_need(small: Small, make_small: Callable[..., Small]) -> None:
    with pytest.raises(StoreError, match="holds no ablation; capture it again with `--ablate components`"):
        compare_measures(small.run)
    with pytest.raises(StoreError, match="has the ablation of 'layers'; only that of 'components' can be compared"):
        compare_measures(make_small(ablate="layers").run)
    with pytest.raises(ValueError, match="`n_draws` is 99; give a whole number of at least 100"):
        compare_measures(small.run, n_draws=99)


def write_adapter(folder: Path, paths: Sequence[str], *, seed: int = 0) -> None:
    rng = np.random.default_rng(seed)
    tensors = {
        f"base_model.model.{path}.lora_{part}.weight": rng.normal(size=shape).astype(np.float32)
        for path in paths
        for part, shape in (("A", (2, 8)), ("B", (24, 2)))
    }
    save_file(tensors, folder / "adapter_model.safetensors")
    settings = {"peft_type": "LORA", "r": 2, "lora_alpha": 1, "init_lora_weights": True}
    (folder / "adapter_config.json").write_text(json.dumps(settings))


def test_weights_give_their_norms(make_small: Callable[..., Small], tmp_path: Path) -> None:
    run = make_small(ablate="components").run
    write_adapter(tmp_path, run.component_paths)
    found = compare_measures(run, weights=tmp_path, n_draws=100)
    norms = adapter_report(tmp_path)["frobenius_norm"].sel(component=list(run.component_paths))
    np.testing.assert_array_equal(found["value"].sel(measure="weight_norm"), norms)
    assert np.isfinite(found["spearman_low"].sel(measure="weight_norm"))
    write_adapter(tmp_path, run.component_paths[:-1])
    with pytest.raises(
        ValueError, match=r"which has no weights of 'model.layers.1.down_proj'; give the captured adapter's folder"
    ):
        compare_measures(run, weights=tmp_path)


def test_weights_of_another_adapter_are_refused(make_small: Callable[..., Small], tmp_path: Path) -> None:
    run = open_run(make_small(ablate="components").run.path)
    write_adapter(tmp_path, run.component_paths)
    run.attributes["provenance"] = {"adapters": {"default": {"sha256": hash_adapter(tmp_path)}}}
    assert np.isfinite(compare_measures(run, weights=tmp_path, n_draws=100)["value"].sel(measure="weight_norm")).all()
    write_adapter(tmp_path, run.component_paths, seed=1)
    message = f"its hash is {hash_adapter(tmp_path)[:16]}, that of 'default' in '.*run.zarr' is [0-9a-f]{{16}}; give"
    with pytest.raises(ValueError, match=message):
        compare_measures(run, weights=tmp_path)


@pytest.mark.parametrize("options", [{}, {"is_weighted": True}, {"stream": "pair"}], ids=str)
@pytest.mark.parametrize("parts", ["components", "layers", "kinds"])
def test_ablation_is_a_mean_over_samples_that_were_ablated(
    make_small: Callable[..., Small], parts: str, options: dict[str, Any]
) -> None:
    small = make_small(ablate=parts, **options)
    result = ablation_by_part(small.run)
    assert result is not None
    values = small.by_sample(small.run.ablation().values)[np.arange(12) % ABLATED == 0]
    behind = values[:, [values.mean(axis=0).argmax()]] - values
    for name, by_sample in (("kl", values), ("behind", behind)):
        np.testing.assert_allclose(result[name], by_sample.mean(axis=0), rtol=1e-6, atol=1e-12)
        errors = by_sample.std(axis=0, ddof=1) / np.sqrt(6)
        np.testing.assert_allclose(result[f"{name}_se"], errors, rtol=1e-6, atol=1e-12)
    assert result["part"].values.tolist() == small.run.ablation()["part"].values.tolist()
    n_tokens = int(np.isfinite(small.run.ablation().values[:, 0]).sum())
    assert result.attrs == {"parts": parts, "n_samples": 6, "n_tokens": n_tokens}


def test_importance_is_compared_where_the_run_has_it(make_small: Callable[..., Small]) -> None:
    small = make_small(ablate="components", importance=True)
    result = compare_measures(small.run, n_draws=100)
    assert result["measure"].values.tolist() == [*COMPARED_MEASURES, "importance"]
    value = importance(small.run)["components"]["value"].values
    np.testing.assert_allclose(result["value"].sel(measure="importance"), value, rtol=1e-12)
    r = spearmanr(value, result["ablation"].values)[0]
    assert float(result["spearman"].sel(measure="importance")) == pytest.approx(r)
    without = compare_measures(make_small(ablate="components").run, n_draws=100)
    for name in ("spearman", "spearman_low", "partial_high"):
        xr.testing.assert_equal(result[name].drop_sel(measure="importance"), without[name])


def test_intervals_contain_the_error_of_importances_own_samples() -> None:
    made = tables_of(7, n_samples=12, noise=0.01)["tables"]  # ablation hardly varies between samples
    noisy = made["ablation"][0] * np.exp(np.random.default_rng(0).normal(size=(6, 60)))
    draws = group_draws(12, 200, np.random.default_rng(0))
    fixed = {"depth": np.arange(60) // 3.0, "weight_norm": np.full(60, np.nan)}
    r = spearmanr(noisy.mean(axis=0), made["ablation"].mean(axis=0))[0]
    widths = []
    for counts in (np.random.default_rng(1).multinomial(6, np.full(6, 1 / 6), 200), np.ones((200, 6), int)):
        result = correlate(made, fixed, KINDS, draws, (noisy, counts)).sel(measure="importance")
        assert float(result["spearman"]) == pytest.approx(r)
        widths.append(float(result["spearman_high"] - result["spearman_low"]))
    assert widths[0] > 4 * widths[1]
