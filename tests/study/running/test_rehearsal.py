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
from lorascope.study.running.rehearsal import Price, Tokens, count_tokens, rehearse  # noqa: E402
from lorascope.study.grid import units_of  # noqa: E402
from lorascope.study.running.models import Models  # noqa: E402
from lorascope.study.running.run import draw_all  # noqa: E402
from lorascope.study.settings import read_settings  # noqa: E402

Write = Callable[[dict[str, Any]], Path]


@pytest.mark.parametrize(
    "given",
    [
        {"states": "all"},
        {"states": "none"},
        {"states": "none", "information": {"components": "*.0.self_attn.o_proj", "tokens": 60, "shuffles": 2}},
    ],
    ids=["all", "none", "none but for mutual information"],
)
def test_no_more_is_stored_than_planned(
    write: Write, content: dict[str, Any], models: Path, given: dict[str, Any]
) -> None:
    content |= {"model": str(models / "llama"), "grid": [{"rank": 2}], "capture": {"states_share": 0.6}} | given
    content["tasks"]["facts"]["test_items"] = 60
    content["training"] |= {"max_steps": 6, "miub_every": 2}
    path = write(content)
    settings = read_settings(path)
    units, models_of = units_of(settings), Models(settings)
    data = drawn(settings, units, models_of)
    price = rehearse(units[0], settings, data[units[0]], models_of)
    tokens = count_tokens(units[0], settings, data[units[0]], models_of)
    assert main(["study", "run", str(path), "--traceback"]) == 0
    (file,) = (path.parent / "study/results").glob("*s0-facts.nc")
    with xr.open_dataset(file) as found:
        runs, training = (json.loads(found.attrs[name]) for name in ("runs", "training"))
    stored = sum(run["measured"]["stored_bytes"] for run in runs.values())
    assert stored <= price.bytes(tokens) <= 6 * stored
    assert tokens.captured == sum(run["n_tokens"] for run in runs.values())
    assert tokens.watched == len(training["miub"]["steps"])
    assert min(price[:5]) > 0


def test_rows_are_kept_whole() -> None:
    tokens = Tokens(trained=0, scored=0, captured=10_000, watched=3)
    price = Price(fixed=1, trained=0, scored=0, captured=0, watched=2, stored=10, share=0.1)
    assert price.bytes(tokens) == 10 * (1000 + 1024)
    assert price._replace(share=1.0).bytes(tokens) == 100_000
    assert price.seconds(tokens) == 7


def test_plan_says_what_it_leaves_out(
    write: Write, content: dict[str, Any], models: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    content |= {"model": str(models / "llama"), "information": {"where": {"rank": 4}}}
    path = write(content)
    assert main(["study", "plan", str(path), "--no-probe", "--traceback"]) == 0
    assert "of 1 units mutual information is estimated, whose time isn't in this plan" in capsys.readouterr().out
    assert main(["study", "run", str(path), "--only", "3/3", "--traceback"]) == 0
    assert "none of them is in part 3/3" in capsys.readouterr().out
