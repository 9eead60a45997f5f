from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from lorascope.analyze.highlights import kl, role_means, swallowed, top_components, top_share
from lorascope.analyze.qualify import qualify
from lorascope.stores import StoreError

from .conftest import SWALLOWED, Small, as_of_old


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
    measured = small.run.reduction("swallowed").values
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
