"""Whether a response falls, or rises, along ordered levels within groups: Page's test and the steps against it."""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import pandas as pd  # type: ignore[import-untyped]

from lorascope.analyze.results.format import format_number
from lorascope.analyze.results.record import plain, provenance

from .frame import checked, group_labels, some_of
from .resampling import refuse_draws
from .summary import Summary, Table, Verdict, Word, is_small

MOST_EXACT = 8
"""Most levels of which scipy's exact distribution is taken; it lists all orders of a group, which are 40,320 of 8."""
Method = Literal["exact", "asymptotic", "permutation"]


@dataclass(frozen=True, kw_only=True)
class TrendResult:
    """A claimed trend along ordered levels, tested within groups by Page's L; every p is one-sided.

    p is over all orders of a group's values among its levels, each as likely, groups independent: where groups share a
    run, one adapter scored on several data sets for instance, it comes out too small.
    """

    response: str
    along: str
    groups: tuple[str, ...]
    """Columns whose values together name a group."""
    increasing: bool
    """The claim: the response rises along the levels, or else falls."""
    level: float
    """A p of at most 1 - level speaks for its direction."""
    L: float
    """Sum over groups and levels of level times rank, both counted from 1; ranks count in the direction claimed."""
    n_groups: int
    """Complete groups, which the test takes."""
    n_levels: int
    p_value: float
    """P(L or more), small where the claim holds."""
    p_opposite: float
    """P(L or less), small where the opposite holds."""
    method: Method
    """Where p is from: Page's distribution, exact up to 8 levels, or, where responses are tied, random orders."""
    n_steps: int
    """Steps between neighbouring levels of one group, in all groups of two levels or more."""
    series: pd.DataFrame
    """A row a level of a group that has two or more: `group`, `level`, `mean` (of the responses there), `n_cells`."""
    violations: pd.DataFrame
    """A row a step that doesn't go as claimed: `group`, `lower` and `upper` (levels), `at_lower` and `at_upper`
    (responses, averaged over the cells there), `step` (`rises`, `falls` or `equal`)."""
    notes: tuple[str, ...]
    """Sentences on what was averaged or left out."""
    provenance: Mapping[str, Any]
    """Versions, settings and a hash of the rows that were used."""

    @property
    def verdicts(self) -> tuple[Verdict, Verdict]:
        """The trend over all groups, then every step, as the numbers are, without their errors."""
        claim = f"{self.response} {'rises' if self.increasing else 'falls'} along {self.along}"
        because = (
            f"Page's L = {self.L:g} over {self.n_groups} group{'s' if self.n_groups > 1 else ''} of {self.n_levels} "
            f"levels, {self.method} p = {format_number(self.p_value)}, of the opposite {format_number(self.p_opposite)}"
        )
        word: Word = "supported" if self.p_value < self.p_opposite else "contradicted"
        if not is_small(min(self.p_value, self.p_opposite), self.level):
            word = "not identified"
        against = self.violations[self.violations["step"] != "equal"]
        n_equal = len(self.violations) - len(against)
        steps = f"{len(against)} of {self.n_steps} steps between neighbouring levels go the other way"
        steps += f", in {against['group'].nunique()} groups" if len(against) else ""
        steps += f"; {n_equal} between equal values" if n_equal else ""
        every: Word = "contradicted" if len(against) else "not identified" if n_equal else "supported"
        return Verdict(f"{claim} overall", word, because), Verdict(f"{claim} in every group", every, steps)

    def summary(self) -> Summary:
        """Verdicts and the steps that don't go as claimed, to print."""
        facts = {"groups": " x ".join(self.groups) or "all rows", "level": f"{self.level:g}, one-sided"}
        title = f"Steps that don't go as claimed ({len(self.violations)} of {self.n_steps})"
        tables = [Table(title, self.violations, digits=6)] if len(self.violations) else []
        return Summary(f"Trend of {self.response} along {self.along}", facts, tables, self.verdicts, self.notes)

    def to_dict(self) -> dict[str, Any]:
        """All of it as JSON has it, floats at full precision; see `plain`."""
        record: dict[str, Any] = {**plain(self), "verdicts": plain(self.verdicts)}
        return record


def trend_tests(
    frame: pd.DataFrame,
    response: str,
    along: str,
    *,
    groups: Sequence[str],
    increasing: bool = False,
    level: float = 0.95,
    n_draws: int = 10_000,
    seed: int = 0,
) -> TrendResult:
    """Page's trend test: whether a response falls (or rises) along ordered levels within groups.

    Parameters
    ----------
    frame
        One row a cell: a run of a group at a level. Rows without a response are left out, and counted.
    response
        Column of the numbers that are claimed to fall, or rise; only their order within a group matters.
    along
        Column of the numbers that order the levels, such as a LoRA rank or a count of parameters.
    groups
        Columns of labels that together name a group, such as data set and model. Only values of one group are compared.
        Without any, all rows are one group.
    increasing
        Whether the claim is that the response rises; by default that it falls.
    level
        A p of at most 1 - level speaks for its direction.
    n_draws, seed
        Random orders of each group's values, drawn where responses are tied.

    Raises
    ------
    TypeError
        If `frame` isn't a DataFrame.
    ValueError
        If a column isn't there or holds what it can't, an option isn't allowed, or no group has two levels.

    Notes
    -----
    L = sum_g sum_j j r_gj, r_gj the rank of level j in group g, counted from the largest response where it is claimed
    to fall. The test takes the complete groups, those with as many levels as any; where groups differ in their levels,
    it goes by the levels' order within a group. Several cells of one group and level, such as seeds, are averaged
    first. Without ties p is `scipy.stats.page_trend_test`'s; with ties, which that test doesn't allow for, values are
    permuted within groups and p is (1 + k)/(1 + m), k of m random orders being as extreme.

    The claim holds overall if p is at most 1 - level, and is contradicted if p of the opposite direction is. A claim on
    every step is contradicted by a single one; it takes the values as they are, without their errors.

    References
    ----------
    Page 1963, Journal of the American Statistical Association 58, 216-230.

    Examples
    --------
    >>> import pandas as pd
    >>> cells = pd.DataFrame(
    ...     {"rank": [8, 16, 32] * 2, "loss": [2.4, 2.1, 1.9, 3.3, 3.1, 3.0], "model": ["a"] * 3 + ["b"] * 3}
    ... )
    >>> found = trend_tests(cells, "loss", "rank", groups=["model"])
    >>> found.L, round(found.p_value * 36, 9), [verdict.word for verdict in found.verdicts]
    (28.0, 1.0, ['supported', 'supported'])
    """
    groups = (groups,) if isinstance(groups, str) else tuple(groups)
    refuse_draws(n_draws, seed, level)
    cells = checked(frame, numbers=[response, along], labels=groups, may_lack=[response])
    rows = cells.frame.reset_index(drop=True)
    series = _series(rows, response, along, groups)
    sizes = series.groupby("group", sort=False)["level"].transform("size")
    short, series = series.loc[sizes == 1, "group"], series[sizes > 1].reset_index(drop=True)
    if series.empty:
        raise ValueError(
            f"no group of {list(groups)!r} has two levels of {along!r}, which a trend needs; name fewer columns in "
            "`groups`, or add rows"
        )
    complete = series[(sizes[sizes > 1] == sizes.max()).to_numpy()]
    values, levels = (complete[name].to_numpy().reshape(-1, sizes.max()) for name in ("mean", "level"))
    L, p_value, p_opposite, method = _page(values if increasing else -values, n_draws, np.random.default_rng(seed))
    steps = _steps(series)
    settings = {
        "response": response, "along": along, "groups": groups, "increasing": increasing, "level": level,
        "n_draws": n_draws, "seed": seed, "source": frame.attrs.get("source", ""),
    }  # fmt: skip
    return TrendResult(
        response=response,
        along=along,
        groups=groups,
        increasing=increasing,
        level=level,
        L=L,
        n_groups=len(values),
        n_levels=values.shape[1],
        p_value=p_value,
        p_opposite=p_opposite,
        method=method,
        n_steps=len(steps),
        series=series,
        violations=steps[steps["step"] != ("rises" if increasing else "falls")].reset_index(drop=True),
        notes=(*cells.left_out, *_notes(series, levels, short, along)),
        provenance=provenance(rows, settings),
    )


def _series(rows: pd.DataFrame, response: str, along: str, groups: Sequence[str]) -> pd.DataFrame:
    """A row a group, in the order of their first rows, and level, ascending."""
    labels = group_labels(rows, groups)
    ordered = pd.Categorical(labels, categories=list(dict.fromkeys(labels)))
    by_level = rows[response].groupby([ordered, rows[along]], observed=True)
    # Rounded once whatever the order of the cells, so that equal sums stay ties.
    found = by_level.agg(mean=lambda values: math.fsum(values) / len(values), n_cells="size")
    found = found.rename_axis(["group", "level"]).reset_index()
    return found.astype({"group": object})


def _page(values: np.ndarray, n_draws: int, rng: np.random.Generator) -> tuple[float, float, float, Method]:
    """Page's L of a complete table (group, level) whose values are claimed to rise, p, p of the opposite, and how."""
    from scipy.stats import page_trend_test, rankdata  # type: ignore[import-untyped]

    ranks = rankdata(values, axis=1)
    places = np.arange(1, values.shape[1] + 1)
    statistic = float((ranks @ places).sum())
    if all(len(set(row)) == len(row) for row in ranks.tolist()) and values.shape[0] > 1 and values.shape[1] > 2:
        method: Method = "exact" if values.shape[1] <= MOST_EXACT else "asymptotic"
        one, other = (page_trend_test(table, ranked=True, method=method) for table in (ranks, ranks[:, ::-1]))
        return statistic, float(one.pvalue), float(other.pvalue), method
    drawn = np.zeros(n_draws)
    for row in ranks:
        drawn += rng.permuted(np.tile(row, (n_draws, 1)), axis=1) @ places
    p_value, p_opposite = ((1 + int(far.sum())) / (1 + n_draws) for far in (drawn >= statistic, drawn <= statistic))
    return statistic, p_value, p_opposite, "permutation"


def _steps(series: pd.DataFrame) -> pd.DataFrame:
    """A row a step between neighbouring levels of a group."""
    after = series.groupby("group", sort=False)[["level", "mean"]].shift(-1)
    ends = {"lower": series["level"], "upper": after["level"], "at_lower": series["mean"], "at_upper": after["mean"]}
    steps = pd.DataFrame({"group": series["group"], **ends}).dropna(subset="upper")
    steps["step"] = np.sign(steps["at_upper"] - steps["at_lower"]).map({1: "rises", -1: "falls", 0: "equal"})
    whole = {name: pd.to_numeric(steps[name], downcast="integer") for name in ("lower", "upper")}  # 32, not 32.0
    return steps.assign(**whole)


def _notes(series: pd.DataFrame, levels: np.ndarray, short: Sequence[str], along: str) -> Iterator[str]:
    """Sentences on what was left out or averaged; `levels` are those of complete groups."""
    if len(short):
        yield f"{some_of(short)}: one level of {along} only, left out"
    n = series["group"].value_counts(sort=False)
    if len(lacking := n.index[n < levels.shape[1]]):
        yield f"{some_of(lacking)}: fewer than {levels.shape[1]} levels, left out of Page's test, but not of the steps"
    if (levels != levels[0]).any():
        yield f"groups differ in their levels of {along}: Page's test goes by the levels' order within a group"
    if n_shared := int((series["n_cells"] - 1).sum()):
        yield f"{n_shared} cells share group and level with another and are averaged with it"
