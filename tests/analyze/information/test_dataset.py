from collections.abc import Sequence

import numpy as np
import xarray as xr

from lorascope.analyze.information.dataset import MEANINGS, information_dataset
from lorascope.analyze.information.evidence import FIELDS
from lorascope.analyze.information.pairs import Settings
from lorascope.analyze.information.plan import Unit
from lorascope.analyze.information.verdict_rules import VERDICTS

NAMES = ("ksg1", "panel", "gaussian")


def dataset(records: np.ndarray, *, unit: Unit = "nat", dims: Sequence[str] = ()) -> xr.Dataset:
    return information_dataset(records, NAMES, Settings(k=5), unit=unit, n_shuffles=3, dims=dims)


def some_records(*shape: int) -> np.ndarray:
    records = np.random.default_rng(0).normal(size=(*shape, len(NAMES), len(FIELDS)))
    records[..., FIELDS.index("verdict")] = np.arange(len(NAMES))
    return records


def test_fields_are_variables_over_estimators() -> None:
    records = some_records()
    result = dataset(records, unit="nat")
    assert tuple(result.data_vars) == FIELDS
    assert result.sizes == {"estimator": 3}
    assert result["estimator"].values.tolist() == list(NAMES)
    for place, field in enumerate(FIELDS[:-1]):
        np.testing.assert_array_equal(result[field], records[:, place])
    assert result["verdict"].values.tolist() == list(VERDICTS[:3])


def test_every_number_has_its_unit_and_its_meaning() -> None:
    for unit in ("nat", "bit"):
        result = dataset(some_records(), unit=unit)
        for field in FIELDS:
            assert result[field].attrs["long_name"] == MEANINGS[field]
            expected = None if field == "verdict" else "1" if field == "p" else unit
            assert result[field].attrs.get("units") == expected


def test_bits_are_nats_over_ln_2_but_for_probabilities() -> None:
    in_nats, in_bits = (dataset(some_records(), unit=unit) for unit in ("nat", "bit"))
    for field in FIELDS[:-1]:
        scale = 1.0 if field == "p" else np.log(2)
        np.testing.assert_allclose(in_bits[field] * scale, in_nats[field], rtol=1e-15)
    assert in_bits["verdict"].equals(in_nats["verdict"])


def test_where_nothing_was_estimated_there_is_no_verdict() -> None:
    records = some_records(2)
    records[1] = np.nan
    result = dataset(records, unit="nat", dims=("component",))
    assert result["verdict"].values[1].tolist() == ["", "", ""]
    assert result["value"][1].isnull().all()


def test_attributes_say_how_it_was_made() -> None:
    attrs = dataset(some_records()).attrs
    assert (attrs["units"], attrs["k"], attrs["seed"], attrs["n_shuffles"], attrs["p_floor"]) == ("nat", 5, 0, 3, 0.25)
