import math

import numpy as np
import pytest
import xarray as xr

from lorascope.analyze import mutual_information
from lorascope.analyze.information import sufficient_rows
from lorascope.analyze.information.evidence import VERDICT_FIELDS, verdict

NAN = math.nan
FIELDS = dict.fromkeys(VERDICT_FIELDS, NAN) | {
    "value": 1.0,
    "se": 0.01,
    "half": 1.0,
    "quarter": 1.0,
    "low": 1,
    "high": 1,
}
DRIFTING = FIELDS | {"quarter": 0.8, "low": 0.95, "high": 1.05}
WIDE = FIELDS | {"low": 0.6, "high": 1.1}
HALVES = FIELDS | {"half": 1.1, "quarter": NAN}


def made(names: list[str], fields: list[dict[str, float]], *, unit: str = "nat") -> xr.Dataset:
    """A result of 1000 rows with these fields, and the verdicts on them."""
    scale = {"nat": 1.0, "bit": 1 / math.log(2)}[unit]
    columns = {field: ("estimator", [each[field] * scale for each in fields]) for field in VERDICT_FIELDS}
    verdicts = np.array([verdict("ok", **each) for each in fields], object)
    coords = {"estimator": np.array(names, object)}
    return xr.Dataset(columns | {"verdict": ("estimator", verdicts)}, coords, {"units": unit, "n": 1000})


def shrunk(fields: dict[str, float], times: float) -> dict[str, float]:
    """The fields with all distances from the value, and its error, as they are with `times` the rows."""
    value = fields["value"]
    moved = {field: value + (fields[field] - value) / math.sqrt(times) for field in ("half", "quarter", "low", "high")}
    return fields | moved | {"se": fields["se"] / math.sqrt(times)}


@pytest.mark.parametrize("fields", [DRIFTING, WIDE, HALVES])
@pytest.mark.parametrize("unit", ["nat", "bit"])
def test_so_many_rows_just_do_by_the_rules_of_the_verdict(fields: dict[str, float], unit: str) -> None:
    (rows,) = sufficient_rows(made(["ksg_copula"], [fields], unit=unit)).values
    assert rows > 1000
    assert verdict("ok", **shrunk(fields, 0.98 * rows / 1000)) == "undersampled"
    assert verdict("ok", **shrunk(fields, 1.02 * rows / 1000)) == "ok"


def test_a_panel_needs_what_its_largest_member_needs() -> None:
    names = ["ksg_copula", "cca_ksg", "panel"]
    drifting, steady, panel = sufficient_rows(
        made(names, [DRIFTING, shrunk(FIELDS | {"value": 0.9}, 1e9), WIDE])
    ).values
    assert (drifting, panel) == (pytest.approx(81000), pytest.approx(81000))  # (0.2 - 0.02) / 0.02 = 9
    assert math.isnan(steady)
    by_itself = sufficient_rows(made(names, [DRIFTING | {"value": 0.5, "quarter": 0.4}, FIELDS, WIDE])).values[-1]
    assert by_itself == pytest.approx(16000)  # 0.4 / (a tenth of 1)


def test_a_capture_of_so_many_rows_is_sampled_enough() -> None:
    def measured(n: int, seed: int) -> xr.Dataset:
        rng = np.random.default_rng(seed)
        x = rng.normal(size=(n, 1))
        return mutual_information(x, x**2 + 0.3 * rng.normal(size=(n, 1)), estimator="ksg_copula", n_shuffles=4)

    few = measured(300, seed=0)
    assert few["verdict"].item() == "undersampled"
    rows = int(sufficient_rows(few).item())
    assert 600 < rows < 10_000
    assert measured(rows, seed=50)["verdict"].item() == "ok"


def test_other_verdicts_and_too_few_rows_have_none() -> None:
    few = FIELDS | {"half": NAN, "quarter": NAN, "se": NAN}
    result = made(["ksg_copula", "ksg1"], [few, FIELDS])
    assert result["verdict"].values.tolist() == ["undersampled", "ok"]
    assert np.isnan(sufficient_rows(result)).all()
    assert sufficient_rows(made(["gaussian"], [WIDE])).values == 1000  # no width is asked of what can't be `ok`
