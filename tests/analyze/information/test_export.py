import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from lorascope.analyze.information.estimators import Pairs
from lorascope.analyze.information.export import refuse_npz, write_pairs
from lorascope.analyze.information.pairs import NoPairs, Projected

EQUAL = NoPairs("all equal", 0)


def made(seed: int, *, n: int = 40, dims: tuple[int, int] = (3, 2)) -> Projected:
    rng = np.random.default_rng(seed)
    samples = np.repeat(np.arange(n // 4), 4)
    pairs = Pairs(rng.normal(size=(n, dims[0])), rng.normal(size=(n, dims[1])), samples, samples)
    return Projected(pairs, np.arange(n) * 3, np.zeros((n, 2), np.float32), None, (0.9, 0.9), 0, 0)


def test_what_is_written_reads_without_pickle(tmp_path: Path) -> None:
    pairs = {"m.a": made(0), "m.b": made(1, dims=(1, 5))}
    left_out = write_pairs(tmp_path / "p.npz", ((path, [one]) for path, one in pairs.items()), {"seed": 3})
    assert left_out == {}
    with np.load(tmp_path / "p.npz", allow_pickle=False) as file:
        assert file["components"].tolist() == ["m.a", "m.b"]
        assert json.loads(str(file["about"])) == {"seed": 3, "left_out": {}}
        assert len(file.files) == 2 + 2 * 4
        for path, one in pairs.items():
            expected = {"x": one.pairs.x, "y": one.pairs.y, "sample": one.pairs.groups_x, "token": one.tokens}
            for name, values in expected.items():
                found = file[f"{path}/{name}"]
                assert found.dtype == (np.float64 if name in "xy" else np.int64)
                np.testing.assert_array_equal(found, values)


def test_blocks_have_folders_and_what_is_left_out_has_a_reason(tmp_path: Path) -> None:
    left_out = write_pairs(tmp_path / "p.npz", [("m.a", [made(0), EQUAL, made(2)]), ("m.b", [EQUAL] * 3)], {})
    assert left_out == dict.fromkeys(("m.a/1", "m.b/0", "m.b/1", "m.b/2"), "all equal")
    with np.load(tmp_path / "p.npz", allow_pickle=False) as file:
        assert file["components"].tolist() == ["m.a/0", "m.a/2"]
        assert json.loads(str(file["about"]))["left_out"] == left_out
        np.testing.assert_array_equal(file["m.a/2/x"], made(2).pairs.x)


def test_a_slice_of_an_array_is_written_as_it_reads(tmp_path: Path) -> None:
    one = made(0)
    turned = one._replace(pairs=one.pairs._replace(x=np.asfortranarray(one.pairs.x)[:, ::2]))
    write_pairs(tmp_path / "p.npz", [("m.a", [turned])], {})
    with np.load(tmp_path / "p.npz", allow_pickle=False) as file:
        np.testing.assert_array_equal(file["m.a/x"], one.pairs.x[:, ::2])


@pytest.mark.parametrize("error", [KeyboardInterrupt, RuntimeError])
def test_there_is_nothing_under_the_name_until_it_is_whole(tmp_path: Path, error: type[BaseException]) -> None:
    path = tmp_path / "new" / "p.npz"

    def stopped(after: int) -> Iterator[tuple[str, list[Projected | NoPairs]]]:
        for seed in range(4):
            assert not path.exists()
            if seed == after:
                raise error("stopped")
            yield f"m.{seed}", [made(seed)]

    with pytest.raises(error, match="stopped"):
        write_pairs(path, stopped(2), {})
    assert list(path.parent.iterdir()) == []
    write_pairs(path, stopped(9), {})
    assert [file.name for file in path.parent.iterdir()] == ["p.npz"]


@pytest.mark.parametrize("has_links", [True, False])
def test_of_two_exports_to_one_name_the_first_that_is_whole_stays(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, has_links: bool
) -> None:
    def refused(*paths: Path) -> None:
        raise OSError("no links here")

    if not has_links:
        monkeypatch.setattr("os.link", refused)
    path = tmp_path / "p.npz"

    def slow() -> Iterator[tuple[str, list[Projected | NoPairs]]]:
        yield "m.a", [made(1)]
        write_pairs(path, [("m.a", [made(0)])], {})  # another, from first to last
        yield "m.b", [made(2)]

    words = "p.npz` appeared while pairs were written, and is left as it is; name another"
    with pytest.raises(FileExistsError, match=words):
        write_pairs(path, slow(), {})
    assert [file.name for file in tmp_path.iterdir()] == ["p.npz"]
    with np.load(path, allow_pickle=False) as file:
        assert file["components"].tolist() == ["m.a"]
        np.testing.assert_array_equal(file["m.a/y"], made(0).pairs.y)


def test_nothing_to_write_is_an_error(tmp_path: Path) -> None:
    words = "no states can be projected; the first are those of m.a: all equal"
    with pytest.raises(ValueError, match=re.escape(words)):
        write_pairs(tmp_path / "p.npz", [("m.a", [EQUAL]), ("m.b", [NoPairs("too few", 0)])], {})
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("name", "error", "words"),
    [
        ("p.npy", ValueError, "p.npy'; its name must end in .npz"),
        ("there.npz", FileExistsError, "there.npz` is there already; name another, or delete it first"),
        ("file/p.npz", PermissionError, "p.npz` can't be made: `{tmp}/file` is a file; name another place"),
        ("run.zarr/p.npz", ValueError, "p.npz', inside the store `{tmp}/run.zarr`; name a place outside of it"),
        ("s3://bucket/p.npz", ValueError, "p.npz'; pairs go to a folder of this machine"),
    ],
)
def test_names_that_are_refused(tmp_path: Path, name: str, error: Any, words: str) -> None:
    for there in ("there.npz", "file"):
        (tmp_path / there).touch()
    (tmp_path / "run.zarr").mkdir()
    (tmp_path / "run.zarr/zarr.json").touch()
    path = Path(name) if ":" in name else tmp_path / name
    with pytest.raises(error, match=re.escape(words.format(tmp=tmp_path))):
        refuse_npz(path)


def test_a_folder_that_cant_be_written_to(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("os.access", lambda *args: False)  # root may write anywhere
    with pytest.raises(PermissionError, match="can't be written to; name another place"):
        refuse_npz(tmp_path / "p.npz")


def test_a_new_folder_may_be_named(tmp_path: Path) -> None:
    refuse_npz(tmp_path / "new" / "deep" / "p.npz")
    assert list(tmp_path.iterdir()) == []
