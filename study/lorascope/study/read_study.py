"""The table of a study, read from a file, computed from runs, or taken from the paper.

MIUB is the Jensen-Shannon divergence (js) of base and adapted outputs, summed over layers.
"""

import json
import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd  # type: ignore[import-untyped]
import xarray as xr

from lorascope.analyze.fits.frame import first_names
from lorascope.analyze.miub.miub import miub
from lorascope.stores import Run, open_run
from lorascope.stores.format.spec import FORMAT
from lorascope.stores.progress import Progress

from .paper_tables import paper_study
from .read_table import read_table, select_rows
from .results.cells import MIUB_COLUMNS, SETTING, cell_values, group_samples, name_settings
from .study_names import PAPER, TABLE, CellSet, find_table, is_store

COLUMNS = (*SETTING, "ACC", "CE", "PPL", *MIUB_COLUMNS)
"""Columns of the table of runs."""
OPTIONAL_COLUMNS = {"N": "parameters of the model (N)", "ACC": "accuracy (ACC)", "CE": "cross-entropy (CE)"}
"""Column that may be empty -> its description in a note."""
MIUB_CONDITIONS = (
    "what x feeds the layers (stream)",
    "which tokens they keep",
    "whether js is from states or from capture",
)
"""Differences that make the MIUB of two runs different quantities."""


def read_study(
    paths: str | Path | Sequence[str | Path],
    *,
    where: Mapping[str, Sequence[str]] | None = None,
    n_workers: int | None = None,
    progress: Progress | None = None,
) -> pd.DataFrame:
    """Return a study's table (MIUB, accuracy, CE by setting) from a file, from runs, or from the paper's table 1.

    Parameters
    ----------
    paths
        One of: a file, see `read_table`; a folder with `study.csv`; a folder that contains runs, at any depth; several
        runs, urls of runs or such folders; `paper`, `paper:repaired` or `paper:without-collapsed`, table 1 of arXiv
        2501.03152 from `paper_study` (`./paper` is a folder of that name).
    where
        Column -> values: only rows with one of these values.
    n_workers
        Threads that read runs; by default one per processor.
    progress
        Called with (done, total, name of the run).

    Returns
    -------
    DataFrame
        `attrs` has `source` (text), and `notes`: sentences on unknown values and excluded samples. Of runs, one row per
        run, adapter, data set, split and prompt: `run`, `adapter`, `model`, `dataset`, `split`, `prompt`, `setting`
        (rank and whatever else differs, as text); `N` (parameters of the model, each counted once) and
        `N_non_embedding`, `share` (layers that share their weights, 1 if unknown), `R` (rank), `D` (training samples of
        the adapter); `ACC` (share), `CE` (nats per token) and `PPL` with the adapter over `n_scored` samples; `MIUB`
        and its standard error `MIUB_se` (nats) over `n_samples`. Columns without any value are absent.

    Raises
    ------
    FileNotFoundError, ValueError
        If a path doesn't exist, or is neither a table nor contains a run; runs are mixed with tables; a run is given
        twice; an adapter has several ranks; or no row fits `where`.
    StoreError
        If a run can't be read, or no sample of it is complete.

    Notes
    -----
    LLaMA3's share1 is the paper's r32 run printed a second time: it is used once if both sweeps fit `where`.

    Examples
    --------
    >>> study = read_study("paper", where={"model": ["Phi3"], "sweep": ["size"]})
    >>> len(study), study["N"].nunique()
    (20, 4)
    """
    places = [paths] if isinstance(paths, str | Path) else list(paths)
    if not places:
        raise ValueError("no study is named; give a table, a folder of runs, runs, or the word 'paper'")
    conditions, tables = dict(where or {}), {str(place): find_table(place) for place in places}
    whole = [place for place, table in tables.items() if table is not None]
    if whole and len(places) > 1:
        raise ValueError(f"{whole[0]!r} is a whole table and can't be put together with others; name it alone")
    if not whole:
        return select_rows(_read_runs(places, n_workers, progress), conditions)
    table = tables[whole[0]]
    return (
        select_rows(read_table(table), conditions)
        if isinstance(table, Path)
        else _read_paper(PAPER[str(table)], conditions)
    )


def _read_paper(cells: CellSet, where: Mapping[str, Sequence[str]]) -> pd.DataFrame:
    """Return the rows of the paper's table 1 that fit `where`; a run that is printed twice counts once."""
    study = select_rows(paper_study(cells), where)
    notes = []
    if study["sweep"].nunique() > 1:
        once = select_rows(paper_study(cells, once=True), where)
        notes = ["LLaMA3's share1 is its r32 run printed a second time: it is taken once"] * (len(once) < len(study))
        study = once
    study.attrs["notes"] = notes
    return study


def _read_runs(places: Sequence[str | Path], n_workers: int | None, progress: Progress | None) -> pd.DataFrame:
    """Return a table of MIUB and scores of all runs at `places`; notes in `attrs` say what differs or is unknown."""
    runs = [run for source in places for run in _find_runs(source, alone=len(places) == 1)]
    resolved = [place.rstrip("/") if "://" in place else str(Path(place).resolve()) for _, place in runs]
    if twice := [name for (name, _), place in zip(runs, resolved, strict=True) if resolved.count(place) > 1]:
        raise ValueError(f"run {twice[0]!r} is given twice; give each run once")
    rows: list[dict[str, Any]] = []
    notes: dict[str, None] = {}
    kinds: dict[str, dict[str, None]] = {what: {} for what in MIUB_CONDITIONS}
    for name, place in runs:

        def update(done: int, total: int, part: str = "", name: str = name) -> None:
            """Report a run's progress under the run's name instead of that of a part."""
            if progress is not None:
                progress(done, total, name)

        run = open_run(place)
        for adapter, rank in {adapter: _adapter_rank(run, adapter) for adapter in run.adapters}.items():
            result = miub(run, adapter=adapter, n_workers=n_workers, progress=update)
            rows += _run_rows(run, result, name, adapter, rank)
            if n := result.attrs["n_samples_incomplete"]:
                notes[f"run {name!r}: {n} samples aren't wholly captured and not in MIUB"] = None
            if n := result.attrs["n_not_finite"]:
                notes[f"run {name!r}: {n} values aren't finite, and MIUB is empty where they enter"] = None
            population = dict(run.attributes.get("provenance") or {}).get("population", "")
            for what, value in zip(MIUB_CONDITIONS, (run.stream, population, result.attrs["js_source"]), strict=True):
                kinds[what][str(value)] = None
    frame = pd.DataFrame(rows)
    for column, what in OPTIONAL_COLUMNS.items():
        if lacking := list(dict.fromkeys(frame["run"][frame[column].isna()] if column in frame else frame["run"])):
            is_unknown = len(lacking) == frame["run"].nunique()
            known_of = "no run" if is_unknown else f"not every run: {first_names(lacking)} lacks it"
            notes[f"{what}: known of {known_of}"] = None
    for what, values in kinds.items():
        if len(values) > 1:
            notes[f"runs differ in {what}: {first_names(values)}; their MIUB isn't one quantity"] = None
    frame["setting"] = name_settings(frame)
    if frame["D"].notna().all() and frame["D"].nunique() > 1:
        frame["setting"] += " d" + frame["D"].astype(int).astype(str)
    columns = [name for name in COLUMNS if name == "MIUB" or (name in frame and frame[name].notna().any())]
    frame = frame[columns].infer_objects()
    source = f"{len(runs)} run{'s' if len(runs) > 1 else ''}: {', '.join(map(str, places))}"
    frame.attrs = {"source": source, "notes": list(notes)}
    return frame


def _run_rows(run: Run, result: xr.DataTree, name: str, adapter: str, rank: int) -> Iterator[dict[str, Any]]:
    """Yield a table's row (a dict) per data set, split and prompt of one adapter of a run.

    Unknown columns are None or absent.
    """
    provenance = dict(run.attributes.get("provenance") or {})
    model, training = (dict(provenance.get(key) or {}) for key in ("model", "training"))
    about = {
        "run": name, "adapter": adapter, "model": str(result.attrs["model"]), "N": model.get("n_parameters"),
        "N_non_embedding": model.get("n_parameters_non_embedding"), "share": model.get("share", 1), "R": rank,
        "D": dict(training.get(adapter) or {}).get("n_samples"),
    }  # fmt: skip
    by_sample = result.children["samples"].dataset
    samples = run.samples.assign(miub=("sample", by_sample["miub"].values))
    is_used = by_sample["used"].values
    for labels, part in group_samples(samples.assign(used=("sample", is_used)), np.ones(len(is_used), bool)):
        if part["used"].any():
            yield about | labels | cell_values(part, part["miub"].values[part["used"].values])


def _adapter_rank(run: Run, adapter: str) -> int:
    """Return an adapter's LoRA rank; raise ValueError unless all components that it changes have the same."""
    ranks = np.unique(run.adapter(adapter)["rank"].values)
    ranks = ranks[ranks > 0]
    if len(ranks) != 1:
        known = ", ".join(map(str, ranks)) or "none"
        raise ValueError(
            f"adapter {adapter!r} of `{run.place.name}` has components of ranks {known}; a study has one rank R per "
            "run: exclude this run, or write a table of your own"
        )
    return int(ranks[0])


def _find_runs(source: str | Path, *, alone: bool) -> list[tuple[str, str]]:
    """Return (name, path or url) of each run at or below `source`; `alone` shortens names to those in its folder."""
    path = Path(source)
    if "://" in str(source) or is_store(path):
        return [(str(source), str(source))]
    stores = sorted(_runs_below(path))
    if not stores:
        raise FileNotFoundError(
            f"`{path}` holds neither {TABLE!r} nor a run; name a folder in which `lorascope capture` wrote runs"
        )
    return [(place.relative_to(path).as_posix() if alone else str(place), str(place)) for place in stores]


def _runs_below(folder: Path) -> Iterator[Path]:
    """Yield the paths of all runs below a folder; links are followed, hidden folders and stores' insides skipped."""

    def fail(error: OSError) -> None:
        """Raise the error, since os.walk skips folders that can't be read."""
        raise error

    visited = set()
    for place, folders, _ in os.walk(folder, onerror=fail, followlinks=True):
        path = Path(place)
        is_new = path.resolve() not in visited
        visited.add(path.resolve())
        if is_new and is_store(path) and _is_run(path):
            yield path
        is_searched = is_new and not is_store(path)
        folders[:] = [name for name in folders if is_searched and not name.startswith(".")]


def _is_run(path: Path) -> bool:
    """Return whether a Zarr store is a run; True also if its metadata isn't JSON, so that opening it raises why."""
    try:
        content = json.loads((path / "zarr.json").read_bytes())
    except ValueError:
        return True
    return isinstance(content, dict) and (content.get("attributes") or {}).get("format") == FORMAT
