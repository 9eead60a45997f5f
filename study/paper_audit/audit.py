"""The paper's tables compared with themselves: `audit_paper`, which docs/paper-audit.md and the notebook read."""

from collections.abc import Iterator
from dataclasses import dataclass

import pandas as pd
from averages import AVERAGE, ROUNDING, Slip, averages_of, find_slips, least_miss, plain_misses, wide_table
from checks import (
    ceiling_verdicts,
    cells_above_ceilings,
    claimed_ratios,
    excess_verdict,
    prompt_verdicts,
    ratio_verdicts,
    repetition_verdict,
    step_verdicts,
)

from lorascope.analyze.fits.verdicts import Verdict
from lorascope.analyze.results.format import format_number
from lorascope.study.paper_tables import paper_table

WEIGHTED = ("CE", "MIUB")
"""Metrics whose averages aren't plain means; they would share one vector of weights a model."""


@dataclass(frozen=True)
class Audit:
    """Results of all checks."""

    verdicts: tuple[Verdict, ...]
    slips: pd.DataFrame
    """Values that would make averages fit if they were printed in the wrong column; columns as in `Slip`."""
    ratios: pd.DataFrame
    """Ratios that the paper claims, computed at the place that it names and at all others."""
    ceilings: pd.DataFrame
    """Counts of cells above a ceiling."""


def audit_paper() -> Audit:
    """Verdicts on tables 1 to 3 of arXiv 2501.03152, from the printed numbers alone.

    A printed number stands for all that round to it: an average and a weighted mean of its members may differ by half a
    unit of the last decimal of either.
    """
    wide, ratios, above = wide_table(), claimed_ratios(), cells_above_ceilings()
    models = list(dict.fromkeys(wide.index.get_level_values("model")))
    table_2 = (*step_verdicts(paper_table(2), ["prompt"]), *prompt_verdicts())
    verdicts = (
        _plain_verdict(wide),
        *(_weights_verdict(wide, model) for model in models),
        repetition_verdict(wide),
        *step_verdicts(paper_table(1), ["dataset", "model"]),
        *ratio_verdicts(ratios),
        *ceiling_verdicts(above),
        *(verdict._replace(claim=f"table 2: {verdict.claim}") for verdict in table_2),
        excess_verdict(),
    )
    slips = [slip for model in models for slip in _slips(wide, model)]
    return Audit(verdicts, pd.DataFrame(slips, columns=Slip._fields), ratios, above)


def _plain_verdict(wide: pd.DataFrame) -> Verdict:
    pairs = wide.index.droplevel("setting").unique()
    misses = [miss for model, metric in pairs for miss in plain_misses(averages_of(wide, model, (metric,)))]
    n_wrong = sum(miss > 1 + ROUNDING for miss in misses)
    because = f"{n_wrong} of {len(wide)} differ by more than rounding of average and members allows"
    return Verdict(f"{AVERAGE} is the plain mean of its members", "contradicted" if n_wrong else "supported", because)


def _weights_verdict(wide: pd.DataFrame, model: str) -> Verdict:
    averages = averages_of(wide, model, WEIGHTED)
    miss = least_miss(averages)
    because = (
        f"the best weights miss {len(averages.printed)} averages by up to {format_number(miss)} times what rounding "
        "allows"
    )
    claim = f"one vector of weights gives {AVERAGE} of {', '.join(WEIGHTED)} of {model}"
    return Verdict(claim, "supported" if miss <= 1 + ROUNDING else "contradicted", because)


def _slips(wide: pd.DataFrame, model: str) -> Iterator[Slip]:
    """Slips of a model whose averages no weights give."""
    if least_miss(averages_of(wide, model, WEIGHTED)) > 1 + ROUNDING:
        yield from find_slips(wide, model, "ACC", ())
        yield from find_slips(wide, model, WEIGHTED[0], WEIGHTED[1:])
