"""The last line of a command that SIGINT or SIGTERM stopped: how far its result has come."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

RESTARTS, CONTINUES = "the same command begins again", "the same command goes on"


@contextmanager
def saying_what_remains(remains: Callable[[], str]) -> Iterator[None]:
    """Have a KeyboardInterrupt of the block say what `remains` returns, unless it says something of its own."""
    try:
        yield
    except KeyboardInterrupt as error:
        if not str(error):
            with suppress(ValueError, OSError):  # where that can't be told, the usual sentence stands
                error.args = (remains(),)
        raise


def rows_that_remain(out: str) -> str:
    """Describe how far a run has come whose writing was stopped."""
    from lorascope.stores import open_run, run_state

    state = run_state(out)
    if state == "absent":
        return f"stopped before anything was written to `{out}`; {RESTARTS}"
    if state == "torn":
        return f"stopped while `{out}` was being set up; it holds no row, and {RESTARTS}"
    run = open_run(out)
    rows = f"{int(run.committed_rows.sum())} of {run.n_rows} rows of `{out}`"
    return f"stopped when it was finished, with {rows}" if run.finished else f"stopped after {rows}; {CONTINUES}"


def training_that_remains(out: Path) -> str:
    """Describe how far a fine-tuning has come that was stopped."""
    from lorascope.capture.training.folder import last_checkpoint, training_folder

    if out.exists():
        return f"stopped, but the adapter in `{out}` is finished"
    last = last_checkpoint(training_folder(out))
    if last is None:
        return f"stopped before the first checkpoint; nothing of the training stays, and {RESTARTS}"
    return f"stopped; the checkpoint after step {last.name.rpartition('-')[2]} stays, and {CONTINUES} from it"


def components_that_remain(target: Path) -> str:
    """Describe how far a result on disk has come whose computing was stopped."""
    from lorascope.analyze.measuring.unfinished import Unfinished, unfinished_path

    if target.exists():
        return f"stopped, but `{target}` is finished"
    if not unfinished_path(target).exists():
        return f"stopped before anything was written for `{target}`; {RESTARTS}"
    done = Unfinished(unfinished_path(target)).done
    return f"stopped after {int(done.sum())} of {len(done)} components of `{target}`; {CONTINUES}"
