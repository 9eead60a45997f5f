"""`lorascope fit`."""

from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from cyclopts import Parameter

from lorascope.analyze.fits.laws import LawName
from lorascope.analyze.results.options import Residual

from .. import fits
from ..fits import NONE, listed
from ..screen import progress_bar

if TYPE_CHECKING:
    import pandas as pd  # type: ignore[import-untyped]

    from lorascope.analyze.fits.fit import FitReport
    from lorascope.analyze.fits.result import ScalingFit
    from lorascope.analyze.fits.trends import TrendResult


def fit(
    *study: str,
    response: str = "MIUB",
    N: Annotated[str | None, Parameter(name="--N")] = None,
    R: Annotated[str | None, Parameter(name="--R")] = None,
    D: Annotated[str | None, Parameter(name="--D")] = None,
    groups: str | None = None,
    offsets: str = "",
    law: LawName = "additive",
    residuals: Residual = "relative",
    huber: Literal["auto"] | float | None = None,
    share: str | None = None,
    repeat: str | None = None,
    where: Sequence[str] = (),
    level: float = 0.95,
    n_draws: int = 1000,
    seed: int = 0,
    quick: bool = False,
    full: bool = False,
    workers: int | None = None,
    as_json: Annotated[bool, Parameter(name="--json")] = False,
    out: Path | None = None,
) -> None:
    """Fit a scaling law of MIUB, or of another number, in model size, LoRA rank and data size, and test the fit.

    By default the law is eq. 8 of arXiv 2501.03152 as its text means it, E + A (N0/N)^alpha + B (R0/R)^beta + C
    (D0/D)^gamma, with a level E for each group. The fit is compared with other laws and tested by a bootstrap over
    groups, by predictions of held-out cells, and by trend tests. Verdicts say what the data support, what they
    contradict, and what they can't tell.

    Parameters
    ----------
    study
        A table (.csv, .tsv, .json, .jsonl), a folder that holds study.csv or runs, several runs, or one of the words
        paper, paper:repaired and paper:without-collapsed: table 1 of the paper. MIUB of runs is computed.
    response
        Column of the number that the law describes.
    N
        Column with the number of model parameters; by default N if the table has it; none leaves it out.
    R
        Column of the LoRA rank; by default R, as above.
    D
        Column of the size of the data set; by default D, as above.
    groups
        Columns that together define a group with its own level, separated by commas, or none for a single level. By
        default those of dataset, split, prompt and model that vary; model is left out if N varies only between models.
    offsets
        Columns that shift the level of all groups by the same amount, separated by commas, such as the paper's sweep.
    law
        additive; 'as printed': eq. 8 with its term of D/R; log: its limit for exponents that go to 0; log-log: a power
        law without a floor; multiplicative; share: linear in how many layers share their weights, in place of N.
    residuals
        relative: (y - f) / y; log: ln y - ln f; absolute: y - f.
    huber
        Huber's delta in units of the residuals, or auto; by default least squares.
    share
        Column of how many layers share their weights, for the law share.
    repeat
        Column that tells repeated runs of a setting apart, such as their seed.
    where
        Only rows with these values, as in 'model=Phi3' or 'R=8,32'; give it again for another column.
    level
        Level of confidence of intervals; a test counts where p is at most 1 - level.
    n_draws
        Number of bootstrap draws, if there are too many groups for all draws.
    seed
        Seed of random starts and of the bootstrap.
    quick
        Only the fit and its profile intervals.
    full
        Print all tables and remarks.
    workers
        Threads that read runs; by default one a processor.
    as_json
        Print one JSON object and nothing else: `study` (`source`, `where`, `n_rows`, `notes`), `fit` and `trends`,
        every number at full precision, and `remarks`.
    out
        Write report.txt, report.json and figures.html to this folder, new or empty; or the first table alone, to a name
        ending in .csv, .parquet, .json, .nc or .zarr.
    """
    fits.refuse_out(out)
    asked = fits.rows_where(where)
    frame = fits.study_table(study, asked, workers)

    from lorascope.analyze.fits.fit import fit_report, fit_scaling_law

    sizes: dict[str, str | None] = {}
    for name, column in (("N", N), ("R", R), ("D", D)):
        is_known = name in frame.columns and frame[name].notna().any()
        sizes[name] = (name if is_known else None) if column is None else None if column == NONE else column
    columns, shifts = _groups(frame, groups, sizes["N"]), listed(offsets)
    options: dict[str, Any] = {
        **sizes, "groups": columns, "offsets": shifts, "law": law, "residuals": residuals, "huber": huber,
        "share": share, "repeat": repeat, "level": level, "seed": seed,
    }  # fmt: skip
    found: ScalingFit | FitReport
    with progress_bar("fit") as update:
        if quick:
            found = one = fit_scaling_law(frame, response, **options)
        else:
            found = fit_report(
                frame, response, n_draws=n_draws, **options,
                progress=lambda done, total, part="": update(done, total, title=part),
            )  # fmt: skip
            one = found.fit
    tested, remarks = ([], []) if quick else _trends(frame, one)
    used = {"sizes": one.design.sizes.values(), "groups": columns, "offsets": shifts}
    taken = [f"response {response}", *(f"{role} {', '.join(names) or NONE}" for role, names in used.items())]
    summary = found.summary()
    verdicts = [*summary.verdicts, *(trend.verdicts[0] for trend in tested)]
    fits.deliver(
        f"Scaling law of {response}", frame, asked,
        [replace(summary, verdicts=verdicts), *(trend.summary() for trend in tested)],
        {"fit": found.to_dict(), "trends": [trend.to_dict() for trend in tested]},
        as_json=as_json, out=out, full=full, remarks=["; ".join(taken), *remarks, *_pooled(frame, (*columns, *shifts))],
        figures=_figures(one) if out is not None else (),
    )  # fmt: skip


def _groups(frame: "pd.DataFrame", named: str | None, N: str | None) -> tuple[str, ...]:
    """Columns of groups; by default without a model's own level where that would be all that N can tell."""
    found = fits.chosen_groups(frame, named)
    if named is None and "model" in found and N in frame.columns and frame[N].nunique() > 1:
        varies = (frame.groupby("model")[N].nunique() > 1).any()
        return found if varies else tuple(name for name in found if name != "model")
    return found


def _trends(frame: "pd.DataFrame", fitted: "ScalingFit") -> tuple[list["TrendResult"], list[str]]:
    """A test along each size of the law, at equal other sizes; and why there is none."""
    from lorascope.analyze.fits.trends import trend_tests

    design, sizes = fitted.design, list(fitted.design.sizes.values())
    found, remarks = [], []
    for size in sizes:
        groups = [*design.group_columns, *design.offset_columns, *(other for other in sizes if other != size)]
        try:
            found.append(trend_tests(frame, design.response, size, groups=groups, level=fitted.level))
        except ValueError as error:
            remarks.append(f"no test of trend along {size}: {error}")
    return found, remarks


def _pooled(frame: "pd.DataFrame", told_apart: Sequence[str]) -> list[str]:
    """What is silently put together where a table has sweeps and they aren't told apart."""
    if "sweep" in told_apart or not {"sweep", "model", "dataset", "N", "R"} <= set(frame.columns):
        return []
    mixed = frame.groupby(["model", "dataset", "N", "R"])["sweep"].nunique().groupby("model").max()
    return [f"{name}'s sweeps are fitted as one, though runs of the same N and R differ between them: --offsets sweep "
            "gives each a level" for name in mixed.index[mixed > 1]]  # fmt: skip


def _figures(fitted: "ScalingFit") -> list[fits.Figure]:
    from lorascope.analyze import figures  # plotly, for which no other output waits

    return [
        *((f"Along {size}", partial(figures.scaling_figure, fitted, along=size)) for size in fitted.design.sizes),
        ("Profiles", partial(figures.profile_figure, fitted)),
    ]
