"""`lorascope info`."""

from contextlib import suppress
from pathlib import Path
from typing import Annotated, Any

from cyclopts import Parameter

from lorascope.analyze.results.targets import TABLES, refuse_target
from lorascope.stores.reading.there import require_store

from ..screen import aside, say, write_json


def info(
    run: str,
    /,
    *,
    component: tuple[str, ...] = (),
    as_json: Annotated[bool, Parameter(name="--json")] = False,
    full: bool = False,
    out: Path | None = None,
) -> None:
    """Show what a run contains, how large it is, and how much of it is done; works while it is being written.

    Parameters
    ----------
    run
        Folder or url of the run.
    component
        A component's path or a pattern, e.g. '*.q_proj': `components` and `adapters` are of those that fit, and a table
        lists them; may be given several times.
    as_json
        Print one JSON object and nothing else: `run`, `state` ("torn", "unfinished" or "finished"; a torn run has these
        two alone), `format_version`, `stream`, `states`, `fingerprint`, `rows` (`n`, `committed`, `lost`,
        `with_states`), `tokens` (`n`, `committed`, `weighted`), `samples`, `choices`, `components` (`n`, `kinds`,
        `dtypes`), `adapters` (name -> `rank` [least, most], `n_touched`, `n_factored`), `sizes` (list of `part`,
        `raw_bytes`, `stored_bytes`, the whole run last), `scores` (list of `dataset`, `measure`, `unit`, `n`, and
        `base`, `adapted`, `change`, each [value, standard error], null for what there isn't), `provenance` and
        `measured` (as stored; {} where there is none).
    full
        Also print the size of each part, every score, and the notes of the checks before the capture.
    out
        Save the scores here: a file ending in .csv, .parquet, .json or .nc, or a folder ending in .zarr.
    """
    if out is not None:
        refuse_target(out, TABLES)
    run = require_store(run)

    from lorascope.stores import StoreError, open_run, run_state

    from ..info_tables import facts_of, print_facts, scores_frame

    opened, torn = None, False
    try:
        opened = open_run(run)
    except StoreError:
        with suppress(StoreError):  # the first one says more
            torn = run_state(run) == "torn"
        if not torn:
            raise
    facts: dict[str, Any] = {"run": run, "state": "torn"} if opened is None else facts_of(opened, component)
    if as_json:
        write_json(facts)
    elif opened is None:
        say(f"{run}  torn: still being set up, or interrupted then; it holds no row, and its capture can begin again")
    else:
        print_facts(opened, facts, component, full=full)
    if out is not None and opened is not None:
        from lorascope.analyze.results.save_table import save_table

        save_table(scores_frame(opened), out)
        say(f"scores saved to {out}", to=aside if as_json else None)
