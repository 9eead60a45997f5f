"""`lorascope verify`."""

from pathlib import Path
from typing import Literal

from lorascope.stores import verify as verify_run

from ..screen import print_table, progress_bar, say

__all__ = ["verify"]


def verify(run: Path, /, *, level: Literal["digests", "decode", "statistics"] = "statistics") -> int:
    """Check a run against itself; exit code 1 if anything is wrong.

    Parameters
    ----------
    run
        Folder of the run.
    level
        How deep to look, each level with those before it: `digests` reads every chunk, `decode` decompresses it,
        `statistics` looks for NaN, Inf, zero, constant and repeated vectors.
    """
    with progress_bar("verify") as update:
        verdict = verify_run(run, level=level, progress=update)
    if verdict.problems:
        print_table("Problems", ["kind", "what"], [(p.kind, p.message) for p in verdict.problems])
    state = "sound" if verdict.ok else f"{len(verdict.problems)} problems"
    say(
        f"{run}: {state} at level {verdict.level}; {verdict.n_committed} of {verdict.n_rows} rows committed, "
        f"{verdict.n_chunks} chunks checked"
    )
    return 0 if verdict.ok else 1
