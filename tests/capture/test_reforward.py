"""A run whose rows are computed again."""

import copy
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import zarr

from lorascope.capture.reforward import reforward
from lorascope.stores import StoreError, open_run, pull

from ..stores.on_disk import edit_root, unfinish


@pytest.fixture
def again(adapted: Any, tiny_tokenizer: Any) -> Any:
    def compute(run: Any, k: int = 2, **options: Any) -> Any:
        return reforward(str(run.path), k, **{"model": adapted, "tokenizer": tiny_tokenizer, **options})

    return compute


@pytest.mark.parametrize(
    "settings",
    [{"stream": "pair", "store": "bf16"}, {"states": "none"}, {"states": "sample", "tokens": "share:0.3"}],
)
def test_a_sound_run_is_equal_bit_for_bit(go: Any, again: Any, settings: dict[str, Any]) -> None:
    run = go(**settings)
    found = again(run, 3, seed=1)
    assert found.n_vectors > 0
    assert found.n_equal == found.n_vectors
    assert (found.worst, found.problems) == (0.0, [])
    assert len(found.samples) == 3
    assert 200 <= found.n_tokens <= run.n_tokens


def test_run_without_a_whole_sample_is_refused(make: Any, again: Any) -> None:
    run = make()
    unfinish(Path(run.path), *range(run.n_rows))
    with pytest.raises(StoreError, match="no sample of .* is wholly committed"):
        again(run)


def test_generated_tokens_come_again(make: Any, again: Any) -> None:
    found = again(make(generate=4))
    assert found.n_equal == found.n_vectors > 0


def swap_tokens(run: Any, path: str, row: int, one: int, other: int) -> None:
    """What a stale or shifted buffer would have left: honest digests over wrong rows."""
    from lorascope.stores import Place, open_place
    from lorascope.stores.format.digests import chunk_digest, combine_digests, combine_row_digests
    from lorascope.stores.format.layout import chunk_key

    group = zarr.open_group(run.path, mode="r+", use_consolidated=False)
    block = group[path][:]
    block[[one, other]] = block[[other, one]]
    group[path][:] = block
    place: Place = open_place(run.path)
    keys = [
        chunk_key(name, row, array.ndim) for name, array in group.arrays() if array.attrs.get("written") == "by row"
    ]
    for name, node in group.members(max_depth=None):
        if isinstance(node, zarr.Array) and node.attrs.get("written") == "by row" and "/" in name:
            keys.append(chunk_key(name, row, node.ndim))
    digest = combine_digests((key, chunk_digest(2, place.read(key, at_most=2**31))) for key in sorted(set(keys)))
    digests = group["rows/digest"][:]
    digests[row] = np.frombuffer(digest, np.uint8)
    group["rows/digest"][:] = digests
    edit_root(Path(run.path), rows_digest=combine_row_digests(dict(enumerate(map(bytes, digests)))))


def test_vectors_of_other_tokens_are_found(make: Any, again: Any) -> None:
    run = make()
    path = f"states/{run.component_paths[5]}/base"
    swap_tokens(run, path, 0, 10, 40)
    found = again(open_run(run.path))
    assert [problem.place for problem in found.problems] == [path]
    assert "token 10 is off by" in found.problems[0].message
    assert found.worst > 0.05


def test_another_adapter_or_model_is_refused(make: Any, adapted: Any, again: Any) -> None:
    run = make()
    with torch.no_grad():
        adapted.base_model.model.lm_head.weight[0, 0] += 1
    with pytest.raises(StoreError, match="model.sha256"):
        again(run)


def test_another_tokenizer_is_refused(make: Any, again: Any, tiny_tokenizer: Any) -> None:
    """Also one that gives the same tokens for this data."""
    other = copy.deepcopy(tiny_tokenizer)
    other.add_tokens(["unseen"])
    with pytest.raises(StoreError, match=r"from something else: tokenizer.sha256: '\w+\.\.\.' -> '\w+\.\.\.'; give"):
        again(make(), tokenizer=other)


def test_a_pulled_run_is_refused(make: Any, tmp_path: Path) -> None:
    pull(make().path, tmp_path / "part.zarr", samples=2)
    with pytest.raises(StoreError, match="was pulled from another run"):
        reforward(str(tmp_path / "part.zarr"), 1)


def test_nothing_to_compare(make: Any, again: Any, nothing_committed: Path) -> None:
    with pytest.raises(ValueError, match="`k` is 0; choose at least 1 sample"):
        again(make(), 0)
    with pytest.raises(StoreError, match="doesn't say how it was captured"):
        reforward(str(nothing_committed), 1)
