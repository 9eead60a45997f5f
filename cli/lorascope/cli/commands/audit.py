"""`lorascope audit`."""

import inspect
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import pandas as pd  # type: ignore[import-untyped]
from cyclopts import Parameter

from lorascope.analyze.audit.audit import Audit
from lorascope.analyze.audit.audit_table import audit_table
from lorascope.analyze.audit.paper import audit_paper
from lorascope.study.paper_tables import SOURCE
from lorascope.study.read_table import read_table, select_rows

from ..fits.claims import ceilings_of, claims_of, directions_of, orders_of, vectors_of
from ..fits.options import NONE, listed, named_columns, numbers_by_name, rows_where
from ..fits.results import Format, Results, about_study, deliver, refuse_out
from ..fits.words import command_words

__all__ = ["audit"]

PAPER = "paper"
GROUPS = ("model",)


def audit(
    table: str,
    /,
    *,
    value: str = "value",
    averaged: str = "dataset",
    average: str = "AVG",
    members: str = "",
    metric: str = "metric",
    setting: str = "setting",
    groups: str = "model",
    printed: str | None = None,
    decimals: str | None = None,
    weighted: Sequence[str] = (),
    order: Sequence[str] = (),
    direction: Sequence[str] = (),
    ceiling: Sequence[str] = (),
    ratio: Sequence[str] = (),
    increase: Sequence[str] = (),
    decrease: Sequence[str] = (),
    where: Sequence[str] = (),
    form: Annotated[Format, Parameter(name="--format")] = "table",
    out: Path | None = None,
) -> None:
    """What a published table gives away: it is held against itself, without the data that it came from.

    Averages against their members to within rounding, the weights that would make them, numbers that slipped, runs
    printed twice, steps against a claimed direction, ratios that a text names, and values above what is possible.

    Parameters
    ----------
    table
        A file (.csv, .tsv, .json, .jsonl) with a row for each printed number, or the word paper for the tables of
        arXiv 2501.03152.
    value
        Column of the numbers.
    averaged
        Column of what averages are over; averages are rows of their own in it.
    average
        What it calls an average; none for a table without any.
    members
        What the average is over, with commas between; by default all others.
    metric
        Column of what is measured.
    setting
        Column of the runs that are compared, such as ranks.
    groups
        Columns that tell apart what has averages and runs of its own, with commas between; none for a single group.
    printed
        Column of the numbers' printed characters, which show trailing zeros.
    decimals
        How many decimals were printed: 3 for all numbers, or by metric, as in 'ACC=3,MIUB=1'; by default those that are
        seen.
    weighted
        Metrics whose averages would share one vector of weights, with commas between; may be given several times.
    order
        An order of settings, as in 'rank=r32,r128,r512'; may be given several times.
    direction
        What a metric is claimed to do along every order, as in 'ACC=rises' or 'MIUB=falls'; may be given several times.
    ceiling
        The largest value that a metric can have, as in 'CE=10.4', or 'CE/Phi3=10.4' for one group; may be given several
        times.
    ratio
        A ratio that a text names, as in 'CE,share8/share1,AVG,Phi3=571': metric, settings, member and group, if there
        are groups; may be given several times.
    increase
        The same of a relative increase, from the second setting to the first: 0.2 for 20 %.
    decrease
        The same of a relative decrease.
    where
        Only rows with these values, as in 'model=Phi3'; give it again for another column.
    form
        table, json (all numbers at full precision) or markdown.
    out
        Write report.md and report.json to this folder, new or empty.
    """
    refuse_out(out)
    given = {name: held for name, held in locals().items() if name not in ("table", "form", "out")}
    with command_words():
        study, found = _paper(given) if table == PAPER else _audited(table, **given)
    deliver(
        Results(
            title="Audit of a published table", study=study, summaries=[found.summary()],
            record={"audit": found.to_dict()},
        ),
        form,
        out,
    )  # fmt: skip


def _paper(given: dict[str, Any]) -> tuple[dict[str, Any], Audit]:
    defaults = inspect.signature(audit).parameters
    unused = [f"`{name}`" for name, held in given.items() if held != defaults[name].default]
    if unused:
        raise ValueError(
            f"the audit of {PAPER!r} knows the paper's layout and claims; leave {', '.join(unused)} out, or audit a "
            "table of your own"
        )
    found = audit_paper()
    study = {"source": f"{SOURCE}, tables 1 to 3", "where": {}, "n_rows": found.provenance["n_rows"], "notes": []}
    return study, found


def _audited(table: str, *, where: Sequence[str], printed: str | None, **given: Any) -> tuple[dict[str, Any], Audit]:
    asked = rows_where(where)
    frame = select_rows(read_table(table, text=[printed] if printed else []), asked)
    return about_study(frame, asked), _checked(frame, printed=printed, **given)


def _checked(
    frame: pd.DataFrame, *, average: str, members: str, metric: str, groups: str, decimals: str | None,
    weighted: Sequence[str], order: Sequence[str], direction: Sequence[str], ceiling: Sequence[str],
    ratio: Sequence[str], increase: Sequence[str], decrease: Sequence[str], **given: Any,
) -> Audit:  # fmt: skip
    columns = listed(groups)
    if columns == GROUPS and not set(GROUPS) <= set(frame.columns):
        raise ValueError(
            f"the table has no column {groups!r} for groups; it has {named_columns(frame)}: name others with --groups, "
            "or give --groups none"
        )
    metrics = set(frame[metric].astype(str)) if metric in frame.columns else set()
    return audit_table(
        frame,
        average=None if average == NONE else average,
        members=listed(members) or None,
        metric=metric,
        groups=columns,
        decimals=_decimals(decimals),
        weighted=vectors_of(weighted) or None,
        order=orders_of(order),
        directions=directions_of(direction),
        ceilings=ceilings_of(ceiling, metrics),
        claims=[
            claim
            for kind, texts in (("ratio", ratio), ("increase", increase), ("decrease", decrease))
            for claim in claims_of(kind, texts, has_groups=bool(columns))
        ],
        **given,
    )


def _decimals(text: str | None) -> int | dict[str, int] | None:
    if text is None or "=" in text:
        return numbers_by_name("decimals", text) if text is not None else None
    try:
        return int(text)
    except ValueError:
        raise ValueError(
            f"`decimals` is {text!r}; give a whole number for all numbers, or metric=number for each metric"
        ) from None
