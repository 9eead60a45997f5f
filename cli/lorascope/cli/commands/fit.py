"""`lorascope fit`."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

import pandas as pd  # type: ignore[import-untyped]
from cyclopts import Parameter

from lorascope.analyze.scaling.fit import fit_scaling_law
from lorascope.analyze.scaling.laws import LawName
from lorascope.analyze.scaling.objective import Residual
from lorascope.analyze.scaling.report import MOST_BOOTSTRAPPED, FitReport, fit_report
from lorascope.analyze.scaling.result import ScalingFit
from lorascope.analyze.stats.trends import TrendResult, trend_tests
from lorascope.study.read_study import PAPER

from ..fits.options import NONE, Whole, chosen_groups, listed, named_columns, rows_where, study_table
from ..fits.results import Figure, Format, Results, about_study, deliver, refuse_out
from ..fits.words import command_words, short_numbers, translated_summary
from ..screen import aside, progress_bar, say

__all__ = ["fit"]

SIZES = ("N", "R", "D")
MANY_CELLS = 300
"""Of more, a whole report takes minutes."""


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
    draws: Whole = 1000,
    seed: Whole = 0,
    quick: bool = False,
    trends: bool = True,
    workers: Whole | None = None,
    form: Annotated[Format, Parameter(name="--format")] = "table",
    out: Path | None = None,
) -> None:
    """Fit a scaling law of MIUB, or of another number, in model size, LoRA rank and data size, and put it to the test.

    What is fitted is eq. 8 of arXiv 2501.03152 as its text means it, E + A (N0/N)^alpha + B (R0/R)^beta +
    C (D0/D)^gamma, with a level E for each group. It is put beside rival laws, bootstraps over groups, predictions of
    cells held out, and tests of trend; verdicts say what these data support, contradict or can't tell.

    Parameters
    ----------
    study
        A table (.csv, .tsv, .json, .jsonl), a folder that holds study.csv or runs, several runs, or one of the words
        paper, paper:repaired and paper:without-collapsed: table 1 of the paper. MIUB of runs is computed.
    response
        Column of what the law is about.
    N
        Column of the model's parameters; by default N where the table has it, and none leaves it out.
    R
        Column of the LoRA rank; by default R, as above.
    D
        Column of the size of the data set; by default D, as above.
    groups
        Columns whose combinations have a level of their own, with commas between, or none for one level; by default
        those of dataset, split, prompt and model that vary, but no model where N varies from model to model alone.
    offsets
        Columns whose values shift the level of all groups alike, with commas between, such as the paper's sweep.
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
        Of intervals; a test counts from a p of 1 - level down.
    draws
        Of each bootstrap, where groups are too many to look at all draws.
    seed
        Of random starts and bootstraps.
    quick
        The fit and its profiles alone.
    trends
        Whether the response falls along each size is tested too, within groups at equal other sizes.
    workers
        Threads that read runs; by default one a processor.
    form
        table, json (all numbers at full precision) or markdown.
    out
        Write report.md, report.json and figures.html to this folder, new or empty.
    """
    refuse_out(out)
    if not 1 <= draws <= MOST_BOOTSTRAPPED:
        raise ValueError(f"`draws` is {draws}; give 1 to {MOST_BOOTSTRAPPED}")
    if seed < 0:
        raise ValueError(f"`seed` is {seed}; it is a whole number from 0 on")
    asked = rows_where(where)
    with command_words():
        frame = study_table(study, asked, workers)
    sizes = _sizes(frame, {"N": N, "R": R, "D": D}, share)
    columns, shifts = _groups(frame, groups, sizes["N"]), listed(offsets)
    options: dict[str, Any] = {
        **sizes, "groups": columns, "offsets": shifts, "law": law, "residuals": residuals, "huber": huber,
        "share": share, "repeat": repeat, "level": level, "seed": seed,
    }  # fmt: skip
    with command_words():
        found = _fitted(frame, response, options, draws=draws, quick=quick)
    one = found if isinstance(found, ScalingFit) else found.fit
    tested, untested = _trends(frame, one, columns, shifts) if trends and not quick else ([], [])
    deliver(
        Results(
            title=f"Scaling law of {response}",
            study=about_study(frame, asked),
            summaries=[translated_summary(found.summary()), *(short_numbers(trend.summary()) for trend in tested)],
            record={"fit": found.to_dict(), "trends": [trend.to_dict() for trend in tested]},
            remarks=[_columns_text(one), *_pooled(study, frame, (*columns, *shifts)), *untested],
            figures=_figures(found, tested, frame) if out is not None else (),
        ),
        form,
        out,
    )


def _sizes(frame: pd.DataFrame, given: Mapping[str, str | None], share: str | None) -> dict[str, str | None]:
    """Column of each size: the one named, or that of its own name where the table knows it of some row.

    Raises ValueError if a law would have none to go along.
    """
    known = {name for name in SIZES if name in frame.columns and frame[name].notna().any()}
    chosen = {name: (name if name in known else None) if column is None else column for name, column in given.items()}
    found = {name: None if column == NONE else column for name, column in chosen.items()}
    if share is None and not any(found.values()):
        raise ValueError(
            "a law needs at least one of `N`, `R` and `D`: the column of each size that was varied; the table has "
            f"{named_columns(frame)}"
        )
    return found


def _groups(frame: pd.DataFrame, named: str | None, N: str | None) -> tuple[str, ...]:
    """Columns of groups; by default without a model's own level where that would be all that N can tell."""
    found = chosen_groups(frame, named)
    if named is None and "model" in found and N in frame.columns and frame[N].nunique() > 1:
        varies = (frame.groupby("model")[N].nunique() > 1).any()
        return found if varies else tuple(name for name in found if name != "model")
    return found


def _fitted(
    frame: pd.DataFrame, response: str, options: Mapping[str, Any], *, draws: int, quick: bool
) -> ScalingFit | FitReport:
    if quick:
        return fit_scaling_law(frame, response, **options)
    if len(frame) > MANY_CELLS:
        say(
            f"{len(frame)} cells: held-out cells and influence refit the law once a cell; --quick leaves them out",
            to=aside,
        )
    with progress_bar("fit", to=aside) as update:

        def tell(done: int, n: int, part: str) -> None:
            update(done, n, title=part)

        return fit_report(frame, response, n_draws=draws, progress=tell, **options)


def _trends(
    frame: pd.DataFrame, fitted: ScalingFit, groups: Sequence[str], offsets: Sequence[str]
) -> tuple[list[TrendResult], list[str]]:
    """A test along each size of the law, at equal other sizes; and why there is none."""
    design = fitted.design
    if len(set(design.groups)) < 2:
        return [], ["no test of trend: they compare groups, and there is one"]
    sizes = [*design.axes.values(), *([design.share] if design.share else [])]
    found, remarks = [], []
    for size in sizes:
        others = [*groups, *offsets, *(other for other in sizes if other != size)]
        try:
            found.append(trend_tests(frame, design.response, size, groups=others, level=fitted.level))
        except ValueError as error:
            remarks.append(f"no test of trend along {size}: {error}")
    return found, remarks


def _pooled(study: Sequence[str], frame: pd.DataFrame, told_apart: Sequence[str]) -> list[str]:
    """What is silently put together in the paper's table, unless sweeps are told apart."""
    if study[0] not in PAPER or "sweep" in told_apart:
        return []
    both = frame[frame["model"] == "Phi3"].groupby(["dataset", "N", "R"])["sweep"].nunique() > 1
    return (
        ["Phi3's two sweeps are fitted as one, though runs of the same N and R differ between them: --offsets sweep "
         "gives each a level"]
        if both.any() else []
    )  # fmt: skip


def _columns_text(fitted: ScalingFit) -> str:
    """Which columns were taken for what, since defaults depend on the table."""
    design = fitted.design
    roles = {
        "response": [design.response],
        "sizes": [*design.axes.values(), *([design.share] if design.share else [])],
        "groups": design.group_columns or [NONE],
        "offsets": design.offset_columns or [NONE],
    }
    return "; ".join(f"{role} {', '.join(names)}" for role, names in roles.items())


def _figures(found: ScalingFit | FitReport, tested: Sequence[TrendResult], frame: pd.DataFrame) -> Sequence[Figure]:
    from ..fits.figures import fit_figures, trend_figures  # plotly, for which no other output waits

    return [*fit_figures(found), *trend_figures(tested, frame)]
