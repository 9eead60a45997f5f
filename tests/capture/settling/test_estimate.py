"""Sizes against runs that are really written; speeds and their limit by numbers whose answer is known."""

import dataclasses
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import zarr

from lorascope.capture.settling.estimate import SHARE_STEPS, Costs, choose_share, estimate, require_space, ways_to_fit
from lorascope.stores import Adapter, Component, RunSpec, StoreError, create_run
from lorascope.stores.format.layout import array_specs
from lorascope.stores.format.spec import ROW_TOKENS

WIDTHS = (96, 40, 160)


def make_spec(**options: Any) -> RunSpec:
    """Three components of three types; by default two are factored and of the third delta itself is kept."""
    dtypes = options.pop("dtypes", ("float32", "bfloat16", "float16"))
    stream = options.get("stream", "adapted")
    names = options.pop("adapters", ("default", "other") if stream == "base" else ("default",))
    components = tuple(
        Component(
            path=f"model.layers.{i}.mlp.up_proj",
            kind="up_proj",
            layer=i,
            d_in=8,
            d_out=width,
            dtype=dtype,
            stored_dtype=dtype,
        )
        for i, (width, dtype) in enumerate(zip(WIDTHS, dtypes, strict=True))
    )
    adapters = tuple(
        Adapter(
            name=name,
            rank=(2, 70, 4),
            scaling=(1.0,) * 3,
            factored=options.get("factored", (True, True, False)),
            biased=(True, False, False),
        )
        for name in names
    )
    options.pop("factored", None)
    return RunSpec(
        **{
            "stream": stream,
            "components": components,
            "adapters": adapters,
            "n_tokens": 2 * ROW_TOKENS + 100,
            "n_samples": 5,
            "n_choices": 7,
            **options,
        }
    )


def write(spec: RunSpec, path: Path, *, base_scores: bool, answers: bool) -> int:
    """A run with this specification, of random numbers; returns the bytes of its rows in memory."""
    rng = np.random.default_rng(0)
    lengths = {"samples": spec.n_samples, "choices": spec.n_choices, "tokens": spec.n_tokens}
    tables: dict[str, dict[str, Any]] = {name: {} for name in lengths}
    weights = {}
    for entry in array_specs(spec):
        table, _, column = entry.path.partition("/")
        if "/lora_" in entry.path:
            weights[entry.path] = rng.normal(size=entry.shape).astype(np.float32)
        elif table in tables and not entry.by_row:
            if (column.startswith("base_") and not base_scores) or ("written" in column and not answers):
                continue
            n = lengths[table]
            tables[table][column] = [f"word {i}" for i in range(n)] if entry.dtype == "string" else np.arange(n) % 100
    n_bytes = 0
    with create_run(path, spec, tables=tables, weights=weights) as writer:
        for row in range(spec.n_rows):
            tokens = writer.row_tokens(row)
            blocks = {
                key: rng.normal(size=(tokens.stop - tokens.start, *shape)).astype(dtype)
                for key, ((_, *shape), dtype) in writer.row_arrays(row).items()
            }
            n_bytes += writer.write_row(row, blocks).raw_bytes
        writer.finish({})
    return n_bytes


SPECS: dict[str, dict[str, Any]] = {
    "all": {},
    "raw": {"codec": "raw"},
    "one short row": {"n_tokens": 5},
    "whole rows": {"n_tokens": 2 * ROW_TOKENS},
    "no choices": {"n_choices": 0},
    "several adapters": {"stream": "base"},
    "pair": {"stream": "pair"},
    "states none": {"states": "none", "kl": True, "factored": (False,) * 3},
    "some rows": {"states": "sample", "state_rows": (False, True, False), "kl": True},
    "the last row": {"states": "sample", "state_rows": (False, False, True)},
    "unscored": {},
    "answered": {},
    "with the adapter alone": {},
}
TABLES = {"unscored": (False, False), "answered": (True, True), "with the adapter alone": (False, True)}
"""Whether there are scores without the adapter, and answers."""


@pytest.mark.parametrize("name", list(SPECS))
def test_arrays_files_and_raw_bytes_are_those_of_the_run(tmp_path: Path, name: str) -> None:
    spec = make_spec(**SPECS[name])
    base_scores, answers = TABLES.get(name, (True, False))
    row_bytes = write(spec, tmp_path / "run.zarr", base_scores=base_scores, answers=answers)
    estimated = estimate(spec, base_scores=base_scores, answers=answers)
    group = zarr.open_group(tmp_path / "run.zarr", mode="r")
    arrays = [node for _, node in group.members(max_depth=None) if isinstance(node, zarr.Array)]
    files = [file for file in (tmp_path / "run.zarr").rglob("*") if file.is_file()]
    assert estimated.n_arrays == len(arrays)
    assert estimated.n_files == len(files)
    by_row = sum(a.nbytes for a in arrays if a.attrs["written"] == "by row")
    parts = {part.name: part for part in estimated.parts}
    n_nll = 4 * spec.n_tokens  # the one column of a table that is written by row
    rows = sum(parts[p].raw_bytes for p in ("base", "adapted", "factor", "delta", "reductions") if p in parts)
    assert rows + n_nll == row_bytes
    if spec.states != "sample":
        assert row_bytes == by_row
    if "weights" in parts:
        assert parts["weights"].raw_bytes == sum(a.nbytes for a in arrays if "/lora_" in a.path)
    if spec.codec == "raw":
        assert estimated.stored_bytes == pytest.approx(sum(file.stat().st_size for file in files), rel=0.02)
    assert sum(file.stat().st_blocks for file in files) * 512 < 1.3 * estimated.needed_bytes


def test_a_row_in_memory() -> None:
    spec = make_spec(stream="pair")
    estimated = estimate(spec)
    states = 2 * (96 * 4 + 40 * 2 + 160 * 2)
    reductions = 2 * 3 * 4
    assert sum(estimated.row_arrays) == ROW_TOKENS * (states + 72 * 4 + 160 * 4 + reductions + 4)
    assert max(estimated.row_arrays) == ROW_TOKENS * 160 * 4


def test_enough_space_is_no_error() -> None:
    estimated = estimate(make_spec())
    require_space(estimated, "runs/a", estimated.needed_bytes)
    require_space(estimated, "s3://b/a", None)
    require_space(estimated, "runs/a", 0, overfill=True)
    require_space(estimated, "runs/a", 10, written_bytes=estimated.needed_bytes - 10)


def test_too_little_space_names_what_would_fit() -> None:
    spec = make_spec(n_tokens=1000 * ROW_TOKENS)
    estimated = estimate(spec)
    with pytest.raises(StoreError, match="the run would take about .* at `runs/a`, where .* are free; ") as caught:
        require_space(estimated, "runs/a", estimated.needed_bytes // 2)
    message = str(caught.value)
    assert "\n" not in message
    assert "% of these tokens would fit (`--tokens share:P`, or `--limit`)" in message
    assert "`--states none` makes it" in message
    assert message.endswith("or make room, or pass `--overfill`")
    share = float(message.split(" % of these")[0].rpartition(" ")[2]) / 100
    assert 0.45 < share <= 0.5
    with pytest.raises(StoreError, match="would take about 10 B more at `runs/a`, where 9 B are free"):
        require_space(estimated, "runs/a", 9, written_bytes=estimated.needed_bytes - 10)


def test_ways_that_change_nothing_arent_named() -> None:
    ways = ways_to_fit(make_spec(states="none", factored=(False,) * 3), 10)
    assert ways == ["an adapter on fewer layers has fewer components"]
    sampled = make_spec(states="sample", state_rows=(True, True, False))
    assert any("--states none" in way for way in ways_to_fit(sampled, 10**5))


def test_a_budget_chooses_the_largest_share_that_fits() -> None:
    lengths = [700, 1, 333, 2500] * 20
    spec = make_spec(n_tokens=sum(lengths))

    def needed(share: float) -> int:
        n_tokens = sum(max(round(share * n), 1) for n in lengths)
        return estimate(dataclasses.replace(spec, n_tokens=n_tokens)).needed_bytes

    whole = needed(1.0)
    assert choose_share(spec, lengths, whole) == "all"
    for part in (0.9, 0.5, 0.05):
        budget = int(part * whole)
        kind, _, share = choose_share(spec, lengths, budget).partition(":")
        assert kind == "share"
        assert needed(float(share)) <= budget < needed(float(share) + 1 / SHARE_STEPS)


def test_a_budget_for_one_token_a_sample_is_the_least() -> None:
    lengths = [40] * 50
    spec = make_spec(n_tokens=2000)
    least = estimate(dataclasses.replace(spec, n_tokens=50)).needed_bytes
    share = float(choose_share(spec, lengths, least).removeprefix("share:"))
    assert [max(round(share * n), 1) for n in lengths] == [1] * 50
    with pytest.raises(
        StoreError, match="`budget` is .*, but a run of one token of each of 50 samples needs .*; give more"
    ):
        choose_share(spec, lengths, least - 1)


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
