"""Whether a response falls, or rises, along ordered levels within groups: Page's test and the steps against it."""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np
import pandas as pd  # type: ignore[import-untyped]

from ..format import format_number
from .frame import checked, group_labels, some_of
from .record import plain, provenance
from .summary import Summary, Table
from .verdict import Verdict, Word, is_small

__all__ = ["TrendResult", "trend_tests"]

MOST_EXACT = 8
"""Most levels of which scipy's exact distribution is taken; it lists all orders of a group, which are 40,320 of 8."""
WORDS = {1: "rises", -1: "falls", 0: "equal"}
NULL = (
    "p is over all orders of a group's values among its levels, each as likely, groups independent: where groups share "
    "a run, one adapter scored on several data sets for instance, it comes out too small"
)


@dataclass(frozen=True, kw_only=True)
class TrendResult:
    """A claimed trend along ordered levels, tested within groups by Page's L; every p is one-sided."""

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
    method: Literal["exact", "asymptotic", "permutation"]
    """Where p is from: Page's distribution, exact up to 8 levels, or, where responses are tied, random orders."""
    n_steps: int
    """Steps between neighbouring levels of one group, in all groups of two levels or more."""
    series: pd.DataFrame
    """A row a level of a group that has two or more: `group`, `level`, `mean` (of the responses there), `n_cells`."""
    violations: pd.DataFrame
    """A row a step that doesn't go as claimed: `group`, `lower` and `upper` (levels), `at_lower` and `at_upper`
    (responses, averaged over the cells there), `step` (`rises`, `falls` or `equal`)."""
    verdicts: tuple[Verdict, ...]
    """The trend over all groups, then every step."""
    notes: tuple[str, ...]
    """Sentences on what was assumed, averaged or left out."""
    provenance: Mapping[str, Any]
    """Versions, settings and a hash of the rows that were used."""

    @property
    def direction(self) -> str:
        """`rises` or `falls`: what is claimed."""
        return "rises" if self.increasing else "falls"

    def summary(self) -> Summary:
        """Verdicts and the steps that don't go as claimed, to print."""
        facts = {"groups": " x ".join(self.groups) or "all rows", "level": f"{self.level:g}, one-sided"}
        title = f"Steps that don't go as claimed ({len(self.violations)} of {self.n_steps})"
        tables = [Table(title, self.violations, digits=6)] if len(self.violations) else []
        return Summary(f"Trend of {self.response} along {self.along}", facts, tables, self.verdicts, self.notes)

    def to_dict(self) -> dict[str, Any]:
        """All of it as JSON has it, floats at full precision; see `plain`."""
        record: dict[str, Any] = plain(self)
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
    """Page's test of a response that is claimed to fall, or rise, along ordered levels within groups.

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
        The claim: the response rises, or else falls.
    level
        A p of at most 1 - level speaks for its direction.
    n_draws, seed
        Random orders of each group's values, drawn where responses are tied.

    Raises
    ------
    TypeError
        If `frame` isn't a DataFrame.
    ValueError
        If a column isn't there, is named twice or holds what it can't, `groups` is text, an option is none of what is
        allowed, or no group has two levels.

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
    _refuse(response, along, groups, level, n_draws)
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
    direction, opposite = ("rises", "falls") if increasing else ("falls", "rises")
    steps = _steps(series)
    violations = steps[steps["step"] != direction].reset_index(drop=True)
    settings = {
        "response": response, "along": along, "groups": list(groups), "increasing": increasing, "level": level,
        "n_draws": n_draws, "seed": seed, "source": frame.attrs.get("source", ""),
    }  # fmt: skip
    found = TrendResult(
        response=response,
        along=along,
        groups=tuple(groups),
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
        violations=violations,
        verdicts=(),
        notes=(*cells.left_out, *_notes(series, levels, short, along), NULL),
        provenance=provenance(rows, settings),
    )
    return replace(found, verdicts=(_overall(found), _every_step(found, opposite)))


def _series(rows: pd.DataFrame, response: str, along: str, groups: Sequence[str]) -> pd.DataFrame:
    """A row a group, in the order of their first rows, and level, ascending."""
    labels = group_labels(rows, groups)
    ordered = pd.Categorical(labels, categories=list(dict.fromkeys(labels)))
    by_level = rows[response].groupby([ordered, rows[along]], observed=True)
    # Rounded once whatever the order of the cells, so that equal sums stay ties.
    found = by_level.agg(mean=lambda values: math.fsum(values) / len(values), n_cells="size")
    found = found.rename_axis(["group", "level"]).reset_index()
    return found.astype({"group": object})


def _page(
    values: np.ndarray, n_draws: int, rng: np.random.Generator
) -> tuple[float, float, float, Literal["exact", "asymptotic", "permutation"]]:
    """Page's L of a complete table (group, level) whose values are claimed to rise, p, p of the opposite, and how."""
    from scipy.stats import page_trend_test, rankdata  # type: ignore[import-untyped]

    ranks = rankdata(values, axis=1)
    places = np.arange(1, values.shape[1] + 1)
    statistic = float((ranks @ places).sum())
    if all(len(set(row)) == len(row) for row in ranks.tolist()) and values.shape[0] > 1 and values.shape[1] > 2:
        method: Literal["exact", "asymptotic"] = "exact" if values.shape[1] <= MOST_EXACT else "asymptotic"
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
    steps["step"] = np.sign(steps["at_upper"] - steps["at_lower"]).map(WORDS)
    whole = {name: pd.to_numeric(steps[name], downcast="integer") for name in ("lower", "upper")}  # 32, not 32.0
    return steps.assign(**whole)


def _overall(found: TrendResult) -> Verdict:
    is_told = is_small(min(found.p_value, found.p_opposite), found.level)
    word: Word = "supported" if found.p_value < found.p_opposite else "contradicted"
    because = (
        f"Page's L = {found.L:g} over {found.n_groups} group{'s' if found.n_groups > 1 else ''} of {found.n_levels} "
        f"levels, {found.method} p = {format_number(found.p_value)}, of the opposite {format_number(found.p_opposite)}"
    )
    claim = f"{found.response} {found.direction} along {found.along} overall"
    return Verdict(claim, word if is_told else "not identified", because)


def _every_step(found: TrendResult, opposite: str) -> Verdict:
    """Contradicted by one step that does the opposite; steps between equal values speak neither way."""
    against = found.violations[found.violations["step"] == opposite]
    n_equal = len(found.violations) - len(against)
    word: Word = "contradicted" if len(against) else "not identified" if n_equal else "supported"
    because = f"{len(against)} of {found.n_steps} steps between neighbouring levels go the other way"
    because += f", in {against['group'].nunique()} groups" if len(against) else ""
    because += f"; {n_equal} between equal values" if n_equal else ""
    return Verdict(f"{found.response} {found.direction} along {found.along} in every group", word, because)


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


def _refuse(response: str, along: str, groups: Sequence[str], level: float, n_draws: int) -> None:
    if isinstance(groups, str):
        raise ValueError(f"`groups` is {groups!r}; give a list of columns: [{groups!r}]")
    names = [response, along, *groups]
    twice = [name for name in names if names.count(name) > 1]
    if twice:
        raise ValueError(
            f"column {twice[0]!r} is named twice among `response`, `along` and `groups`; each column has one part"
        )
    if not 0 < level < 1:
        raise ValueError(f"`level` is {level!r}; it must lie between 0 and 1, such as 0.95")
    if n_draws < 1:
        raise ValueError(f"`n_draws` is {n_draws!r}; it must be at least 1, and thousands make a good p")
