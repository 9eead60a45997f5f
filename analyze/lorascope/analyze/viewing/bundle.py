"""Write the page, its runs' indexes and a report as plain files for any web server or bucket."""

import os
from collections.abc import Iterator, Sequence
from pathlib import Path, PurePosixPath
from urllib.parse import quote

from lorascope.analyze.results.options import refuse_unwritable
from lorascope.stores import Run, StoreError, open_place, open_run, pull
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
    """Write the browser page about runs as a folder of plain files for any web server, and return the folder.

    The folder also has the report, `report.html`, whose samples link to the page. If a run has several adapters, there
    is a report of each run and adapter, such as `report-0-NAME.html`. If a run has no wholly committed sample, there is
    no report.

    Parameters
    ----------
    runs
        An open run or its path or url, finished or not; or several.
    bundle
        The folder, new or empty.
    with_runs
        Whether `pull` copies the runs into it (for an unfinished run, its whole samples). Otherwise the page has the
        relative address of each run, so that both have to be served together: the bundle must be next to runs in a
        folder, and has to be uploaded next to runs in an object store.
    progress
        Called with (tasks done, tasks in all) of computations, and (rows or files done, in all) of copies.

    Raises
    ------
    ValueError
        If `runs` is empty, or a run has no relative address from the bundle.
    FileExistsError
        If `bundle` exists and isn't an empty folder, or is reserved for the view index of a run.
    StoreError
        If a run doesn't exist or one of its chunks is broken, or a finished run that is copied has lost rows.
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
    addresses = (
        [RUN.format(place) for place in range(len(opened))] if with_runs else [*_relative_addresses(opened, folder)]
    )
    with atomic_write(folder) as partial:
        partial.mkdir()
        reported: list[Run] = []
        for place, (run, address) in enumerate(zip(opened, addresses, strict=True)):
            shown = source = open_run(run.path)
            if with_runs:
                for row in source.lost_rows[:1]:  # so that the copy would have fewer samples
                    raise StoreError(
                        f"`{source.place.name}` can't be copied whole: row {row} of a finished run has no digest; run "
                        "`lorascope verify`"
                    )
                shown = pull(run.path, partial / address, progress=progress)
            # The copy of a finished run has the same samples, but no lasting path yet.
            reported.append(source if source.finished else shown)
            index, into = view_index(shown, progress=progress), partial / INDEX.format(place)
            if with_runs:
                into.parent.mkdir(exist_ok=True)
                index.rename(into)
            else:
                _copy_store(ServedStore.of(read_root(open_place(index))), into, progress)
        (partial / "index.html").write_bytes(page())
        reports = _write_reports(reported, partial, progress)
        (partial / MANIFEST).write_bytes(manifest(opened, addresses, reports))
    return folder


def _write_reports(runs: Sequence[Run], folder: Path, progress: Progress | None) -> list[dict[str, str]]:
    """Write `report.html`, or one per run and adapter if a run has several; nothing if a run has no whole sample.

    Return the file of the report by adapter, for each run.
    """
    from lorascope.analyze.report import write_report  # imports plotly, which the page's server doesn't need

    if not all(map(_has_whole_sample, runs)):
        return [{} for _ in runs]
    if all(len(run.adapters) == 1 for run in runs):
        write_report(runs, folder / "report.html", view_page="index.html", progress=progress)
        return [dict.fromkeys(run.adapters, "report.html") for run in runs]
    files = [{name: f"report-{place}-{name}.html" for name in run.adapters} for place, run in enumerate(runs)]
    for place, run in enumerate(runs):
        for name, file in files[place].items():
            page = f"index.html#panes={place}:{name}"
            write_report(run, folder / file, adapter=name, view_page=page, progress=progress)
    return files


def _has_whole_sample(run: Run) -> bool:
    """Return whether all captured tokens of at least one sample are committed, that is written."""
    committed, samples = run.committed.values, run.samples
    spans = zip(samples["token_start"].values, samples["token_stop"].values, strict=True)
    return any(committed[start:stop].all() for start, stop in spans if stop > start)


def _relative_addresses(runs: Sequence[Run], folder: Path) -> Iterator[str]:
    """Yield each run's address relative to the page in `folder`; raise ValueError if a run has no such address.

    Runs in a bucket get addresses as if the folder were in their common folder there.
    """
    paths = [PurePosixPath(run.path if run.place.remote else os.path.abspath(run.path)) for run in runs]
    in_bucket = all(run.place.remote for run in runs)
    home = PurePosixPath(os.path.abspath(folder)).parent
    if in_bucket:
        home = PurePosixPath(os.path.commonpath([path.parent for path in paths]))
    for run, path in zip(runs, paths, strict=True):
        if not path.is_relative_to(home) or (in_bucket and len(home.parts) < 2):  # of a scheme and a bucket
            where = "in one bucket with the others" if in_bucket else f"below `{home}`"
            raise ValueError(
                f"`bundle` is {str(folder)!r}, which can't point at `{run.place.name}`: that isn't {where}; name a "
                "folder next to it, or have the runs copied into the bundle (`with_runs`; `--with-run` of "
                "`lorascope view`)"
            )
        yield f"../{quote(path.relative_to(home).as_posix())}/"


def _copy_store(store: ServedStore, into: Path, progress: Progress | None) -> None:
    """Copy all metadata and chunks of a Zarr store into the folder `into`."""

    def copy(key: str) -> None:
        """Write the file that this key names, and make its folders."""
        file = into / key
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(store.read(key))

    keys = [key for key, _ in store.place.sizes() if store.limit(key) is not None]
    for done, _ in enumerate(map_in_order(copy, keys), 1):
        if progress is not None:
            progress(done, len(keys))
