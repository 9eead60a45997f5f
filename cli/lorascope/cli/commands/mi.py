"""`lorascope mi`: it estimates the mutual information (MI) of base and adapted states, by component.

js is the Jensen-Shannon divergence of base and adapted output, MIUB its sum over components (layers with LoRA).
"""

import inspect
import re
from collections.abc import Iterator, Sequence
from itertools import takewhile
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import numpy as np
from cyclopts import Parameter
from cyclopts.types import NonNegativeInt

from lorascope import analyze, stores
from lorascope.analyze.results.format import format_number, format_percent
from lorascope.analyze.results.options import N_SHUFFLES, PAIR_FORMATS, TABLE_FORMATS, refuse_target
from lorascope.stores.reading.require_run import require_store
from lorascope.stores.reading.token_choice import CHOICE_HELP, describe_population

from ..options import AdapterName, AsJson, Components, Scheduler, Workers
from ..screen import aside, print_frame, progress_bar, say, write_json

if TYPE_CHECKING:
    import xarray as xr

    from lorascope.stores import Run

JS = {"lora": "js", "delta": "js_delta_alone"}
"""States that base is compared with -> variable of js; only that of lora adds up to MIUB."""
SHORT = {"": "-", "lower bound only": "lower bound", "assumes Gaussian": "if Gaussian"}
"""Verdict -> its shorter form in the narrow column of a table."""
EMBEDDING = re.compile(r"embed|^w[tp]e$")
"""Pattern of kinds of components that look up a token's id or position."""
SCREENING = ("gaussian_copula", "ksg_copula")
"""Estimators of `--quick`: one that sees correlations sharply, and one that sees any dependence, in few axes."""
MANY = 16
"""Components above which processes are worth their start: threads share an interpreter, and take a third longer."""
MOST_NOTES = 3
"""Most reasons for missing values that are printed without `--full`."""


def mi(
    run: str,
    /,
    *,
    adapter: AdapterName = None,
    component: Components = (),
    tokens: Annotated[str, Parameter(help=CHOICE_HELP)] = "all",
    estimator: Sequence[str] = ("panel",),
    against: Literal["lora", "delta"] = "lora",
    n_tokens: int = 2000,
    axes: int = 8,
    share: float = 0.9,
    k: int = 3,
    unit: Literal["nat", "bit"] = "nat",
    shuffles: int = N_SHUFFLES,
    seed: NonNegativeInt = 0,
    bound: bool = False,
    quick: bool = False,
    full: bool = False,
    as_json: AsJson = False,
    workers: Workers = None,
    scheduler: Scheduler = None,
    out: Path | None = None,
    export: Path | None = None,
) -> int:
    """Estimate the mutual information of each layer's output without and with the adapter, with error and verdict.

    Parameters
    ----------
    run
        Folder or url of a run that keeps states.
    estimator
        panel: the largest of six estimates that are too low apart from noise; or one of ksg1, ksg_copula,
        gaussian, gaussian_copula, cca_ksg, quadratic_cca_ksg, characteristic_ksg, radial_ksg, classifier; noise:
        Gaussian ones after noise of four sizes was added; give it again for another one.
    against
        What the frozen layer's output is compared with: lora, the output with the adapter, or delta, what it adds.
    n_tokens
        Largest number of the chosen tokens to use; they are drawn evenly from the samples.
    axes
        Largest number of principal axes on which each of the two is projected before.
    share
        Share of the variance that the axes should keep, as far as `--axes` allows.
    k
        Number of nearest neighbours, for the estimators that count them (ksg).
    unit
        nat or bit.
    shuffles
        Number of shuffles of samples, which show what would be estimated if nothing depended; p can't be below
        1 / (shuffles + 1).
    seed
        Seed of all random choices.
    bound
        Also print MIUB and the proven bound, in nats, to compare with the paper's claim that MIUB is an upper bound.
    quick
        Screen the components by two estimates, of a Gaussian copula and of nearest neighbours, in 7 % of the time.
        They have errors, but no panel, no shuffles and therefore no p and no verdict: look closer at what stands out.
    full
        Print all components, every estimator, and all remarks on the estimates.
    as_json
        Print one JSON object and nothing else: `attributes` (how it was measured), `units` (column -> unit), and
        `rows`, one for each component and estimator: `value`, its error `se`, `low` and `high` of its interval, `p`,
        `verdict`, `js` and all that qualifies them; null if a value is not available, "inf" for an infinity.
    out
        Save all numbers here, one row per component and estimator: a name ending in .zarr, .nc, .csv, .parquet or
        .json.
    export
        Write the projected pairs to this file, ending in .npz, for other software; nothing is estimated.
    """
    if bound and unit != "nat":
        raise ValueError(f"`--bound` compares nats with nats, and `--unit` is {unit!r}; leave it out")
    if export is not None:
        _refuse_unused(
            "`--export` writes pairs and estimates nothing", out=out, bound=bound, quick=quick, full=full,
            as_json=as_json, estimator=tuple(estimator), k=k, unit=unit, shuffles=shuffles,
        )  # fmt: skip
        refuse_target(export, PAIR_FORMATS, option="export")
    if quick:
        why = "`--quick` makes two estimates, without shuffles"
        _refuse_unused(why, bound=bound, estimator=tuple(estimator), shuffles=shuffles)
        estimator, shuffles = SCREENING, 0
    if out is not None:
        refuse_target(out, TABLE_FORMATS)  # before the work, not after it
    run = require_store(run)

    opened = stores.open_run(run)
    if not (scheduler or quick or component or export) and len(opened.component_paths) > MANY:
        scheduler = "processes"
    options: dict[str, Any] = {
        "adapter": adapter, "component": component or None, "tokens": tokens, "against": against,
        "n_tokens": n_tokens, "n_axes": axes, "share": share, "seed": seed, "scheduler": scheduler,
        "n_workers": workers,
    }  # fmt: skip
    if export is not None:
        with progress_bar("mi --export") as update:
            missing = analyze.export_pairs(opened, export, progress=update, **options)
        say(f"pairs to {export}" + (f", except {_count_components(len(missing))}:" if missing else ""))
        for name, why in list(missing.items())[:MOST_NOTES]:
            say(f"{name}: {why}")
        return int(bool(missing))
    names = ("panel", *estimator, "classifier") if bound else tuple(estimator)
    with progress_bar("mi") as update:
        result = analyze.measure_information(
            opened, estimator=names, k=k, unit=unit, n_shuffles=shuffles, progress=update, **options
        )
    if quick:
        result = result.drop_vars("verdict")  # most rules need shuffles or other estimators
    if as_json:
        from lorascope.analyze.results.save import dataset_to_table, table_to_json_object

        write_json(table_to_json_object(dataset_to_table(result)))
    else:
        _print_estimates(result, opened, bound=bound, full=full)
    if out is not None:
        analyze.save_table(result, out)
        say(f"saved to {out}", to=aside if as_json else None)
    return int((result["note"].values != "").any())


def _refuse_unused(why: str, **options: object) -> None:
    """Raise ValueError, which begins with `why`, if an option was given that isn't used."""
    defaults = inspect.signature(mi).parameters
    unused = [f"`--{name.removeprefix('as_')}`" for name, value in options.items() if value != defaults[name].default]
    if unused:
        raise ValueError(f"{why}; leave {', '.join(unused)} out")


def _print_estimates(result: "xr.Dataset", run: "Run", *, bound: bool, full: bool) -> None:
    """Print estimates of mutual information: a conclusion, a table by component, and with `full` all remarks."""
    import pandas as pd  # type: ignore[import-untyped]

    from lorascope.analyze.information.evidence import NEAR_CEILING
    from lorascope.analyze.information.gaussian import most_checkable
    from lorascope.analyze.information.mutual_information import UNITS_PER_NAT

    name = "panel" if "panel" in result["estimator"].values else str(result["estimator"].values[0])
    is_screen = "verdict" not in result
    panel, against = result.sel(estimator=name), result.attrs["against"]
    n_all = _count_components(result.sizes["component"])
    choice = result.attrs["tokens"]
    over = "" if choice == "all" else f" over {describe_population(choice)}"
    say(f"mutual information of base and {against}{over}, median and quartiles of {n_all}, by {_summary(panel)}")
    for line in (*_limits(result, name), *([_count_claims(result)] if bound else [])):
        say(line)
    head, components = _shorten_paths(result["component"].values.tolist())
    columns = _bound_columns(result) if bound else _screen_columns(result) if is_screen else _value_columns(panel)
    largest = "copula" if is_screen else "mi"
    table = pd.DataFrame({"component": components, **columns}).sort_values(largest, ascending=False, kind="stable")
    js = "MIUB" if against == "lora" else "JS alone"
    names = {"component": head, "mi": "MI", "joint": "JS\n(P,Q)", "xi": "Xi"}
    names |= {"js": js.replace(" ", "\n"), "claim": f"{js}\n≥ MI"}
    names |= {"copula": "Gaussian\ncopula", "neighbours": "nearest\nneighbours"}
    units = dict.fromkeys(("js", "mi", "joint", "xi", "copula", "neighbours"), result.attrs["units"])
    how = "a screen of two estimates without verdict" if is_screen else f"by {name}"
    title = f"mutual information of base and {against}, {how}"
    print_frame(table, title, units=units, names=names, largest=largest, full=full)
    if not bound:
        say(f"axes: the principal axes of base + {against} between which it is measured")
    if is_screen:
        copula, neighbours = (result.sel(estimator=each) for each in SCREENING)
        checked = [UNITS_PER_NAT[result.attrs["units"]] * most_checkable(max(int(n), 1)) for n in result["n_tokens"]]
        n_over = int((copula["value"].values > checked).sum())
        say(f"the Gaussian copula is above what tokens can check, and may be too high, in {n_over} of {n_all}")
        n_full = int((neighbours["value"] >= NEAR_CEILING * neighbours["ceiling"]).sum())
        say(f"nearest neighbours can't see more, and are near their ceiling, in {n_full} of {n_all}")
    if full or is_screen:
        others = [other for other in result["estimator"].values.tolist() if other != name]
        for line in (
            *(_summary(result.sel(estimator=other)) for other in others),
            *(_remarks(result, panel, run) if full else ()),
        ):
            say(line)
    _print_missing(result, full=full)


def _summary(estimates: "xr.Dataset") -> str:
    """Return a line on one estimator: median and quartiles over components, and the count of each verdict."""
    from lorascope.analyze.information import VERDICTS

    verdicts = estimates["verdict"].values.tolist() if "verdict" in estimates else []
    counts = ", ".join(f"{verdicts.count(word)} {word}" for word in VERDICTS if word in verdicts)
    if not counts:
        counts = "no verdict" if np.isfinite(estimates["value"]).any() else "no component has a value"
    low, middle, high = _quartiles(estimates["value"].values)
    return f"{estimates['estimator'].item()}: {middle} {estimates.attrs['units']} ({low} to {high}); {counts}"


def _limits(result: "xr.Dataset", name: str) -> Iterator[str]:
    """Yield a line where mutual information of whole states is infinite, and one on tokens that would do.

    The latter is of estimator `name`, where its verdict is `undersampled`.
    """
    from lorascope.analyze.information import sufficient_rows

    repeats = result["n_repeats"].values > 0  # states that depend on the token id alone are discrete
    embeds = [bool(EMBEDDING.search(str(kind))) for kind in result["kind"].values]
    if n := sum(s and not (r or e) for s, r, e in zip(result["singular"].values, repeats, embeds, strict=True)):
        yield (
            f"of whole states it is infinite in {n} of {_count_components(len(repeats))}, since base and "
            f"{result.attrs['against']} share directions exactly; values are of a few axes of each side"
        )
    if "verdict" in result and (result["verdict"].sel(estimator=name) == "undersampled").any():
        rows = sufficient_rows(result).sel(estimator=name).values
        known = rows[np.isfinite(rows)]
        low, high = (format_number(v, digits=2) for v in np.quantile(known, [0.25, 0.75])) if len(known) else ("", "")
        yield (
            f"undersampled: about {low} to {high} tokens a component would do (quartiles), if errors and what still "
            "changes with their number fall as its root"
            if len(known)
            else "undersampled: too few tokens even to say how many would do"
        )


def _count_claims(result: "xr.Dataset") -> str:
    """Return a line with the number of components in which the paper's claim MIUB >= MI holds, fails or is open."""
    claims = _test_claims(result)
    counts = ", ".join(f"{word} in {(claims == word).sum()}" for word in ("fails", "open", "holds"))
    name, claim = ("MIUB", ", the paper's claim,") if result.attrs["against"] == "lora" else ("JS alone", "")
    return (
        f"{name} ≥ MI{claim} {counts} (open: within the interval of MI, or without an interval); true of every "
        "pair are JS(P,Q) ≤ MI/2 and MI ≥ Xi (docs/mi-and-js.md)"
    )


def _test_claims(result: "xr.Dataset") -> np.ndarray:
    """Return, by component, whether js >= mutual information (MI) `holds`, `fails` or is `open`.

    The interval of MI decides: that of the panel of estimators, or else that of the lower bound Xi.
    """
    panel, certified = result.sel(estimator="panel"), result.sel(estimator="classifier")
    js = result[JS[result.attrs["against"]]].values
    low = np.where(np.isnan(panel["low"]), certified["low"], panel["low"])
    fails = (js < low) | np.isposinf(panel["value"].values)
    conditions = [np.isnan(panel["value"].values), fails, js > panel["high"].values]
    return np.select(conditions, ["n/a", "fails", "holds"], "open")


def _bound_columns(result: "xr.Dataset") -> dict[str, Any]:
    """Return by component js, mutual information (MI), JS(P,Q), Xi, and whether js >= MI, as columns of a table.

    Xi is a lower bound of MI; JS(P,Q) is at most MI / 2.
    """
    panel, certified = result.sel(estimator="panel"), result.sel(estimator="classifier")
    return {
        "js": result[JS[result.attrs["against"]]],
        "mi": panel["value"],
        "mi_se": panel["se"],
        "joint": result["js_joint"],
        "xi": certified["value"],
        "claim": _test_claims(result),
    }


def _value_columns(panel: "xr.Dataset") -> dict[str, Any]:
    """Return by component one estimator's mutual information, p, axes, tokens and verdict, as a table's columns."""
    p = ["n/a" if value != value else f"{value:.2g}" for value in panel["p"].values]
    verdicts = [SHORT.get(word, word) for word in panel["verdict"].values]
    estimated = {"mi": panel["value"], "mi_se": panel["se"]}
    return {**estimated, "p": p, "axes": _axes(panel), "tokens": panel["n_tokens"], "verdict": verdicts}


def _screen_columns(result: "xr.Dataset") -> dict[str, Any]:
    """Return by component the two estimates of `--quick`, with axes and tokens, as columns of a table."""
    columns: dict[str, Any] = {}
    for column, name in zip(("copula", "neighbours"), SCREENING, strict=True):
        estimates = result.sel(estimator=name)
        columns |= {column: estimates["value"], f"{column}_se": estimates["se"]}
    return {**columns, "axes": _axes(result), "tokens": result["n_tokens"]}


def _axes(result: "xr.Dataset") -> list[str]:
    """Return the numbers of axes of both sides by component, such as `4+3`."""
    return [f"{n_x}+{n_y}" for n_x, n_y in zip(result["n_axes_x"].values, result["n_axes_y"].values, strict=True)]


def _quartiles(values: np.ndarray) -> tuple[str, str, str]:
    """Return the lower quartile, the median and the upper quartile as texts; NaN is excluded."""
    known = values[~np.isnan(values)] if not np.isnan(values).all() else np.array([np.nan])
    # No number lies between another and infinity.
    numbers = np.quantile(known, [0.25, 0.5, 0.75], method="nearest" if np.isinf(known).any() else "linear")
    low, middle, high = map(format_number, numbers.tolist())
    return low, middle, high


def _remarks(result: "xr.Dataset", panel: "xr.Dataset", run: "Run") -> Iterator[str]:
    """Yield lines on the shuffles that p is from, the variance that axes keep, and the excluded tokens."""
    attrs = result.attrs
    if attrs["n_shuffles"]:
        null = float(np.abs(np.nan_to_num(panel["null_mean"])).max())
        yield f"p: of {attrs['n_shuffles']} shuffles of samples, whose mean is at most {format_number(null, digits=2)}"
    else:
        yield "no shuffles: no p, and the bias of noise curves isn't taken off"
    shares = [result[name].values[np.isfinite(result[name].values)] for name in ("share_x", "share_y")]
    if all(map(len, shares)):
        base, other = (format_percent(float(np.median(share))) for share in shares)
        yield f"axes keep, in the median component, {base} of base's variance and {other} of {attrs['against']}'s"
    for name, what in (("n_repeats", "repeated states"), ("n_not_finite", "tokens with NaN or infinity")):
        if (counts := result[name].values).any():
            n_all = _count_components(len(counts))
            yield f"{what} were excluded in {(counts > 0).sum()} of {n_all}, at most {counts.max()} tokens"
    if n := attrs["n_prefix_repeats"]:
        yield f"{n} tokens of the run couldn't be chosen: an earlier one has the same id after the same ids"
    n_rows = int((run.committed_rows & run.state_rows).sum())
    if n_rows < run.n_rows:
        yield f"tokens are of {n_rows} of the run's {run.n_rows} rows; others aren't committed, or keep no states"


def _print_missing(result: "xr.Dataset", *, full: bool) -> None:
    """Print how many components lack values, and each reason with the name of one such component."""
    notes = result["note"].to_series()
    notes = notes[notes != ""]
    if len(notes):
        say(f"{len(notes)} of {_count_components(result.sizes['component'])} lack values:")
    for name, note in list(notes.drop_duplicates().items())[: None if full else MOST_NOTES]:
        say(f"{name}: {note}")


def _count_components(n: int) -> str:
    """Return `1 component` or `2 components`."""
    return f"{n} component" if n == 1 else f"{n} components"


def _shorten_paths(names: Sequence[str]) -> tuple[str, list[str]]:
    """Return the beginning that all paths share, such as `model.layers.…`, and the paths without it.

    Paths without a shared beginning are returned as they are, after the word `component`.
    """
    columns = zip(*(name.split(".")[:-1] for name in names), strict=False)
    shared = ".".join(column[0] for column in takewhile(lambda column: len(set(column)) == 1, columns))
    if len(names) < 2 or not shared:
        return "component", list(names)
    return f"{shared}.…", [f"…{name[len(shared) + 1 :]}" for name in names]
