"""Studies whose law is known, for proving that a fit finds it."""

import math
from collections.abc import Mapping, Sequence
from itertools import product
from typing import Literal, get_args

import numpy as np
import pandas as pd  # type: ignore[import-untyped]

from .laws import AXES, Axes, Law, law_named

__all__ = ["Layout", "expected", "laid_out", "simulate_study"]

Layout = Literal["factorial", "cross"]


def simulate_study(
    parameters: Mapping[str, float],
    *,
    N: Sequence[float] = (),
    R: Sequence[float] = (),
    D: Sequence[float] = (),
    law: str = "additive",
    groups: Mapping[str, float] | None = None,
    layout: Layout = "factorial",
    noise: float,
    n_repeats: int = 1,
    random: np.random.Generator,
) -> pd.DataFrame:
    """A study that follows a law, with relative normal noise.

    Parameters
    ----------
    parameters
        Name -> value of the law's amplitudes and exponents: A, alpha for N, B, beta for R, C, gamma for D; the slopes
        of the laws 'log' and 'log-log'. `E` is the level, unless there are groups.
    N, R, D
        Sizes of each axis in the law. References are the largest N and D and the smallest R, as in `fit_scaling_law`.
    law
        Its name, see `fit_scaling_law`; not 'share'.
    groups
        Name -> level E of each group; all groups have all settings.
    layout
        `factorial`: every combination of sizes. `cross`: one size varies at a time, the others at their reference, as
        in arXiv 2501.03152.
    noise
        Standard deviation of a cell's error over its expected value; of the law 'log-log', of its logarithm.
    n_repeats
        Cells of each setting and group.
    random
        Draws the noise.

    Returns
    -------
    DataFrame
        `group`, `N`, `R`, `D` (those in use), `repeat`, `expected`, `y`.

    Raises
    ------
    ValueError
        If a parameter is missing, a size or the noise isn't allowed, or the law's values aren't all positive.
    """
    if not (math.isfinite(noise) and noise >= 0):
        raise ValueError(f"`noise` is {noise!r}; a standard deviation must be finite and not negative")
    if not isinstance(random, np.random.Generator):
        raise TypeError(f"`random` is {random!r}; give a NumPy generator, such as np.random.default_rng(0)")
    if isinstance(n_repeats, bool) or not isinstance(n_repeats, int) or n_repeats < 1:
        raise ValueError(f"`n_repeats` is {n_repeats!r}; a setting needs at least one cell")
    chosen = law_named(law)
    sizes = {axis: tuple(values) for axis, values in (("N", N), ("R", R), ("D", D)) if len(values)}
    levels = dict(groups) if groups else {"all": _parameter(parameters, "E", chosen)}
    settings = laid_out(sizes, layout)
    parts = []
    for name, level in levels.items():
        values = expected(settings, {**parameters, "E": level}, law)
        if not np.isfinite(values).all() or (values <= 0).any():
            raise ValueError(f"the law's value is {values.min():g} in group {name!r}; it must be positive and finite")
        for repeat in range(n_repeats):
            errors = noise * random.standard_normal(len(settings))
            noisy = values * np.exp(errors) if chosen.logarithmic else values * (1 + errors)
            parts.append(settings.assign(group=name, repeat=repeat, expected=values, y=noisy))
    whole = pd.concat(parts, ignore_index=True)
    return whole[["group", *sizes, "repeat", "expected", "y"]]


def laid_out(sizes: Mapping[str, Sequence[float]], layout: Layout) -> pd.DataFrame:
    """A row for each setting, a column for each axis; see `simulate_study` for the layouts and errors."""
    if layout not in get_args(Layout):
        raise ValueError(f"`layout` is {layout!r}; it is one of {list(get_args(Layout))}")
    if not sizes:
        raise ValueError("a study needs sizes of at least one of `N`, `R` and `D`")
    for axis, values in sizes.items():
        bad = [value for value in values if not (math.isfinite(value) and value > 0)]
        if bad:
            raise ValueError(f"`{axis}` holds {bad[0]!r}; sizes must be finite and above zero")
        if len(set(values)) < len(values):
            raise ValueError(f"`{axis}` is {list(values)!r}; give each size once")
    if layout == "factorial":
        return pd.DataFrame(list(product(*sizes.values())), columns=list(sizes), dtype=np.float64)
    middle = {axis: min(values) if axis == "R" else max(values) for axis, values in sizes.items()}
    rows = [{**middle, axis: value} for axis, values in sizes.items() for value in values]
    return pd.DataFrame(rows, dtype=np.float64).drop_duplicates(ignore_index=True)


def expected(
    settings: pd.DataFrame, parameters: Mapping[str, float], law: str, references: Mapping[str, float] | None = None
) -> np.ndarray:
    """(n,) the law's value, of the response itself, at settings with a column for each axis.

    Raises ValueError if a parameter is missing.
    """
    chosen = law_named(law)
    if law == "share":
        raise ValueError("the law 'share' isn't simulated; it is about layers that share weights, not about sizes")
    used = [axis for axis in AXES if axis in settings.columns]
    if law == "as printed" and not {"R", "D"} <= set(used):
        raise ValueError("the law 'as printed' has a term of D/R, which needs sizes of `R` and `D`")
    refs = references or {axis: settings[axis].min() if axis == "R" else settings[axis].max() for axis in used}
    logs = {axis: np.log(refs[axis] / settings[axis].to_numpy(np.float64)) for axis in used}
    ratio = np.log(settings["D"] / settings["R"]).to_numpy() if law == "as printed" else None
    columns, exponents = chosen.terms(Axes(logs, None, ratio))
    at = np.array([_parameter(parameters, name, chosen) for name in exponents])
    level = _parameter(parameters, "E", chosen)
    terms = [_parameter(parameters, one.amplitude, chosen) * one.printed(at) for one in columns]
    values = level + np.sum(terms, axis=0)
    return np.exp(values) if chosen.logarithmic else np.asarray(values)


def _parameter(parameters: Mapping[str, float], name: str, law: Law) -> float:
    if name not in parameters:
        raise ValueError(f"`parameters` lacks {name!r}; the law is {law.equation}")
    value = float(parameters[name])
    if not math.isfinite(value):
        raise ValueError(f"`parameters` has {name} = {value}; it must be finite")
    return value
