"""`lorascope explain`."""

from lorascope.stores.reading.require_run import require_store

from ..screen import print_text, progress_bar


def explain(
    run: str,
    /,
    *,
    adapter: str | None = None,
    workers: int | None = None,
) -> None:
    """Say what the adapter did and learned, in a paragraph, with which `lorascope report` opens.

    Whether it helps, where it acts, what matters when it is taken out, which directions, which words, how many ranks:
    each with its error or null, or "can't tell" with the reason. Most is known of a run of `lorascope capture --ablate
    components --unembedding`.

    Parameters
    ----------
    run
        Folder or url of the run.
    adapter
        Name of the adapter, where the run holds several.
    workers
        Threads; by default one a processor.
    """
    place = require_store(run)

    from lorascope import analyze
    from lorascope.analyze.report import paragraph
    from lorascope.stores import open_run

    opened = open_run(place)
    with progress_bar("explain") as update:
        explanation = analyze.explain(opened, adapter=adapter, n_workers=workers, progress=update)
    for question, answer in paragraph(opened, explanation):
        print_text(f"{question} {answer}\n")
