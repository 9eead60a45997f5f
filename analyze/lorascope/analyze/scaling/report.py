"""Everything that can be said of a law on a table, in one go: fit, rivals, bootstrap, held-out cells, influence."""

from dataclasses import dataclass
from typing import Any, get_args

import pandas as pd  # type: ignore[import-untyped]

from lorascope.stores.progress import Progress

from ..stats.record import plain
from ..stats.summary import Summary, Table
from ..stats.verdict import Verdict, Word
from .fit import fit_scaling_law
from .laws import LawName
from .refits import Bootstrap, cross_validate, influence
from .result import ScalingFit
from .verdicts import interval_text

__all__ = ["MOST_DRAWS", "FitReport", "fit_report"]

MOST_DRAWS = 2000
"""Draws that a report's bootstrap takes at most, as each is a fit."""


@dataclass(frozen=True)
class FitReport:
    """A fit and what puts it to the test."""

    fit: ScalingFit
    laws: pd.DataFrame
    """A row a law that these cells can determine: `law`, `n_parameters`, `sigma`, `AICc`, `d_AICc` (less the least),
    `BIC`, `lack_of_fit_p`, and root mean squared errors of cells held out, in units of each law's own residuals:
    `rmse_cell`, `rmse_setting`, `rmse_group`."""
    refused: dict[str, str]
    """Law -> why these cells can't determine it, or don't tell it from another."""
    bootstrap: Bootstrap | None
    """Refits on redrawn groups; None of a single group."""
    held_out: pd.DataFrame
    influence: pd.DataFrame

    @property
    def verdicts(self) -> tuple[Verdict, ...]:
        """The fit's verdicts, and one on its rivals."""
        return (*self.fit.verdicts, *_rival(self))

    def summary(self) -> Summary:
        """All of it in print."""
        own = self.fit.summary()
        units = "sigma and rmse are in units of each law's own residuals, relative or of the logarithm."
        refused = "".join(f" {name!r} is left out: {why}." for name, why in self.refused.items())
        plainer = "errors in units of the fit; rmse_plain: of the group's level alone, or of the law without that size."
        pull = "d_: the estimate without the cell less that with it; pull: the largest over its standard error."
        tables = [
            *own.tables,
            Table("laws on the same cells", self.laws, units + refused),
            Table("cells held out", cross_validate(self.held_out), plainer),
            Table("cells that pull most", self.influence.head(5), pull),
        ]
        if self.bootstrap is not None:
            boot, intervals = self.bootstrap, self.bootstrap.intervals(self.fit.level)
            texts = [interval_text(tuple(row)) for row in intervals.itertuples(index=False)]
            draws = f"{'all ' if boot.is_exact else ''}{len(boot.values)} draws"
            left_out = f", {boot.n_undetermined} left out as undetermined" if boot.n_undetermined else ""
            rows = pd.DataFrame({"name": intervals.index, "interval": texts})
            note = f"{100 * self.fit.level:g} % percentiles of {draws}{left_out}."
            tables.append(Table("bootstrap over groups", rows, note))
        return Summary(own.title, own.facts, tables, self.verdicts, own.notes)

    def to_dict(self) -> dict[str, Any]:
        """Everything, as JSON has it, at full precision."""
        boot = self.bootstrap
        intervals = None if boot is None else {
            "is_exact": boot.is_exact, "n_draws": len(boot.values), "n_undetermined": boot.n_undetermined,
            "intervals": boot.intervals(self.fit.level).to_dict(orient="index"),
        }  # fmt: skip
        found = {
            **self.fit.to_dict(), "laws": self.laws, "refused_laws": self.refused, "bootstrap": intervals,
            "held_out": cross_validate(self.held_out), "held_out_cells": self.held_out, "influence": self.influence,
            "verdicts": self.verdicts,
        }  # fmt: skip
        converted: dict[str, Any] = plain(found)
        return converted


def fit_report(
    frame: pd.DataFrame,
    response: str,
    N: str | None = None,
    R: str | None = None,
    D: str | None = None,
    *,
    law: LawName = "additive",
    share: str | None = None,
    n_draws: int = 1000,
    seed: int = 0,
    progress: Progress | None = None,
    **options: Any,
) -> FitReport:
    """A fit, its rivals on the same cells, a bootstrap over groups, predictions of cells held out, and influence.

    Parameters
    ----------
    frame, response, N, R, D, law, share, seed
        As for `fit_scaling_law`.
    n_draws
        How many draws the bootstrap may make, at most 2000.
    progress
        Called with how much of a part is done, of how much, and the part's name.
    **options
        Further ones of `fit_scaling_law`.

    Raises
    ------
    TypeError, ValueError
        As `fit_scaling_law`; rivals that the cells can't determine are left out, and named in `refused`.
    """
    if not 1 <= n_draws <= MOST_DRAWS:
        raise ValueError(f"`n_draws` is {n_draws!r}; it lies between 1 and {MOST_DRAWS}")
    sizes: dict[str, Any] = {"N": N, "R": R, "D": D, "share": share}
    fit = fit_scaling_law(frame, response, **sizes, law=law, seed=seed, **options)
    held = fit.held_out(progress=progress)
    rows, refused = [], {}
    names = [name for name in get_args(LawName) if name != "share" or share is not None]
    equations = {fit.design.equation: law}
    for done, name in enumerate(names, 1):
        try:
            rival = fit if name == law else fit_scaling_law(
                frame, response, **sizes, law=name, **{**options, "n_starts": 0}
            )  # fmt: skip
        except ValueError as error:
            refused[name] = str(error)
            continue
        same = equations.setdefault(rival.design.equation, name)
        if same != name:
            refused[name] = f"with one size it is the law {same!r}"
        else:
            errors = cross_validate(held if rival is fit else rival.held_out()).set_index("split")["rmse"]
            rows.append({
                "law": name, "n_parameters": len(rival.design.names), "sigma": rival.sigma,
                "AICc": rival.criteria.aicc, "BIC": rival.criteria.bic,
                "lack_of_fit_p": float(rival.lack_of_fit["p"].iloc[0]),
                **{f"rmse_{way}": errors[way] for way in ("cell", "setting", "group") if way in errors},
            })  # fmt: skip
        if progress is not None:
            progress(done, len(names), "laws")
    laws = pd.DataFrame(rows)
    laws.insert(4, "d_AICc", laws["AICc"] - laws["AICc"].min())
    several = len(set(fit.design.groups)) > 1
    return FitReport(
        fit, laws.sort_values("d_AICc", kind="stable", ignore_index=True), refused,
        fit.bootstrap(n_draws=n_draws, seed=seed, progress=progress) if several else None,
        held, influence(fit.estimate, held),
    )  # fmt: skip


def _rival(report: FitReport) -> list[Verdict]:
    """Whether the fit's law is the best of those looked at."""
    name = report.fit.design.law_name
    known = report.laws[report.laws["AICc"].notna()].set_index("law")["AICc"]
    if len(known) < 2 or name not in known.index:
        return []
    other = known.drop(name)
    gap = known[name] - other.iloc[0]
    because = f"AICc {known[name]:.2f} against {other.iloc[0]:.2f} of {other.index[0]!r}, n = {report.fit.nobs}"
    word: Word = "supported" if gap < -2 else "contradicted" if gap > 2 else "not identified"
    return [Verdict(f"of the laws looked at, {name!r} describes these cells best", word, because)]
