"""The stage that holds a capture up, by numbers whose answer is known."""

from dataclasses import replace

import pytest

from lorascope.capture.settling.costs import Costs

DEVICE = Costs(forward=4.0, measuring=1.0, copies=2.0, encoders=8.0, disk=3.0, n_cores=4, n_threads=0)
HOST = replace(DEVICE, n_threads=4)


@pytest.mark.parametrize(
    ("costs", "changes", "seconds", "limit"),
    [
        (DEVICE, {}, 5.0, "forward"),
        (DEVICE, {"measuring": 4.5}, 8.5, "measuring"),
        (DEVICE, {"copies": 5.5}, 5.5, "copies"),
        (DEVICE, {"encoders": 24.0}, 6.0, "encoders"),
        (DEVICE, {"disk": 5.5}, 5.5, "disk"),
        (HOST, {}, 7.0 + 8 / 4, "forward"),
        (HOST, {"encoders": 24.0}, 7.0 + 24 / 4, "encoders"),
        (HOST, {"copies": 5.0}, 10.0 + 8 / 4, "copies"),
        (HOST, {"disk": 9.5}, 9.5, "disk"),
        (HOST, {"n_threads": 1}, 7.0, "forward"),
        (HOST, {"n_threads": 1, "encoders": 24.0}, (7 + 24) / 4, "encoders"),
    ],
    ids=lambda value: str(value) if isinstance(value, dict) else None,
)
def test_what_there_is_least_of_is_the_limit(
    costs: Costs, changes: dict[str, float], seconds: float, limit: str
) -> None:
    changed = replace(costs, **changes)  # type: ignore[arg-type]
    assert changed.seconds == seconds
    assert changed.limit == limit


def test_costs_as_json() -> None:
    values = replace(DEVICE, disk=40.0).as_dict()
    assert values["stages"] == {"forward": 0.25, "measuring": 1.0, "copies": 0.5, "encoders": 0.5, "disk": 1 / 40}
    assert values["limit"] == "disk"
    assert values["tokens_per_second"] == 1 / 40
