"""The page and what it needs as plain files: whole, or not at all."""

import http.server
import json
import shutil
import threading
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any
from urllib.parse import urljoin

import pytest

from lorascope.analyze.results.tree import rows_digest
from lorascope.analyze.viewing import write_bundle
from lorascope.analyze.viewing.served_files import page
from lorascope.stores import StoreError, open_place, open_run, verify

from ...stores.on_disk import lose_rows

CHUNK = "states/model.layers.0.mlp.up_proj/base/c.1.0"


def files_of(folder: Path) -> dict[str, bytes]:
    return {key: (folder / key).read_bytes() for key, _ in open_place(folder).sizes()}


def chunks_of(folder: Path) -> dict[str, bytes]:
    return {key: content for key, content in files_of(folder).items() if not key.endswith("zarr.json")}


def upload(run: Path, url: str) -> None:
    for key, content in files_of(run).items():
        open_place(url).write(key, content)


@contextmanager
def static(folder: Path) -> Iterator[str]:
    """Python's own static server on a folder, quietly."""
    handler = type("Quiet", (http.server.SimpleHTTPRequestHandler,), {"log_message": lambda *_: None})
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), partial(handler, directory=str(folder))) as server:
        threading.Thread(target=server.serve_forever, args=(0.05,)).start()
        yield f"http://127.0.0.1:{server.server_port}/"
        server.shutdown()


@pytest.fixture
def run(many_rows: Path, tmp_path: Path) -> Path:
    return shutil.copytree(many_rows, tmp_path / "a #1%.zarr")


def test_with_its_runs_it_needs_nothing_beside_it(run: Path, two_adapters: Path, tmp_path: Path) -> None:
    other = shutil.copytree(two_adapters, tmp_path / "b.zarr")
    (run / "notes.txt").write_text("ours")
    (run / ".c.0.0.0badcafe.partial").write_text("half")
    reported: list[tuple[int, int]] = []

    def tell(done: int, total: int, part: str = "") -> None:
        reported.append((done, total))

    written = write_bundle([run, open_run(other)], tmp_path / "out", with_runs=True, progress=tell)
    for name in ("notes.txt", ".c.0.0.0badcafe.partial"):
        (run / name).unlink()
        assert not (written / "runs/0" / name).exists()
    for copied, source in ((written / "runs/0", run), (written / "runs/1", other)):
        assert chunks_of(copied).items() >= chunks_of(source).items()
        assert verify(copied).ok
    reports = {"report-0-default.html", "report-1-a.html", "report-1-b.html"}
    assert {path.name for path in written.iterdir()} == {"index.html", "view.json", "runs", "indexes", *reports}
    assert 'href="index.html#panes=1:b&amp;sample=' in (written / "report-1-b.html").read_text()
    assert (written / "index.html").read_bytes() == page()
    assert (3, 3) in reported
    entries = json.loads((written / "view.json").read_text())["runs"]
    assert [(one["name"], one["run"], one["index"]) for one in entries] == [
        ("a #1%.zarr", "runs/0/", "indexes/0/"),
        ("b.zarr", "runs/1/", "indexes/1/"),
    ]
    of_second = {name: f"report-1-{name}.html" for name in ("a", "b")}
    assert [entry["reports"] for entry in entries] == [{"default": "report-0-default.html"}, of_second]
    assert json.loads((written / "indexes/1/zarr.json").read_text())["attributes"]["format"] == "lorascope.view"
    assert not [path for path in tmp_path.iterdir() if path.name.startswith(".")]


def test_without_them_it_points_at_them_from_where_it_lies(run: Path, tmp_path: Path) -> None:
    deeper = shutil.copytree(run, tmp_path / "x/y/run.zarr")
    write_bundle([run, deeper], tmp_path / "out")
    with static(tmp_path) as root:
        at = f"{root}out/"
        for entry, source in zip(json.loads(fetch(f"{at}view.json"))["runs"], (run, deeper), strict=True):
            assert fetch(urljoin(at, entry["run"]) + CHUNK) == (source / CHUNK).read_bytes()
            assert fetch(urljoin(at, entry["index"]) + "zarr.json")
        assert fetch(at) == page()
        assert b"2 runs" in fetch(f"{at}report.html")


def fetch(url: str) -> bytes:
    with urllib.request.urlopen(url, timeout=30) as answer:
        return bytes(answer.read())


def test_what_it_cannot_point_at_is_refused_before_any_work(run: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"can't point at `.*#1%.zarr`: that isn't below `.*elsewhere`; name"):
        write_bundle(run, tmp_path / "elsewhere/out")
    with pytest.raises(ValueError, match="`runs` is empty"):
        write_bundle([], tmp_path / "out")
    with pytest.raises(ValueError, match="a result goes to a folder of this machine"):
        write_bundle(run, "s3://bucket/out")
    with pytest.raises(ValueError, match="inside the store"):
        write_bundle(run, run / "out")
    assert [path.name for path in tmp_path.iterdir()] == [run.name]


def test_a_folder_that_holds_something_is_left_alone(run: Path, tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    write_bundle(run, tmp_path / "out")
    before = files_of(tmp_path / "out")
    (tmp_path / "file").touch()
    (tmp_path / "empty").mkdir()
    for name, target in (("link", "empty"), ("dangling", "nowhere")):
        (tmp_path / name).symlink_to(tmp_path / target)
    for name in ("out", "file", "link", "dangling"):
        with pytest.raises(FileExistsError, match="which exists and isn't an empty folder; name a new one"):
            write_bundle(run, tmp_path / name)
    assert files_of(tmp_path / "out") == before


def test_it_takes_no_index_s_place(run: Path, tmp_path: Path) -> None:
    for name in ("a #1%.view.zarr", "a #1%.view.zarr/look"):
        with pytest.raises(FileExistsError, match="which is reserved for the index of a run"):
            write_bundle(run, tmp_path / name, with_runs=True)
    assert [path.name for path in tmp_path.iterdir()] == [run.name]


def test_a_run_may_be_where_one_is(run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(run)
    write_bundle(".", "../look")
    assert json.loads((tmp_path / "look/view.json").read_text())["runs"][0]["run"] == "../a%20%231%25.zarr/"


@pytest.mark.parametrize("how", ["missing", "changed"])
def test_of_a_broken_run_nothing_is_left(run: Path, tmp_path: Path, how: str) -> None:
    write_bundle(run, tmp_path / "before", with_runs=True)
    content = bytearray((run / CHUNK).read_bytes())
    (run / CHUNK).unlink()
    if how == "changed":
        content[len(content) // 2] ^= 1
        (run / CHUNK).write_bytes(content)
    with pytest.raises(StoreError, match="row 1 of .* can't be copied: .*; run `lorascope verify`"):
        write_bundle(run, tmp_path / "out", with_runs=True)
    assert not [path for path in tmp_path.iterdir() if "out" in path.name]


def test_of_an_unfinished_run_whole_samples_are_copied(unfinished: Path, tmp_path: Path) -> None:
    run = shutil.copytree(unfinished, tmp_path / "run.zarr")
    (run / CHUNK).write_bytes(b"half")  # of the row that isn't committed
    write_bundle(run, tmp_path / "out", with_runs=True)
    copied = open_run(tmp_path / "out/runs/0")
    assert copied.finished
    assert copied.samples["id"].values.tolist() == ["s0", "s4"]
    index = json.loads((tmp_path / "out/indexes/0/zarr.json").read_text())["attributes"]
    assert index["rows"] == rows_digest(copied)
    assert "copied from an unfinished run:</b> 3 of its samples" in (tmp_path / "out/report.html").read_text()


def test_of_a_finished_run_that_lost_rows_nothing_is_copied(run: Path, tmp_path: Path) -> None:
    lose_rows(run, 1)
    with pytest.raises(StoreError, match="can't be copied whole: row 1 of a finished run has no digest; run"):
        write_bundle(run, tmp_path / "out", with_runs=True)
    assert [path.name for path in tmp_path.iterdir()] == [run.name]


def test_runs_in_an_object_store(run: Path, s3: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)  # where indexes of remote runs go
    urls = [f"{s3.prefix}/x/r8.zarr", f"{s3.prefix}/y/r8.zarr"]
    for url in urls:
        upload(run, url)
    write_bundle(urls[0], tmp_path / "copied", with_runs=True)
    assert chunks_of(tmp_path / "copied/runs/0").items() >= chunks_of(run).items()
    for runs, addresses in ((urls[:1], ["../r8.zarr/"]), (urls, ["../x/r8.zarr/", "../y/r8.zarr/"])):
        out = write_bundle(runs, tmp_path / f"out{len(runs)}")
        assert [one["run"] for one in json.loads((out / "view.json").read_text())["runs"]] == addresses
    with pytest.raises(ValueError, match="can't point at `s3://.*`: that isn't below"):
        write_bundle([run, urls[0]], tmp_path / "mixed")
    urllib.request.urlopen(urllib.request.Request(f"{s3.url}/bucket2", method="PUT")).close()
    upload(run, "s3://bucket2/r8.zarr")
    with pytest.raises(ValueError, match="that isn't in one bucket with the others"):
        write_bundle([urls[0], "s3://bucket2/r8.zarr"], tmp_path / "two")
