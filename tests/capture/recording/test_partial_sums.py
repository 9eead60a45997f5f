"""Measures by partial sums over processes."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

FLOAT32 = 6e-8
"""Relative error of a number that is rounded to float32 once; both sides are computed in float64."""


@pytest.mark.slow
def test_sums_over_two_processes_are_those_of_one() -> None:
    script = Path(__file__).with_name("shard_sums.py")
    launch = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", str(script)]
    done = subprocess.run(launch, capture_output=True, text=True, check=False, timeout=200)
    assert done.returncode == 0, done.stderr[-3000:]
    results = json.loads(done.stdout)
    assert len(results) == 8
    for name, worst in results.items():
        assert worst.pop("gathered"), name
        # Of a delta of 1e-7 the log-ratio of the normalisers is known to 1e-15, and enters JS squared.
        assert all(value <= 2 * FLOAT32 for value in worst.values()), (name, worst)
