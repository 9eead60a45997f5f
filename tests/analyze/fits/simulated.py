"""Studies whose law is known, for proving that a fit finds it."""

from collections.abc import Mapping, Sequence
from itertools import product

import numpy as np
import pandas as pd

from lorascope.analyze.fits.laws import LAWS

__all__ = ["expected", "laid_out", "simulate_study"]


def simulate_study(
    parameters: Mapping[str, float],
    *,
    N: Sequence[float] = (),
    R: Sequence[float] = (),
    D: Sequence[float] = (),
    law: str = "additive",
    groups: Mapping[str, float],
    layout: str = "factorial",
    noise: float,
    n_repeats: int = 1,
    random: np.random.Generator,
) -> pd.DataFrame:
    """A table `group`, sizes, `repeat`, `expected`, `y` that follows a law, with relative normal noise.

    References are the largest N and D and the smallest R, `groups` are their levels; noise of a law of the logarithm is
    of the logarithm.
    """
    sizes = {axis: tuple(values) for axis, values in (("N", N), ("R", R), ("D", D)) if len(values)}
    settings = laid_out(sizes, layout)
    parts = []
    for name, level in groups.items():
        values = expected(settings, {**parameters, "E": level}, law)
        assert (values > 0).all()
        for repeat in range(n_repeats):
            errors = noise * random.standard_normal(len(settings))
            noisy = values * np.exp(errors) if LAWS[law].logarithmic else values * (1 + errors)
            parts.append(settings.assign(group=name, repeat=repeat, expected=values, y=noisy))
    return pd.concat(parts, ignore_index=True)[["group", *sizes, "repeat", "expected", "y"]]


def laid_out(sizes: Mapping[str, Sequence[float]], layout: str) -> pd.DataFrame:
    """A row for each setting: all combinations, or, of a `cross`, one size at a time, the others at their reference."""
    if layout == "factorial":
        return pd.DataFrame(list(product(*sizes.values())), columns=list(sizes), dtype=np.float64)
    middle = {axis: min(values) if axis == "R" else max(values) for axis, values in sizes.items()}
    rows = [{**middle, axis: value} for axis, values in sizes.items() for value in values]
    return pd.DataFrame(rows, dtype=np.float64).drop_duplicates(ignore_index=True)


def expected(
    settings: pd.DataFrame, parameters: Mapping[str, float], law: str, references: Mapping[str, float] | None = None
) -> np.ndarray:
    """(n,) the law's value, of the response itself, at settings with a column for each axis."""
    axes = [axis for axis in ("N", "R", "D") if axis in settings]
    own = references or {axis: settings[axis].min() if axis == "R" else settings[axis].max() for axis in axes}
    logs = {axis: np.log(own[axis] / settings[axis].to_numpy()) for axis in axes}
    columns, exponents = LAWS[law].terms(logs)
    at = np.array([parameters[name] for name in exponents])
    values = parameters["E"] + sum(parameters[column.amplitude] * column.printed(at) for column in columns)
    return np.exp(values) if LAWS[law].logarithmic else np.asarray(values)
