"""MIUB, sizes and shares by expert are their definitions, written out token by token."""

import json
from collections import defaultdict
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import xarray as xr

from lorascope.analyze import experts, miub, to_dataframe
from lorascope.analyze.miub import experts as module
from lorascope.analyze.miub import groups
from lorascope.stores import Adapter, Component, ExpertBlock, Run, RunSpec, StoreError, create_run, open_run

from ...cli.called import call, flat

N_EXPERTS, N_CHOICES, LENGTHS = 5, 2, (300, 700, 1, 120, 500, 80)
UNUSED = 4
"""Expert that no token is routed to."""


def write_mixture(path: Path, *, stream: str = "pair", rows: int | None = None, js: float = 0.0) -> Run:
    """Write a run of two blocks of random routing and numbers, whose tokens have weights 1 and 2; `js` of one value."""
    rng = np.random.default_rng(7)
    names = ("experts.down_proj",) if stream == "pair" else ("experts.gate_up_proj", "experts.down_proj")
    components = tuple(
        Component(path=f"layers.{layer}.mlp.{name}", kind=name, layer=layer, d_in=3, d_out=4, dtype="float32",
                  stored_dtype="float32")
        for layer in range(2) for name in names
    )  # fmt: skip
    n, n_tokens = len(components), sum(LENGTHS)
    adapter = Adapter(
        name="default", rank=(2,) * n, scaling=(2.0,) * n, factored=(False,) * n, delta_source=("difference",) * n
    )
    spec = RunSpec(
        stream=stream, components=components, adapters=(adapter,), n_tokens=n_tokens, n_samples=len(LENGTHS),
        n_choices=0,
        experts=tuple(ExpertBlock(path=f"layers.{i}.mlp", n_experts=N_EXPERTS, n_choices=N_CHOICES) for i in range(2)),
        attributes={"fingerprint": "0" * 64, "provenance": {}},
    )  # fmt: skip
    n_samples, stops = len(LENGTHS), np.cumsum(LENGTHS)
    unscored = {name: [-1] * n_samples for name in ("answer", "prediction", "prediction_per_token", "correct",
                                                    "correct_per_token")}  # fmt: skip
    tables: dict[str, Any] = {
        "samples": {
            "id": [f"s{i}" for i in range(n_samples)], "dataset": ["sums", "words"] * 3, "split": ["test"] * n_samples,
            "prompt": ["text"] * n_samples, "length": list(LENGTHS), "ce": [1.0] * n_samples,
            "token_start": (stops - LENGTHS).tolist(), "token_stop": stops.tolist(), **unscored,
        },
        "choices": {"sample": [], "text": [], "n_tokens": [], "loglik": [], "loglik_per_token": []},
        "tokens": {
            "sample": np.repeat(np.arange(n_samples), LENGTHS).tolist(), "token_id": [3] * n_tokens,
            "position": np.concatenate([np.arange(length) for length in LENGTHS]).tolist(), "role": [4] * n_tokens,
            "text": ["ab"[i % 2] for i in range(n_tokens)], "weight": [1.0 + i % 2 for i in range(n_tokens)],
        },
    }  # fmt: skip
    with create_run(path, spec, tables=tables, weights={}) as writer:
        for row in range(writer.n_rows if rows is None else rows):
            blocks = {}
            tokens = writer.row_tokens(row)
            for key, ((_, *rest), dtype) in writer.row_arrays(row).items():
                shape = (tokens.stop - tokens.start, *rest)
                if key.endswith("expert"):
                    picks = [rng.permutation(UNUSED)[:N_CHOICES] for _ in range(shape[0])]
                    blocks[key] = np.array(picks, dtype)
                else:
                    blocks[key] = rng.random(shape).astype(dtype)
                if key.endswith("weight"):
                    blocks[key][1:][rng.random(shape)[1:] < 0.1] = 0  # not routed
                if js and row == 0 and key == "experts/layers.1.mlp.experts.down_proj/js":
                    blocks[key][0, 0] = js
            writer.write_row(row, blocks)
        if rows is None:
            writer.finish({})
    return open_run(path)


def require_definition(run: Run, result: xr.DataTree, found: xr.Dataset, keys: tuple[str, ...] = ()) -> None:
    """Compare numbers by layer, expert and other keys with loops over tokens and choices."""
    by_token = result["tokens"].to_dataset()
    used, owner = result["samples"]["used"].values, by_token["sample_of_token"].values
    layer_of = dict(zip(result["component"].values.tolist(), result["layer"].values.tolist(), strict=True))
    sums: defaultdict[Any, defaultdict[str, float]] = defaultdict(lambda: defaultdict(float))
    by_sample: defaultdict[Any, defaultdict[Any, list[float]]] = defaultdict(lambda: defaultdict(lambda: [0.0, 0.0]))
    of_group: defaultdict[Any, float] = defaultdict(float)
    for number, (path, layer) in enumerate(layer_of.items()):
        is_first = path == next(name for name, other in layer_of.items() if other == layer)
        values = run.experts(path).compute()
        for token in np.flatnonzero(by_token["counted"].values & used[owner]):
            weight = float(by_token["weight"].values[token])
            labels = {
                "dataset": run.samples["dataset"].values[owner[token]],
                "text": by_token["text"].values[token] if "text" in by_token else "",
            }
            group = tuple(str(labels[key]) for key in keys)
            base = []
            if "base_expert" in values:
                base = values["base_expert"].values[token][values["base_weight"].values[token] != 0].tolist()
            of_group[group] += weight * (number == 0)
            for choice in np.flatnonzero(values["weight"].values[token]):
                expert = int(values["expert"].values[token, choice])
                cell = sums[group, layer, expert]
                cell["base_norm"] += weight * float(values["base_norm"].values[token, choice])
                cell["delta_norm"] += weight * float(values["delta_norm"].values[token, choice])
                mean = by_sample[group, layer, expert][owner[token]]
                mean[0] += weight * float(values["js"].values[token, choice])
                if is_first:
                    mean[1] += weight
                    cell["share"] += weight
                    cell["gained"] += weight * (expert not in base)
                    cell["n_tokens"] += 1
            for expert in base if is_first else ():
                sums[group, layer, expert]["base_share"] += weight
    frame = found.to_dataframe().reset_index()
    assert len(frame) == int(np.prod([*found.sizes.values()]))
    for row in frame.to_dict("records"):
        group = tuple(str(row[key]) for key in keys)
        cell = sums[group, row["layer"], row["expert"]]
        means = [total / weight for total, weight in by_sample[group, row["layer"], row["expert"]].values()]
        assert (row["n_samples"], row["n_tokens"]) == (len(means), cell["n_tokens"])
        n = len(means)
        np.testing.assert_allclose(row["miub"], np.mean(means) if n else np.nan, rtol=1e-12)
        # The error is a difference of squares: eps times their size.
        np.testing.assert_allclose(
            row["miub_se"], np.std(means, ddof=1) / n**0.5 if n > 1 else np.nan, rtol=1e-9, atol=1e-8 * max([0, *means])
        )
        ratio = cell["delta_norm"] / cell["base_norm"] if n else np.nan
        np.testing.assert_allclose(row["delta_ratio"], ratio, rtol=1e-12)
        for name in ("share", "base_share", "gained") if run.stream == "pair" else ("share",):
            np.testing.assert_allclose(row[name], cell[name] / of_group[group], rtol=1e-12)


@pytest.mark.parametrize("stream", ["adapted", "pair"])
@pytest.mark.parametrize("keys", [(), ("dataset",), ("text",), ("dataset", "text")])
def test_numbers_are_their_definition(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, stream: str, keys: tuple[str, ...]
) -> None:
    run = write_mixture(tmp_path / "run.zarr", stream=stream)
    monkeypatch.setattr(groups, "CHUNK_TOKENS", 400)  # several spans of samples
    result = miub(run)
    found = experts(run, result, ("expert", *keys, "layer"))
    assert found["miub"].dims == ("expert", *keys, "layer")
    require_definition(run, result, found, keys)
    assert ("gained" in found) == (stream == "pair")
    unused = found.sel(expert=UNUSED)
    assert np.isnan(unused["miub"]).all()
    assert (unused["share"] == 0).all()
    assert set(module.NOTES) - set(found.data_vars) == ({"base_share", "gained"} if stream == "adapted" else set())


def test_units_and_components(tmp_path: Path) -> None:
    run = write_mixture(tmp_path / "run.zarr", stream="adapted")
    nat, bit = (experts(run, miub(run, unit=unit)) for unit in ("nat", "bit"))
    np.testing.assert_allclose(bit["miub"] * np.log(2), nat["miub"])
    assert (bit["miub"].attrs["units"], bit["share"].attrs["units"]) == ("bit", "1")
    parts = experts(run, miub(run), ["component", "expert"])
    np.testing.assert_allclose(parts["miub"].sel(expert=1).sum(), nat["miub"].sel(expert=1).sum())
    one = experts(run, miub(run, component="*down_proj"))
    assert (one["miub"].sel(expert=1) < nat["miub"].sel(expert=1)).all()
    xr.testing.assert_equal(one["n_tokens"], nat["n_tokens"])


def test_samples_that_are_not_whole_are_excluded(tmp_path: Path) -> None:
    run = write_mixture(tmp_path / "run.zarr", rows=1)
    result = miub(run)
    assert result.attrs["n_samples_incomplete"] > 0
    require_definition(run, result, experts(run, result))


def test_what_is_not_finite_is_never_averaged_away(tmp_path: Path) -> None:
    run = write_mixture(tmp_path / "run.zarr", js=np.nan)
    found = experts(run, miub(run))
    hit = int(run.experts("layers.1.mlp.experts.down_proj")["expert"].values[0, 0])
    assert np.isnan(found["miub"].sel(layer=1, expert=hit))
    assert np.isfinite(found["miub"].sel(layer=1)).sum() == UNUSED - 1
    assert np.isfinite(found["miub"].sel(layer=0)).sum() == UNUSED


def test_other_results_and_keys_are_refused(tmp_path: Path, make_small: Any) -> None:
    run, small = write_mixture(tmp_path / "run.zarr"), make_small().run
    result = miub(run)
    with pytest.raises(StoreError, match="no component of the result is an adapter on experts of"):
        experts(small, miub(small))
    with pytest.raises(ValueError, match="the result isn't that of all tokens of"):
        experts(run, miub(small))
    with pytest.raises(ValueError, match=r"`by` is \['expert'\]; name 'expert', 'layer' or 'component', and others"):
        experts(run, result, "expert")
    with pytest.raises(ValueError, match="name one or several of .*'expert'.*each once; did you mean 'layer'"):
        experts(run, result, ["layers", "expert"])
    with pytest.raises(ValueError, match=r"tokens can't be grouped by \['expert'\] in a result of reduction"):
        experts(run, miub(run, reduction="sum"))
    with pytest.raises(ValueError, match="if samples of the result were selected or sorted"):
        experts(run, result.isel(sample=slice(1, None)))
    with pytest.raises(TypeError, match="the result is a Run"):
        experts(run, run)  # type: ignore[arg-type]


def test_the_command_prints_a_row_for_each_expert(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, make_small: Any
) -> None:
    path = Path(write_mixture(tmp_path / "run.zarr").path)
    code, out, _ = call("miub", capsys, path, "--group-by", "expert", "--json", "--out", tmp_path / "experts.csv")
    rows = json.loads(out)["rows"]
    expected = to_dataframe(experts(path, miub(path)), "group")
    assert code == 0
    assert [(row["layer"], row["expert"]) for row in rows] == [(i, j) for i in range(2) for j in range(UNUSED)]
    np.testing.assert_allclose([row["gained"] for row in rows], expected["gained"])
    assert pd.read_csv(tmp_path / "experts.csv")["share"].tolist() == pytest.approx(expected["share"].tolist())
    code, out, _ = call("miub", capsys, path, "--group-by", "dataset,expert")
    assert code == 0
    assert "MIUB by layer, dataset, expert" in flat(out)
    code, _, err = call("miub", capsys, make_small().run.path, "--group-by", "expert")
    assert (code, err.count("\n")) == (2, 1)
    assert "no component of the result is an adapter on experts of" in err
