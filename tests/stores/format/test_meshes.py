from typing import Any

import numpy as np
import pytest

from lorascope.stores import StoreError, open_run, verify
from lorascope.stores.copying.pull import pull
from lorascope.stores.format.meshes import row_ranges, rows_by_mesh

from ..on_disk import edit_root


def of(path: Any) -> Any:
    run = open_run(path)
    return rows_by_mesh(run.attributes, run.committed_rows)


def test_rows_are_those_of_the_mesh_that_wrote_them(make_run: Any) -> None:
    run = make_run(rows=())
    with run.writer as writer:
        writer.begin_mesh(1)
        assert "meshes" not in open_run(run.path).attributes
        writer.write_row(1, run.blocks[1])
        assert of(run.path) == [(1, [[1, 2]])]
        for n_processes, row in ((2, 0), (4, None), (1, 2)):
            writer.begin_mesh(n_processes)
            writer.begin_mesh(n_processes)
            if row is not None:
                writer.write_row(row, run.blocks[row])
        assert len(open_run(run.path).attributes["meshes"]) == 4
        writer.finish({})
    assert of(run.path) == [(1, [[1, 2]]), (2, [[0, 1]]), (1, [[2, 3]])]
    assert verify(run.path).ok
    # A copy of the whole has the same rows, one of a part has others.
    assert of(pull(run.path, run.path.parent / "whole.zarr").path) == of(run.path)
    assert of(pull(run.path, run.path.parent / "part.zarr", samples=["ü"]).path) == [(1, [[0, 2]])]


def test_ranges_of_rows() -> None:
    assert row_ranges(np.array([True, True, False, True])) == [[0, 2], [3, 4]]
    assert row_ranges(np.zeros(3, dtype=bool)) == []


@pytest.mark.parametrize("value", [{}, [3], [{"tensor_parallel": "2", "before": []}], [{"tensor_parallel": 2}]])
def test_attribute_of_another_form_is_refused(make_run: Any, value: Any) -> None:
    run = make_run()
    edit_root(run.path, meshes=value)
    with pytest.raises(StoreError, match="attribute `meshes` is .*; it must be a list of meshes"):
        open_run(run.path)
    edit_root(run.path, meshes=[{"tensor_parallel": 2, "before": [[0, 1, 2]]}])
    with pytest.raises(StoreError, match="attribute `meshes`"):
        open_run(run.path)
