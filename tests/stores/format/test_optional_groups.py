"""A group that this version doesn't know: passed by if the root lists it, checked by `verify`, and not copied."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from lorascope.stores import StoreError, clear_torn, open_run, pull, run_state, verify
from lorascope.stores.format.layout import ArraySpec, array_specs
from lorascope.stores.reading.read import missing_chunks
from lorascope.stores.writing import create

from ..on_disk import damage, edit_root
from ..reading.test_harmful import set_fields

GAIN, NOTE = "wider/gain", "wider/part/note"


@pytest.fixture
def with_group(make_run: Any, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A run of a writer that knows one more group: numbers by token, and text that is written once."""
    later = (
        ArraySpec(
            path=GAIN, shape=(2148, 3), chunks=(1024, 3), dtype="float32", fill=np.nan, dims=("token", "k"), by_row=True
        ),
        ArraySpec(path=NOTE, shape=(2,), chunks=(2,), dtype="string", fill="", dims=("note",)),
    )
    values = create._static_values
    with monkeypatch.context() as patch:
        patch.setattr(create, "array_specs", lambda spec: [*array_specs(spec), *later])
        patch.setattr(create, "_static_values", lambda *given: {**values(*given), NOTE: ["a", "b"]})
        return Path(make_run("later.zarr").path)


def test_listed_group_is_passed_by(with_group: Path, make_run: Any) -> None:
    plain, run = open_run(make_run().path), open_run(with_group)
    assert run.attributes["optional_groups"] == ["wider"]
    assert "optional_groups" not in plain.attributes
    name = run.component_paths[0]
    np.testing.assert_array_equal(run.base(name).values[:1024], plain.base(name).values[:1024])
    assert missing_chunks(with_group) == []
    assert verify(with_group).ok
    assert verify(with_group).n_chunks == verify(plain.path).n_chunks + 3 + 1


@pytest.mark.parametrize("key", [f"{GAIN}/c.1.0", f"{NOTE}/c.0"])
@pytest.mark.parametrize("how", ["empty", "flip"])
def test_its_bytes_are_checked(with_group: Path, key: str, how: str) -> None:
    damage(with_group / key, how)
    for level in ("digests", "decode"):
        assert key in {problem.place for problem in verify(with_group, level=level).problems}
    assert open_run(with_group).tokens.sizes["token"] == 2148


def test_its_lost_chunks_are_missed(with_group: Path) -> None:
    (with_group / f"{GAIN}/c.1.0").unlink()
    assert missing_chunks(with_group) == [f"{GAIN}/c.1.0"]
    (with_group / f"{NOTE}/c.0").unlink()
    with pytest.raises(StoreError, match=f"'{NOTE}' announces 2 entries, but has 0 of 1 chunks"):
        open_run(with_group)


def test_copy_has_it_not_and_says_so(with_group: Path, tmp_path: Path) -> None:
    copy = pull(with_group, tmp_path / "copy.zarr")
    (step,) = copy.attributes["provenance"]["copied"]
    assert (step["how"], step["omitted"]) == ("pull", ["wider"])
    assert "optional_groups" not in copy.attributes
    assert not (tmp_path / "copy.zarr/wider").exists()
    assert verify(copy.path).ok
    (again,) = pull(copy.path, tmp_path / "again.zarr").attributes["provenance"]["copied"][1:]
    assert "omitted" not in again


def test_copy_names_arrays_of_known_groups_that_it_has_not(
    make_run: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    newer = ArraySpec(
        path="adapters/default/newer",
        shape=(2148,),
        chunks=(1024,),
        dtype="float32",
        fill=np.nan,
        dims=("token",),
        by_row=True,
    )
    with monkeypatch.context() as patch:
        patch.setattr(create, "array_specs", lambda spec: [*array_specs(spec), newer])
        source = make_run("newer.zarr").path
    copy = pull(source, tmp_path / "copy.zarr")
    (step,) = copy.attributes["provenance"]["copied"]
    assert (step["how"], step["omitted"]) == ("pull", [newer.path])
    assert copy.attributes["fingerprint"] != open_run(source).attributes["fingerprint"]


def test_copy_compares_the_digest_of_every_row_all_the_same(with_group: Path, tmp_path: Path) -> None:
    one, other = (with_group / f"tokens/nll/c.{row}" for row in (0, 1))
    content = one.read_bytes()
    one.write_bytes(other.read_bytes())
    other.write_bytes(content)
    with pytest.raises(StoreError, match="row 0 of .* can't be copied: its digest differs"):
        pull(with_group, tmp_path / "copy.zarr")


@pytest.mark.parametrize("listed", [[], ["other"], ["rows"], "wider", [["wider"]], None])
def test_group_that_is_not_listed_is_refused(with_group: Path, listed: Any) -> None:
    edit_root(with_group, optional_groups=listed)
    words = (
        "'wider/gain' is in a group that `optional_groups` doesn't list|attribute `optional_groups` is .*list of names"
    )
    with pytest.raises(StoreError, match=words):
        open_run(with_group)
    assert {problem.kind for problem in verify(with_group).problems} <= {"unlisted", "attribute"}


def test_its_arrays_have_the_limits_of_all_others(with_group: Path) -> None:
    set_fields(with_group, GAIN, codecs=[{"name": "bytes", "configuration": {"endian": "little"}}])
    with pytest.raises(StoreError, match="'wider/gain' can't be decoded"):
        open_run(with_group)


def test_interrupted_set_up_with_it_can_be_cleared(with_group: Path) -> None:
    edit_root(with_group, static_digest=None)
    for file in with_group.glob("rows/*/c.*"):
        file.unlink()
    assert run_state(with_group) == "torn"
    clear_torn(with_group)
    assert run_state(with_group) == "absent"
