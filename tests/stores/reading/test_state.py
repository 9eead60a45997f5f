"""Killed anywhere, a run is absent, torn, unfinished or finished; and the same command gives the same bytes."""

import itertools
import shutil
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from lorascope.stores import StoreError, clear_torn, create_run, open_place, open_run, run_state
from lorascope.stores.format.layout import GROUPS
from lorascope.stores.places.folder import FolderPlace

from ..on_disk import edit_root, go_on, stored


class Death(BaseException):
    pass


class Dying:
    """Dies at the n-th of what it is asked for, leaving half a file, and does nothing more afterwards."""

    def __init__(self, n_calls: int, patch: pytest.MonkeyPatch, method: str) -> None:
        self.count = itertools.count()
        self.n_calls = n_calls
        self.original = getattr(FolderPlace, method)
        patch.setattr(FolderPlace, method, lambda place, *given: self.call(place, *given))

    def call(self, place: FolderPlace, key: Any, *rest: Any) -> None:
        index = next(self.count)
        if index < self.n_calls:
            self.original(place, key, *rest)
            return
        if index == self.n_calls and rest:
            file = place.path / key
            file.parent.mkdir(parents=True, exist_ok=True)
            file.with_name(f".{file.name}.0123.partial").write_bytes(bytes(rest[0])[: len(rest[0]) // 2])
        if index == self.n_calls and not rest and not isinstance(key, str):
            (place.path / next(iter(key))).unlink()
        raise Death


def test_death_at_any_write_and_in_any_clearing(make_run: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = make_run(n_tokens=1100)
    expected = stored(run.path)
    with monkeypatch.context() as patch:
        counting = Dying(10**9, patch, "write")
        go_on(tmp_path / "counted", run)
        n_writes = next(counting.count)
    assert n_writes > 110
    seen = set()
    for n_calls in [0, 1, 2, *range(10, n_writes - 25, 25), *range(n_writes - 22, n_writes, 3)]:  # the last is the end
        path = tmp_path / f"run-{n_calls}"
        with monkeypatch.context() as patch:
            Dying(n_calls, patch, "write")
            with pytest.raises(Death):
                go_on(path, run)
        seen.add(state := run_state(path))
        if state == "torn":
            with pytest.raises(StoreError, match="is still being set up, or was interrupted then"):
                open_run(path)
            with monkeypatch.context() as patch:
                Dying(n_calls % 2, patch, "delete")
                with pytest.raises(Death):
                    clear_torn(path)
            assert run_state(path) == ("absent" if n_calls % 2 else "torn")
        go_on(path, run)
        assert run_state(path) == "finished"
        assert stored(path) == expected
        assert not list(open_place(path).temporary_files())
    assert seen == {"absent", "torn", "unfinished"}


EVERYTHING: dict[str, dict[str, Any]] = {
    "ablation": {"states": "sample", "state_rows": (True, False), "ablate": "kinds", "ablation_parts": ("a", "b")},
    "two adapters": {"adapters": ("default", "other"), "kl": True},
    "pair": {"stream": "pair"},
    "none": {"states": "none", "importance": (6, 9)},
}


@pytest.mark.parametrize("options", EVERYTHING.values(), ids=EVERYTHING)
def test_death_in_any_set_up_is_mended_by_the_same_command(
    make_run: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, options: dict[str, Any]
) -> None:
    run = make_run(n_tokens=1100, rows=(), **options)
    assert {key.partition("/")[0] for key in stored(run.path)} - {"zarr.json"} <= set(GROUPS)
    expected = stored(run.path)
    monkeypatch.setattr("os.fsync", lambda descriptor: None)

    def set_up(path: Path) -> None:
        if run_state(path) == "torn":
            clear_torn(path)
        with create_run(path, run.spec, tables=run.tables, weights=run.weights):
            pass

    for method, step in (("write", 9), ("flush", 25)):
        with monkeypatch.context() as patch:
            counting = Dying(10**9, patch, method)
            set_up(tmp_path / f"counted-{method}")
            n_calls = next(counting.count)
        for call in range(n_calls - 2, 0, -step):  # the last one is of the root that says that it is set up
            path = tmp_path / f"{method}-{call}"
            with monkeypatch.context() as patch:
                Dying(call, patch, method)
                with pytest.raises(Death):
                    set_up(path)
            assert run_state(path) == "torn"
            set_up(path)
            assert stored(path) == expected


KILLED = """
import itertools, os, pathlib, signal, sys
sys.path.insert(0, sys.argv[1])
import conftest
from lorascope.stores.places.folder import FolderPlace
make = next(conftest.make_run._get_wrapped_function()(pathlib.Path(sys.argv[2])))
calls = itertools.count()
def dying(name):
    original = getattr(FolderPlace, name)
    def call(*given):
        original(*given)
        if next(calls) == int(sys.argv[3]):
            os.kill(os.getpid(), signal.SIGKILL)
    setattr(FolderPlace, name, call)
dying("write")
dying("flush")
make(n_tokens=1100)
"""


@pytest.mark.parametrize("n_calls", [1, 215])
def test_sigkill_changes_nothing(make_run: Any, tmp_path: Path, n_calls: int) -> None:
    expected = make_run("expected.zarr", n_tokens=1100)
    arguments = [sys.executable, "-c", KILLED, str(Path(__file__).parents[1]), str(tmp_path), str(n_calls)]
    assert subprocess.run(arguments, check=False).returncode == -signal.SIGKILL
    go_on(tmp_path / "run.zarr", expected)
    assert stored(tmp_path / "run.zarr") == stored(expected.path)


def test_states_of_a_run(make_run: Any, tmp_path: Path) -> None:
    assert run_state(tmp_path / "nothing") == "absent"
    (tmp_path / "empty/a/b").mkdir(parents=True)
    assert run_state(tmp_path / "empty") == "absent"
    (tmp_path / "empty/.zarr.json.0123.partial").write_bytes(b"{")
    assert run_state(tmp_path / "empty") == "absent"
    assert run_state(make_run("part.zarr", rows=(0,)).path) == "unfinished"
    run = make_run()
    assert run_state(run.path) == "finished"
    go_on(tmp_path / "empty", run)  # what an interrupted start left is swept
    assert stored(tmp_path / "empty") == stored(run.path)


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (None, "is a file; name a run's folder, or for a new run one that is new or empty"),
        ({"notes.txt": "x"}, "isn't empty and holds no run; name a new folder, or empty this one first"),
        (
            {"c.0": "x"},
            r"holds parts of a run \('c.0'\) without its root 'zarr.json', .*; put that file back, or delete what",
        ),
        (
            {"run.zarr/zarr.json": "{}", "report.html": "x"},
            "isn't a run but holds `.*run.zarr`; name that one, or a new",
        ),
        ({"c.0": "x", "notes.txt": "x"}, "isn't empty and holds no run; name a new folder"),
        ({"zarr.json": "{"}, "isn't a readable Zarr group"),
        ({"zarr.json": "[1]"}, r"isn't a readable Zarr group \(its 'zarr.json' is \[1\]\)"),
        ({"zarr.json": "{}"}, "is a Zarr group but no lorascope run: `format` is None"),
        ({"zarr.json": '{"attributes": []}'}, "is a Zarr group but no lorascope run"),
        ({"zarr.json": '{"attributes": {"format": "lorascope.run", "format_version": 4}}'}, "has format version 4"),
    ],
)
def test_what_is_no_run_is_refused_and_kept(tmp_path: Path, content: dict[str, str] | None, words: str) -> None:
    path = tmp_path / "x"
    if content is None:
        path.write_text("x")
    else:
        path.mkdir()
        for name, text in content.items():
            (path / name).parent.mkdir(exist_ok=True)
            (path / name).write_text(text)
    for ask in (run_state, clear_torn):
        with pytest.raises(StoreError, match=words):
            ask(path)
    left = {str(file.relative_to(path)): file.read_text() for file in path.rglob("*") if file.is_file()}
    assert path.is_file() if content is None else left == content


def test_what_lies_below_a_file_is_no_run_and_can_not_become_one(tmp_path: Path) -> None:
    (tmp_path / "x").write_text("x")
    with pytest.raises(StoreError, match=r"`.*x/a/b` lies below `.*/x`, a file; name a run's folder"):
        run_state(tmp_path / "x/a/b")
    with pytest.raises(StoreError, match="`/dev/null` is a file"):
        run_state("/dev/null")


@pytest.mark.parametrize("rows", [None, (0,), ()])
def test_only_a_torn_run_is_cleared(make_run: Any, rows: Any) -> None:
    run = make_run(rows=rows)
    before = stored(run.path)
    state = "finished" if rows is None else "unfinished"
    with pytest.raises(
        StoreError, match=f"was not interrupted while it was set up but is {state}; nothing was deleted"
    ):
        clear_torn(run.path)
    assert stored(run.path) == before


@pytest.fixture
def torn(make_run: Any) -> Path:
    run: Path = make_run(rows=()).path
    edit_root(run, static_digest=None)
    return run


def test_torn_run_with_anything_else_in_it_is_kept(torn: Path) -> None:
    for key in ("notes.txt", "states/thesis.tex", "rows/digest/c.0.0", "other/c.0", "..c.0", "states/x/base/c.0.0.bak"):
        file = torn / key
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text("x")
        before = stored(torn)
        with pytest.raises(StoreError, match=f"holds {key!r}, which isn't part of a run being set up; nothing was del"):
            clear_torn(torn)
        assert stored(torn) == before
        file.unlink()
    clear_torn(torn)
    assert run_state(torn) == "absent"
    assert stored(torn) == {}


def test_clearing_does_not_follow_links(torn: Path, tmp_path: Path) -> None:
    (tmp_path / "outside").mkdir()
    (tmp_path / "outside/c.0").write_text("x")
    (torn / "states/link").symlink_to(tmp_path / "outside")
    with pytest.raises(StoreError, match="holds 'states/link', which isn't part of a run"):
        clear_torn(torn)
    assert (tmp_path / "outside/c.0").exists()


def test_what_is_left_of_a_run_is_known_and_deleting_it_goes_on(make_run: Any) -> None:
    run = make_run(n_tokens=1100)
    expected = stored(run.path)
    (run.path / "zarr.json").unlink()
    with pytest.raises(
        StoreError, match=r"run.zarr` holds parts of a run \('.*'\) without its root 'zarr.json', as where"
    ):
        go_on(run.path, run)
    shutil.rmtree(run.path)
    go_on(run.path, run)
    assert stored(run.path) == expected
