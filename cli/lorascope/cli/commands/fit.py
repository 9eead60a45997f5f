"""`lorascope fit`, and what it shares with `lorascope compare`: options, the table that is read, and the results."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from cyclopts import Parameter
from cyclopts.types import NonNegativeInt

from lorascope.analyze.fits.laws import LawName
from lorascope.analyze.results.options import TABLE_FORMATS, Residual, refuse_target, refuse_unwritable
from lorascope.stores.places.files import atomic_write
from lorascope.stores.visible import one_line
from lorascope.study.study_names import find_table

from ..options import AsJson, StudyTables, Workers
from ..screen import aside, console, json_text, print_frame, progress_bar, say, write_json

if TYPE_CHECKING:
    import pandas as pd  # type: ignore[import-untyped]

    from lorascope.analyze.fits.fit import FitReport
    from lorascope.analyze.fits.result import ScalingFit
    from lorascope.analyze.fits.verdicts import Summary

Figure = tuple[str, Callable[[], Any]]
"""A name, and a function that returns a plotly figure, or raises ValueError if the result has no such figure."""
GROUPS = ("dataset", "split", "prompt", "model")
"""Columns that define groups by default, if they vary."""
NONE = "none"
"""Word for no column."""


@Parameter(name="*")
@dataclass(frozen=True, kw_only=True)
class StudyOptions:
    """Options of every command that fits or compares the numbers of a study."""

    where: Sequence[str] = ()
    """Only rows with these values, as in 'model=Phi3' or 'R=8,32'; give it again for another column."""
    level: float = 0.95
    """Confidence level of intervals; a test is significant if p <= 1 - level."""
    seed: NonNegativeInt = 0
    """Seed of random draws."""
    workers: Workers = None
    full: bool = False
    """Print all tables and remarks."""
    as_json: AsJson = False
    """Print one JSON object and nothing else: `study` (`source`, `where`, `n_rows`, `notes`), `fit` or `comparison`
    (`verdicts`, `tables`, `notes`, `provenance`), every number at full precision, and `remarks`."""
    out: Path | None = None
    """Write report.json and figures.html to this folder, new or empty; or the first table alone, to a name ending in
    .csv, .parquet, .json, .nc or .zarr."""

    @property
    def conditions(self) -> dict[str, tuple[str, ...]]:
        """Conditions of `--where`, from texts such as `R=8,32`, as column -> allowed values."""
        conditions = {}
        for condition in self.where:
            name, _, values = (side.strip() for side in condition.partition("="))
            if not name or not values:
                raise ValueError(f"`--where` is {condition!r}; write it as name=value")
            conditions[name] = tuple(value.strip() for value in values.split(","))
        if len(conditions) < len(self.where):
            raise ValueError(f"`--where` is {list(self.where)}; name each column once, its values with commas between")
        return conditions


def fit(
    *study: StudyTables,
    response: str = "MIUB",
    N: Annotated[str | None, Parameter(name="--N")] = None,
    R: Annotated[str | None, Parameter(name="--R")] = None,
    D: Annotated[str | None, Parameter(name="--D")] = None,
    groups: str | None = None,
    offsets: str = "",
    law: LawName = "additive",
    residuals: Residual = "relative",
    share: str | None = None,
    repeat: str | None = None,
    n_draws: int = 1000,
    quick: bool = False,
    options: StudyOptions = StudyOptions(),
) -> None:
    """Fit a scaling law of MIUB, or of another number, in model size, LoRA rank and data size, and test the fit.

    Parameters
    ----------
    response
        Column of the number that the law describes.
    N
        Column with the number of model parameters; by default N if the table has it; none excludes it.
    R
        Column of the LoRA rank; by default R, as above.
    D
        Column of the size of the data set; by default D, as above.
    groups
        Columns that together define a group with its own level, separated by commas, or none; by default those of
        dataset, split, prompt and model that vary.
    offsets
        Columns that shift the level of all groups alike, separated by commas, such as the paper's sweep.
    law
        additive; log: its limit for exponents that go to 0; log-log: a power law without a floor; multiplicative;
        share: linear in how many layers share their weights, in place of N.
    residuals
        relative: (y - f) / y; absolute: y - f.
    share
        Column of how many layers share their weights, for the law share.
    repeat
        Column that distinguishes repeated runs of a setting, such as their seed.
    n_draws
        Number of bootstrap draws of groups, where there are too many for every combination.
    quick
        Only the fit and its intervals, without bootstrap and rival laws.
    """
    frame = read_tables(study, options)

    from lorascope.analyze.fits.fit import fit_report, fit_scaling_law

    sizes: dict[str, str | None] = {}
    for name, column in (("N", N), ("R", R), ("D", D)):
        is_known = name in frame.columns and frame[name].notna().any()
        sizes[name] = (name if is_known else None) if column is None else None if column == NONE else column
    columns, shifts = _groups_without_model(frame, groups, sizes["N"]), split_names(offsets)
    settings: dict[str, Any] = {
        **sizes, "groups": columns, "offsets": shifts, "law": law, "residuals": residuals, "share": share,
        "repeat": repeat, "level": options.level,
    }  # fmt: skip
    result: ScalingFit | FitReport
    with progress_bar("fit") as update:
        if quick:
            result = fitted = fit_scaling_law(frame, response, **settings)
        else:
            result = fit_report(
                frame, response, n_draws=n_draws, seed=options.seed, **settings,
                progress=lambda done, total, part="": update(done, total, title=part),
            )  # fmt: skip
            fitted = result.fit
    roles = {"sizes": fitted.design.sizes.values(), "groups": columns, "offsets": shifts}
    used = [f"response {response}", *(f"{role} {', '.join(names) or NONE}" for role, names in roles.items())]
    remarks = ["; ".join(used), *_remarks_on_sweeps(frame, (*columns, *shifts))]
    write_results("fit", frame, result.summary(), options, remarks=remarks, figures=partial(_figures, fitted))


def _groups_without_model(frame: "pd.DataFrame", requested: str | None, N: str | None) -> tuple[str, ...]:
    """Return the columns that define groups; by default not `model` if N (parameters) varies only between models."""
    columns = choose_groups(frame, requested)
    if requested is None and "model" in columns and N in frame.columns and frame[N].nunique() > 1:
        varies = (frame.groupby("model")[N].nunique() > 1).any()
        return columns if varies else tuple(name for name in columns if name != "model")
    return columns


def _remarks_on_sweeps(frame: "pd.DataFrame", distinguished: Sequence[str]) -> list[str]:
    """Return a remark per model whose rank and size sweeps are fitted as one although their runs differ."""
    if "sweep" in distinguished or not {"sweep", "model", "dataset", "N", "R"} <= set(frame.columns):
        return []
    mixed = frame.groupby(["model", "dataset", "N", "R"])["sweep"].nunique().groupby("model").max()
    return [f"{name}'s sweeps are fitted as one, though runs of the same N and R differ between them: --offsets sweep "
            "gives each a level" for name in mixed.index[mixed > 1]]  # fmt: skip


def _figures(fitted: "ScalingFit") -> list[Figure]:
    """Return (title, function that draws it) for each figure of a fit; this imports plotly."""
    from lorascope.analyze import figures

    return [
        *((f"Along {size}", partial(figures.scaling_figure, fitted, along=size)) for size in fitted.design.sizes),
        ("Profiles", partial(figures.profile_figure, fitted)),
    ]


def read_tables(study: Sequence[str], options: StudyOptions) -> "pd.DataFrame":
    """Return the table of a study, read with a progress bar; first raise if `--out` or `--where` is wrong."""
    _refuse_out(options.out)
    conditions = options.conditions
    for path in study:
        find_table(path)  # refuses one that doesn't exist, before large imports

    from lorascope.study.read_study import read_study

    with progress_bar("runs") as update:
        return read_study(
            study, where=conditions, n_workers=options.workers,
            progress=lambda done, total, part="": update(done, total, title=part),
        )  # fmt: skip


def choose_groups(frame: "pd.DataFrame", requested: str | None) -> tuple[str, ...]:
    """Return the columns that define groups: the requested ones, or all of `GROUPS` that vary in the table."""
    if requested is not None:
        return split_names(requested)
    return tuple(name for name in GROUPS if name in frame.columns and frame[name].nunique() > 1)


def split_names(text: str) -> tuple[str, ...]:
    """Return the names in a list separated by commas as a tuple; `none` gives an empty one.

    Examples
    --------
    >>> split_names("dataset, model"), split_names("none")
    (('dataset', 'model'), ())
    """
    names = tuple(name.strip() for name in text.split(",") if name.strip())
    return () if names == (NONE,) else names


def _refuse_out(out: Path | None) -> None:
    """Raise an error, before the work begins, unless a table or a folder of results can be written to `out`."""
    if out is None:
        return
    if out.suffix in TABLE_FORMATS:
        refuse_target(out, TABLE_FORMATS)
        return
    if out.is_symlink() or (out.exists() and not (out.is_dir() and not any(out.iterdir()))):
        raise FileExistsError(f"`--out` is {str(out)!r}, which is there already; give a new or empty folder")
    refuse_unwritable(out, "out")


def write_results(
    name: str, frame: "pd.DataFrame", summary: "Summary", options: StudyOptions, *, remarks: Sequence[str] = (),
    figures: Callable[[], Sequence[Figure]] = tuple,
) -> None:  # fmt: skip
    """Print the result of a fit or comparison as JSON or text, and save it if `--out` is given.

    `name` is the result's key in JSON; `remarks` are sentences on assumptions. The text has verdicts and the first
    table, or with `--full` all tables and notes.
    """
    notes: list[str] = list(frame.attrs.get("notes", ()))
    where = {key: list(values) for key, values in options.conditions.items()}
    study = {"source": str(frame.attrs.get("source", "")), "where": where, "n_rows": len(frame), "notes": notes}
    conditions = " and ".join(f"{key}={','.join(values)}" for key, values in where.items())
    source = f"{study['source']}: {len(frame)} rows{f' where {conditions}' if conditions else ''}"
    answer = {"study": study, name: summary.to_dict(), "remarks": list(remarks)}
    out, full = options.out, options.full
    if out is not None and out.suffix in TABLE_FORMATS:
        from lorascope.analyze.results.save import save_table, with_units

        first = next(iter(summary.tables.values()))
        save_table(with_units(first, {}, {"title": summary.title, **study}), out)
    elif out is not None:
        with atomic_write(out.absolute()) as folder:
            folder.mkdir()
            (folder / "report.json").write_text(json_text(answer), encoding="utf-8")
            if drawn := figures():
                (folder / "figures.html").write_text(_figures_page(summary.title, source, drawn), encoding="utf-8")
    if options.as_json:
        write_json(answer)
    else:
        say(one_line(summary.title))
        for verdict in summary.verdicts:
            say(one_line(f"{verdict.word:<14}  {verdict.claim} ({verdict.because})"))
        for title, rows in list(summary.tables.items())[: None if full else 1]:
            print_frame(rows, title, full=True)
        for line in (source, *(f"* {note}" for note in (*notes, *(summary.notes if full else ()), *remarks))):
            say(one_line(line))
        if not full:
            say("--full shows all tables and remarks")
    if out is not None:
        say(f"written to {out}", to=aside if options.as_json else console)


def _figures_page(title: str, source: str, figures: Sequence[Figure]) -> str:
    """Return an HTML page with one section per figure, or the reason why the figure can't be drawn."""
    from lorascope.analyze.report.document import document
    from lorascope.analyze.report.markup import escape, figure, section

    parts = []
    for place, (name, make) in enumerate(figures):
        try:
            part = figure(f"figure-{place}", make(), "")
        except ValueError as error:
            part = f"<p>{escape(error)}</p>"
        parts.append(section(f"section-{place}", name, part))
    return document(title, source, "".join(parts))
