"""Importance: values against the definition, against exact KL where both are known, and who is measured."""

import numpy as np
import pytest
import xarray as xr
from scipy.special import log_softmax

from lorascope.analyze import importance
from lorascope.analyze.importance.importance import importance_by_sample
from lorascope.stores import StoreError

from ..conftest import KINDS, PASSES, Small


@pytest.fixture(scope="module")
def measured(make_small) -> Small:
    return make_small(importance=True)


def by_definition(stored: xr.Dataset, part: np.ndarray) -> tuple[float, float]:
    """Mean and standard error over samples of (sum of a part's gradients)^2 / (2 tokens), a mean over draws first."""
    g = stored["gradient"].values[:, part].astype(np.float64)
    by_pass = g.sum(axis=1) ** 2 / 2 / stored["n_tokens"].values
    by_sample = np.array([by_pass[sample == PASSES].mean() for sample in dict.fromkeys(PASSES)])
    return by_sample.mean(), by_sample.std(ddof=1) / np.sqrt(len(by_sample))


def test_every_part_is_the_squared_sum_of_its_gradients(measured: Small) -> None:
    tree, stored, table = importance(measured.run), measured.run.importance(), measured.run.components
    of = stored["component"].values
    parts = {
        "components": {path: of == i for i, path in enumerate(measured.run.component_paths)},
        "layers": {layer: table["layer"].values[of] == layer for layer in (0, 1)},
        "kinds": {kind: table["kind"].values[of] == kind for kind in sorted(KINDS)},
        "directions": {place: np.arange(len(of)) == place for place in range(len(of))},
    }
    for node, members in parts.items():
        (dim,) = tree[node].dims
        assert tree[node][dim].values.tolist() == list(members)
        expected = np.array([by_definition(stored, part) for part in members.values()])
        np.testing.assert_allclose(tree[node]["value"], expected[:, 0], rtol=1e-12)
        np.testing.assert_allclose(tree[node]["se"], expected[:, 1], rtol=1e-12)
        np.testing.assert_allclose(tree[node]["share"], expected[:, 0] / expected[:, 0].sum(), rtol=1e-12)
    directions = tree["directions"]
    assert directions["component"].values.tolist() == np.repeat(measured.run.component_paths, 2).tolist()
    assert directions["number"].values.tolist() == [0, 1] * len(measured.run)
    np.testing.assert_array_equal(directions["singular_value"], stored["singular_value"])
    assert tree["components"]["layer"].values.tolist() == table["layer"].values.tolist()
    lengths = (measured.run.samples["token_stop"] - measured.run.samples["token_start"]).values
    counts = {name: tree.attrs[name] for name in ("n_samples", "n_draws", "n_tokens", "adapter")}
    assert counts == {"n_samples": 5, "n_draws": 3, "n_tokens": lengths[[1, 3, 4, 9, 10]].sum(), "adapter": "default"}


def test_it_is_the_kl_of_a_small_change_of_logits() -> None:
    """Places whose logits change by small shifts; a place's gradient is its shift at the label minus its mean."""
    rng, sizes = np.random.default_rng(0), np.array([3, 40, 9])
    sample = np.repeat(np.arange(3), 4000)
    shifts = [0.05 * rng.normal(size=(n, 2, 7)) for n in sizes]  # (place, direction, token id)
    kl, gradient = [], np.zeros((len(sample), 2))
    for s, shift in enumerate(shifts):
        logits = rng.normal(size=(len(shift), 7))
        log_p, log_q = (log_softmax(values, axis=1) for values in (logits, logits - shift.sum(axis=1)))
        p = np.exp(log_p)
        kl.append((p * (log_p - log_q)).sum(axis=1).mean())
        for place in range(len(shift)):
            labels = rng.choice(7, p=p[place], size=4000)
            gradient[sample == s] += (shift[place][:, labels] - shift[place] @ p[place][:, None]).T
    stored = xr.Dataset(
        {"gradient": (("pass", "direction"), gradient), "sample": ("pass", sample), "n_tokens": ("pass", sizes[sample])}
    )
    found = importance_by_sample(stored, np.zeros(2, int))[:, 0]
    np.testing.assert_allclose(found, kl, rtol=0.09)  # four errors of 4,000 draws of a squared normal, sqrt(2 / 4000)
    apart = importance_by_sample(stored, np.arange(2)).sum(axis=1)
    assert (np.abs(apart / found - 1) > 0.2).any()  # directions of one place act together


def test_samples_weigh_alike_whatever_their_draws(measured: Small) -> None:
    stored = measured.run.importance().isel({"pass": [0, 1, 2, 3, 6, 14]})
    found = importance_by_sample(stored, np.zeros(stored.sizes["direction"], int))
    by_pass = stored["gradient"].values.astype(float).sum(axis=1) ** 2 / 2 / stored["n_tokens"].values
    np.testing.assert_allclose(found[:, 0], [by_pass[:3].mean(), *by_pass[3:]], rtol=1e-12)


def test_a_run_without_importance_says_what_it_needs(small: Small) -> None:
    with pytest.raises(StoreError, match="holds no importance; capture it again with `--importance"):
        importance(small.run)
