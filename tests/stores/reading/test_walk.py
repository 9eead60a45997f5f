"""One walk over rows: the numbers of the lazy arrays, in order, whatever the threads, in a bounded memory."""

import threading
import time
from collections.abc import Sequence
from functools import partial
from typing import Any

import numpy as np
import pytest

from lorascope.stores import StoreError, open_run
from lorascope.stores.format.spec import ROW_TOKENS
from lorascope.stores.reading import walk as module
from lorascope.stores.reading.walk import RowBlock, map_rows, stored_rows, walk_chunks, walk_rows
from lorascope.stores.threads import map_in_order

F32, BF16, F16 = COMPONENTS = tuple(f"model.layers.{i}.mlp.up_proj" for i in range(3))


def together(blocks: Sequence[RowBlock], name: str, component: str) -> np.ndarray:
    parts = [getattr(block, name)[component] for block in blocks if component in getattr(block, name)]
    return np.concatenate(parts)


@pytest.mark.parametrize("n_threads", [1, 2, None])
@pytest.mark.parametrize(
    "options",
    [{}, {"biased": (True, False, False)}, {"stream": "pair"}, {"states": "sample", "state_rows": (True, False, True)}],
    ids=str,
)
def test_numbers_are_those_of_the_lazy_arrays(make_run: Any, options: dict[str, Any], n_threads: int | None) -> None:
    run = open_run(make_run(**options).path)
    blocks = list(walk_rows([run.source(path) for path in COMPONENTS], ["base", "delta"], n_threads=n_threads))
    states = np.flatnonzero(run.with_states.values)
    for component in COMPONENTS:
        np.testing.assert_array_equal(together(blocks, "base", component), run.base(component).values[states])
        delta = run.delta(component).values[states]
        np.testing.assert_allclose(together(blocks, "delta", component), delta, rtol=1e-5, atol=1e-6)
    np.testing.assert_array_equal(np.concatenate([block.tokens for block in blocks]), states)
    assert all(block.factor == {} for block in blocks)


def test_factors_of_chosen_tokens_and_rows_without_any_are_not_read(make_run: Any) -> None:
    run = make_run(factored=(True, True, False))
    (run.path / "adapters/default/factor/c.1.0").unlink()
    opened = open_run(run.path)
    mask = np.zeros(opened.n_tokens, bool)
    mask[[3, 7, 2100]] = True
    sources = [opened.source(path) for path in (F32, BF16)]
    blocks = list(walk_rows(sources, ["factor"], tokens=mask.tolist()))  # type: ignore[arg-type]
    assert [(block.row, block.tokens.tolist()) for block in blocks] == [(0, [3, 7]), (2, [2100])]
    expected = run.whole("adapters/default/factor")[[3, 7, 2100], 2:5]  # ranks are 2 and 3
    np.testing.assert_array_equal(together(blocks, "factor", BF16), expected)
    with pytest.raises(StoreError, match=r"chunk 'adapters/default/factor/c.1.0' is missing; run `lorascope verify`"):
        list(walk_rows(sources, ["factor"]))


def test_a_function_sees_each_row_and_progress_counts_them(make_run: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    run = open_run(make_run().path)
    sources, calls = [run.source(path) for path in COMPONENTS], list[tuple[int, int]]()
    walk = map_rows(
        lambda block: (block.row, tuple(block.delta)),
        sources,
        ["delta"],
        progress=lambda done, total, part="": calls.append((done, total)),
    )
    assert list(walk) == [(row, COMPONENTS) for row in range(3)]
    assert calls[-1] == (3, 3)
    monkeypatch.setattr(module, "GROUP_BYTES", 1)  # each component alone, and all of its rows before the next
    walk = map_rows(lambda block: (block.row, tuple(block.delta)), sources, ["delta"])
    assert list(walk) == [(row, (component,)) for component in COMPONENTS for row in range(3)]
    assert list(walk_rows([], ["base"])) == []


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (
            {"tokens": np.ones(10, bool)},
            r"`tokens` is bool of shape \(10,\); it must be a mask, bool of shape \(2148,\)",
        ),
        ({"tokens": np.ones(2200, bool)}, r"`tokens` is bool of shape \(2200,\)"),
        ({"tokens": [3, 5]}, r"`tokens` is int64 of shape \(2,\); it must be a mask"),
        ({"n_threads": 0}, "`n_threads` is 0; give a whole number of at least 1"),
        ({"quantities": ["factor"]}, f"`quantities` asks for a factor, which component '{F32}' does not have"),
    ],
)
def test_what_can_not_be_walked_is_refused(make_run: Any, options: dict[str, Any], words: str) -> None:
    run = open_run(make_run(factored=(False, True, True)).path)
    sources = [run.source(path) for path in COMPONENTS]
    for walk in (walk_rows, partial(map_rows, lambda block: block)):
        with pytest.raises(ValueError, match=words):
            list(walk(sources, **{"quantities": ["base"], **options}))


def test_rows_that_are_not_committed_are_passed_over(make_run: Any) -> None:
    run = open_run(make_run(rows=(0, 2)).path)
    assert [block.row for block in walk_rows([run.source(F32)], ["base"])] == [0, 2]


@pytest.mark.parametrize("n_threads", [1, 3])
def test_results_come_in_the_order_of_tasks(n_threads: int) -> None:
    def slow_if_even(task: int) -> int:
        time.sleep(0.002 * (task % 2 == 0))
        return task

    assert list(map_in_order(slow_if_even, range(40), n_threads=n_threads)) == list(range(40))


def test_tasks_ahead_are_bounded_in_bytes_and_the_largest_goes_alone() -> None:
    lock, ahead, most = threading.Lock(), 0, 0

    def begin(size: int) -> int:
        nonlocal ahead, most
        with lock:
            ahead += size
            most = max(most, ahead)
        return size

    sizes = [3, 3, 3, 3, 20, 1, 3, 3, 3]
    for size in map_in_order(begin, sizes, n_threads=4, n_bytes=lambda size: size, max_bytes=7):
        with lock:
            ahead -= size
    assert most == 20
    assert ahead == 0


def test_an_error_ends_the_walk_and_drops_what_has_not_begun() -> None:
    begun = []

    def fail(task: int) -> int:
        begun.append(task)
        if task == 3:
            raise ValueError("task 3")
        return task

    results = map_in_order(fail, range(1000), n_threads=2)
    with pytest.raises(ValueError, match="task 3"):
        list(results)
    assert len(begun) < 20
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("lorascope_")]


def test_stored_rows_are_what_was_written_and_checked_by_their_digest(make_run: Any) -> None:
    run = make_run(states="sample", state_rows=(True, False, True))
    opened = open_run(run.path)
    for row, blocks in stored_rows(opened, [2, 0, 1], opened.arrays):
        assert blocks.keys() == run.blocks[row].keys()
        for path, block in blocks.items():
            np.testing.assert_array_equal(block, run.blocks[row][path], err_msg=path)
    (run.path / "tokens/nll/c.1").write_bytes((run.path / "tokens/nll/c.0").read_bytes())
    with pytest.raises(StoreError, match=r"row 1 of .* can't be copied: its digest differs from what was committed"):
        list(stored_rows(opened, [1], opened.arrays))
    assert [row for row, _ in stored_rows(opened, [1], ["adapters/default/js"])] == [1]
    (run.path / "tokens/nll/c.1").unlink()
    with pytest.raises(StoreError, match=r"row 1 of .* can't be copied: chunk 'tokens/nll/c.1' is missing"):
        list(stored_rows(opened, [1], opened.arrays))


def test_chunks_come_by_row_with_their_problems(make_run: Any) -> None:
    run = make_run()
    (run.path / "tokens/nll/c.1").unlink()
    opened = open_run(run.path)
    calls: list[tuple[int, int]] = []
    walk = walk_chunks(
        opened,
        [0, 1, 2],
        lambda row, path, chunk: (row, path, chunk.problem and chunk.problem.kind, chunk.block is None),
        decode=False,
        progress=lambda done, total, part="": calls.append((done, total)),
    )
    for row, results in walk:
        assert [path for _, path, _, _ in results] == opened.row_paths(row)
        assert {place for place, *_ in results} == {row}
        assert [path for _, path, kind, _ in results if kind] == (["tokens/nll"] if row == 1 else [])
        assert all(without_block for *_, without_block in results)
    assert calls == [(1, 3), (2, 3), (3, 3)]


def test_a_row_has_the_tokens_of_its_place(make_run: Any) -> None:
    run = open_run(make_run().path)
    last = list(walk_rows([run.source(F16)], ["base"]))[-1]
    assert last.tokens.tolist() == list(range(2 * ROW_TOKENS, run.n_tokens))
