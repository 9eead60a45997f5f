from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import xarray as xr

from lorascope.analyze.highlights import kl, role_means, swallowed, top_components, top_share
from lorascope.analyze.qualify import qualify
from lorascope.analyze.scores import Estimate, scores, scores_table
from lorascope.analyze.sizes import factor_saving, sizes
from lorascope.stores import StoreError, open_run

from .conftest import SWALLOWED, Small, as_of_old


def test_scores_of_choices(small: Small) -> None:
    table, found = small.run.samples, scores(small.run)
    assert [(s.dataset, s.measure, s.unit, s.n) for s in found] == [
        ("facts/test", "ACC", "%", 12),
        ("facts/test", "ACC per token", "%", 12),
        ("facts/test", "ACC per character", "%", 12),
        ("facts/test", "CE", "nat/token", 12),
    ]
    p, q = table["correct"].values.mean(), table["base_correct"].values.mean()
    assert found[0].adapted == pytest.approx((100 * p, 100 * (p * (1 - p) / 12) ** 0.5))
    assert found[0].base == pytest.approx((100 * q, 100 * (q * (1 - q) / 12) ** 0.5))
    ce = table["ce"].values - table["base_ce"].values
    assert found[3].change == pytest.approx((ce.mean(), ce.std(ddof=1) / 12**0.5))
    assert found[3].adapted.value == pytest.approx(table["ce"].values.mean())


def test_scores_of_text_weigh_windows_by_tokens(make_small: Callable[..., Small]) -> None:
    run = make_small(is_text=True).run
    found = {score.measure: score for score in scores(run)}
    weights = run.samples["length"].values - 1
    ce = np.average(run.samples["ce"].values, weights=weights)
    assert set(found) == {"CE", "PPL"}
    assert found["CE"].adapted.value == pytest.approx(ce)
    assert found["PPL"].adapted.value == pytest.approx(np.exp(ce))
    assert found["PPL"].base.value == pytest.approx(np.exp(np.average(run.samples["base_ce"].values, weights=weights)))
    assert found["PPL"].adapted.error == pytest.approx(np.exp(ce) * found["CE"].adapted.error)


def test_error_of_equal_windows_is_that_of_a_mean(make_small: Callable[..., Small]) -> None:
    run = make_small(is_text=True, n_tokens=5).run
    ce = run.samples["ce"].values
    assert scores(run)[0].adapted.error == pytest.approx(ce.std(ddof=1) / len(ce) ** 0.5)


def test_one_window_has_no_error(make_small: Callable[..., Small]) -> None:
    assert np.isnan(scores(make_small(is_text=True, n_samples=1).run)[0].adapted.error)


def test_unscored_runs_have_no_scores(make_small: Callable[..., Small]) -> None:
    for is_text in (True, False):
        run = make_small(is_scored=False, is_text=is_text).run
        assert scores(run) == []
        assert scores_table(run)[1] == []


def test_scores_without_the_base_model(many_rows: Path) -> None:
    for score in scores(open_run(many_rows)):
        assert np.isfinite(score.adapted.value)
        assert np.isnan([score.base.value, score.change.value]).all()


def test_scores_table_gives_units_and_signs(small: Small) -> None:
    columns, rows = scores_table(small.run)
    assert columns == ("data set", "measure", "n", "without adapter", "with adapter", "change")
    assert [row[:3] for row in rows][3] == ("facts/test", "CE (nat/token)", "12")
    gained = [score.change.value > 0 for score in scores(small.run)]
    assert [row[5].startswith("+") for row in rows] == gained
    assert "±" in rows[0][4]


def test_sizes_are_those_of_the_files(small: Small) -> None:
    found = {size.part: size for size in sizes(small.run)}
    n = small.run.n_tokens
    files = [f for f in small.run.path.rglob("*") if f.is_file()]
    assert found["base"].raw_bytes == n * 2 * (24 + 40 + 16) * 4
    assert found["factor"].raw_bytes == n * 12 * 4
    assert found["lora_B"].raw_bytes == 2 * (24 + 40 + 16) * 2 * 4
    assert found["js"].raw_bytes == found["reductions"].raw_bytes == n * 6 * 4  # js, and the share that was swallowed
    assert found["whole run"].stored_bytes == sum(f.stat().st_size for f in files)
    assert found["base"].stored_bytes == sum(
        f.stat().st_size for f in files if "states" in f.parts and "base" in f.parts
    )
    parts = [size for part, size in found.items() if part != "whole run"]
    assert sum(size.raw_bytes for size in parts) == found["whole run"].raw_bytes
    assert sum(size.stored_bytes for size in parts) == pytest.approx(found["whole run"].stored_bytes, rel=0.2)


def test_sizes_count_committed_rows(unfinished: Path, many_rows: Path) -> None:
    part, whole = ({s.part: s.raw_bytes for s in sizes(open_run(path))} for path in (unfinished, many_rows))
    assert part["base"] == pytest.approx(whole["base"] * (2500 - 1024) / 2500)
    assert whole["delta"] == 2500 * 64 * 4


def test_sizes_count_states_where_they_are(make_small: Callable[..., Small]) -> None:
    widths = 2 * (24 + 40 + 16)
    some = make_small(states="sample", state_rows=(False, True), n_tokens=120, kl_share=0.5).run
    found = {size.part: size.raw_bytes for size in sizes(some)}
    assert found["base"] == (1440 - 1024) * widths * 4
    assert found["factor"] == (1440 - 1024) * 12 * 4
    assert found["reductions"] == 1440 * (4 * 6 + 1) * 4
    assert factor_saving(some).plain_bytes == 2 * (1440 - 1024) * widths * 4
    none = {size.part: size.raw_bytes for size in sizes(make_small(states="none").run)}
    assert not {"base", "factor", "lora_B", "delta"} & set(none)
    pair = make_small(stream="pair").run
    found = {size.part: size.raw_bytes for size in sizes(pair)}
    assert found["adapted"] == found["base"] == pair.n_tokens * widths * 4
    assert factor_saving(pair).plain_bytes == 3 * pair.n_tokens * widths * 4


def test_factor_saving(small: Small, make_small: Callable[..., Small], many_rows: Path) -> None:
    n, widths = small.run.n_tokens, 2 * (24 + 40 + 16)
    found = factor_saving(small.run)
    assert (found.n_factored, found.n_whole) == (6, 0)
    assert found.factor_bytes == 4 * 2 * (6 * n + widths)
    assert found.delta_bytes == found.delta_float32_bytes == n * widths * 4
    assert found.plain_bytes == 2 * n * widths * 4
    half = factor_saving(make_small(dtype="bfloat16").run)
    assert (half.delta_bytes, half.delta_float32_bytes) == (n * widths * 2, n * widths * 4)
    mixed = factor_saving(open_run(many_rows))
    assert (mixed.n_factored, mixed.n_whole) == (3, 1)
    assert mixed.plain_bytes == 2 * 2500 * (40 + 24 + 64 + 32) * 4
    none = factor_saving(make_small(states="none").run)
    assert (none.factor_bytes, none.delta_bytes, none.plain_bytes) == (0, 0, 0)


def test_factor_saving_adds_adapters_up(make_small: Callable[..., Small]) -> None:
    found = factor_saving(make_small(adapters=("a", "b")).run)
    assert found.n_factored == 12
    assert found.plain_bytes == pytest.approx(1.5 * found.delta_bytes)


def test_top_components(small: Small) -> None:
    means = small.by_sample(small.js()).mean(axis=0)
    order = np.argsort(-means)
    found = top_components(qualify(small.run), 4)
    assert [c.component for c in found] == [small.run.component_paths[i] for i in order[:4]]
    np.testing.assert_allclose([c.js.value for c in found], means[order[:4]], rtol=1e-5)
    np.testing.assert_allclose(
        [c.cumulative_share for c in found], np.cumsum(means[order])[:4] / means.sum(), rtol=1e-5
    )
    assert top_share(qualify(small.run), 99) == pytest.approx(1)


def test_top_components_put_what_isnt_finite_last() -> None:
    qualified = xr.Dataset(
        {name: ("component", [np.nan, 0.0, 0.5]) for name in ("js_component", "js_component_se", "share")},
        coords={"component": ["a", "b", "c"]},
    )
    assert [c.component for c in top_components(qualified)] == ["c", "b", "a"]


@pytest.mark.parametrize("is_weighted", [False, True])
def test_role_means(make_small: Callable[..., Small], is_weighted: bool) -> None:
    small = make_small(is_weighted=is_weighted)
    total, roles = small.js().sum(axis=1), small.run.tokens["role"].values
    found = role_means(qualify(small.run))
    assert [(role.role, role.n_tokens) for role in found] == [("prompt", (roles == 0).sum()), ("answer", 24)]
    expected = np.average(total[roles == 2], weights=small.weight[roles == 2])
    assert found[1].mean == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize("is_weighted", [False, True])
def test_swallowed(make_small: Callable[..., Small], is_weighted: bool) -> None:
    small = make_small(is_weighted=is_weighted)
    found: Any = swallowed(small.run)
    measured = small.run.swallowed().values
    known = np.isfinite(measured[:, 0])
    assert 0 < known.sum() < small.run.n_tokens
    shares = np.average(measured[known], axis=0, weights=small.weight[known])
    assert (found.component, found.n_components) == ("model.layers.1.down_proj", 6)
    assert found.largest == pytest.approx(shares.max(), rel=1e-6)
    assert found.mean == pytest.approx(shares.mean(), rel=1e-6)


def test_swallowed_of_early_runs_and_of_what_wasnt_measured(make_small: Callable[..., Small], tmp_path: Path) -> None:
    old: Any = swallowed(as_of_old(make_small().run, tmp_path / "old.zarr", js_share=1.0))
    assert (old.mean, old.largest, old.n_components) == (SWALLOWED, SWALLOWED, 6)
    assert swallowed(make_small(js_share=0.0).run) is None


def test_swallowed_is_an_adapters_own(make_small: Callable[..., Small]) -> None:
    run = make_small(adapters=("a", "b")).run
    assert swallowed(run, "a") != swallowed(run, "b")
    with pytest.raises(StoreError, match="`adapter` isn't given"):
        swallowed(run)


@pytest.mark.parametrize("is_weighted", [False, True])
def test_kl_is_a_weighted_mean_over_measured_tokens(make_small: Callable[..., Small], is_weighted: bool) -> None:
    small = make_small(kl_share=0.6, is_weighted=is_weighted)
    values = small.run.reduction("kl").values
    known = np.isfinite(values)
    found: Any = kl(small.run)
    assert found.n_tokens == known.sum() < small.run.n_tokens
    assert found.mean == pytest.approx(np.average(values[known], weights=small.weight[known]), rel=1e-6)


def test_kl_is_none_where_it_wasnt_measured(make_small: Callable[..., Small]) -> None:
    assert kl(make_small().run) is None
    assert kl(make_small(kl_share=0.0).run) is None


def test_an_estimate_is_a_pair() -> None:
    assert Estimate(1.0, 2.0) == (1.0, 2.0)
