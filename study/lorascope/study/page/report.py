"""A study's report: its tables as CSV, and one page, from the results that are there."""

from collections.abc import Sequence
from pathlib import Path

from lorascope.stores.places.atomic_write import atomic_write

from ..results.study_results import study_results
from ..results.units import read_units
from .study_page import render_study

__all__ = ["write_study_report"]

PAGE = "report.html"


def write_study_report(out: Path, page: Path | None = None, *, planned: Sequence[str] = ()) -> list[Path]:
    """Write a study's tables into its folder, and its page; returns all paths, the page last.

    Parameters
    ----------
    out
        The study's folder, with `results` in it.
    page
        File of the page; by default `report.html` in that folder.
    planned
        Names of all units of the grid, results of others are left out; by default those that are done.

    Raises
    ------
    FileNotFoundError
        If there are no results.
    ValueError
        If a file of results is damaged, or isn't one; all are of units that aren't planned; or the page's place is a
        folder.

    Notes
    -----
    What is there already is replaced, each file by a whole one. `study.csv` is what `read_study`, `lorascope fit` and
    `lorascope compare` take where they are given the folder.
    """
    if page is not None and page.is_dir():
        raise ValueError(f"`out` is {str(page)!r}, a folder; name the page's file, such as {str(page / PAGE)!r}")
    study = study_results(read_units(out), planned=planned)
    texts = {
        out / f"{name}.csv": table.to_csv(index=False, lineterminator="\n") for name, table in study.tables.items()
    }
    texts[out / PAGE if page is None else page] = render_study(study, source=out.name)
    for path, text in texts.items():
        with atomic_write(path) as partial:
            partial.write_text(text, encoding="utf-8", newline="\n")
    return list(texts)
