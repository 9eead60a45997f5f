"""`lorascope pull`."""

from functools import partial
from typing import Annotated, Literal

from cyclopts import Parameter
from cyclopts.types import NonNegativeInt

from lorascope.stores.reading.require_run import require_store
from lorascope.stores.reading.token_choice import CHOICE_HELP
from lorascope.stores.size import format_size

from ..options import Components
from ..screen import describe_incomplete, describe_rows, progress_bar, report_when_stopped, say


def pull(
    source: str,
    out: str,
    /,
    *,
    component: Components = (),
    samples: tuple[str, ...] = (),
    tokens: Annotated[str, Parameter(help=CHOICE_HELP)] = "all",
    seed: NonNegativeInt = 0,
    adapter: tuple[str, ...] = (),
    codec: Literal["default", "zstd", "lz4", "raw"] = "default",
) -> None:
    """Copy a run or a part of it, local or remote: some components, samples or tokens, or another codec.

    Only whole samples are copied, with exactly the same values. The same command continues a copy that was stopped.

    Parameters
    ----------
    source
        Folder or url of the run, finished or not.
    out
        Folder or url of the copy, new or empty.
    samples
        Number of samples from the start; or an id, 'data set/id', 'prompt/data set/id' or a pattern of these; repeat it
        for more; by default all.
    seed
        Seed of a random choice of tokens.
    adapter
        An adapter's name or a pattern; by default all.
    codec
        Compression of the copy: by type, all by one, or none ('raw').
    """
    source = require_store(source)

    from lorascope.stores import open_place, open_run, run_state
    from lorascope.stores import pull as pull_slice

    was_finished = run_state(out) == "finished"
    is_number = len(samples) == 1 and samples[0].isdecimal()
    with report_when_stopped(partial(describe_rows, out)), progress_bar("pull") as update:
        run = pull_slice(
            source,
            out,
            component=component or None,
            samples=int(samples[0]) if is_number else samples or None,
            tokens=tokens,
            seed=seed,
            adapters=adapter or None,
            codec=codec,
            progress=update,
        )
    step = run.attributes["provenance"]["copied"][-1]
    amounts = ", ".join(f"{step[what][0]} of {step[what][1]} {what}" for what in ("components", "samples", "tokens"))
    if was_finished:
        say(f"already complete: {amounts} in {run.place.name}; nothing was copied")
        return
    before, after = (sum(n_bytes for _, n_bytes in open_place(path).sizes()) for path in (source, out))
    say(f"{amounts}: {format_size(after)} in {run.place.name} (the source has {format_size(before)})")
    say(f"the source was checked by the {step['checked']}, the copy was read back and compared")
    if step["samples_incomplete"]:
        say(f"{describe_incomplete(step['samples_incomplete'], open_run(source))} and were excluded")
    n_lost = int((run.states == "sample") * (~run.state_rows).sum())
    if n_lost:
        say(f"{n_lost} of {run.n_rows} rows have reductions alone: not all of their tokens had states in the source")
