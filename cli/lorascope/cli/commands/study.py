"""`lorascope study`: plan, run, status and report."""

import time
from collections import Counter
from pathlib import Path

from lorascope.analyze.format import format_number
from lorascope.stores.size import format_size
from lorascope.study.grid import Unit, chosen_units, units_of
from lorascope.study.settings import StudySettings, read_settings

from ..screen import print_table, progress_bar, say

__all__ = ["plan", "report", "run", "status"]


def plan(study: Path, /, *, only: str | None = None, probe: bool = True) -> None:
    """What a study will run, and what it will take in time and on the disk; nothing is kept.

    Parameters
    ----------
    study
        The study's YAML file.
    only
        i/n: of the units every n-th from the i-th on.
    probe
        Whether to rehearse a unit of each model and task with a few items, and take the time; without, tokens are
        counted.
    """
    from lorascope.study.estimate import Price, count_tokens, rehearse
    from lorascope.study.models import Models
    from lorascope.study.recipe import information_of
    from lorascope.study.run import drawn

    from ..quiet import quiet_libraries

    settings = read_settings(study)
    quiet_libraries()
    units = chosen_units(units_of(settings), only)
    models = Models(settings)
    data = drawn(settings, units, models)
    prices: dict[tuple[str, str], Price] = {}
    rows, seconds, stored = [], 0.0, [0.0]
    for unit in units:
        tokens = count_tokens(unit, settings, data[unit], models)
        key = (unit.model, unit.task)
        if probe and key not in prices:
            like = [one for one in units if (one.model, one.task) == key]
            largest = max(like, key=lambda one: (information_of(one, settings) is not None, one.rank))
            prices[key] = rehearse(largest, settings, data[largest], models)
        price = prices.get(key)
        counts = [format_number(n) for n in tokens[:3]]
        rows.append([unit.name, *counts, _duration(price.seconds(tokens)) if price else ""])
        seconds += price.seconds(tokens) if price else 0
        stored.append(price.bytes(tokens) if price else 0)
    print_table("Units", ["unit", "tokens trained", "scored", "captured", "time"], rows)
    for note in dict.fromkeys(note for unit in units for note in data[unit].notes):
        say(f"note: {note}")
    if n_informed := sum(information_of(unit, settings) is not None for unit in units):
        say(f"note: of {n_informed} units mutual information is estimated, whose time isn't in this plan")
    if probe:
        say(
            f"{len(units)} units: about {_duration(seconds)} by a rehearsal on this machine; at most "
            f"{format_size(int(max(stored)))} on the disk at a time"
            + ("" if settings.states == "none" else f", {format_size(int(sum(stored)))} when all are kept")
        )
    say(f"results: {settings.results}; adapters and runs: {settings.workplace}")


def run(study: Path, /, *, only: str | None = None, redo: bool = False, scheduler: str | None = None) -> None:
    """Do what is missing of a study: fine-tune, capture and measure every unit of its grid.

    Killed at any point, the same command goes on. Several processes may run one study at a time.

    Parameters
    ----------
    study
        The study's YAML file.
    only
        i/n: of the units every n-th from the i-th on, counted from 1; for job arrays.
    redo
        Make again what was made with other settings; without it that is refused.
    scheduler
        Address of a running Dask scheduler, on whose workers MIUB and mutual information are computed.
    """
    from lorascope.study.run import run_study

    from ..quiet import quiet_libraries

    settings = read_settings(study)
    quiet_libraries()
    began = time.perf_counter()
    outcomes: Counter[str] = Counter()
    with progress_bar("study") as update:

        def tell(number: int, n_units: int, unit: Unit, step: str, done: int, total: int, counted: str) -> None:
            update(done, total, f"{counted}, {number}/{n_units} {unit.name}", step)

        for outcome in run_study(settings, tell, only=only, redo=redo, scheduler=scheduler):
            outcomes[outcome.did] += 1
            say(f"{outcome.unit.name}: {outcome.did}")
    counts = ", ".join(f"{n} {did}" for did, n in outcomes.items()) or f"none of them is in part {only}"
    say(f"units: {counts}, in {time.perf_counter() - began:.0f} s; results: {settings.results}")
    say(f"`lorascope study report {study}` writes tables and figures")


def status(study: Path, /) -> int:
    """How far a study has got; needs no torch. The exit code is 0 once all units are done, else 1.

    Parameters
    ----------
    study
        The study's YAML file.
    """
    from lorascope.study.status import study_status

    found = study_status(read_settings(study))
    print_table("Units", ["unit", "state", "detail"], [(one.unit.name, one.state, one.detail) for one in found])
    n_done = sum(one.state == "done" for one in found)
    say(f"{n_done} of {len(found)} units done")
    return 0 if n_done == len(found) else 1


def report(study: Path, /, *, out: Path | None = None) -> None:
    """Tables and figures of a study, as one HTML page and as CSV; needs no torch, and works on a part of the units.

    Parameters
    ----------
    study
        The study's YAML file.
    out
        File of the page; by default `report.html` in the study's folder of results, beside the CSV files.
    """
    from lorascope.study.report import write_study_report

    settings = read_settings(study)
    planned = [unit.name for unit in units_of(settings)]
    for path in write_study_report(_out(settings), out, planned=planned):
        say(f"wrote {path}")


def _duration(seconds: float) -> str:
    """`40 s`, `12 min` or `3.5 h`."""
    if seconds < 60:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 3600 else f"{seconds / 3600:.1f} h"


def _out(settings: StudySettings) -> Path:
    assert settings.out is not None
    return settings.out
