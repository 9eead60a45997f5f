import math
from typing import Any

import pytest

from lorascope.analyze.information.evidence import (
    AGREEMENT,
    DRIFT,
    GROWTH,
    NEAR_CEILING,
    panel_verdicts,
    verdict,
)

NAN = math.nan
STEADY: dict[str, float] = {"value": 1.0, "se": 0.01, "half": 1.0, "quarter": 1.0, "eighth": 1.0, "ceiling": NAN}
LN2, LN4 = math.log(2), math.log(4)


@pytest.mark.parametrize("says", ["ok", "lower bound only", "assumes Gaussian"])
def test_a_steady_estimate_is_what_its_estimator_says(says: str) -> None:
    assert verdict(says, **STEADY) == says
    assert verdict(says, **STEADY | {"ceiling": 8.0}) == says


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        # infinite, in a part too
        ({"value": math.inf, "se": NAN}, "saturated"),
        ({"half": math.inf}, "saturated"),
        ({"quarter": math.inf}, "saturated"),
        ({"eighth": math.inf}, "saturated"),
        # at its ceiling
        ({"ceiling": 1 / NEAR_CEILING}, "saturated"),
        ({"ceiling": 1.01 / NEAR_CEILING}, "ok"),
        ({"ceiling": 1.0, "half": NAN, "quarter": NAN, "eighth": NAN, "se": NAN}, "saturated"),
        # half way up, and growing with the logarithm of the rows
        ({"ceiling": 2.0, "quarter": 1 - 1.001 * GROWTH * LN4}, "saturated"),
        ({"ceiling": 2.0, "quarter": 1 - 0.999 * GROWTH * LN4}, "undersampled"),
        ({"ceiling": 2.001, "quarter": 1 - 1.001 * GROWTH * LN4}, "undersampled"),
        ({"ceiling": 2.0, "half": 1 - 1.001 * GROWTH * LN2, "quarter": NAN}, "saturated"),
        ({"ceiling": 2.0, "half": 1 - 0.999 * GROWTH * LN2, "quarter": NAN}, "undersampled"),
        ({"quarter": 1 - 1.001 * GROWTH * LN4}, "undersampled"),
        # moved beyond the noise, up or down
        ({"quarter": 1 - 1.01 * (DRIFT + 0.02)}, "undersampled"),
        ({"quarter": 1 + 1.01 * (DRIFT + 0.02)}, "undersampled"),
        ({"quarter": 1 - 0.99 * (DRIFT + 0.02)}, "ok"),
        ({"quarter": 1 + 0.99 * (DRIFT + 0.02)}, "ok"),
        ({"half": 0.5, "eighth": 2.0}, "ok"),
        ({"half": 1.05, "quarter": NAN, "eighth": NAN}, "undersampled"),
        ({"half": 1.03, "quarter": NAN, "eighth": NAN}, "ok"),
        # too wide to tell
        ({"low": 0.89, "high": 1.11}, "undersampled"),
        ({"low": 0.91, "high": 1.09}, "ok"),
        ({"value": 0.1, "half": 0.1, "quarter": 0.1, "eighth": 0.1, "low": 0.04, "high": 0.16}, "undersampled"),
        ({"value": 0.1, "half": 0.1, "quarter": 0.1, "eighth": 0.1, "low": 0.06, "high": 0.14}, "ok"),
        ({"low": 0.98, "high": 1.11}, "undersampled"),
        ({"low": 0.89, "high": 1.02}, "undersampled"),
        # too few rows to know
        ({"half": NAN, "quarter": NAN, "eighth": NAN, "se": NAN}, "undersampled"),
        ({"se": NAN}, "undersampled"),
    ],
)
def test_each_rule_has_its_word(changes: dict[str, float], expected: str) -> None:
    assert verdict("ok", **STEADY | changes) == expected
    # What more rows would change comes before what they wouldn't; the interval of a bound may be wide.
    weaker = "lower bound only" if expected == "ok" or "low" in changes else expected
    assert verdict("lower bound only", **STEADY | changes) == weaker


@pytest.mark.parametrize(
    ("members", "own", "expected"),
    [
        ({"a": 1.0, "b": 0.99}, "ok", {"panel": "ok"}),
        ({"a": 0.5, "b": 1.0, "c": 0.98}, "ok", {"a": "lower bound only", "panel": "ok"}),
        # who sees everything is the largest, or comes as near
        ({"a": 1.0, "b": (0.5, "undersampled")}, "ok", {"panel": "ok"}),
        ({"a": 1 - 0.99 * (AGREEMENT + 0.02), "b": (1.0, "lower bound only")}, "ok", {"panel": "ok"}),
        (
            {"a": 1 - 1.01 * (AGREEMENT + 0.02), "b": (1.0, "lower bound only")},
            "ok",
            {"a": "lower bound only", "panel": "lower bound only"},
        ),
        ({"a": (1.0, "lower bound only"), "b": (0.99, "lower bound only")}, "ok", {"panel": "lower bound only"}),
        # what is wrong with the largest, or with the panel itself
        ({"a": (1.0, "saturated"), "b": 0.99}, "ok", {"panel": "saturated"}),
        ({"a": (1.0, "undersampled"), "b": 0.5}, "ok", {"b": "lower bound only", "panel": "undersampled"}),
        ({"a": 1.0, "b": 0.99}, "undersampled", {"panel": "undersampled"}),
        (
            {"a": (math.inf, "saturated"), "b": (math.inf, "saturated"), "c": 4.0},
            "saturated",
            {"c": "lower bound only", "panel": "saturated"},
        ),
    ],
)
def test_members_of_the_panel_correct_each_other(members: dict[str, Any], own: str, expected: dict[str, str]) -> None:
    values = {name: (given[0] if isinstance(given, tuple) else given, 0.01) for name, given in members.items()}
    verdicts = {name: given[1] if isinstance(given, tuple) else "ok" for name, given in members.items()}
    assert panel_verdicts(values, verdicts, own) == expected


def test_a_largest_member_of_unknown_error_is_taken_at_its_word() -> None:
    members = {"a": (1.0, NAN), "b": (1 - 1.01 * AGREEMENT, 0.01)}
    found = panel_verdicts(members, {"a": "lower bound only", "b": "ok"})
    assert found == {"b": "lower bound only", "panel": "lower bound only"}
