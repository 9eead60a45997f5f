"""Tests of the paper's seven claims on a study, each with a verdict, a number and its interval.

js is the Jensen-Shannon divergence of base and adapted output, MIUB its sum over layers, MI mutual information.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import pairwise
from typing import NamedTuple

import numpy as np
import pandas as pd  # type: ignore[import-untyped]
import xarray as xr
from scipy import stats  # type: ignore[import-untyped]

from lorascope.analyze.fits.verdicts import Verdict, Word
from lorascope.analyze.results.format import format_number

from .cells import shortest_length
from .claims import (
    PROMPT,
    PROMPTS,
    RANK,
    SIZE,
    TEXT,
    TUNING,
    Claim,
    Finding,
    count_settings,
    decide_claim,
    log_ratio,
    undecided_claim,
)
from .items import LEVEL, Estimate, ItemTable, Spread, Statistic, item_rows, item_table, spread_between_trainings
from .tables import Layout, lay_out
from .units import UnitResult

MIUB, BOTH, SCORED = ("MIUB",), ("MIUB", "CE"), ("MIUB", "ACC", "CE")
TUNED = ("ACC", "base_ACC", "CE", "base_CE")
NEARLY_EQUAL = 0.1
"""Largest difference of MI from js, as a share of js, that counts as nearly equal."""
LOWER_BOUNDS = ("ok", "lower bound only")
"""Verdicts of estimates that, apart from noise, are lower bounds of mutual information."""


class ModelUnits(NamedTuple):
    """Units (adapters) of one model, and of one task if tasks share data sets, by their column in the tables."""

    layout: Layout
    units: Mapping[str, list[UnitResult]]
    """Column -> its units."""
    rows: pd.DataFrame
    """Rows of `item_rows`, with their column as `setting`."""
    of: str
    """End of the subject of a claim: ` of NAME` if there are several models or tasks, else empty."""

    def shared_items(self, rows: pd.DataFrame, along: str, metrics: Sequence[str]) -> ItemTable | str:
        """Return the items that all settings along `rank`, `model size` or "" (all) share, or why no item is shared."""
        columns = {"rank": self.layout.ranks, "model size": self.layout.sizes}.get(along, self.layout.settings)
        if along and len(columns) < 2:
            return f"the study has {count_settings(len(columns))} of {along}; a change takes two"
        table = item_table(rows, columns, metrics)
        if table is None or len(table.settings) < 1 + bool(along):
            return f"no items have numbers at {'two settings of ' * bool(along)}{along or 'any setting'}"
        return table

    def test(self, claim: Claim, table: ItemTable | str, **names: str) -> Finding:
        """Return the Finding on a claim: tested on a table of items, or undecided for the reason that `table` gives."""
        sentence = claim.sentence.format(of=self.of, **names)
        if isinstance(table, str):
            return undecided_claim(claim.number, sentence, table)
        settings, n_sets = table.settings, len(table.values)
        sets = f"mean over {n_sets} data sets" if n_sets > 1 else "one data set"
        ends = dict(zip(("first", "second", "last_but_one", "last"), (*settings[:2], *settings[-2:]), strict=False))
        what = claim.what.format(**ends, sets=sets, settings=count_settings(len(settings)))
        estimate = table.estimate(claim.statistic)
        return decide_claim(claim.number, sentence, estimate, claim.unit, what, falls=claim.falls)


def paper_claims(units: Sequence[UnitResult], cells: pd.DataFrame, compared: Iterable[Verdict] = ()) -> pd.DataFrame:
    """Return a table of verdicts on the paper's seven claims in a study; number 0 is whether fine-tuning helps.

    Each model is tested separately, and each task if tasks share data sets.

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
        One row per claim: `number`, `claim`, `verdict`, `because` and, if known, `value`, `low` and `high` (the 95 %
        interval that decides the word), `unit`, `n_items`, `n_seeds` (fewest of a setting), `seed_sd` (standard
        deviation of the value between trainings).

    Notes
    -----
    Differences between settings are of the same items, which are drawn with replacement, by data set, 1000 times. If a
    setting has several seeds, `spread_between_trainings` estimates how the number would vary if settings were trained
    again, and the 95 % interval is that of another draw of items and other trainings. With one seed per setting it is
    of these very adapters. A claim is `supported` if the interval excludes 0 on the claim's side, and `contradicted` if
    it does on the other.
    """
    findings: list[Finding] = []
    for model in _split_by_model(units, cells):
        if model.rows["is_first"].any():
            findings += [*_test_choices(model), *_test_lengths(model), *_test_prompts(model)]
        findings += [*_test_texts(model), *_test_information(model.layout, model.units, model.of)]
    n_items = int(cells[cells["first_prompt"] & ~cells["is_text"]]["n_scored"].sum())
    findings += [Finding(3, *verdict, n_items=n_items) for verdict in compared]
    return pd.DataFrame(sorted(findings, key=lambda finding: finding.number), columns=Finding._fields)


def _split_by_model(units: Sequence[UnitResult], cells: pd.DataFrame) -> Iterator[ModelUnits]:
    """Yield the units (adapters) of each model, and of each task if tasks share data sets."""
    keys = ["model"] + (["task"] if cells.groupby("dataset")["task"].nunique().max() > 1 else [])
    varying = [name for name in keys if cells[name].nunique() > 1]
    for _, part in cells.groupby(keys, sort=False):
        layout = lay_out(part)
        names = layout.cells.groupby("column")["run"].agg(set)
        by_column = {column: [unit for unit in units if unit.name in names[column]] for column in layout.columns}
        rows = [item_rows(unit).assign(setting=column) for column, some in by_column.items() for unit in some]
        yield ModelUnits(layout, by_column, pd.concat(rows), "".join(f" of {part[name].iloc[0]}" for name in varying))


def _test_choices(model: ModelUnits) -> Iterator[Finding]:
    """Yield Findings on claims 0 to 3 (fine-tuning helps; MIUB, CE by rank and model size) from test questions."""
    tested = model.rows[model.rows["is_first"] & (model.rows["in_test"] > 0)]
    for along, metrics, claims in (("", TUNED, TUNING), ("rank", SCORED, RANK), ("model size", SCORED, SIZE)):
        table = model.shared_items(tested, along, metrics)
        if along == "model size":
            yield _test_every_step(model.of, table)
        yield from (model.test(claim, table) for claim in claims)
    yield _test_rank_against_size(model, tested)


def _test_every_step(of: str, table: ItemTable | str) -> Finding:
    """Return the Finding on claim 2, that MIUB falls at every step of model size, by one deciding step.

    It is the step that rises most surely, or else the step that falls least surely.
    """
    sentence = f"MIUB{of} falls at every step of model size"
    if isinstance(table, str):
        return undecided_claim(2, sentence, table)
    estimates = {
        f"{a} to {b}": table.estimate(lambda means, k=k: means["MIUB"][k + 1] - means["MIUB"][k])  # type: ignore[misc]
        for k, (a, b) in enumerate(pairwise(table.settings))
    }
    rising = [name for name, estimate in estimates.items() if estimate.ends[0] > 0]
    step = max(rising or estimates, key=lambda name: estimates[name].ends[0 if rising else 1])
    what = f"of {len(estimates)} steps the one that decides, {step}:"
    return decide_claim(2, sentence, estimates[step], "nat", what)


def _test_rank_against_size(model: ModelUnits, tested: pd.DataFrame) -> Finding:
    """Return the Finding on claim 1, that ln MIUB changes less over the ranks than over the model sizes."""
    sentence = f"ln MIUB{model.of} changes less over the ranks than over the model sizes"
    table = item_table(tested, model.layout.columns, MIUB)
    names = table.settings if table else ()
    n = sum(name in model.layout.ranks for name in names)
    if table is None or n < 2 or len(names) - n < 2:
        return undecided_claim(1, sentence, "it takes two ranks and two model sizes")
    estimate = table.estimate(lambda means: log_ratio(means["MIUB"][:n]) - log_ratio(means["MIUB"][n:]))
    what = f"|ln| of {names[n - 1]} over {names[0]} less that of {names[-1]} over {names[n]}:"
    return decide_claim(1, sentence, estimate, "", what)


def _test_texts(model: ModelUnits) -> Iterator[Finding]:
    """Yield the Findings on claim 4, that MIUB falls with model size, and more evenly than PPL, on each text."""
    for name, rows in model.rows[model.rows["is_text"]].groupby("dataset", sort=False):
        table = model.shared_items(rows, "model size", BOTH)
        yield from (model.test(claim, table, name=name) for claim in TEXT)


def _test_lengths(model: ModelUnits) -> Iterator[Finding]:
    """Yield the Findings on claim 5, that accuracy rises and MIUB falls with the items' length.

    They compare the longest and the shortest bucket, which have different items.
    """
    rows = model.rows[model.rows["is_first"]]
    for metric, verb, unit, scale in (("ACC", "rises", "points", 100.0), ("MIUB", "falls", "nat", 1.0)):
        sentence = f"{metric}{model.of} {verb} with the items' length"
        tables = [
            (name, table)
            for name in sorted(set(rows["bucket"]) - {""}, key=shortest_length)
            if (table := item_table(rows[rows["bucket"] == name], model.layout.settings, [metric]))
        ]
        gap = _length_gap(tables[0][1], tables[-1][1], scale) if len(tables) > 1 else None
        if gap is None:
            yield undecided_claim(5, sentence, f"{len(tables)} buckets with items of one data set; a change takes two")
            continue
        what = f"items of {tables[-1][0]} less those of {tables[0][0]}, all settings and shared data sets:"
        yield decide_claim(5, sentence, gap, unit, what, falls=verb == "falls")


def _length_gap(first: ItemTable, last: ItemTable, scale: float) -> Estimate | None:
    """Return an Estimate of `scale` times the mean of `last` minus that of `first`, with Welch's interval.

    Only data sets in both tables count; without any, it is None.
    """
    shared = [name for name in first.values if name in last.values]
    if not shared:
        return None
    first, last = (table.select_sets(shared) for table in (first, last))
    items = [scale * table.values[name] @ table.seed_weights.mean(axis=0) for table in (last, first) for name in shared]
    means, n = np.array([values.mean() for values in items]), np.array([len(values) for values in items])
    value, n_items = float(means[: len(shared)].mean() - means[len(shared) :].mean()), int(n.sum())
    spread = Spread()
    if (first.settings, first.trainings) == (last.settings, last.trainings):
        trained = scale * np.concatenate([last.training_means(), first.training_means()])[..., 0]
        difference: Statistic = lambda means: np.subtract(*means.values()).mean(axis=0)  # noqa: E731
        spread = spread_between_trainings(difference, ("last", "first"), trained, first.trainings, first.settings)
    if n.min() < 2:
        return Estimate(value, np.nan, np.nan, n_items, spread)
    parts = np.array([values.var(ddof=1) for values in items]) / n / len(shared) ** 2
    # Welch and Satterthwaite's degrees of freedom.
    df = parts.sum() ** 2 / (parts**2 / (n - 1)).sum() if parts.any() else n_items - len(n)
    reach = float(stats.t.ppf((1 + LEVEL) / 2, df) * np.sqrt(parts.sum()))
    return Estimate(value, value - reach, value + reach, n_items, spread)


def _test_prompts(model: ModelUnits) -> Iterator[Finding]:
    """Yield the Findings on claim 7: MIUB falls under every prompt, and prompts have the paper's order by MIUB.

    Only items asked under every prompt count.
    """
    of, rows = model.of, model.rows[model.rows["in_prompts"] > 0]
    prompts = list(dict.fromkeys(model.rows[~model.rows["is_text"]]["prompt"]))
    if len(prompts) < 2:
        yield undecided_claim(7, f"under every prompt MIUB{of} falls with rank and model size", "there is one prompt")
        return
    for along in ("rank", "model size"):
        for name in prompts:
            table = model.shared_items(rows[rows["prompt"] == name], along, MIUB)
            yield model.test(PROMPT, table, name=name, along=along)
    keys = ["setting", "run", "seed", "label", "id"]
    by_prompt = rows.drop_duplicates([*keys, "prompt"]).pivot(index=[*keys, "tokens"], columns="prompt", values="MIUB")
    for higher, lower in pairwise(name for name in PROMPTS if name in prompts):
        sentence = f"MIUB{of} is higher under {higher} than under {lower}"
        pairs = by_prompt.reindex(columns=[higher, lower]).dropna().reset_index()
        paired = item_table(pairs, model.layout.settings, [higher, lower])
        if paired is None:
            yield undecided_claim(7, sentence, "no item has a number under both")
            continue
        estimate = paired.estimate(lambda means: np.subtract(*means.values()).mean(axis=0))
        what = f"mean over {count_settings(len(paired.settings))}:"
        yield decide_claim(7, sentence, estimate, "nat", what, falls=False)


def _test_information(layout: Layout, units: Mapping[str, Sequence[UnitResult]], of: str) -> Iterator[Finding]:
    """Yield the Findings on claim 6, that js is above mutual information (MI), near it, and MI falls.

    MI is the estimate of the panel of estimators, compared by component with js of the same tokens.
    """
    estimates = {
        column: [unit.information for unit in some if unit.information is not None] for column, some in units.items()
    }
    panels = {column: _means_over_seeds(some) for column, some in estimates.items() if some}
    if not panels:
        yield undecided_claim(6, f"js{of} lies above MI", "mutual information was estimated of no unit")
        return
    yield from _compare_with_js(of, pd.concat([panels[name] for name in layout.settings if name in panels]))
    for along, columns in (("rank", layout.ranks), ("model size", layout.sizes)):
        known = {name: panels[name] for name in columns if name in panels}
        claim = f"MI{of} falls as {along} grows"
        if len(known) < 2:
            why = f"{count_settings(len(known))} of {along} with estimates; a change takes two"
            yield undecided_claim(6, claim, why)
        else:
            yield _test_mi_falls(claim, known)


def _compare_with_js(of: str, panel: pd.DataFrame) -> Iterator[Finding]:
    """Yield the Findings on whether js is above mutual information (MI), and whether the two nearly coincide.

    The first is contradicted if most lower bounds of MI are above js.
    """
    believed, n = panel[panel["is_believed"]], len(panel)
    n_believed, n_below = len(believed), int((believed["js"] < believed["mi"]).sum())
    word: Word = "contradicted" if n_below > n_believed / 2 else "not identified"
    believable = "a verdict of ok or lower bound only"
    because = f"MI is above js in {n_below} of the {n_believed} components, of {n}, with {believable}"
    if not n_believed:
        because = f"none of the {n} components has {believable}"
    yield _component_finding(f"js{of} lies above MI", word, because, n_believed)
    ratios = panel["mi"] / panel["js"].where(panel["js"] > 0, 0)
    is_higher = ((ratios > 1 + NEARLY_EQUAL) & panel["is_believed"]).sum() > n / 2
    is_clean_near = (((ratios - 1).abs() <= NEARLY_EQUAL) & panel["is_clean"]).sum() > n / 2
    word = "contradicted" if is_higher else "supported" if is_clean_near else "not identified"
    middle = format_number(float(ratios.median())) if n else "n/a"
    because = f"median of MI over js: {middle}, n = {n} components, {panel['is_clean'].sum()} with a verdict of ok"
    yield _component_finding(f"MI and js{of} nearly coincide, within {100 * NEARLY_EQUAL:g} %", word, because, n)


def _test_mi_falls(claim: str, panels: Mapping[str, pd.DataFrame]) -> Finding:
    """Return the Finding on whether MI falls from the first setting to the last, by a sign test over components.

    Only components whose verdict is ok in both settings count.
    """
    (first, start), *_, (last, end) = panels.items()
    both = start.add_suffix("_first").join(end.add_suffix("_last"), how="inner")
    change = (both["mi_last"] - both["mi_first"])[both["is_clean_first"] & both["is_clean_last"]]
    n_falls, n_moved = int((change < 0).sum()), int((change != 0).sum())
    if not len(change):
        because = f"none of the {len(both)} components has a verdict of ok in both {first} and {last}"
        return _component_finding(claim, "not identified", because, 0)
    n = f"{n_falls} of the {len(change)} components, of {len(both)}"
    because = f"from {first} to {last} it falls in {n}, with a verdict of ok at both ends"
    if not n_moved:
        return _component_finding(claim, "not identified", because, len(change))
    p = float(stats.binomtest(n_falls, n_moved).pvalue)
    word: Word = "not identified" if p > 1 - LEVEL else "supported" if n_falls > n_moved / 2 else "contradicted"
    because += f", sign test p = {format_number(p)}, which is too small as components depend on each other"
    return _component_finding(claim, word, because, len(change))


def _component_finding(claim: str, word: Word, because: str, n_components: int) -> Finding:
    """Return a Finding on claim 6 (mutual information and js) that rests on components, not on items."""
    return Finding(6, claim, word, because, unit="components", n_items=n_components)


def _means_over_seeds(estimates: Sequence[xr.Dataset]) -> pd.DataFrame:
    """Return mutual information (`mi`) and `js` by component, in nats, as means over seeds.

    `is_clean` and `is_believed` say whether the verdicts of all seeds are ok, or at least lower bounds.
    """
    frames = []
    for panel in (seed.sel(estimator="panel") for seed in estimates):
        words = panel["verdict"].values.astype(str)
        columns = {"mi": panel["value"].values, "js": panel["js"].values, "is_clean": words == "ok"}
        columns["is_believed"] = np.isin(words, LOWER_BOUNDS)
        frames.append(pd.DataFrame(columns, index=panel["component"].values.astype(str)))
    seeds = pd.concat(frames)
    seeds = seeds[np.isfinite(seeds[["mi", "js"]]).all(axis=1)]
    by_component = seeds.groupby(level=0, sort=False)
    means = by_component.agg({"mi": "mean", "js": "mean", "is_clean": "all", "is_believed": "all"})
    return means[by_component.size() == len(frames)]
