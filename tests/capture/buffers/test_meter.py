import time

import pytest

from lorascope.capture.buffers.meter import STAGES, Meter


def test_a_stage_within_another_counts_once() -> None:
    meter = Meter()
    with meter.timed("forward"):
        time.sleep(0.02)
        with meter.timed("copy"):
            time.sleep(0.05)
            with meter.timed("reduce"):
                time.sleep(0.1)
    seconds = meter.seconds
    assert 0.02 <= seconds["forward"] < 0.05 <= seconds["copy"] < 0.1 <= seconds["reduce"]
    shares = meter.shares()
    assert shares.keys() == set(STAGES)
    assert sum(shares.values()) == pytest.approx(1)


def test_what_runs_beside_the_pass_is_no_part_of_its_time() -> None:
    meter = Meter()
    meter.seconds |= {"forward": 3.0, "wait": 1.0, "encode": 8.0, "write": 2.0}
    assert meter.shares()["forward"] == 0.75
    assert meter.shares()["encode"] == 2.0
    assert Meter().shares() == dict.fromkeys(STAGES, 0.0)


@pytest.mark.parametrize(
    ("seconds", "expected"),
    [
        ({"forward": 3.0, "encode": 3.0}, "forward"),
        ({"forward": 3.0, "copy": 2.0, "reduce": 2.0}, "copy"),
        ({"forward": 3.0, "wait": 1.0, "encode": 3.0, "write": 2.0}, "encode"),
        ({"forward": 3.0, "wait": 1.0, "encode": 1.0, "write": 2.0}, "disk"),
        ({"forward": 3.0, "wait": 0.01, "encode": 1.0, "write": 2.0}, "forward"),
    ],
)
def test_bottleneck(seconds: dict[str, float], expected: str) -> None:
    meter = Meter()
    meter.seconds |= seconds
    assert meter.bottleneck() == expected
