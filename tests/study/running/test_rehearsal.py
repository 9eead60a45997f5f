"""What a plan says, held against what a study then takes."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import xarray as xr

pytestmark = [pytest.mark.torch, pytest.mark.filterwarnings("default")]
pytest.importorskip("torch")

from lorascope.cli.main import main  # noqa: E402
from lorascope.study.grid import grid_units  # noqa: E402
from lorascope.study.running.rehearsal import Cost, count_tokens, rehearse  # noqa: E402
from lorascope.study.running.run import draw_all_items  # noqa: E402
from lorascope.study.running.steps import Models  # noqa: E402
from lorascope.study.settings import read_settings  # noqa: E402

Write = Callable[[dict[str, Any]], Path]


@pytest.mark.slow
@pytest.mark.parametrize(
    "given",
    [
        {"states": "all"},
        {"states": "none", "information": {"components": "*.0.self_attn.o_proj", "tokens": 60, "shuffles": 2}},
    ],
    ids=["all", "only mutual information"],
)
def test_no_more_is_stored_than_planned(
    write: Write, content: dict[str, Any], models: Path, given: dict[str, Any]
) -> None:
    content |= {"model": str(models / "llama"), "grid": [{"rank": 2}], "capture": {"states_share": 0.6}} | given
    content["tasks"]["facts"]["test_items"] = 60
    content["training"] |= {"max_steps": 6, "miub_every": 2}
    path = write(content)
    settings = read_settings(path)
    units, models_of = grid_units(settings), Models(settings)
    data = draw_all_items(settings, units, models_of)
    prices, bytes_each = rehearse(units[0], settings, data[units[0]], models_of)
    tokens = count_tokens(units[0], settings, data[units[0]], models_of)
    assert main(["study", "run", str(path), "--traceback"]) == 0
    (file,) = (path.parent / "study/results").glob("*s0-facts.nc")
    with xr.open_dataset(file) as found:
        runs = json.loads(found.attrs["runs"])
    assert sum(run["measured"]["stored_bytes"] for run in runs.values()) <= bytes_each * tokens.captured
    assert tokens.captured == sum(run["n_tokens"] for run in runs.values())
    assert min(prices) > 0
    assert tokens.seconds(Cost(1, 0, 2)) == tokens.trained + 2 * tokens.captured


def test_a_part_without_units_is_said(
    write: Write, content: dict[str, Any], models: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = write(content | {"model": str(models / "llama")})
    assert main(["study", "run", str(path), "--only", "3/3", "--traceback"]) == 0
    assert "part 3/3 has no units" in capsys.readouterr().out
