"""The paper's seven claims on a study, each with a word, a number, its interval and what it rests on."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from itertools import pairwise
from typing import NamedTuple

import numpy as np
import pandas as pd  # type: ignore[import-untyped]
from scipy import stats  # type: ignore[import-untyped]

from lorascope.analyze.fits.verdicts import Verdict

from .cells import first_length
from .claims import PROMPT, PROMPTS, RANK, SIZE, TEXT, TUNING, Claim, log_ratio
from .findings import Estimate, Finding, decided, lacking, plural
from .information_claims import information_claims
from .items import ItemTable, item_rows, item_table
from .tables import Layout, lay_out
from .trainings import LEVEL, Spread, Statistic, between_trainings
from .units import UnitResult

MIUB, BOTH, SCORED = ("MIUB",), ("MIUB", "CE"), ("MIUB", "ACC", "CE")
TUNED = ("ACC", "base_ACC", "CE", "base_CE")


class Sweeps(NamedTuple):
    """The units of one model under the paper's columns; of one task, where tasks share data sets."""

    layout: Layout
    units: Mapping[str, list[UnitResult]]
    """Column -> its units."""
    rows: pd.DataFrame
    """Rows of `item_rows`, with their column as `setting`."""
    of: str
    """` of NAME` where there are several models or tasks to tell apart, else nothing."""

    def table(self, rows: pd.DataFrame, along: str, metrics: Sequence[str]) -> ItemTable | str:
        """Items along `rank`, `model size` or all settings, or why there is nothing to look at."""
        columns = {"rank": self.layout.ranks, "model size": self.layout.sizes}.get(along, self.layout.settings)
        if along and len(columns) < 2:
            return f"the study has {plural(len(columns))} of {along}; a change takes two"
        table = item_table(rows, columns, metrics)
        if table is None or len(table.settings) < 1 + bool(along):
            return f"no items have numbers at {'two settings of ' * bool(along)}{along or 'any setting'}"
        return table

    def test(self, claim: Claim, table: ItemTable | str, **names: str) -> Finding:
        """Test a claim on a table."""
        sentence = claim.sentence.format(of=self.of, **names)
        if isinstance(table, str):
            return lacking(claim.number, sentence, table)
        settings, n_sets = table.settings, len(table.values)
        sets = f"mean over {n_sets} data sets" if n_sets > 1 else "one data set"
        ends = dict(zip(("first", "second", "last_but_one", "last"), (*settings[:2], *settings[-2:]), strict=False))
        what = claim.what.format(**ends, sets=sets, settings=plural(len(settings)))
        estimate = table.estimate(claim.statistic)
        return decided(claim.number, sentence, estimate, claim.unit, what, falls=claim.falls)


def paper_claims(units: Sequence[UnitResult], cells: pd.DataFrame, compared: Iterable[Verdict] = ()) -> pd.DataFrame:
    """The paper's claims 1 to 7 tested on a study, and, numbered 0, fine-tuning itself.

    Each model is tested separately, and each task where tasks share data sets.

    Parameters
    ----------
    units
        What `read_units` returns.
    cells
        What `study_cells` returns of them.
    compared
        Verdicts of `compare_metrics` over all models; they count for claim 3.

    Returns
    -------
    DataFrame
        A claim a row: `number`, `claim`, `verdict`, `because` and, where they are known, `value`, `low` and `high` (the
        95 % interval that the word rests on), `unit`, `n_items`, `n_seeds` (fewest of a setting), `seed_sd` (standard
        deviation of the value between trainings).

    Notes
    -----
    Differences between settings are of the same items, which are drawn with replacement, by data set, 1000 times. Where
    a setting has several seeds, `between_trainings` says how far the number would lie if settings were trained again;
    the 95 % interval is that of another draw of items and other trainings. With one seed a setting it is of these very
    adapters. A claim is `supported` where the interval leaves 0 out on the claim's side, and `contradicted` where it
    does on the other.
    """
    findings: list[Finding] = []
    for sweeps in _sweeps(units, cells):
        if sweeps.rows["is_first"].any():
            findings += [*_choices(sweeps), *_lengths(sweeps), *_prompts(sweeps)]
        findings += [*_texts(sweeps), *information_claims(sweeps.layout, sweeps.units, sweeps.of)]
    n_items = int(cells[cells["first_prompt"] & ~cells["is_text"]]["n_scored"].sum())
    findings += [Finding(3, *verdict, n_items=n_items) for verdict in compared]
    return pd.DataFrame(sorted(findings, key=lambda finding: finding.number), columns=Finding._fields)


def _sweeps(units: Sequence[UnitResult], cells: pd.DataFrame) -> Iterator[Sweeps]:
    apart = ["model"] + (["task"] if cells.groupby("dataset")["task"].nunique().max() > 1 else [])
    distinguished = [name for name in apart if cells[name].nunique() > 1]
    for _, part in cells.groupby(apart, sort=False):
        layout = lay_out(part)
        names = layout.cells.groupby("column")["run"].agg(set)
        own = {column: [unit for unit in units if unit.name in names[column]] for column in layout.columns}
        rows = pd.concat([item_rows(unit).assign(setting=column) for column, some in own.items() for unit in some])
        yield Sweeps(layout, own, rows, "".join(f" of {part[name].iloc[0]}" for name in distinguished))


def _choices(sweeps: Sweeps) -> Iterator[Finding]:
    """Fine-tuning, and claims 1 to 3, on test items with their first prompt."""
    tested = sweeps.rows[sweeps.rows["is_first"] & (sweeps.rows["in_test"] > 0)]
    for along, metrics, claims in (("", TUNED, TUNING), ("rank", SCORED, RANK), ("model size", SCORED, SIZE)):
        table = sweeps.table(tested, along, metrics)
        if along == "model size":
            yield _every_step(sweeps.of, table)
        yield from (sweeps.test(claim, table) for claim in claims)
    yield _little_and_much(sweeps, tested)


def _every_step(of: str, table: ItemTable | str) -> Finding:
    """Test the step that rises most surely, if a step does; else the step that falls least surely."""
    sentence = f"MIUB{of} falls at every step of model size"
    if isinstance(table, str):
        return lacking(2, sentence, table)
    estimates = {
        f"{a} to {b}": table.estimate(lambda means, k=k: means["MIUB"][k + 1] - means["MIUB"][k])  # type: ignore[misc]
        for k, (a, b) in enumerate(pairwise(table.settings))
    }
    rising = [name for name, estimate in estimates.items() if estimate.ends[0] > 0]
    step = max(rising or estimates, key=lambda name: estimates[name].ends[0 if rising else 1])
    what = f"of {len(estimates)} steps the one that decides, {step}:"
    return decided(2, sentence, estimates[step], "nat", what)


def _little_and_much(sweeps: Sweeps, tested: pd.DataFrame) -> Finding:
    sentence = f"ln MIUB{sweeps.of} changes less over the ranks than over the model sizes"
    table = item_table(tested, sweeps.layout.columns, MIUB)
    names = table.settings if table else ()
    n = sum(name in sweeps.layout.ranks for name in names)
    if table is None or n < 2 or len(names) - n < 2:
        return lacking(1, sentence, "it takes two ranks and two model sizes")
    estimate = table.estimate(lambda means: log_ratio(means["MIUB"][:n]) - log_ratio(means["MIUB"][n:]))
    what = f"|ln| of {names[n - 1]} over {names[0]} less that of {names[-1]} over {names[n]}:"
    return decided(1, sentence, estimate, "", what)


def _texts(sweeps: Sweeps) -> Iterator[Finding]:
    for name, rows in sweeps.rows[sweeps.rows["is_text"]].groupby("dataset", sort=False):
        table = sweeps.table(rows, "model size", BOTH)
        yield from (sweeps.test(claim, table, name=name) for claim in TEXT)


def _lengths(sweeps: Sweeps) -> Iterator[Finding]:
    """Claim 5: from the shortest to the longest bucket, items of both being other ones."""
    rows = sweeps.rows[sweeps.rows["is_first"]]
    for metric, verb, unit, scale in (("ACC", "rises", "points", 100.0), ("MIUB", "falls", "nat", 1.0)):
        sentence = f"{metric}{sweeps.of} {verb} with the items' length"
        tables = [
            (name, table)
            for name in sorted(set(rows["bucket"]) - {""}, key=first_length)
            if (table := item_table(rows[rows["bucket"] == name], sweeps.layout.settings, [metric]))
        ]
        gap = _between(tables[0][1], tables[-1][1], scale) if len(tables) > 1 else None
        if gap is None:
            yield lacking(5, sentence, f"{len(tables)} buckets with items of one data set; a change takes two")
            continue
        what = f"items of {tables[-1][0]} less those of {tables[0][0]}, all settings and shared data sets:"
        yield decided(5, sentence, gap, unit, what, falls=verb == "falls")


def _between(first: ItemTable, last: ItemTable, scale: float) -> Estimate | None:
    """Last less first table, of the data sets of both, with the interval of independent items (Welch's t)."""
    shared = [name for name in first.values if name in last.values]
    if not shared:
        return None
    first, last = (
        replace(
            table, values={name: table.values[name] for name in shared}, weights={k: table.weights[k] for k in shared}
        )
        for table in (first, last)
    )
    items = [scale * table.values[name] @ table.over_seeds.mean(axis=0) for table in (last, first) for name in shared]
    means, n = np.array([values.mean() for values in items]), np.array([len(values) for values in items])
    value, n_items = float(means[: len(shared)].mean() - means[len(shared) :].mean()), int(n.sum())
    spread = Spread()
    if (first.settings, first.trainings) == (last.settings, last.trainings):
        trained = scale * np.concatenate([last.trained(), first.trained()])[..., 0]
        difference: Statistic = lambda means: np.subtract(*means.values()).mean(axis=0)  # noqa: E731
        spread = between_trainings(difference, ("last", "first"), trained, first.trainings, first.settings)
    if n.min() < 2:
        return Estimate(value, np.nan, np.nan, n_items, spread)
    parts = np.array([values.var(ddof=1) for values in items]) / n / len(shared) ** 2
    # Welch and Satterthwaite's degrees of freedom.
    df = parts.sum() ** 2 / (parts**2 / (n - 1)).sum() if parts.any() else n_items - len(n)
    reach = float(stats.t.ppf((1 + LEVEL) / 2, df) * np.sqrt(parts.sum()))
    return Estimate(value, value - reach, value + reach, n_items, spread)


def _prompts(sweeps: Sweeps) -> Iterator[Finding]:
    """Claim 7, on the items that every prompt was put to, and with the paper's order of prompts."""
    of, rows = sweeps.of, sweeps.rows[sweeps.rows["in_prompts"] > 0]
    prompts = list(dict.fromkeys(sweeps.rows[~sweeps.rows["is_text"]]["prompt"]))
    if len(prompts) < 2:
        yield lacking(7, f"under every prompt MIUB{of} falls with rank and model size", "there is one prompt")
        return
    for along in ("rank", "model size"):
        for name in prompts:
            table = sweeps.table(rows[rows["prompt"] == name], along, MIUB)
            yield sweeps.test(PROMPT, table, name=name, along=along)
    keys = ["setting", "run", "seed", "label", "id"]
    by_prompt = rows.drop_duplicates([*keys, "prompt"]).pivot(index=[*keys, "tokens"], columns="prompt", values="MIUB")
    for higher, lower in pairwise(name for name in PROMPTS if name in prompts):
        sentence = f"MIUB{of} is higher under {higher} than under {lower}"
        pairs = by_prompt.reindex(columns=[higher, lower]).dropna().reset_index()
        paired = item_table(pairs, sweeps.layout.settings, [higher, lower])
        if paired is None:
            yield lacking(7, sentence, "no item has a number under both")
            continue
        estimate = paired.estimate(lambda means: np.subtract(*means.values()).mean(axis=0))
        what = f"mean over {plural(len(paired.settings))}:"
        yield decided(7, sentence, estimate, "nat", what, falls=False)
