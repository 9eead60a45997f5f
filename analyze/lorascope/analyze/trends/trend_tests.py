"""Does a response fall, or rise, along ordered levels within blocks: from a study's table to tests and verdicts."""

from collections.abc import Sequence

import numpy as np
import pandas as pd  # type: ignore[import-untyped]

from ..stats.frame import checked
from ..stats.record import provenance
from .kendall import KendallTest, mann_kendall
from .null import MOST_POINTS, MOST_STATES
from .page import PageTest, page_l
from .result import TrendResult
from .series import Series, blocks_of, count_steps
from .words import overall_verdict, p_word, steps_verdict

__all__ = ["trend_tests"]

MOST_NAMED = 3
"""Blocks that a note names."""
TOO_MANY = (
    f"an exact one would count more than {MOST_STATES} states of a block, or {MOST_POINTS} values over all blocks"
)
NULL = (
    "p is over all orders of a block's values among its cells, each as likely, blocks independent: where blocks share "
    "a run, one adapter scored on several data sets for instance, it comes out too small"
)


def trend_tests(
    frame: pd.DataFrame,
    response: str,
    along: str,
    *,
    blocks: Sequence[str],
    increasing: bool = False,
    significance: float = 0.05,
) -> TrendResult:
    """Tests of a response that is claimed to fall, or rise, along ordered levels within blocks.

    Parameters
    ----------
    frame
        One row a cell: a run of a block at a level. Rows without a response are left out, and counted.
    response
        Column of the numbers that are claimed to fall, or rise; only their order within a block matters.
    along
        Column of the numbers that order the levels, such as a LoRA rank or a count of parameters.
    blocks
        Columns of labels that together name a block, such as data set and model. Only values of one block are compared.
        Without any, all rows are one block.
    increasing
        The claim: the response rises, or else falls.
    significance
        A p of at most this speaks for its direction.

    Raises
    ------
    TypeError
        If `frame` isn't a DataFrame.
    ValueError
        If a column isn't there, is named twice or holds what it can't, `blocks` is text, `significance` isn't between 0
        and 1, or no block has two levels.

    Notes
    -----
    Page's L takes the complete blocks, those with as many levels as any; where blocks differ in their levels, it goes
    by the levels' order within a block. Several cells of one block and level, such as seeds, are averaged first. The
    regional Mann-Kendall test takes every block of two levels or more, and its cells as they are: cells of one level
    are a tie. It counts seeds as independent of each other, which they are only if nothing but the seed is shared.
    Responses are equal where their numbers are: rounding makes ties, and p is conditional on them.

    The claim holds overall if both p are at most `significance`, and is contradicted if both p of the opposite
    direction are. If the smallest p that could be lies above `significance`, nothing is claimed. A claim on every step
    is contradicted by a single one; it takes the values as they are, without their errors.

    References
    ----------
    Page 1963, Journal of the American Statistical Association 58. Mann 1945, Econometrica 13. Kendall 1970, Rank
    Correlation Methods. Hirsch and Slack 1984, Water Resources Research 20. Helsel and Frans 2006, Environmental
    Science and Technology 40.

    Examples
    --------
    >>> import pandas as pd
    >>> cells = pd.DataFrame(
    ...     {"rank": [8, 16, 32] * 2, "loss": [2.4, 2.1, 1.9, 3.3, 3.1, 3.0], "model": ["a"] * 3 + ["b"] * 3}
    ... )
    >>> found = trend_tests(cells, "loss", "rank", blocks=["model"])
    >>> found.page.L, found.mann_kendall.S, round(found.page.p_value * 36, 9)
    (28.0, -6, 1.0)
    >>> [verdict.word for verdict in found.verdicts], list(found.by_block["verdict"])
    (['supported', 'supported'], ['not identified', 'not identified'])
    """
    _refuse(response, along, blocks, significance)
    cells = checked(frame, numbers=[response, along], labels=blocks, may_lack=[response])
    rows = cells.frame.reset_index(drop=True)
    series, short = blocks_of(rows, response, along, blocks)
    n_levels = max(len(one.levels) for one in series)
    complete = [one for one in series if len(one.levels) == n_levels]
    page = page_l(np.stack([one.means for one in complete]), increasing=increasing)
    kendall = _kendall(series, increasing)
    steps, violations = count_steps(series, increasing)
    alone = [_kendall([one], increasing) for one in series]
    direction, opposite = ("rises", "falls") if increasing else ("falls", "rises")
    claim = f"{response} {direction} along {along}"
    return TrendResult(
        response=response,
        along=along,
        blocks=tuple(blocks),
        increasing=increasing,
        significance=significance,
        page=page,
        mann_kendall=kendall,
        by_block=_by_block(series, alone, significance),
        n_steps=steps.n,
        violations=violations,
        verdicts=(
            steps_verdict(f"{claim} in every block", steps, opposite),
            overall_verdict(f"{claim} overall", page, kendall, significance),
        ),
        notes=(*cells.left_out, *_notes(series, complete, short, along, page, kendall), NULL),
        provenance=provenance(
            rows,
            {
                "response": response,
                "along": along,
                "blocks": list(blocks),
                "increasing": increasing,
                "significance": significance,
                "source": frame.attrs.get("source", ""),
            },
        ),
    )


def _refuse(response: str, along: str, blocks: Sequence[str], significance: float) -> None:
    if isinstance(blocks, str):
        raise ValueError(f"`blocks` is {blocks!r}; give a list of columns: [{blocks!r}]")
    names = [response, along, *blocks]
    twice = [name for name in names if names.count(name) > 1]
    if twice:
        raise ValueError(
            f"column {twice[0]!r} is named twice among `response`, `along` and `blocks`; each column has one part"
        )
    if not 0 < significance < 1:
        raise ValueError(f"`significance` is {significance!r}; allowed is what lies between 0 and 1: 0.05 is usual")


def _kendall(series: Sequence[Series], increasing: bool) -> KendallTest:
    x, y = (np.concatenate([getattr(one, name) for one in series]) for name in ("x", "y"))
    labels = np.repeat(np.arange(len(series)), [len(one.x) for one in series])
    return mann_kendall(x, y, labels, increasing=increasing)


def _by_block(series: Sequence[Series], alone: Sequence[KendallTest], significance: float) -> pd.DataFrame:
    rows = []
    for one, test in zip(series, alone, strict=True):
        word, because = p_word(test.p_value, test.p_opposite, test.p_floor, significance)
        rows.append(
            {
                "block": one.block,
                "cells": len(one.x),
                "levels": len(one.levels),
                "S": test.S,
                "tau": test.tau,
                "p_value": test.p_value,
                "p_opposite": test.p_opposite,
                "p_floor": test.p_floor,
                "method": test.method,
                "verdict": word,
                "because": because,
            }
        )
    return pd.DataFrame(rows)


def _notes(
    series: Sequence[Series],
    complete: Sequence[Series],
    short: Sequence[str],
    along: str,
    page: PageTest,
    kendall: KendallTest,
) -> list[str]:
    notes = []
    if short:
        notes.append(f"{_named(short)}: one level of {along} only, left out")
    lacking = [one.block for one in series if len(one.levels) < page.n_levels]
    if lacking:
        notes.append(
            f"{_named(lacking)}: fewer than {page.n_levels} levels, left out of Page's test, which needs complete "
            "blocks; Mann-Kendall takes them"
        )
    if len({tuple(one.levels.tolist()) for one in complete}) > 1:
        notes.append(f"blocks differ in their levels of {along}: Page's test goes by the levels' order within a block")
    n_shared = sum(len(one.x) - len(one.levels) for one in series)
    if n_shared:
        notes.append(
            f"{n_shared} cells share block and level with another: averaged for Page's test and for steps, kept apart, "
            "tied along the levels, for Mann-Kendall"
        )
    tests = (("Page's test", page.method), ("Mann-Kendall", kendall.method))
    return notes + [f"p of {name} is the normal approximation: {TOO_MANY}" for name, word in tests if word != "exact"]


def _named(blocks: Sequence[str]) -> str:
    more = f" and {len(blocks) - MOST_NAMED} more" if len(blocks) > MOST_NAMED else ""
    return f"block{'s' if len(blocks) > 1 else ''} {', '.join(map(repr, blocks[:MOST_NAMED]))}{more}"
