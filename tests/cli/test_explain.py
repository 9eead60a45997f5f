"""`lorascope explain`."""

import shutil
from pathlib import Path

import pytest

from .called import call

pytestmark = pytest.mark.usefixtures("wide")
QUESTIONS = ["Where it acts. ", "What matters. ", "Which directions. ", "Which words. ", "How many ranks. "]


def test_a_paragraph_and_a_page_beside_the_run(
    capsys: pytest.CaptureFixture[str], many_rows: Path, tmp_path: Path
) -> None:
    run = shutil.copytree(many_rows, tmp_path / "llama-3.1[b].zarr")
    code, out, err = call("explain", capsys, run)
    assert (code, err) == (0, "")
    *paragraph, last = out.splitlines()
    assert [line.startswith(question) for line, question in zip(paragraph, QUESTIONS, strict=True)] == [True] * 5
    page = tmp_path / "llama-3.1[b]-explained.html"
    assert last == f"page: {page}"
    assert page.read_text().startswith("<!DOCTYPE html>")
    assert sorted(path.name for path in tmp_path.iterdir()) == [page.name, run.name]


def test_options_reach_it(capsys: pytest.CaptureFixture[str], two_adapters: Path, tmp_path: Path) -> None:
    out = tmp_path / "pages/mine.html"
    code, said, _ = call("explain", capsys, two_adapters, "--adapter", "b", "--out", out, "--workers", 1)
    assert code == 0
    assert said.endswith(f"page: {out}\n")
    assert "the page is about <b>b</b>" in out.read_text()


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["{run}", "--out", "{run}/page.html"], "`out` is '{run}/page.html', inside the store `{run}`; name a"),
        (["{run}", "--out", "s3://bucket/page.html"], "a result goes to a folder of this machine"),
        (["{run}", "--out", "{tmp}"], "a folder; name a file, e.g."),
        (["{run}", "--adapter", "c", "--out", "{tmp}/page.html"], "`adapter` is 'c'; this run holds ['default']"),
        (["{tmp}/none"], "`{tmp}/none` doesn't exist; name a run that `lorascope capture` wrote"),
    ],
)
def test_mistakes_are_one_line(
    capsys: pytest.CaptureFixture[str], many_rows: Path, tmp_path: Path, words: list[str], message: str
) -> None:
    named = {"run": many_rows, "tmp": tmp_path}
    code, out, err = call("explain", capsys, *(word.format(**named) for word in words))
    assert (code, out, err.count("\n")) == (2, "", 1)
    assert message.format(**named) in err
    assert list(tmp_path.iterdir()) == []
