"""`lorascope pull`."""

from functools import partial

from lorascope.stores.reading.there import require_store
from lorascope.stores.size import format_size

from ..screen import left_out, progress_bar, say
from ..stopped import rows_that_remain, saying_what_remains


def pull(
    source: str,
    out: str,
    /,
    *,
    component: tuple[str, ...] = (),
    samples: tuple[str, ...] = (),
    token_share: float | None = None,
    seed: int = 0,
    adapter: tuple[str, ...] = (),
) -> None:
    """Copy part of a run, local or remote, into a smaller one. Copies whole samples only, with exactly the same values.

    If it is interrupted, run the same command again to continue.

    Parameters
    ----------
    source
        Folder or url of the run, finished or not.
    out
        Folder or url of the slice, new or empty.
    component
        A component's name or a pattern, e.g. 'model.layers.3.*'; may be given several times; by default all.
    samples
        A number, to take that many from the start; or an id, 'data set/id', 'prompt/data set/id' or a pattern of these;
        repeat the option for more; by default all.
    token_share
        Share of each sample's tokens to draw at random. Weights are adjusted, so weighted means stay unbiased.
    seed
        Seed of the draw.
    adapter
        An adapter's name or a pattern; by default all.
    """
    source = require_store(source)

    from lorascope.stores import open_place, open_run, run_state
    from lorascope.stores import pull as pull_slice

    was_finished = run_state(out) == "finished"
    a_number = len(samples) == 1 and samples[0].isdecimal()
    with saying_what_remains(partial(rows_that_remain, out)), progress_bar("pull") as update:
        run = pull_slice(
            source,
            out,
            components=component or None,
            samples=int(samples[0]) if a_number else samples or None,
            token_share=token_share,
            seed=seed,
            adapters=adapter or None,
            progress=update,
        )
    step = run.attributes["provenance"]["copied"][-1]
    kept = ", ".join(f"{step[what][0]} of {step[what][1]} {what}" for what in ("components", "samples", "tokens"))
    if was_finished:
        say(f"already complete: {kept} in {run.place.name}; nothing was copied")
        say("the same slice was asked for, of a source of the same fingerprint and digests of rows and tables")
        return
    size = sum(n_bytes for _, n_bytes in open_place(out).sizes())
    say(f"{kept}: {format_size(size)} in {run.place.name}; checked by the {step['checked']}")
    if step["samples_incomplete"]:
        say(f"{left_out(step['samples_incomplete'], open_run(source))} and were left out")
    n_lost = int((run.states == "sample") * (~run.state_rows).sum())
    if n_lost:
        say(f"{n_lost} of {run.n_rows} rows hold reductions alone: not all of their tokens had states in the source")
