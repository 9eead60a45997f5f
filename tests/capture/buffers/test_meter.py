import time

import pytest

from lorascope.capture.buffers.meter import Meter


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
