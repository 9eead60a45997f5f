"""`lorascope study`: plan, run, status and report."""

import time
from collections import Counter
from pathlib import Path

from lorascope.analyze.results.format import format_duration, format_number
from lorascope.stores.size import format_size
from lorascope.study.grid import grid_units, select_units
from lorascope.study.settings import read_settings

from ..options import AsJson, StudyFile
from ..screen import CONTINUES, print_frame, progress_bar, quiet_libraries, report_when_stopped, say, write_json

ALREADY_DONE = "there already"
"""Outcome of a unit whose results existed before."""


def plan(study: StudyFile, /, *, only: str | None = None, probe: bool = True, as_json: AsJson = False) -> None:
    """Estimate the time and disk that a study's units (adapters) need.

    Nothing stays on disk.

    Parameters
    ----------
    only
        i/n: only every n-th unit, starting with the i-th.
    probe
        Try one unit of each model and task on a few items, and measure the time. With --no-probe, only tokens are
        counted.
    as_json
        Print one JSON object and nothing else: `units` (a list of `unit`, `tokens`: `trained`, `scored` and `captured`,
        `seconds`, null without a rehearsal, and `stored_bytes`), `notes`, and the folders `results` and `work`.
    """
    from lorascope.study.running.recipe import require_inputs

    settings = read_settings(study)
    require_inputs(settings, select_units(grid_units(settings), only), weights=probe)

    from lorascope.study.running.rehearsal import plan_study

    quiet_libraries()
    planned = plan_study(settings, only=only, probe=probe)
    notes = list(dict.fromkeys(note for unit in planned for note in unit.notes))
    if as_json:
        units = [
            {"unit": p.unit.name, "tokens": p.tokens, "seconds": p.seconds, "stored_bytes": p.stored_bytes}
            for p in planned
        ]
        write_json({"units": units, "notes": notes, "results": settings.results, "work": settings.work})
        return
    rows = [
        {"unit": unit.unit.name, "tokens trained": format_number(unit.tokens.trained),
         "scored": format_number(unit.tokens.scored), "captured": format_number(unit.tokens.captured),
         "time": "" if unit.seconds is None else format_duration(unit.seconds)}
        for unit in planned
    ]  # fmt: skip
    print_frame(rows, "Units")
    for note in notes:
        say(f"note: {note}")
    if probe:
        stored = [unit.stored_bytes for unit in planned]
        at_most = format_size(max(stored, default=0) if settings.states == "none" else sum(stored))
        time = f"about {format_duration(sum(unit.seconds or 0 for unit in planned))} by a rehearsal"
        without = "without mutual information and MIUB in training"
        say(f"{len(planned)} units: {time}, {without}; at most {at_most} on the disk")
    say(f"results: {settings.results}; adapters and runs: {settings.work}")


def run(study: StudyFile, /, *, only: str | None = None, scheduler: str | None = None) -> None:
    """Fine-tune, capture and measure every unit (adapter) of a study's grid that has no results yet.

    The same command continues a study that was stopped.

    Parameters
    ----------
    only
        i/n: only every n-th unit, starting with the i-th (from 1); for job arrays.
    scheduler
        Address of a running Dask scheduler; its workers then compute MIUB and mutual information.
    """
    from lorascope.study.running.recipe import require_inputs

    settings = read_settings(study)
    units = select_units(grid_units(settings), only)
    require_inputs(settings, units)
    began = time.perf_counter()
    outcomes: Counter[str] = Counter()

    def describe() -> str:
        """Return a sentence on how many units (adapters) are known to be done when the command is stopped."""
        n_done = outcomes["made"] + outcomes[ALREADY_DONE]
        return f"stopped with {n_done} of {len(units)} units known to be done; {CONTINUES}"

    with report_when_stopped(describe), progress_bar("study") as update:
        from lorascope.study.running.run import run_study

        quiet_libraries()
        for outcome in run_study(
            settings,
            lambda number, n, unit, step, done, total, counted: update(
                done, total, f"{counted}, {number}/{n} {unit.name}", step
            ),
            only=only,
            scheduler=scheduler,
        ):
            outcomes[outcome.state] += 1
            say(f"{outcome.unit.name}: {outcome.state}" + (f" ({outcome.holder})" if outcome.holder else ""))
    if outcomes[ALREADY_DONE] and outcomes.total() == outcomes[ALREADY_DONE]:
        done = f"all {len(units)} units are done, by the same settings, models, data and prompts"
        say(f"already complete: {done}; results: {settings.results}")
        return
    counts = ", ".join(f"{n} {state}" for state, n in outcomes.items()) or f"part {only} has no units"
    say(f"units: {counts}, in {format_duration(time.perf_counter() - began)}; results: {settings.results}")
    say(f"`lorascope study report {study}` writes tables and figures")


def status(study: StudyFile, /, *, as_json: AsJson = False) -> int:
    """Show which units of a study are done.

    The exit code is 0 once all units are done, else 1. This needs no torch.

    Parameters
    ----------
    as_json
        Print one JSON object and nothing else: `n_units`, `n_done`, and `units`, a list of `unit`, `state` and
        `detail`.
    """
    from lorascope.study.results.units import study_status

    statuses = study_status(read_settings(study))
    n_left = sum(status.state != "done" for status in statuses)
    units = [{"unit": status.unit.name, "state": status.state, "detail": status.detail} for status in statuses]
    if as_json:
        write_json({"n_units": len(statuses), "n_done": len(statuses) - n_left, "units": units})
    else:
        say(f"{len(statuses) - n_left} of {len(statuses)} units done")
        print_frame(units, "Units")
    return int(n_left > 0)


def report(study: StudyFile, /, *, out: Path | None = None) -> None:
    """Write a study's tables and figures as one HTML page and as CSV.

    Units may be missing, and torch isn't needed.

    Parameters
    ----------
    out
        File of the page; by default `report.html` in the study's folder of results, next to the CSV files.
    """
    settings = read_settings(study)
    planned = [unit.name for unit in grid_units(settings)]

    from lorascope.study.page.study_page import write_study_report

    say("\n".join(f"wrote {path}" for path in write_study_report(settings.out, out, planned=planned)))
