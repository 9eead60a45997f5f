"""The page and what it needs, with a report beside it, as plain files for any web server or bucket."""

import os
from collections.abc import Iterator, Sequence
from pathlib import Path, PurePosixPath
from urllib.parse import quote

from lorascope.analyze.results.options import refuse_unwritable
from lorascope.stores import Run, open_place, open_run, pull
from lorascope.stores.places.files import atomic_write
from lorascope.stores.progress import Progress
from lorascope.stores.reading.read import RunLike, as_run
from lorascope.stores.reading.root import read_root
from lorascope.stores.threads import map_in_order

from .index import index_path, view_index
from .served_files import INDEX, MANIFEST, RUN, ServedStore, manifest, page


def write_bundle(
    runs: RunLike | Sequence[RunLike],
    bundle: str | Path,
    *,
    with_runs: bool = False,
    progress: Progress | None = None,
) -> Path:
    """Write the page about a run, or several, as a folder of plain files that any web server gives out; returns it.

    The report lies beside the page as `report.html`, and its samples link to the page. Where a run has several
    adapters, there is a report of each run and adapter, such as `report-0-NAME.html`; there is none unless each run has
    a wholly committed sample.

    Parameters
    ----------
    runs
        An open run or its path or url, finished or not; or several.
    bundle
        The folder, new or empty.
    with_runs
        Whether the runs are copied into it, by `pull`: of an unfinished run its whole samples. Otherwise the page
        points at where each run lies as seen from the bundle, so that both have to be served together: of a run in
        a folder, the bundle must be beside it; beside a run in an object store, it has to be put.
    progress
        Called with (tasks done, tasks in all) of what is computed, and (rows or files done, in all) of what is copied.

    Raises
    ------
    ValueError
        If `runs` is empty, or not all of them lie where a pointer can lead to.
    FileExistsError
        If something else than an empty folder is there, or the view index of a run is to be.
    StoreError
        If there is no run, or one of its chunks is broken.
    """
    folder = Path(bundle)
    refuse_unwritable(folder, "bundle")
    if os.path.lexists(folder) and (folder.is_symlink() or not folder.is_dir() or any(folder.iterdir())):
        raise FileExistsError(f"`bundle` is {str(bundle)!r}, which exists and isn't an empty folder; name a new one")
    opened = [as_run(run) for run in ([runs] if isinstance(runs, RunLike) else runs)]
    if not opened:
        raise ValueError("`runs` is empty; name one run or several")
    if any(Path(os.path.abspath(folder)).is_relative_to(index_path(run)) for run in opened):
        raise FileExistsError(
            f"`bundle` is {str(bundle)!r}, which is reserved for the index of a run; name another folder"
        )
    addresses = [RUN.format(place) for place in range(len(opened))] if with_runs else [*_pointers(opened, folder)]
    with atomic_write(folder) as partial:
        partial.mkdir()
        reported: list[Run] = []
        for place, (run, address) in enumerate(zip(opened, addresses, strict=True)):
            shown = pull(run.path, partial / address, progress=progress) if with_runs else open_run(run.path)
            reported.append(run if run.finished else shown)  # of an unfinished run the copy has fewer samples
            index, into = view_index(shown, progress=progress), partial / INDEX.format(place)
            if with_runs:
                into.parent.mkdir(exist_ok=True)
                index.rename(into)
            else:
                _copy(ServedStore.of(read_root(open_place(index))), into, progress)
        (partial / "index.html").write_bytes(page())
        (partial / MANIFEST).write_bytes(manifest(opened, addresses))
        _write_reports(reported, partial, progress)
    return folder


def _write_reports(runs: Sequence[Run], folder: Path, progress: Progress | None) -> None:
    """Write a report of the runs, or one of each run and adapter where a run has several adapters."""
    from lorascope.analyze.report import write_report  # plotly, which the page's server does without

    if not all(map(_has_whole_sample, runs)):
        return
    if all(len(run.adapters) == 1 for run in runs):
        write_report(runs, folder / "report.html", view_page="index.html", progress=progress)
        return
    for place, run in enumerate(runs):
        for name in run.adapters:
            page = f"index.html#panes={place}:{name}"
            file = folder / f"report-{place}-{name}.html"
            write_report(run, file, adapter=name, view_page=page, progress=progress)


def _has_whole_sample(run: Run) -> bool:
    committed, samples = run.committed.values, run.samples
    spans = zip(samples["token_start"].values, samples["token_stop"].values, strict=True)
    return any(committed[start:stop].all() for start, stop in spans if stop > start)


def _pointers(runs: Sequence[Run], folder: Path) -> Iterator[str]:
    """Each run's address relative to the page; of runs in one bucket as if the folder lay there, above all of them."""
    paths = [PurePosixPath(run.path if run.place.remote else os.path.abspath(run.path)) for run in runs]
    in_bucket = all(run.place.remote for run in runs)
    home = PurePosixPath(os.path.abspath(folder)).parent
    if in_bucket:
        home = PurePosixPath(os.path.commonpath([path.parent for path in paths]))
    for run, path in zip(runs, paths, strict=True):
        if not path.is_relative_to(home) or (in_bucket and len(home.parts) < 2):  # of a scheme and a bucket
            where = "in one bucket with the others" if in_bucket else f"below `{home}`"
            raise ValueError(
                f"`bundle` is {str(folder)!r}, which can't point at `{run.place.name}`: that doesn't lie {where}; name "
                "a folder beside it, or have it copied by `with_runs`"
            )
        yield f"../{quote(path.relative_to(home).as_posix())}/"


def _copy(store: ServedStore, into: Path, progress: Progress | None) -> None:
    """Copy all that is part of a store."""

    def copy(key: str) -> None:
        file = into / key
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(store.read(key))

    keys = [key for key, _ in store.place.sizes() if store.limit(key) is not None]
    for done, _ in enumerate(map_in_order(copy, keys), 1):
        if progress is not None:
            progress(done, len(keys))
