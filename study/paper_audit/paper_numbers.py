"""Print every number that lorascope computes from the tables of arXiv 2501.03152, as Markdown for docs/paper-audit.md.

python study/paper_audit/paper_numbers.py > numbers.md
"""

import math
from collections.abc import Iterator
from functools import cache
from typing import Any, get_args

import numpy as np
import pandas as pd
from audit import audit_paper
from scipy.stats import page_trend_test, rankdata, spearmanr

from lorascope.analyze import compare_metrics, fit_scaling_law
from lorascope.analyze.fits.laws import LawName
from lorascope.analyze.fits.refits import cross_validate
from lorascope.study import paper_study
from lorascope.study.study_names import CellSet

MODELS = ("Phi3", "LLaMA3")
SETS = get_args(CellSet)
MIUB_SETS: tuple[CellSet, ...] = ("as printed", "without collapsed")
"""Versions of table 1 with different MIUB; the repair changes only ACC and CE."""
GROUPS = ["dataset", "model"]


def number(value: Any, digits: int = 6) -> str:
    """Return a value as text, floats with six significant digits."""
    if isinstance(value, float | np.floating):
        return "" if math.isnan(value) else f"{value:.{digits}g}"
    return str(value).replace("|", "/")  # which would end a table's cell


def table(rows: list[dict[str, Any]]) -> str:
    """Return rows (column -> value) as a Markdown table."""
    header = list(rows[0])
    lines = ["| " + " | ".join(header) + " |", "|" + " --- |" * len(header)]
    lines += ["| " + " | ".join(number(row[name]) for name in header) + " |" for row in rows]
    return "\n".join(lines)


def chosen(cells: CellSet, model: str | None, sweep: str | None = None, *, once: bool = False) -> pd.DataFrame:
    """Return the cells of the paper's table 1 of one model and one sweep, `rank` or `size`; None means all."""
    study = paper_study(cells, once=once)
    study = study if model is None else study[study["model"] == model]
    return study if sweep is None else study[study["sweep"] == sweep]


def log_log() -> Iterator[dict[str, Any]]:
    """Yield rows with the slope of ln MIUB along ln rank or ln model size, which is minus the law's exponent."""
    for sweep, size in (("size", "N"), ("size", "N_non_embedding"), ("rank", "R")):
        for cells in MIUB_SETS if sweep == "size" else MIUB_SETS[:1]:  # no cell of the rank sweep collapsed
            for model in (None, *MODELS):
                axis, name = ({"R": size}, "beta") if size == "R" else ({"N": size}, "alpha")
                fit = fit_scaling_law(chosen(cells, model, sweep), "MIUB", **axis, groups=GROUPS, law="log-log")
                errors = held_out_errors(fit)
                yield {
                    "sweep": f"{sweep}, {size}", "cells": cells, "model": model or "both", "n": fit.nobs,
                    "slope": -fit.params[name], "se": fit.bse[name], "leave setting out": errors["setting"],
                    "leave group out": errors["group"],
                }  # fmt: skip


@cache
def fitted(cells: CellSet, model: str, law: LawName = "additive", **options: Any) -> Any:
    """Fit a scaling law to one model's MIUB, by relative least squares unless `options` say otherwise."""
    if model == "Phi3" and cells == "without collapsed":  # no cell of Phi3 collapsed
        return fitted("as printed", model, law, **options)
    offsets = ["sweep"] if model == "Phi3" else []  # its sweeps are of different runs, with levels of their own
    rows = chosen(cells, model, once=True)
    return fit_scaling_law(
        rows, "MIUB", N="N", R="R", groups=["dataset"], offsets=offsets, law=law, share="share", **options
    )


def held_out_errors(fit: Any) -> pd.Series:
    """Return a fit's root mean square errors on held-out cells, settings and groups."""
    return cross_validate(fit.held_out()).set_index("split")["rmse"]


def eq8_fits() -> Iterator[tuple[dict[str, Any], Any]]:
    """Yield (labels, fit) of the paper's scaling law (eq. 8), by version of table 1 and model."""
    for cells in MIUB_SETS:
        for model in MODELS:
            yield {"cells": cells, "model": model}, fitted(cells, model)


def eq8_parameters() -> Iterator[dict[str, Any]]:
    """Yield rows with each parameter of the paper's scaling law (eq. 8), its error and profile interval."""
    for start, fit in eq8_fits():
        intervals = fit.conf_int()
        for name, value in fit.params.items():
            row = {**start, "parameter": name, "estimate": value, "se": fit.bse[name]}
            yield row | {"F": ends(intervals.loc[name]) if name in intervals.index else ""}


def ends(row: pd.Series) -> str:
    """Return an interval as text, such as `0.1 to 0.3`, with `open` for an end without limit."""
    low, high = ("open" if row[f"{end}_open"] else number(row[end]) for end in ("low", "high"))
    return f"{low} to {high}"


def eq8_quality() -> Iterator[dict[str, Any]]:
    """Yield rows on how well the paper's scaling law (eq. 8) fits and predicts, by version of table 1 and model."""
    for start, fit in eq8_fits():
        errors, axes = held_out_errors(fit), fit.axis_tests.set_index("axis")
        yield {
            **start, "n": fit.nobs, "df": fit.df_resid, "SSR": fit.ssr, "sigma": fit.sigma,
            "F of N": axes.loc["N", "F"], "F of R": axes.loc["R", "F"], "p of R": axes.loc["R", "p"],
            **{f"leave {split} out": errors[split] for split in ("cell", "setting", "group")},
        }  # fmt: skip


def rivals() -> Iterator[dict[str, Any]]:
    """Yield rows on how well the paper's scaling law and each other law fit MIUB and predict held-out cells."""
    laws: tuple[LawName, ...] = ("additive", "multiplicative", "share", "log", "log-log")
    for model in MODELS:
        for law in laws:
            fit = fitted("as printed", model, law)
            splits = cross_validate(fit.held_out()).set_index("split")
            row = {"model": model, "law": law, "parameters": len(fit.params), "sigma": fit.sigma}
            row |= {f"leave {split} out": splits.loc[split, "rmse"] for split in ("cell", "setting", "group")}
            yield row | {"cells of settings": splits.loc["setting", "n"]}


def trends() -> Iterator[dict[str, Any]]:
    """Yield rows with Page's trend test of MIUB, CE and ACC along N and R, and the steps against the claim."""
    for sweep, size in (("size", "N"), ("rank", "R")):
        for cells in MIUB_SETS if sweep == "size" else MIUB_SETS[:1]:
            for model in (None, *MODELS):
                for response, increasing in (("MIUB", False), ("CE", False), ("ACC", True)):
                    rows = chosen(cells, model, sweep)
                    wide = rows.pivot(index="block", columns="setting", values=[size, response])
                    wide = wide.loc[rows["block"].unique()]
                    sizes, values = (wide[name].to_numpy(float) for name in (size, response))
                    ordered = np.take_along_axis(values, np.argsort(sizes, axis=1), axis=1)  # gaps last
                    steps = np.diff(ordered if increasing else -ordered)
                    statistic, p, method = page(ordered if increasing else -ordered)
                    yield {
                        "claim": f"{response} {'rises' if increasing else 'falls'} along {size}", "cells": cells,
                        "model": model or "both", "groups": int(np.isfinite(ordered).all(axis=1).sum()),
                        "L": statistic, "p": p, "method": method, "steps against": int((steps < 0).sum()),
                        "steps level": int((steps == 0).sum()), "steps": int(np.isfinite(steps).sum()),
                    }  # fmt: skip


def page(values: np.ndarray) -> tuple[float, float, str]:
    """Return (L, p, method) of Page's test that values (group, level) rise with the level; L is the statistic.

    Groups with gaps are excluded. SciPy's distribution doesn't allow for ties; with ties p is that of 10,000 random
    orders within groups.
    """
    ranks = rankdata(values[np.isfinite(values).all(axis=1)], axis=1)
    levels = np.arange(1, ranks.shape[1] + 1)
    statistic = float((ranks @ levels).sum())
    if all(len(set(row)) == len(row) for row in ranks.tolist()):
        return statistic, float(page_trend_test(ranks, ranked=True, method="exact").pvalue), "exact"
    rng, drawn = np.random.default_rng(0), np.zeros(10_000)
    for row in ranks:
        drawn += rng.permuted(np.tile(row, (len(drawn), 1)), axis=1) @ levels
    return statistic, (1 + int((drawn >= statistic).sum())) / (1 + len(drawn)), "permutation"


def mean_spearman(comparison: Any, metric: str) -> float:
    """Return Spearman's correlation of a metric with accuracy within groups, averaged over groups."""
    by_group = comparison.cells.groupby(level=0)
    return float(np.mean([spearmanr(cells[metric], cells[comparison.accuracy]).statistic for _, cells in by_group]))


@cache
def compared(cells: CellSet, once: bool) -> Any:
    """Return the comparison of MIUB and CE as predictors of accuracy in one version of table 1."""
    return compare_metrics(paper_study(cells, once=once))


def comparisons() -> Iterator[tuple[dict[str, Any], Any]]:
    """Yield (labels, comparison of metrics as predictors of accuracy) for every version of table 1."""
    for cells in SETS:
        for once in (True, False):
            yield {"cells": cells, "LLaMA3 r32 = share1": "once" if once else "as printed"}, compared(cells, once)


def correlations() -> Iterator[dict[str, Any]]:
    """Yield rows with each metric's correlations with accuracy, for every version of table 1."""
    names = {
        "n_cells": "n", "pearson": "Pearson", "p": "p", "permutation_p": "p by settings",
        "mean_spearman": "mean Spearman", "partial_r": "partial r", "partial_p": "p of partial r by settings",
        "partial_t_p": "p of partial r by t", "strict_by": "effects of settings by", "strict_r": "strict r",
        "strict_p": "p of strict r by t",
    }  # fmt: skip
    for start, comparison in comparisons():
        for row in comparison.metrics.to_dict("records"):
            row["mean_spearman"] = mean_spearman(comparison, row["metric"])
            yield {**start, "metric": row["metric"], **{name: row[old] for old, name in names.items()}}


def dependent() -> Iterator[dict[str, Any]]:
    """Yield rows with tests of whether two metrics' correlations with accuracy differ."""
    for start, comparison in comparisons():
        for row in comparison.pairs.to_dict("records"):
            columns = ["difference", "williams_t", "williams_p", "permutation_p"]
            pair = {"pair": f"{row['first']} - {row['second']}"}
            yield start | pair | {name.replace("_", " "): row[name] for name in columns}


def verdicts() -> Iterator[dict[str, Any]]:
    """Yield rows with verdicts on metrics as predictors of accuracy, with and without cells below chance."""
    for cells in ("as printed", "repaired"):
        for below in (None, 0.25):
            for claim, word, because in compare_metrics(paper_study(cells, once=True), collapsed_below=below).verdicts:
                start = {"cells": cells, "collapsed below": below or "", "claim": claim}
                yield start | {"verdict": word, "because": because}


SECTIONS = {
    "The tables against themselves": lambda: (
        {"claim": claim, "verdict": word, "because": because} for claim, word, because in audit_paper().verdicts
    ),
    "Claimed ratios": lambda: audit_paper().ratios.to_dict("records"),
    "Log-log slopes, sweeps apart": log_log,
    "Eq. 8: parameters": eq8_parameters,
    "Eq. 8: how well it fits and predicts": eq8_quality,
    "Rival laws": rivals,
    "Trends": trends,
    "Metrics against accuracy": correlations,
    "Metrics against accuracy: tests of their difference": dependent,
    "Metrics against accuracy: verdicts": verdicts,
}


def report() -> str:
    """Return all numbers computed from the paper's tables as Markdown, one section per table."""
    return "\n\n".join(f"### {title}\n\n{table(list(rows()))}" for title, rows in SECTIONS.items()) + "\n"


if __name__ == "__main__":
    print(report(), end="")
