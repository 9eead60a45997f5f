from typing import Any

import numpy as np
import pytest

from lorascope.analyze.miub.miub import miub
from lorascope.analyze.miub.paper_readings import PRINTED, miub_readings

from ..conftest import divergence

LN2 = np.log(2)


def test_every_cell_is_its_definition(make_small: Any) -> None:
    small = make_small(is_weighted=True)
    cells = miub_readings(small.run)
    stops = small.run.samples["token_stop"].values
    alone = np.stack([divergence(b, small.delta[k] - b) for k, b in small.base.items()], axis=1)
    for states, js in (("lora", small.js()), ("delta alone", alone)):
        for unit, values in (("nat", js), ("bit", js / LN2), ("sqrt", np.sqrt(js))):
            spans = list(zip(small.starts, stops, strict=True))
            sums = np.array([(small.weight[a:b, None] * values[a:b]).sum() for a, b in spans])
            weights = np.array([small.weight[a:b].sum() for a, b in spans])
            expected = {"mean": sums / weights, "sum": sums, "last": values[stops - 1].sum(axis=1)}
            for tokens, samples in expected.items():
                cell = cells.sel(states=states, tokens=tokens, unit=unit)
                assert float(cell["miub"]) == pytest.approx(samples.mean(), rel=1e-5)
                assert float(cell["miub_se"]) == pytest.approx(samples.std(ddof=1) / np.sqrt(len(samples)), rel=1e-4)
    assert cells.sizes == {"states": 2, "tokens": 3, "unit": 3}


def test_the_first_cell_is_miub(make_small: Any) -> None:
    run = make_small().run
    cells = miub_readings(run)
    assert float(cells["miub"].sel(states="lora", tokens="mean", unit="nat")) == float(miub(run)["miub"])


def test_sizes_are_beside_the_papers(make_small: Any) -> None:
    cells = miub_readings(make_small().run)
    n = cells.attrs["n_components"]
    np.testing.assert_allclose(cells["per_component"] * n, cells["miub"])
    assert cells.attrs["printed_low"] == pytest.approx(1511.6 / 128)
    assert cells.attrs["printed_high"] == pytest.approx(3837.0 / 224)
    np.testing.assert_allclose(cells["times_low"] * cells["per_component"], 1511.6 / 128)
    assert all(low < high for low, high, _ in PRINTED.values())


def test_delta_alone_needs_states(make_small: Any) -> None:
    cells = miub_readings(make_small(states="none", js_share=1.0).run)
    assert np.isfinite(cells["miub"].sel(states="lora")).all()
    assert np.isnan(cells["miub"].sel(states="delta alone")).all()


def test_an_adapter_that_does_nothing_is_infinitely_far_off(make_small: Any) -> None:
    cells = miub_readings(make_small(zero=True).run).sel(states="lora")
    assert (cells["miub"] == 0).all()
    assert np.isposinf(cells["times_low"]).all()
