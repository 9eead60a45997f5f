"""`lorascope compact`."""

from functools import partial

from lorascope.analyze.results.format import format_percent
from lorascope.stores.reading.there import require_store
from lorascope.stores.size import format_size

from ..screen import progress_bar, say
from ..stopped import rows_that_remain, saying_what_remains


def compact(source: str, out: str, /) -> None:
    """Compress a run that was captured with --codec raw, into a new run; the source doesn't change.

    Every chunk is read back and compared before its row counts as done. If it is interrupted, run the same command
    again to continue.

    Parameters
    ----------
    source
        Folder or url of the finished run.
    out
        Folder or url of the compressed run, new or empty.
    """
    source = require_store(source)

    from lorascope.stores import compact as compact_run
    from lorascope.stores import open_place, run_state

    was_finished = run_state(out) == "finished"
    with saying_what_remains(partial(rows_that_remain, out)), progress_bar("compact") as update:
        run = compact_run(source, out, progress=update)
    if was_finished:
        say(f"already complete: {run.n_rows} rows in {run.place.name}; nothing was copied or read back")
        say("it was made of a run of the same fingerprint and digests of rows and tables")
        return
    before, after = (sum(n_bytes for _, n_bytes in open_place(path).sizes()) for path in (source, out))
    share = format_percent(after / before)
    say(f"{format_size(before)} became {format_size(after)}, {share} of it, in {run.place.name}")
    say(f"each of its {run.n_rows} rows was read back and compared; {source} can be deleted")
