from pathlib import Path

import pytest

from .test_stages import folder, lorascope  # skips this module too where torch is missing

__all__ = ["folder"]

pytestmark = pytest.mark.torch


def test_miub_is_measured_on_the_way_and_printed(folder: Path) -> None:
    words = ["finetune", "--model", "model", "--data", "sums.train.jsonl", "--rank", "2", "--max-steps", "3"]
    words += ["--batch-size", "4", "--learning-rate", "0.01", "--miub-every", "2", "--miub-samples", "5"]
    done = lorascope(folder, *words, "--out", "measured", "--held-out", "sums.train.jsonl")
    assert done.returncode == 0, done.stderr
    assert " nat after step 3, on 5 held-out samples; measuring it took " in done.stdout
    done = lorascope(folder, *words, "--out", "refused")
    assert done.returncode != 0
    assert "`miub_every` is 2, but there are no held-out items to measure MIUB on; give some" in done.stderr
    assert "Traceback" not in done.stderr
    assert not (folder / "refused").exists()
