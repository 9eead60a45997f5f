"""`lorascope mi`."""

import inspect
import re
from collections.abc import Iterator, Sequence
from itertools import takewhile
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from lorascope import analyze, stores
from lorascope.analyze.results.format import format_number, format_percent
from lorascope.analyze.results.options import N_SHUFFLES, PAIR_FORMATS, TABLE_FORMATS, refuse_target
from lorascope.stores.reading.require_run import require_store

from ..options import AdapterName, AsJson, Components, Scheduler, Workers
from ..screen import aside, print_frame, progress_bar, say, write_json

if TYPE_CHECKING:
    import numpy as np
    import pandas as pd  # type: ignore[import-untyped]
    import xarray as xr

    from lorascope.stores import Run

SHORT = {"": "-", "lower bound only": "lower bound", "assumes Gaussian": "if Gaussian"}
"""Verdicts in few words, where a table's column is narrow."""
EMBEDDING = re.compile(r"embed|^w[tp]e$")
"""Kinds of components that look up a token's id or position."""
MOST_NOTES = 3
"""Reasons for missing values that are printed unless all are asked for."""


def mi(
    run: str,
    *,
    adapter: AdapterName = None,
    component: Components = (),
    estimator: Sequence[str] = ("panel",),
    against: Literal["lora", "delta"] = "lora",
    n_tokens: int = 2000,
    axes: int = 8,
    share: float = 0.9,
    k: int = 3,
    unit: Literal["nat", "bit"] = "nat",
    shuffles: int = N_SHUFFLES,
    seed: int = 0,
    bound: bool = False,
    full: bool = False,
    as_json: AsJson = False,
    workers: Workers = None,
    scheduler: Scheduler = None,
    out: Path | None = None,
    export: Path | None = None,
) -> int:
    """Estimate the mutual information of base and LoRA states by component, with errors and verdicts.

    Parameters
    ----------
    run
        Folder or url of a run that keeps states.
    estimator
        panel: six estimators that are too low but for noise, and the largest of them; or one of ksg1, ksg_copula,
        gaussian, gaussian_copula, cca_ksg, quadratic_cca_ksg, characteristic_ksg, radial_ksg, classifier; noise:
        Gaussian, with noise of four sizes; give it again for another one.
    against
        What base is compared with: lora, or delta alone.
    n_tokens
        Largest number of tokens to use; they are taken evenly from the samples.
    axes
        The most principal axes for each side.
    share
        Share of a side's variance that its axes should keep, as far as `axes` allows.
    k
        Nearest neighbours.
    unit
        nat or bit.
    shuffles
        Shuffles of samples for the null: p can't be below 1 / (shuffles + 1).
    seed
        Seed of tokens, shuffles, halves and parts.
    bound
        Also print MIUB and the true bound, in nats, to compare with the paper's claim that MIUB is an upper bound.
    full
        Print all components, every estimator, and everything that comes with an estimate.
    as_json
        Print one JSON object and nothing else: `attributes` (how it was measured), `units` (column -> unit), and
        `rows`, one for each component and estimator: `value`, its error `se`, `low` and `high` of its interval, `p`,
        `verdict`, `js` and all that qualifies them; null where a value is not available, "inf" for an infinity.
    out
        Save all numbers here, a row for each component and estimator: a name ending in .zarr, .nc, .csv, .parquet or
        .json.
    export
        Write the projected pairs to this file, ending in .npz, for other software; nothing is estimated.
    """
    if bound and unit != "nat":
        raise ValueError(f"`--bound` compares nats with nats, and `--unit` is {unit!r}; leave it out")
    if out is not None:
        refuse_target(out, TABLE_FORMATS)  # before the work, not after it
    run = require_store(run)

    opened = stores.open_run(run)
    options: dict[str, Any] = {
        "adapter": adapter, "components": component or None, "against": against, "n_tokens": n_tokens, "n_axes": axes,
        "share": share, "seed": seed, "scheduler": scheduler, "n_workers": workers,
    }  # fmt: skip
    if export is not None:
        _refuse_unused(
            out=out, bound=bound, full=full, as_json=as_json, estimator=tuple(estimator), k=k, unit=unit,
            shuffles=shuffles,
        )  # fmt: skip
        refuse_target(export, PAIR_FORMATS, option="export")
        with progress_bar("mi --export") as update:
            left_out = analyze.export_pairs(opened, export, progress=update, **options)
        say(f"pairs to {export}" + (f", but for those of {len(left_out)} components:" if left_out else ""))
        for name, why in list(left_out.items())[:MOST_NOTES]:
            say(f"{name}: {why}")
        return int(bool(left_out))
    names = ("panel", *estimator, "classifier") if bound else tuple(estimator)
    with progress_bar("mi") as update:
        result = analyze.measure_information(
            opened, estimator=names, k=k, unit=unit, n_shuffles=shuffles, progress=update, **options
        )
    if as_json:
        from lorascope.analyze.results.save import dataset_to_table, table_to_json_object

        write_json(table_to_json_object(dataset_to_table(result)))
    else:
        _print(result, opened, bound=bound, full=full)
    if out is not None:
        analyze.save_table(result, out)
        say(f"saved to {out}", to=aside if as_json else None)
    return int((result["note"].values != "").any())


def _refuse_unused(**options: object) -> None:
    """Raise where an export has options of estimates."""
    defaults = inspect.signature(mi).parameters
    unused = [f"`--{name.removeprefix('as_')}`" for name, value in options.items() if value != defaults[name].default]
    if unused:
        raise ValueError(f"`--export` writes pairs and estimates nothing; leave {', '.join(unused)} out")


def _print(result: "xr.Dataset", run: "Run", *, bound: bool, full: bool) -> None:
    """Print a conclusion, a table of components, and in full all that qualifies them."""
    name = "panel" if "panel" in result["estimator"].values else str(result["estimator"].values[0])
    panel, against = result.sel(estimator=name), result.attrs["against"]
    n_all = _components(result.sizes["component"])
    say(f"mutual information of base and {against}, median and quartiles of {n_all}, by {_summary(panel)}")
    for line in (*_infinite(result), *([_claim(result)] if bound else [])):
        say(line)
    head, components = _shortened(result["component"].values.tolist())
    table = (_bound_table(result) if bound else _value_table(panel)).assign(component=components)
    table = table.sort_values("mi", ascending=False, kind="stable")[["component", *table.columns.drop("component")]]
    js = "MIUB" if against == "lora" else "JS alone"
    names = {"component": head, "mi": "MI", "joint": "JS\n(P,Q)", "xi": "Xi"}
    names |= {"js": js.replace(" ", "\n"), "claim": f"{js}\n≥ MI"}
    units = dict.fromkeys(("js", "mi", "joint", "xi"), result.attrs["units"])
    title = f"mutual information of base and {against}, by {name}"
    print_frame(table, title, units=units, names=names, largest="mi", full=full)
    if not bound:
        say(f"axes: the principal axes of base + {against} between which it is measured")
    if full:
        others = [other for other in result["estimator"].values.tolist() if other != name]
        for line in (
            *(_summary(result.sel(estimator=other)) for other in others),
            *_qualifications(result, panel, run),
        ):
            say(line)
    _print_missing(result, full=full)


def _summary(estimates: "xr.Dataset") -> str:
    """Median and quartiles of one estimator, as a few components would rule a mean, and how many have each verdict."""
    from lorascope.analyze.information import VERDICTS

    verdicts = estimates["verdict"].values.tolist()
    counts = ", ".join(f"{verdicts.count(word)} {word}" for word in VERDICTS if word in verdicts) or "none has a value"
    low, middle, high = _quartiles(estimates["value"].values)
    return f"{estimates['estimator'].item()}: {middle} {estimates.attrs['units']} ({low} to {high}); {counts}"


def _infinite(result: "xr.Dataset") -> Iterator[str]:
    """A line on components whose states determine each other."""
    repeats = result["n_repeats"].values > 0  # states of a token id alone are discrete, and repeat
    embeds = [bool(EMBEDDING.search(str(kind))) for kind in result["kind"].values]
    if n := sum(s and not (r or e) for s, r, e in zip(result["singular"].values, repeats, embeds, strict=True)):
        yield (
            f"of whole states it is infinite in {n} of {_components(len(repeats))}, since base and "
            f"{result.attrs['against']} share directions exactly; values are of a few axes of each side"
        )


def _claim(result: "xr.Dataset") -> str:
    """In how many components the paper's claim holds."""
    claims, is_paper = _claims(result), result.attrs["against"] == "lora"
    counts = ", ".join(f"{word} in {(claims == word).sum()}" for word in ("fails", "open", "holds"))
    name, claim = ("MIUB", ", the paper's claim,") if is_paper else ("JS alone", "")
    return (
        f"{name} ≥ MI{claim} {counts} (open: within the interval of MI, or there is none); true of every pair are "
        "JS(P,Q) ≤ MI/2 and MI ≥ Xi (docs/mi-and-js.md)"
    )


def _js(result: "xr.Dataset") -> "np.ndarray":
    """MIUB; against delta it is JS(softmax(base), softmax(delta)), no MIUB, and nobody's claim."""
    values: np.ndarray = result["js" if result.attrs["against"] == "lora" else "js_delta_alone"].values
    return values


def _claims(result: "xr.Dataset") -> "np.ndarray":
    """Whether js is at least the mutual information, by the interval of the panel, or of Xi where that has none."""
    import numpy as np

    panel, certified, js = result.sel(estimator="panel"), result.sel(estimator="classifier"), _js(result)
    low = np.where(np.isnan(panel["low"]), certified["low"], panel["low"])
    fails = (js < low) | np.isposinf(panel["value"].values)
    conditions = [np.isnan(panel["value"].values), fails, js > panel["high"].values]
    return np.select(conditions, ["n/a", "fails", "holds"], "open")


def _bound_table(result: "xr.Dataset") -> "pd.DataFrame":
    """MIUB, mutual information and what is certain of both, by component."""
    import pandas as pd

    panel, certified = result.sel(estimator="panel"), result.sel(estimator="classifier")
    columns = {"js": _js(result), "mi": panel["value"], "mi_se": panel["se"], "joint": result["js_joint"]}
    return pd.DataFrame({**columns, "xi": certified["value"], "claim": _claims(result)})


def _value_table(panel: "xr.Dataset") -> "pd.DataFrame":
    """Mutual information by one estimator, and what it rests on, by component."""
    import pandas as pd

    p = ["n/a" if value != value else f"{value:.2g}" for value in panel["p"].values]
    axes = [f"{n_x}+{n_y}" for n_x, n_y in zip(panel["n_axes_x"].values, panel["n_axes_y"].values, strict=True)]
    verdicts = [SHORT.get(word, word) for word in panel["verdict"].values]
    columns = {"mi": panel["value"], "mi_se": panel["se"], "p": p, "axes": axes, "tokens": panel["n_tokens"]}
    return pd.DataFrame({**columns, "verdict": verdicts})


def _quartiles(values: "np.ndarray") -> tuple[str, str, str]:
    """Quartiles and, between them, the median, as text."""
    import numpy as np

    known = values[~np.isnan(values)] if not np.isnan(values).all() else np.array([np.nan])
    # Between a number and infinity there is none.
    numbers = np.quantile(known, [0.25, 0.5, 0.75], method="nearest" if np.isinf(known).any() else "linear")
    low, middle, high = map(format_number, numbers.tolist())
    return low, middle, high


def _qualifications(result: "xr.Dataset", panel: "xr.Dataset", run: "Run") -> Iterator[str]:
    """What values rest on, leave out, and can't say."""
    import numpy as np

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
            n_all = _components(len(counts))
            yield f"{what} were left out in {(counts > 0).sum()} of {n_all}, at most {counts.max()} tokens"
    if n := attrs["n_prefix_repeats"]:
        yield f"{n} tokens of the run couldn't be chosen: an earlier one has the same id after the same ids"
    n_rows = int((run.committed_rows & run.state_rows).sum())
    if n_rows < run.n_rows:
        yield f"tokens are of {n_rows} of the run's {run.n_rows} rows; others aren't committed, or keep no states"


def _print_missing(result: "xr.Dataset", *, full: bool) -> None:
    """Say which components have no values, and why."""
    firsts: dict[str, str] = {}
    for name, note in zip(result["component"].values.tolist(), result["note"].values.tolist(), strict=True):
        firsts.setdefault(note, name)
    n = int((result["note"].values != "").sum())
    if n:
        say(f"{n} of {_components(result.sizes['component'])} lack values:")
    for note, name in [(note, name) for note, name in firsts.items() if note][: None if full else MOST_NOTES]:
        say(f"{name}: {note}")


def _components(n: int) -> str:
    return f"{n} component" if n == 1 else f"{n} components"


def _shortened(names: Sequence[str]) -> tuple[str, list[str]]:
    """What all names begin with, and what is left of each, which is something."""
    columns = zip(*(name.split(".")[:-1] for name in names), strict=False)
    shared = ".".join(column[0] for column in takewhile(lambda column: len(set(column)) == 1, columns))
    if len(names) < 2 or not shared:
        return "component", list(names)
    return f"{shared}.…", [f"…{name[len(shared) + 1 :]}" for name in names]
