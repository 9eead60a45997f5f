"""`lorascope explain`."""

from lorascope.stores.reading.require_run import require_store

from ..options import AdapterName, RunPath, Workers
from ..screen import aside, print_text, progress_bar, say


def explain(run: RunPath, /, *, adapter: AdapterName = None, workers: Workers = None) -> None:
    """Print a paragraph on what the adapter did and learned.

    `lorascope report` writes the same paragraph at the top of its page.
    """
    place = require_store(run)

    from lorascope import analyze
    from lorascope.analyze.report import paragraph
    from lorascope.analyze.report.explain import stored_note
    from lorascope.stores import open_run

    opened = open_run(place)
    with progress_bar("explain") as update:
        explanation = analyze.explain(opened, adapter=adapter, n_workers=workers, progress=update)
    for question, answer in paragraph(opened, explanation):
        print_text(f"{question} {answer}\n")
    if note := stored_note(opened, explanation[:-1]):
        say(note, to=aside)
