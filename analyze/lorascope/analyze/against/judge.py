"""Judges whether a target, a merged model or a server, still is the adapter of a run.

At a token, x is what the adapter gains, base less adapted -log p, and y what the target gains, base less target -log p,
in nats. Thresholds are from merges of the demo's adapter (SmolLM2 135M) and of a random one in a tiny Llama, each in
float32, float16, bfloat16, in blocks of 32 weights at 8 and 4 bits, and spoilt in twenty manners.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd  # type: ignore[import-untyped]
import xarray as xr
from jaxtyping import Float64

from lorascope.analyze.results.format import format_number, format_percent
from lorascope.analyze.results.tree import run_attributes
from lorascope.stores.checking.verify import open_as_written
from lorascope.stores.reading.read import RunLike

from .references import References, read_references

TargetNll = Callable[[Sequence[np.ndarray], int], list[np.ndarray]]
"""Function (token sequences, repetition) -> -log p of each token given those before it, nats, float64, one array for
each sequence; NaN at position 0 and where the target gave none. It is called with repetition 0, then with 1 and the
sequences in reversed order, where it should use other batches: how far the two differ is the target's own spread."""
LINEAR, N_DRAWS = 0.1, 200
"""Nats of x above which a token weighs no more, and bootstrap draws of samples, in `median_slope`."""
MOST_UNCERTAIN = 0.25
"""Largest half width of the slope's interval with which a target is judged; of slopes above 1, relative to them."""
NEAR, NEAR_LAYER, NEAR_EXACT = 0.05, 0.3, 0.01
"""Distances from 0 and 1 within which slopes count as such: of all tokens and the median layer, of a layer, and both in
float32. Merged in bfloat16, the demo has 0.98 in its median layer and 0.75 in its worst: rounding takes the rest."""
MOST_LAYER_ERROR = 0.12
"""Largest standard error of a layer's slope that separates 0 from 1, with four errors to the middle."""
MOST_OFF, MOST_ROUNDED, MOST_OFF_EXACT, FLOAT32_NLL = 0.1, 0.5, 1e-3, 1e-4
"""Largest `off` of an adapter, relative to `change`: in 16 and 8 bits (demo and tiny: 0.03 and 0.08 in bfloat16), in 4
bits (0.36), and in float32 (3e-6; one of 30 layers missing: 0.02), or in nats there."""
LEAST_ALONG, MOST_BENT = 0.85, 1.75
"""Smallest `along` of another scale (from half to twice the scale 0.90 to 1.00; of other adapters to 0.83), and its
largest `off` by |1 - slope| (0.3 to 1.5; where layers are missing 0.5 to 3.9)."""
MOST_ALIKE = 0.9
"""Smallest share of roles or samples that are either the adapter's or the base's, where a target is so in parts."""
OPENINGS = {
    "adapter": "It is the adapter",
    "base": "It is the base",
    "scaled": "It is the adapter at another scale",
    "partly": "It is only partly the adapter",
    "else": "It is something else",
    "unknown": "Can't tell",
}
"""Verdict -> how its sentence begins."""
MEANINGS = {
    "slope": ("slope of y on x: 1 for the adapter, 0 for the base", "1"),
    "slope_se": ("standard error of slope, over samples; of a layer, over its features", "1"),
    "low": ("lower end of the slope's 95 % interval, by Student's t", "1"),
    "high": ("upper end of the slope's 95 % interval, by Student's t", "1"),
    "change": ("root mean square of x", "nat"),
    "off": ("root mean square of y - x", "nat"),
    "moved": ("root mean square of y", "nat"),
    "spread": ("root mean square of the difference of the target's two answers", "nat"),
    "along": ("share of the tokens where x and y have one sign, weighted by |x| up to 0.1 nat", "1"),
    "rest": ("root mean square of y - slope x, relative to that of x", "1"),
    "n_tokens": ("number of compared tokens", "1"),
    "n_samples": ("number of samples with compared tokens", "1"),
}
"""Number -> its long name and unit; in a layer x is delta, and y what the target adds to base."""


def verify_against(
    run: RunLike,
    target: TargetNll,
    *,
    adapter: str | None = None,
    exact: bool = False,
    layers: Callable[[Sequence[np.ndarray], np.ndarray], Any] | None = None,
    differences: Sequence[str] = (),
) -> xr.DataTree:
    """Return whether a target, a merged model or a server, still is the adapter of a run: a verdict with its numbers.

    Parameters
    ----------
    run
        An open run, or its path or url, captured with next-token changes.
    target
        Function that gives -log p of the run's tokens, called twice; see `TargetNll`.
    adapter
        Name of the adapter; not needed if there is only one.
    exact
        Whether target and run compute in float32 with the same weights: then only the order of additions may differ.
    layers
        Function (sequences, places of their tokens in the run) -> what `lorascope.capture.layer_sums` returns.
    differences
        Clauses on what else differs, such as the tokenizer: then a target isn't the adapter, however it predicts.

    Returns
    -------
    xarray.DataTree
        Attributes: `verdict`, which is `adapter`, `base`, `scaled`, `partly`, `else` (something else) or `unknown`
        (can't tell), its `sentence`, `not_compared`, a list of clauses, and provenance. At the root numbers of all
        tokens, with units: `slope` (least absolute deviations), `slope_se`, `low`, `high`, `change`, `off`, `moved`,
        `spread`, `along`, `n_tokens`, `n_samples`; in the nodes `roles` and `samples` the same by role and sample.
        If layers were compared, `layers` has `slope`, `slope_se`, `rest` and `state` (adapter, base, changed, unknown)
        by component. Tokens whose prefix an earlier sample has count once.

    Raises
    ------
    StoreError
        If the run has several adapters and `adapter` names none of them, or a chunk is broken.

    Notes
    -----
    What differs by less than rounding explains isn't seen: without layers and in bfloat16 a missing layer of thirty.

    Examples
    --------
    >>> from functools import partial
    >>> from lorascope.capture import layer_sums, load_model, model_nll
    >>> from lorascope.stores import open_run
    >>> run, (model, tokenizer) = open_run("runs/mine"), load_model("merged")  # doctest: +SKIP
    >>> nll, layers = partial(model_nll, model), partial(layer_sums, model, run)  # doctest: +SKIP
    >>> verify_against(run, nll, layers=layers).attrs["sentence"]  # doctest: +SKIP
    """
    run = open_as_written(run)
    references = read_references(run, adapter)
    nll, repeated, sums = list[np.ndarray](), list[np.ndarray](), None
    if references.sequences:
        nll, repeated = target(references.sequences, 0), target(references.sequences[::-1], 1)[::-1]
        sums = None if layers is None else layers(references.sequences, references.tokens["place"].to_numpy())
    result = judge(references, nll, repeated, exact=exact, layers=sums)
    if differences and result.attrs["verdict"] == "adapter":
        sentence = f"{OPENINGS['else']}: it predicts as the adapter, but {'; '.join(differences)}"
        result.attrs |= {"verdict": "else", "sentence": sentence}
    result.attrs |= run_attributes(run, adapter)
    return result


def judge(
    references: References,
    nll: Sequence[np.ndarray],
    repeated: Sequence[np.ndarray],
    *,
    exact: bool = False,
    layers: Any = None,
) -> xr.DataTree:
    """Return what `verify_against` does, from a target's two answers and the sums of its layers."""
    own, again = (np.concatenate([*values, np.empty(0)]) for values in (nll, repeated))
    tokens = references.tokens.assign(y=references.tokens["base"] - own, spread=own - again)
    tokens = tokens[tokens["is_first"] & tokens["x"].notna()]
    is_silent = ~np.isfinite(tokens[["y", "spread"]]).all(axis=1)
    notes = {f"samples: {reason}": n for reason, n in references.not_compared.items()}
    notes["tokens: the target gave no probability of them"] = n_silent = int(is_silent.sum())
    tokens = tokens[~is_silent] if n_silent * 2 <= len(tokens) else tokens[:0]
    frames = {f"{name}s": _by(tokens, name) for name in ("role", "sample")}
    if layers is not None:
        sums = {path: own for path, own in layers.sums.items() if own[1].any()}
        frames["layers"] = _compare_layers(sums, exact=exact)
        notes["layers: the adapter adds nothing in them"] = len(layers.sums) - len(sums)
        notes |= {f"layers: {reason}": n for reason, n in layers.not_compared.items()}
        notes["layers: rounding hides what the adapter adds"] = int((frames["layers"]["state"] == "unknown").sum())
    whole = _compare(tokens)
    verdict, why = _decide(whole, frames, exact=exact)
    if n_silent and verdict == "adapter":  # a sound merge predicts all tokens
        verdict, why = "unknown", f"the target gave no probability of {n_silent} tokens; of the others, {why}"
    not_compared = [f"{n} {words}" for words, n in notes.items() if n]
    attributes = {"verdict": verdict, "sentence": f"{OPENINGS[verdict]}: {why}", "not_compared": not_compared}
    nodes = {name: frame.to_xarray() for name, frame in frames.items()}
    tree = xr.DataTree.from_dict({"/": xr.Dataset(whole, attrs=attributes), **nodes})
    for node in tree.subtree:
        for name, variable in node.data_vars.items():
            if meaning := MEANINGS.get(str(name)):
                variable.attrs |= dict(zip(("long_name", "units"), meaning, strict=True))
    return tree


def median_slope(x: np.ndarray, y: np.ndarray, sample: np.ndarray) -> tuple[float, float]:
    """Return the slope of y on x through 0 by least absolute deviations, and its standard error over samples.

    All are (token,), `sample` numbers from 0. NaN if x is 0 everywhere; the error is infinite for one sample.

    Notes
    -----
    It is the median of y / x with weights |x|, where more than `LINEAR` counts as that: -log p is nearly linear in the
    adapter's scale only while it moves little. On the demo's adapter at 0.5 and 2 times its scale it is 0.51 and 1.81,
    while least squares give 0.90 and 1.14. The error is that of bootstrap draws of samples.
    """
    x, y, sample = (values[np.flatnonzero(x)] for values in (x, y, sample))
    if not len(x):
        return np.nan, np.nan
    order = np.argsort(y / x, kind="stable")
    ratio, weight, sample = (y / x)[order], np.minimum(np.abs(x), LINEAR)[order], sample[order]
    n = int(sample.max()) + 1
    draws = np.random.default_rng(0).multinomial(n, np.full(n, 1 / n), size=N_DRAWS if n > 1 else 0)
    totals = (np.cumsum(weight * counts[sample]) for counts in (np.ones(n), *draws))
    values = [float(ratio[np.searchsorted(total, total[-1] / 2)]) for total in totals]
    return values[0], float(np.std(values[1:]) * np.sqrt(n / (n - 1))) if n > 1 else np.inf


def feature_slope(xy: Float64[np.ndarray, " feature"], xx: Float64[np.ndarray, " feature"]) -> tuple[float, float]:
    """Return the slope of y on x through 0 by least squares and its standard error, from sums by feature.

    Notes
    -----
    The error is the jackknife's over features (MacKinnon & White 1985, HC3): a type rounds the rows of a weight, one
    for each feature, independently, and alike for all tokens.
    """
    xy, xx = xy[xx > 0], xx[xx > 0]
    if (n := len(xx)) < 2:
        return np.nan, np.nan
    value = xy.sum() / xx.sum()
    others = (xy.sum() - xy) / (xx.sum() - xx)
    return float(value), float(np.sqrt((n - 1) / n * ((others - value) ** 2).sum()))


def _compare(tokens: pd.DataFrame) -> dict[str, float]:
    """Return the numbers of a group of tokens, by their names in `MEANINGS`."""
    from scipy.special import stdtrit  # type: ignore[import-untyped]  # scipy.stats takes a quarter of a second more

    x, y, spread = (tokens[name].to_numpy(float) for name in ("x", "y", "spread"))
    codes, samples = pd.factorize(tokens["sample"])
    value, error = median_slope(x, y, codes)
    half = float(stdtrit(max(1, len(samples) - 1), 0.975)) * error
    numbers = {"slope": value, "slope_se": error, "low": value - half, "high": value + half}
    sizes = {"change": x, "off": y - x, "moved": y, "spread": spread}
    numbers |= {name: float(np.sqrt((v**2).mean())) if len(v) else np.nan for name, v in sizes.items()}
    weight = np.minimum(np.abs(x), LINEAR)
    along = float(weight @ (x * y > 0) / weight.sum()) if x.any() else np.nan
    return numbers | {"along": along, "n_tokens": len(tokens), "n_samples": len(samples)}


def _by(tokens: pd.DataFrame, name: str) -> pd.DataFrame:
    """Return the numbers of each group of tokens with the same value in a column, in the order of the tokens."""
    rows = {label: _compare(group) for label, group in tokens.groupby(name, sort=False)}
    return pd.DataFrame.from_dict(rows, orient="index", columns=[*_compare(tokens[:0])]).rename_axis(name)


def _compare_layers(sums: Mapping[str, np.ndarray], *, exact: bool) -> pd.DataFrame:
    """Return slope with its error, `rest` and `state` by component, from sums of x y, x x and y y by feature."""
    rows = {}
    for path, (xy, xx, yy) in sums.items():
        value, error = feature_slope(xy, xx)
        rest = float(np.sqrt(max(0, yy.sum() - 2 * value * xy.sum() + value**2 * xx.sum()) / xx.sum()))
        limit = NEAR_EXACT if exact else max(NEAR_LAYER, 4 * error)
        near = [state for state, at in (("adapter", 1), ("base", 0)) if abs(value - at) <= limit]
        state = next(iter(near), "changed") if rest <= MOST_OFF or not exact else "changed"
        is_clear = exact or error <= MOST_LAYER_ERROR
        rows[path] = {"slope": value, "slope_se": error, "rest": rest, "state": state if is_clear else "unknown"}
    columns = ["slope", "slope_se", "rest", "state"]
    return pd.DataFrame.from_dict(rows, orient="index", columns=columns).rename_axis("component")


def _decide(whole: Mapping[str, float], frames: Mapping[str, pd.DataFrame], *, exact: bool) -> tuple[str, str]:
    """Return the verdict and its reason, from the numbers of all tokens, and by role, sample and layer."""
    if not whole["n_tokens"] or not whole["change"]:
        return "unknown", "the adapter changes no prediction" if whole["n_tokens"] else "no tokens are comparable"
    verdict, why = _decide_by_tokens(whole, frames, exact=exact)
    off = f"predictions are off by {format_percent(whole['off'] / whole['change'])} of what the adapter changes"
    by_layer, where = _decide_by_layers(frames["layers"], exact=exact) if len(frames.get("layers", ())) else ("", "")
    if by_layer == "adapter":
        is_hidden = (frames["layers"]["state"] == "unknown").mean() >= 0.5
        rounded = max(MOST_ROUNDED * whole["change"], 3 * whole["spread"])
        most = max((MOST_OFF_EXACT if exact else 2 * MOST_OFF) * whole["change"], 3 * whole["spread"])
        most = max(most, FLOAT32_NLL) if exact else rounded if is_hidden else most
        if verdict == "adapter" or whole["off"] <= most:
            return "adapter", f"{where}; {off}"
        is_open = is_hidden or (not exact and whole["off"] <= rounded)
        return "unknown" if is_open else "else", f"{where}, but {off}"
    if by_layer == "base" and verdict not in ("base", "unknown"):
        return "else", f"{where}, and {why}"
    return (by_layer, where) if by_layer else (verdict, why)


def _decide_by_tokens(
    whole: Mapping[str, float], frames: Mapping[str, pd.DataFrame], *, exact: bool
) -> tuple[str, str]:
    """Return a verdict and its reason from -log p alone."""
    value, low, high, change, off, spread = (whole[n] for n in ("slope", "low", "high", "change", "off", "spread"))
    low_high = f"({format_number(low)} to {format_number(high)})"
    moves = (
        f"predictions move by {format_number(value)} {low_high} of what the adapter moves them, off by "
        f"{format_percent(off / change)}, where repetition explains {format_percent(spread / change)}"
    )
    for name in ("roles", "samples"):
        part = frames[name]
        most = np.maximum(MOST_OFF * part["change"], 3 * part["spread"])
        has, lacks = part["off"] <= most, part["moved"] <= most
        n_has, n_lacks = int((has & ~lacks).sum()), int((lacks & ~has).sum())
        if n_has and n_lacks and n_has + n_lacks >= MOST_ALIKE * len(part):
            return "partly", f"{n_has} of {len(part)} {name} have it, {n_lacks} are the base's"
    if not high - low <= 2 * MOST_UNCERTAIN * max(1, abs(value)):
        return "unknown", f"{moves}; too few of {whole['n_samples']} samples, or too large a spread"
    limit = max(MOST_OFF_EXACT * change, FLOAT32_NLL) if exact else MOST_OFF * change
    limit, rounded = max(limit, 3 * spread), max(MOST_ROUNDED * change, 3 * spread)
    is_base, is_adapter = (low <= at + NEAR and high >= at - NEAR for at in (0, 1))
    if is_base and whole["moved"] <= limit:
        return "base", moves
    if is_adapter and off <= limit:
        return "adapter", moves if exact else f"{moves}; the rest is rounding, or a small part that is missing"
    if is_base and whole["moved"] <= rounded:
        few_bits = "" if exact else "the base rounded to few bits, or "
        return "else", f"{moves}: {few_bits}an adapter that does little here"
    if value > NEAR and whole["along"] >= LEAST_ALONG and off <= MOST_BENT * abs(1 - value) * change:
        missing = "; or some of its layers are missing, which by predictions alone looks alike"
        return "scaled", f"{moves}{missing if value < 1 else ''}"
    if exact:
        is_part = value > NEAR and whole["along"] >= LEAST_ALONG and off <= rounded
        return ("partly", f"{moves}: a part of it is missing, or something is added") if is_part else ("else", moves)
    if is_adapter or off <= rounded:
        return "unknown", f"{moves}: by rounding to few bits, a part that is missing, or another adapter or base"
    return "else", moves


def _decide_by_layers(layers: pd.DataFrame, *, exact: bool) -> tuple[str, str]:
    """Return a verdict and its reason from the slopes of layers; no verdict if most of them are uncertain."""
    clear = layers[layers["state"] != "unknown"]
    near, wide = (NEAR_EXACT, NEAR_EXACT) if exact else (NEAR, NEAR_LAYER)
    if len(clear) * 2 <= len(layers):
        precision = 1 / layers["slope_se"].to_numpy(float) ** 2
        mean, error = np.average(layers["slope"], weights=precision), float(1 / np.sqrt(precision.sum()))
        ends = [verdict for verdict, at in (("adapter", 1), ("base", 0)) if abs(mean - at) + 2 * error <= MOST_OFF]
        return next(iter(ends), ""), f"on average layers have {format_number(mean)} ± {format_number(error)} of it"
    values, states = clear["slope"].to_numpy(float), clear["state"]
    scale = float(np.median(values))
    if abs(scale - 1) <= near and (states == "adapter").all():
        least = f"{clear['slope'].idxmin()} the least ({format_number(values.min())} of it)"
        return "adapter", f"all {len(clear)} compared layers have it, {least}"
    if abs(scale) <= near and (states == "base").all():
        return "base", f"none of the {len(clear)} compared layers has it"
    is_alike = (np.abs(values - scale) <= wide * scale).all() and not (exact and (clear["rest"] > MOST_OFF).any())
    if scale > near and is_alike:
        return "scaled", f"all {len(clear)} compared layers have it at {format_number(scale)} times its scale"
    counts = []
    for state, words in (("base", "lack it"), ("changed", "have another change")):
        if paths := [*clear.index[states == state]]:
            more = f" and {len(paths) - 3} more" if len(paths) > 3 else ""
            counts.append(f"{len(paths)} {words} ({', '.join(paths[:3])}{more})")
    is_part = (states == "adapter").sum() > (states == "changed").sum()
    return "partly" if is_part else "else", f"of {len(clear)} compared layers {' and '.join(counts)}"
