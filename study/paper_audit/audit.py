"""The paper's tables held against themselves: `audit_paper`, which docs/paper-audit.md and the notebook read."""

from dataclasses import dataclass

import pandas as pd
from averages import (
    AVERAGE,
    ROUNDING,
    Slip,
    averages_of,
    find_slips,
    least_miss,
    plain_misses,
    weight_ranges,
    wide_table,
)
from checks import (
    CEILINGS,
    ceiling_verdicts,
    cells_above_ceilings,
    claimed_ratios,
    excess_verdict,
    prompt_verdicts,
    ratio_verdicts,
    repeated_runs,
    step_verdicts,
)

from lorascope.analyze.fits.verdicts import Verdict
from lorascope.analyze.results.format import format_number
from lorascope.study.paper_tables import paper_table

WEIGHTED = ("CE", "MIUB")
"""Metrics whose averages aren't plain means; they would share one vector of weights a model."""


@dataclass(frozen=True)
class Audit:
    """What the paper's tables give away."""

    verdicts: tuple[Verdict, ...]
    findings: tuple[str, ...]
    """A sentence on each thing that is wrong, with its numbers."""
    ratios: pd.DataFrame
    """Claimed ratios, there and elsewhere."""
    ceilings: pd.DataFrame
    """Cells above a ceiling, counted."""


def audit_paper() -> Audit:
    """Verdicts and findings on tables 1 to 3 of arXiv 2501.03152, from the printed numbers alone.

    A printed number stands for all that round to it: an average and a weighted mean of its members may differ by half a
    unit of the last decimal of either.
    """
    averages, found = _averages()
    same, own_runs = repeated_runs()
    found += [f"{first} and {second} have the same numbers in all cells" for first, second in same]
    ratios, above = claimed_ratios(), cells_above_ceilings()
    second = [*step_verdicts(paper_table(2), ["prompt"]), *prompt_verdicts()]
    steps, claimed, ceilings = (
        list(step_verdicts(paper_table(1), ["dataset", "model"])), list(ratio_verdicts(ratios)),
        list(ceiling_verdicts(above)),
    )  # fmt: skip
    tables_2 = [one._replace(claim=f"table 2: {one.claim}") for one in second]
    found += [f"{one.claim}: {one.because}" for one in (*steps, *tables_2) if one.word == "contradicted"]
    found += [f"{one.claim}: {one.because}; {CEILINGS[one.claim.split(',')[0]][2]}" for one in ceilings]
    verdicts = (*averages, own_runs, *steps, *claimed, *ceilings, *tables_2, excess_verdict())
    return Audit(verdicts, tuple(found), ratios, above)


def _averages() -> tuple[list[Verdict], list[str]]:
    wide = wide_table()
    metrics = list(dict.fromkeys(wide.index.get_level_values("metric")))
    models = list(dict.fromkeys(wide.index.get_level_values("model")))
    wrong = {
        metric: [int((plain_misses(averages_of(wide, model, (metric,))) > 1 + ROUNDING).sum()) for model in models]
        for metric in metrics
    }
    n_wrong = sum(map(sum, wrong.values()))
    said = f"{n_wrong} of {len(wide)} differ by more than rounding of average and members allows"
    by_metric = ", ".join(f"{metric} {sum(some)} of {len(wide) // len(metrics)}" for metric, some in wrong.items())
    word = "contradicted" if n_wrong else "supported"
    verdicts = [Verdict(f"{AVERAGE} is the plain mean of its members", word, said)]
    findings = [f"{AVERAGE} isn't the plain mean of its members: {said} ({by_metric})"]
    for model in models:
        averages = averages_of(wide, model, WEIGHTED)
        miss = least_miss(averages)
        fits = miss <= 1 + ROUNDING
        said = (
            f"the best weights miss {len(averages.printed)} averages by up to {format_number(miss)} times what "
            "rounding allows"
        )
        claim = f"one vector of weights gives {AVERAGE} of {', '.join(WEIGHTED)} of {model}"
        verdicts.append(Verdict(claim, "supported" if fits else "contradicted", said))
        if fits:
            members = [name for name in wide.columns if name != AVERAGE]
            spans = [_span(*ends) for ends in weight_ranges(averages)]
            listed = ", ".join(f"{name} {span}" for name, span in zip(members, spans, strict=True))
            findings.append(f"{model}: {said}, with {listed}")
            continue
        findings.append(f"{model}: {said}")
        slips = [*find_slips(wide, model, "ACC", ()), *find_slips(wide, model, WEIGHTED[0], WEIGHTED[1:])]
        findings += [_slip(model, one) for one in slips]
    return verdicts, findings


def _slip(model: str, slip: Slip) -> str:
    return (
        f"{model} {slip.member}: averages of {slip.metric} fit if what is printed under {slip.source} "
        f"({slip.printed_source:g}) belongs under {slip.under} (printed: {slip.printed_under:g}); {slip.source} is "
        f"then {_span(slip.low, slip.high)}"
    )


def _span(low: float, high: float) -> str:
    return f"{format_number(low, digits=4)} to {format_number(high, digits=4)}"
