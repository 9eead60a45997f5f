"""`lorascope info`."""

from pathlib import Path

import numpy as np

from lorascope.analyze.format import format_bytes
from lorascope.analyze.scores import scores_table
from lorascope.analyze.summary import sizes
from lorascope.stores import Run, open_run

from ..screen import print_table, say

__all__ = ["info"]


def info(run: Path, /) -> None:
    """What is in a run, how large it is, and how far it got.

    Parameters
    ----------
    run
        Folder of the run.
    """
    opened = open_run(run)
    say(f"{opened.path}  {_state(opened)}")
    settings = _settings(opened)
    facts = [
        ("model", str(settings.get("model", ""))),
        ("adapter", f"{settings.get('adapter', '')} as {', '.join(opened.adapters)}"),
        ("stream", opened.stream),
        ("states", str(opened.attributes["states"])),
        ("tokens", f"{opened.n_tokens} ({settings.get('tokens', '')}) in {opened.n_rows} rows"),
        ("samples", str(opened.samples.sizes["sample"])),
        ("components", _kinds(opened)),
        ("fingerprint", str(opened.attributes.get("fingerprint", ""))[:16]),
    ]
    print_table("Run", ["what", "value"], facts)
    print_table(
        "Size",
        ["part", "in memory", "on disk"],
        [(k, format_bytes(raw), format_bytes(stored)) for k, raw, stored in sizes(opened)],
    )
    columns, rows = scores_table(opened)
    if rows:
        print_table("Scores", columns, rows)


def _settings(run: Run) -> dict[str, object]:
    """What the capture was asked for; empty for a run that something else wrote."""
    provenance = run.attributes.get("provenance")
    settings = provenance.get("settings") if isinstance(provenance, dict) else None
    return settings if isinstance(settings, dict) else {}


def _state(run: Run) -> str:
    whole = f"{int(run.committed_rows.sum())} of {run.n_rows} rows are whole"
    if not run.finished:
        return f"unfinished: {whole}"
    return "finished" if run.committed_rows.all() else f"finished, but damaged since: {whole}; run `lorascope verify`"


def _kinds(run: Run) -> str:
    kinds, counts = np.unique(run.components["kind"].values.astype(str), return_counts=True)
    return ", ".join(f"{count} {kind}" for kind, count in zip(kinds, counts, strict=True))
