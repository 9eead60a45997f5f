"""A second page is made from stored results: equal to the first except for its note, and without a look at states."""

import os
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from lorascope.analyze import explain
from lorascope.analyze.report import page, paragraph, write_report
from lorascope.analyze.report.explain import stored_note
from lorascope.analyze.results.stored import results_folder
from lorascope.cli.main import main
from lorascope.stores import Run, StoreError, open_run, verify

from ..conftest import Small
from ..results.test_stored import changed_run

NOTE = re.compile(r"<p>(<b>What wasn't read again.</b> )?(Some of these|These) numbers were computed earlier .*?</p>")


@pytest.fixture
def run(make_small: Callable[..., Small], tmp_path: Path) -> Run:
    small = make_small(ablate="components", importance=True)
    return open_run(shutil.copytree(small.run.path, tmp_path / "run.zarr"))


def damage_states(run: Run) -> None:
    """Flip a bit of each chunk of base."""
    for file in Path(run.path).glob("states/*/base/c.*"):
        content = bytearray(file.read_bytes())
        content[len(content) // 2] ^= 1
        file.write_bytes(content)


def page_of(*runs: Run) -> str:
    folder = Path(runs[0].path).parent
    return write_report([open_run(run.path) for run in runs], folder / "page.html").read_text(encoding="utf-8")


def test_the_second_page_is_the_first_one_with_a_note(run: Run) -> None:
    first = page_of(run)
    assert not NOTE.search(first)
    times = {file: file.stat().st_mtime_ns for file in Path(run.path).rglob("*")}
    damage_states(run)
    for file, time in times.items():  # as if the disk had done it
        os.utime(file, ns=(time, time))
    assert not verify(run.path).ok
    second = page_of(run)
    assert NOTE.sub("", second) == first
    (note,) = [match[0] for match in NOTE.finditer(second)]
    for words in (
        " UTC) and read from <code>run.zarr.results</code>: ",
        "Its rows weren't read again; <code>lorascope",
    ):
        assert words in note.replace("&#x27;", "'")
    folder = results_folder(run)
    assert folder is not None
    shutil.rmtree(folder)
    with pytest.raises(StoreError, match="checksum"):
        page_of(run)


def test_some_results_alone(run: Run) -> None:
    first = page_of(run)
    folder = results_folder(run)
    assert folder is not None
    (file,) = folder.glob("directions-*")
    file.unlink()
    second = page_of(run)
    assert "Some of these numbers were computed earlier" in second
    assert NOTE.sub("", second) == first


def test_pages_that_compare_runs_share_what_was_computed(run: Run, make_small: Callable[..., Small]) -> None:
    other = open_run(shutil.copytree(make_small(n_samples=11).run.path, Path(run.path).with_name("other.zarr")))
    explain(run)
    texts = [page_of(run, other) for _ in range(2)]
    assert [len(NOTE.findall(text)) for text in texts] == [1, 2]
    assert NOTE.sub("", texts[0]) == NOTE.sub("", texts[1])


def test_changes_replies_and_texts_come_back(tmp_path: Path) -> None:
    run = changed_run(tmp_path / "run.zarr")
    explanations = [explain(open_run(run.path)) for _ in range(2)]
    assert [bool(stored_note(run, explanation[:-1])) for explanation in explanations] == [False, True]
    assert paragraph(run, explanations[0]) == paragraph(run, explanations[1])


def test_commands_say_that_rows_were_not_read_again(run: Run, capsys: pytest.CaptureFixture[str]) -> None:
    outputs = []
    for command in ("report", "explain", "explain"):
        assert main([command, str(run.path)]) == 0
        outputs.append(capsys.readouterr())
    assert outputs[0].err == ""
    assert outputs[1].err.startswith("These numbers were computed earlier (")
    assert outputs[1] == outputs[2]
    assert main(["report", str(run.path)]) == 0
    again = capsys.readouterr()
    assert again.err == outputs[1].err
    assert again.out == outputs[0].out


def test_pictures_are_stored_once_all_are_drawn(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    """Chrome may have stopped before the last one."""
    drawn, sizes = {"a": b"<svg/>"}, list[int]()
    monkeypatch.setattr(page, "draw", lambda figures, **options: sizes.append(len(drawn)) or dict(drawn))
    figures: dict[str, Any] = {"a": {}, "b": {}}
    assert page._stored_pictures(run, figures) == drawn
    drawn["b"] = "<svg>✓</svg>".encode()
    for _ in range(2):
        assert page._stored_pictures(run, figures) == drawn
    assert sizes == [1, 2]
