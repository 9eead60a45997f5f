import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import xarray as xr

from lorascope.stores import StoreError, open_run
from lorascope.stores.format.tables import ROLES
from lorascope.stores.reading.labels import LazyColumn
from lorascope.stores.reading.read import as_run
from lorascope.stores.reading.run import Run

from ...stored import store_states

UP, DOWN = (f"model.layers.0.mlp.{kind}" for kind in ("up_proj", "down_proj"))


@pytest.fixture(scope="module")
def run(many_rows: Path) -> Run:
    return open_run(many_rows)


@pytest.mark.parametrize("name", ["base", "delta", "lora", "factor", "js", "swallowed"])
def test_every_array_by_token_says_whose_each_token_is(run: Run, name: str) -> None:
    def read(**options: Any) -> xr.DataArray:
        found: xr.DataArray = (
            run.reduction(name, **options) if name in ("js", "swallowed") else getattr(run, name)(UP, **options)
        )
        return found

    whole, tokens = read(), run.tokens
    ids = run.samples["id"].values[tokens["sample"].values]
    assert whole["sample"].values.tolist() == ids.tolist()
    assert whole["role"].values.tolist() == [ROLES[role] for role in tokens["role"].values]
    assert whole["position"].values.tolist() == tokens["position"].values.tolist()
    assert whole["text"].values.tolist() == tokens["text"].values.tolist()
    for wanted in ("s2", ["s4", "s0"]):
        expected = np.concatenate([np.flatnonzero(ids == one) for one in np.atleast_1d(wanted)])
        xr.testing.assert_identical(read(sample=wanted), whole.isel(token=expected))
    xr.testing.assert_identical(whole.sel(sample="s2"), read(sample="s2"))
    assert set(whole.coords) >= {"component", "kind", "layer"}


def test_only_the_rows_of_a_sample_are_read(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    rows: list[int] = []
    original = run.base_rows(UP).__class__.read_row
    monkeypatch.setattr(
        "lorascope.stores.reading.rows.RowArray.read_row",
        lambda self, row, *span: rows.append(row) or original(self, row, *span),
    )
    run.base(UP, sample="s4").compute()
    assert set(rows) == {2}  # tokens 2060 to 2499


def test_text_is_read_when_it_is_looked_at(many_rows: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(self: LazyColumn) -> None:
        raise AssertionError

    with monkeypatch.context() as patch:
        patch.setattr(LazyColumn, "_values", property(fail))
        part = open_run(many_rows).lora(UP).sel(sample="s1")
        part.values
    again = pickle.loads(pickle.dumps(part))
    assert (part["text"].values.tolist(), again["text"].values.tolist()) == (["x"] * 400, ["x"] * 400)


def test_a_sample_is_found_by_its_id(run: Run) -> None:
    assert run.samples.sel(sample="s3")["token_start"] == run.samples["token_start"][3]
    assert run.samples.indexes["sample"].tolist() == run.samples["id"].values.tolist()


@pytest.mark.parametrize(("name", "said"), [("s22", "did you mean 's2'"), ("other", "the first is 's0'")])
def test_an_unknown_sample_is_refused_with_those_like_it(run: Run, name: str, said: str) -> None:
    with pytest.raises(StoreError, match=f"no sample '{name}' among the 5 of this run; {said}"):
        run.base(UP, sample=["s0", name])
    with pytest.raises(TypeError, match="`sample` is 3; give the id of a sample"):
        run.base(UP, sample=3)  # type: ignore[arg-type]


def test_an_id_of_several_samples_is_refused(tmp_path: Path) -> None:
    """Two data sets that number their items: tokens of both in one array would be indistinguishable."""
    states = {UP: (np.zeros((7, 2)), np.ones((7, 2)))}
    run = store_states(tmp_path / "run.zarr", states, lengths=[3, 2, 2], datasets=["a", "b", "a"])
    run.samples["id"].values[:] = ["1", "1", "2"]
    words = (
        r"2 samples are called '1' \(a, test, text; b, test, text\); take the tokens of one, `token_start` to `token_"
    )
    with pytest.raises(StoreError, match=words):
        run.base(UP, sample=["2", "1"])
    assert run.base(UP, sample="2").sizes["token"] == 2


def test_a_run_is_a_mapping_of_components(run: Run) -> None:
    assert (len(run), list(run), UP in run, "up" in run) == (4, list(run.component_paths), True, False)
    assert run._ipython_key_completions_() == list(run)
    states = run[DOWN]
    assert set(states) == {"base", "delta", "lora"}
    for name in states:
        xr.testing.assert_identical(states[name], getattr(run, name)(DOWN))
    with pytest.raises(StoreError, match="no component 'up'"):
        run["up"]


def test_a_run_is_taken_as_it_is_or_opened(run: Run, many_rows: Path) -> None:
    assert as_run(run) is run
    assert as_run(str(many_rows)).component_paths == run.component_paths
    with pytest.raises(TypeError, match="`run` is 3; give an open run, its path or its url"):
        as_run(3)  # type: ignore[arg-type]
