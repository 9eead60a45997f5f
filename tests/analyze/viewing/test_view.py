"""The page in a notebook: one server per run, until it is stopped."""

import json
import shutil
import socket
import urllib.error
import urllib.request
from html.parser import HTMLParser
from pathlib import Path

import pytest

from lorascope.analyze import view
from lorascope.analyze.results.tree import rows_digest
from lorascope.stores import open_run

from ...stores.on_disk import edit_root


@pytest.fixture
def run(many_rows: Path, tmp_path: Path) -> Path:
    return shutil.copytree(many_rows, tmp_path / "run.zarr")


def get(url: str) -> bytes:
    with urllib.request.urlopen(url, timeout=30) as answer:
        return bytes(answer.read())


def test_a_run_shows_itself_in_a_cell(run: Path) -> None:
    opened = open_run(run)
    with view(opened) as shown:
        frames: list[dict[str, str | None]] = []
        parser = HTMLParser()
        parser.handle_starttag = lambda tag, attrs: frames.append(dict(attrs))  # type: ignore[method-assign]
        parser.feed(shown._repr_html_())
        assert [(frame["src"], frame["title"]) for frame in frames] == [(shown.url, "lorascope")]
        entry = json.loads(get(f"{shown.url}view.json"))["runs"][0]
        assert get(f"{shown.url}{entry['run']}zarr.json") == (run / "zarr.json").read_bytes()
        index = json.loads(get(f"{shown.url}{entry['index']}zarr.json"))
        assert index["attributes"]["format"] == "lorascope.view"
        assert shown.url in repr(shown)
    assert "stopped" in repr(shown)


def test_a_process_has_one_server_for_the_same_runs(run: Path, two_adapters: Path, tmp_path: Path) -> None:
    other = shutil.copytree(two_adapters, tmp_path / "other.zarr")
    first, again, both = view(run), view(open_run(str(run))), view([run, other])
    assert first is again
    assert both.url != first.url
    assert len(json.loads(get(f"{both.url}view.json"))["runs"]) == 2
    first.stop()
    first.stop()
    with pytest.raises(urllib.error.URLError):
        get(first.url)
    again = view(run)
    assert get(again.url) == get(both.url)
    shutil.rmtree(run)
    shutil.copytree(two_adapters, run)  # another run at the same place
    with view(run) as changed:
        assert changed.url != again.url
        assert get(f"{changed.url}runs/0/adapters/a/zarr.json")
    for one in (again, both):
        one.stop()


def test_captures_of_one_adapter_on_two_models_have_a_server_and_an_index_each(run: Path) -> None:
    """Their tables and weights are equal, and so is `static_digest`."""
    with view(run) as first:
        edit_root(run, fingerprint="0" * 64)
        with view(run) as second:
            assert second.url != first.url
            index = json.loads(get(f"{second.url}indexes/0/zarr.json"))
    assert index["attributes"]["fingerprint"] == "0" * 64


def test_a_run_that_has_grown_since_it_was_opened(unfinished: Path, many_rows: Path, tmp_path: Path) -> None:
    run = open_run(shutil.copytree(unfinished, tmp_path / "run.zarr"))
    assert not run.committed_rows.all()
    shutil.copytree(many_rows, tmp_path / "run.zarr", dirs_exist_ok=True)
    with view(run) as shown:
        index = json.loads(get(f"{shown.url}indexes/0/zarr.json"))
    assert index["attributes"]["rows"] == rows_digest(open_run(run.path))


def test_only_this_machine_reaches_it(run: Path) -> None:
    with view(run) as shown:
        assert shown._server.server_address[0] == "127.0.0.1"


def test_mistakes_are_said(run: Path) -> None:
    with pytest.raises(ValueError, match="`runs` is empty; name one run or several"):
        view([])
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(OSError, match=rf"`port` is {port}, which can't be opened \(.*\); name another, or leave"):
            view(run, port=port)
