"""`lorascope fit`."""

from collections.abc import Sequence
from functools import partial
from typing import TYPE_CHECKING, Annotated, Any

from cyclopts import Parameter

from lorascope.analyze.fits.laws import LawName
from lorascope.analyze.results.options import Residual

from .. import fits
from ..fits import NONE, listed
from ..options import AsJson, FullTables, Level, ResultsOut, Seed, StudyTables, Where, Workers
from ..screen import progress_bar

if TYPE_CHECKING:
    import pandas as pd  # type: ignore[import-untyped]

    from lorascope.analyze.fits.fit import FitReport
    from lorascope.analyze.fits.result import ScalingFit


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
    huber: float | None = None,
    share: str | None = None,
    repeat: str | None = None,
    where: Where = (),
    level: Level = 0.95,
    n_draws: int = 1000,
    seed: Seed = 0,
    quick: bool = False,
    full: FullTables = False,
    workers: Workers = None,
    as_json: AsJson = False,
    out: ResultsOut = None,
) -> None:
    """Fit a scaling law of MIUB, or of another number, in model size, LoRA rank and data size, and test the fit.

    Parameters
    ----------
    response
        Column of the number that the law describes.
    N
        Column with the number of model parameters; by default N if the table has it; none leaves it out.
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
        relative: (y - f) / y; log: ln y - ln f; absolute: y - f.
    huber
        Huber's delta in units of the residuals; by default least squares.
    share
        Column of how many layers share their weights, for the law share.
    repeat
        Column that distinguishes repeated runs of a setting, such as their seed.
    n_draws
        Number of bootstrap draws, if there are too many groups for all draws.
    quick
        Only the fit and its profile intervals.
    as_json
        Print one JSON object and nothing else: `study` (`source`, `where`, `n_rows`, `notes`), `fit` (`verdicts`,
        `tables`, `notes`, `provenance`), every number at full precision, and `remarks`.
    """
    fits.refuse_out(out)
    conditions = fits.rows_where(where)
    frame = fits.study_table(study, conditions, workers)

    from lorascope.analyze.fits.fit import fit_report, fit_scaling_law

    sizes: dict[str, str | None] = {}
    for name, column in (("N", N), ("R", R), ("D", D)):
        is_known = name in frame.columns and frame[name].notna().any()
        sizes[name] = (name if is_known else None) if column is None else None if column == NONE else column
    columns, shifts = _groups(frame, groups, sizes["N"]), listed(offsets)
    options: dict[str, Any] = {
        **sizes, "groups": columns, "offsets": shifts, "law": law, "residuals": residuals, "huber": huber,
        "share": share, "repeat": repeat, "level": level,
    }  # fmt: skip
    result: ScalingFit | FitReport
    with progress_bar("fit") as update:
        if quick:
            result = fitted = fit_scaling_law(frame, response, **options)
        else:
            result = fit_report(
                frame, response, n_draws=n_draws, seed=seed, **options,
                progress=lambda done, total, part="": update(done, total, title=part),
            )  # fmt: skip
            fitted = result.fit
    roles = {"sizes": fitted.design.sizes.values(), "groups": columns, "offsets": shifts}
    used = [f"response {response}", *(f"{role} {', '.join(names) or NONE}" for role, names in roles.items())]
    fits.deliver(
        "fit", frame, conditions, result.summary(), as_json=as_json, out=out, full=full,
        remarks=["; ".join(used), *_pooled(frame, (*columns, *shifts))],
        figures=_figures(fitted) if out is not None else (),
    )  # fmt: skip


def _groups(frame: "pd.DataFrame", named: str | None, N: str | None) -> tuple[str, ...]:
    """Columns of groups; by default without the model if N varies only between models."""
    columns = fits.chosen_groups(frame, named)
    if named is None and "model" in columns and N in frame.columns and frame[N].nunique() > 1:
        varies = (frame.groupby("model")[N].nunique() > 1).any()
        return columns if varies else tuple(name for name in columns if name != "model")
    return columns


def _pooled(frame: "pd.DataFrame", distinguished: Sequence[str]) -> list[str]:
    """A remark on each model whose sweeps are fitted together although they differ."""
    if "sweep" in distinguished or not {"sweep", "model", "dataset", "N", "R"} <= set(frame.columns):
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
