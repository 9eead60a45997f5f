from collections import defaultdict
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import xarray as xr
from hypothesis import given
from hypothesis import strategies as st

from lorascope.analyze.information.components import component_blocks, draw_tokens
from lorascope.analyze.measuring.sources import component_sources
from lorascope.stores import open_run
from lorascope.stores.reading import rows as reading

RUNS: dict[str, dict[str, Any]] = {
    "factor": {},
    "delta": {"factored": False},
    "pair": {"stream": "pair"},
    "pair in bfloat16": {"dtype": "bfloat16", "stream": "pair"},
}


@pytest.mark.parametrize("name", RUNS)
def test_states_are_those_of_the_run(make_small: Any, name: str) -> None:
    run = make_small(**RUNS[name]).run
    for source in component_sources(run):
        (block,) = component_blocks(source)
        np.testing.assert_array_equal(block.tokens, np.arange(run.n_tokens))
        np.testing.assert_array_equal(block.base, run.base(source.component).values)
        # Of a factor it is the same product in another order.
        np.testing.assert_allclose(block.delta, run.delta(source.component).values, rtol=1e-5, atol=1e-6)
        for array in (block.base, block.delta):
            assert (array.dtype, array.flags.c_contiguous, array.flags.writeable) == (np.float32, True, True)
        assert not np.shares_memory(block.base, block.delta)


def test_blocks_are_rows_and_hold_the_chosen_tokens(many_rows: Path, unfinished: Path) -> None:
    run, chosen = open_run(many_rows), np.zeros(2500, bool)
    source = component_sources(run)[0]
    assert [len(block.tokens) for block in component_blocks(source)] == [1024, 1024, 452]
    assert list(component_blocks(source, chosen)) == []
    chosen[[5, 2049, 2499]] = True
    blocks = list(component_blocks(source, chosen))
    assert [block.tokens.tolist() for block in blocks] == [[5], [2049, 2499]]
    np.testing.assert_array_equal(blocks[1].base, run.base(source.component).values[[2049, 2499]])
    some = open_run(unfinished)
    tokens = [block.tokens for block in component_blocks(component_sources(some)[0])]
    np.testing.assert_array_equal(np.concatenate(tokens), np.flatnonzero(some.committed.values))


def test_tokens_that_arent_finite_are_dropped(make_small: Any) -> None:
    run = make_small(not_finite=True).run
    first, second = component_sources(run)[:2]
    (block,) = component_blocks(first)
    np.testing.assert_array_equal(block.tokens, np.delete(np.arange(run.n_tokens), 3))
    assert np.isfinite(block.base).all()
    assert len(next(component_blocks(second)).tokens) == run.n_tokens
    wanted = np.zeros(run.n_tokens, bool)
    wanted[3] = True
    (empty,) = component_blocks(first, wanted)
    assert (empty.base.shape, empty.delta.shape) == ((0, 24), (0, 24))


def table_run(sequences: list[list[int]], *, firsts: list[int] | None = None, there: Any = True) -> Any:
    """What `draw_tokens` looks at of a run: token ids by sample, and at which position each sample begins."""
    lengths = [len(ids) for ids in sequences]
    starts = np.cumsum([0, *lengths])[:-1]
    n_tokens = sum(lengths)
    firsts = firsts or [0] * len(sequences)
    positions = [np.arange(n) + first for n, first in zip(lengths, firsts, strict=True)]
    columns = {
        "sample": np.repeat(np.arange(len(sequences)), lengths),
        "position": np.concatenate(positions),
        "token_id": np.array([token for ids in sequences for token in ids]),
    }
    mask = xr.DataArray(np.broadcast_to(there, n_tokens), dims="token")
    return SimpleNamespace(
        n_tokens=n_tokens,
        place=SimpleNamespace(name="run.zarr"),
        committed=mask,
        with_states=xr.ones_like(mask),
        samples=xr.Dataset({"token_start": ("sample", starts)}),
        tokens=xr.Dataset({name: ("token", values) for name, values in columns.items()}),
    )


def usable(run: Any) -> Any:
    return run.committed.values & run.with_states.values


def seen_before(run: Any) -> np.ndarray:
    """Bool (token,): committed tokens whose whole prefix, where it is known, an earlier committed one has."""
    before: dict[int, list[int]] = defaultdict(list)
    seen, found = set(), np.zeros(run.n_tokens, bool)
    for token in range(run.n_tokens):
        sample, position, name = (int(run.tokens[key][token]) for key in ("sample", "position", "token_id"))
        before[sample].append(name)
        if position == len(before[sample]) - 1 and bool(run.committed[token]):
            found[token] = tuple(before[sample]) in seen
            seen.add(tuple(before[sample]))
    return found


@given(data=st.data())
def test_repeats_are_tokens_with_the_same_prefix(data: Any) -> None:
    sequences = data.draw(st.lists(st.lists(st.integers(0, 2), min_size=1, max_size=5), min_size=1, max_size=8))
    firsts = data.draw(st.lists(st.sampled_from([0, 0, 1]), min_size=len(sequences), max_size=len(sequences)))
    n = sum(map(len, sequences))
    there = data.draw(st.lists(st.booleans(), min_size=n, max_size=n).filter(any))
    run = table_run(sequences, firsts=firsts, there=np.array(there))
    repeats = seen_before(run)
    tokens, _, n_repeats = draw_tokens(run, usable(run), n, seed=0)
    assert n_repeats == repeats.sum()
    np.testing.assert_array_equal(tokens, np.flatnonzero(~repeats & there))


@given(
    lengths=st.lists(st.integers(1, 9), min_size=1, max_size=8), n_tokens=st.integers(1, 40), seed=st.integers(0, 99)
)
def test_samples_give_alike(lengths: list[int], n_tokens: int, seed: int) -> None:
    names = iter(range(1000))
    run = table_run([[next(names) for _ in range(n)] for n in lengths])
    tokens, samples, n_repeats = draw_tokens(run, usable(run), n_tokens, seed=seed)
    assert n_repeats == 0
    assert len(tokens) == min(n_tokens, sum(lengths))
    assert (np.diff(tokens) > 0).all()
    given_ = np.bincount(samples, minlength=len(lengths))
    for count, length in zip(given_, lengths, strict=True):
        assert count == length or count >= given_.max() - 1
    np.testing.assert_array_equal(tokens, draw_tokens(run, usable(run), n_tokens, seed=seed)[0])


def test_the_choice_is_random_within_and_between_samples() -> None:
    run = table_run([list(range(10 * i, 10 * i + 10)) for i in range(4)])
    chosen = [draw_tokens(run, usable(run), 10, seed=seed)[0] for seed in range(2000)]
    share = np.bincount(np.concatenate(chosen), minlength=40) / 2000
    np.testing.assert_allclose(share, 10 / 40, atol=5 * (0.25 * 0.75 / 2000) ** 0.5)


def test_choice_of_a_run_reads_what_is_there(unfinished: Path) -> None:
    run = open_run(unfinished)
    tokens, samples, n_repeats = draw_tokens(run, usable(run), 50, seed=1)
    assert n_repeats == 0
    assert run.committed.values[tokens].all()
    np.testing.assert_array_equal(samples, run.tokens["sample"].values[tokens])
    counts = np.bincount(samples).tolist()
    assert counts[2:4] == [0, 12]  # of the third none is committed, of the fourth 12 tokens
    assert sorted(counts[:2] + counts[4:]) == [12, 13, 13]
    wanted = np.zeros(run.n_tokens, bool)
    wanted[tokens] = True
    found = [block.tokens for block in component_blocks(component_sources(run)[0], wanted)]
    np.testing.assert_array_equal(np.concatenate(found), tokens)


@pytest.mark.parametrize("stream", ["adapted", "pair"])
def test_infinity_on_both_sides_is_dropped_without_a_warning(
    make_small: Any, monkeypatch: pytest.MonkeyPatch, stream: str
) -> None:
    run = make_small(stream=stream, factored=stream == "pair").run
    original = reading.RowArray.read_stored

    def broken(self: Any, row: int) -> np.ndarray:
        block = np.array(original(self, row))
        block[2, 0] = np.inf if self.path.endswith("base") or stream == "pair" else -np.inf
        return block

    monkeypatch.setattr(reading.RowArray, "read_stored", broken)
    (block,) = component_blocks(component_sources(run)[0])
    assert len(block.tokens) > 2 not in block.tokens
