"""Which runs would give a wanted standard error."""

import math
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
import pandas as pd  # type: ignore[import-untyped]

from .identify import cramer_rao, fisher_root
from .laws import Axes, law_named
from .simulate import expected, laid_out

__all__ = ["StudyPlan", "plan_study"]

MOST_RUNS = 100_000


class StudyPlan(NamedTuple):
    """The fewest runs found that give the standard errors wanted."""

    runs: pd.DataFrame
    """A row a setting: its sizes and `n_repeats` in each group."""
    n_runs: int
    """Of all groups."""
    standard_errors: dict[str, float]
    """Parameter -> least standard error of these runs (Cramer and Rao)."""
    layouts: pd.DataFrame
    """What was looked at: `layout`, `n_settings`, `n_repeats`, `n_runs`, and `se_<name>` of what was asked for."""


def plan_study(
    parameters: Mapping[str, float],
    wanted: Mapping[str, float],
    *,
    N: Sequence[float] = (),
    R: Sequence[float] = (),
    D: Sequence[float] = (),
    law: str = "additive",
    n_groups: int = 1,
    noise: float,
    most_runs: int = 1000,
) -> StudyPlan:
    """The runs that would give wanted standard errors, were the law and the noise as supposed.

    Parameters
    ----------
    parameters
        Name -> supposed value of the level E, amplitudes and exponents.
    wanted
        Name -> largest standard error allowed, of some of them.
    N, R, D
        Sizes that can be run, of each axis in the law. References are the largest N and D and the smallest R.
    law
        Its name, see `fit_scaling_law`; not 'share'.
    n_groups
        Groups, each with a level of its own and all settings.
    noise
        Standard deviation of a run over its expected value.
    most_runs
        The most runs that can be afforded.

    Returns
    -------
    StudyPlan

    Raises
    ------
    ValueError
        If a name isn't one of the law's parameters, a number isn't allowed, sizes can't determine the law, or no plan
        of so many runs is enough: the message says what the best one reaches.

    Notes
    -----
    Looked at: every combination of sizes (`factorial`), one size varied at a time (`cross`), each with as many repeats
    as it takes, and settings chosen one by one from all combinations, each the one that lowers the largest ratio of
    variance to what is wanted (`chosen`), after which those that aren't needed are taken away. Standard errors are the
    bound of Cramer and Rao by linear theory: with few runs, real ones are larger.
    """
    sizes = {axis: tuple(map(float, values)) for axis, values in (("N", N), ("R", R), ("D", D)) if len(values)}
    candidates = laid_out(sizes, "factorial")
    names = _checked(parameters, wanted, law, candidates, n_groups, noise, most_runs)
    roots = {
        "factorial": _root(candidates, candidates, parameters, law),
        "cross": _root(laid_out(sizes, "cross"), candidates, parameters, law),
    }
    aims = np.array([wanted.get(name, math.inf) for name in names])
    plans = {name: _repeated(root, aims, noise, n_groups) for name, root in roots.items()}
    if not np.isfinite(cramer_rao(roots["factorial"], noise)).all():
        raise ValueError(
            "the sizes don't determine the law even if all of them are combined: level, amplitude and exponent need "
            "three of each axis"
        )
    least = len(names) + (n_groups == 1)  # so that runs are left to tell the error from
    plans["chosen"] = _chosen(roots["factorial"], aims, noise, n_groups, least, most_runs // n_groups)
    settings = {"factorial": candidates, "cross": laid_out(sizes, "cross"), "chosen": candidates}
    errors = {
        name: _errors(roots.get(name, roots["factorial"]), counts, noise, n_groups) for name, counts in plans.items()
    }
    table = _table(plans, errors, names, wanted, n_groups)
    enough = [
        name
        for name, counts in plans.items()
        if _ratio(errors[name], aims) <= 1 and counts.sum() * n_groups <= most_runs
    ]
    if not enough:
        _refuse(errors["chosen"], names, wanted, most_runs)
    best = min(enough, key=lambda name: plans[name].sum())
    counts = plans[best]
    runs = settings[best].assign(n_repeats=counts.astype(int))[counts > 0].reset_index(drop=True)
    found = dict(zip(names, map(float, errors[best]), strict=True))
    return StudyPlan(runs, int(counts.sum()) * n_groups, found, table)


def _checked(
    parameters: Mapping[str, float], wanted: Mapping[str, float], law: str, settings: pd.DataFrame, n_groups: int,
    noise: float, most_runs: int,
) -> tuple[str, ...]:  # fmt: skip
    """Names of all parameters; raises where something given isn't allowed."""
    values = expected(settings, parameters, law)
    if (values <= 0).any():
        raise ValueError(f"the law's value is {values.min():g} at some settings; it must be positive")
    columns, exponents = law_named(law).terms(_axes_of(settings, settings, law))
    names = ("E", *(one.amplitude for one in columns), *exponents)
    if not wanted:
        raise ValueError(f"`wanted` is empty; name the standard error wanted of some of {list(names)}")
    for name, error in wanted.items():
        if name not in names:
            raise ValueError(f"`wanted` names {name!r}; parameters are {list(names)}")
        if not (math.isfinite(error) and error > 0):
            raise ValueError(f"`wanted` of {name!r} is {error!r}; a standard error must be finite and above zero")
    if not (math.isfinite(noise) and noise > 0):
        raise ValueError(f"`noise` is {noise!r}; a standard deviation must be finite and above zero")
    if isinstance(n_groups, bool) or not isinstance(n_groups, int) or n_groups < 1:
        raise ValueError(f"`n_groups` is {n_groups!r}; it is a whole number from 1 on")
    if not n_groups * len(names) <= most_runs <= MOST_RUNS:
        raise ValueError(f"`most_runs` is {most_runs!r}; it lies between {n_groups * len(names)} and {MOST_RUNS}")
    return names


def _axes_of(settings: pd.DataFrame, candidates: pd.DataFrame, law: str) -> Axes:
    """Ratios to the references of all candidates."""
    refs = {axis: candidates[axis].min() if axis == "R" else candidates[axis].max() for axis in settings.columns}
    logs = {axis: np.log(refs[axis] / settings[axis].to_numpy()) for axis in settings.columns}
    ratio = np.log(settings["D"] / settings["R"]).to_numpy() if law == "as printed" else None
    return Axes(logs, None, ratio)


def _root(settings: pd.DataFrame, candidates: pd.DataFrame, parameters: Mapping[str, float], law: str) -> np.ndarray:
    """(m, p) derivatives of each setting's value over its error in units of the noise."""
    refs = {axis: candidates[axis].min() if axis == "R" else candidates[axis].max() for axis in settings.columns}
    root = fisher_root(_axes_of(settings, candidates, law), law, parameters, np.ones((len(settings), 1)))
    if law_named(law).logarithmic:
        return root
    return np.asarray(root / expected(settings, parameters, law, refs)[:, None])


def _errors(root: np.ndarray, counts: np.ndarray, noise: float, n_groups: int) -> np.ndarray:
    """(p,) standard errors where each group has a level, the first parameter, of its own and all share the others."""
    alone = cramer_rao(root * np.sqrt(counts)[:, None], noise)
    errors = alone / math.sqrt(n_groups)
    # a level has no more cells than its group; only what it owes to the other parameters gets less with more groups
    own = noise**2 / max(float(counts @ root[:, 0] ** 2), 1e-300)
    errors[0] = math.sqrt(errors[0] ** 2 + (1 - 1 / n_groups) * own)
    return errors


def _ratio(errors: np.ndarray, aims: np.ndarray) -> float:
    """Largest ratio of a standard error to what is wanted; infinite where any parameter isn't determined."""
    asked = np.isfinite(aims)
    if not np.isfinite(errors).all():
        return math.inf
    return float((errors[asked] / aims[asked]).max()) * (1 - 1e-9)


def _repeated(root: np.ndarray, aims: np.ndarray, noise: float, n_groups: int) -> np.ndarray:
    """(m,) the same number of repeats of every setting, as many as it takes."""
    once = _ratio(_errors(root, np.ones(len(root)), noise, n_groups), aims)
    n = math.ceil(once**2 * (1 - 1e-9)) if math.isfinite(once) else MOST_RUNS
    return np.full(len(root), float(min(max(n, 1), MOST_RUNS)))


def _chosen(
    root: np.ndarray, aims: np.ndarray, noise: float, n_groups: int, least: int, most: int
) -> np.ndarray:  # fmt: skip
    """(m,) repeats of settings added one by one, then taken away where they aren't needed."""
    counts = np.zeros(len(root))
    asked = np.isfinite(aims)
    scaled = root / np.where(np.linalg.norm(root, axis=0) > 0, np.linalg.norm(root, axis=0), 1)
    sizes = np.linalg.norm(root, axis=0)
    information = np.eye(root.shape[1]) * 1e-9
    goals = aims[asked] * sizes[asked] / noise
    while counts.sum() < most:
        inverse = np.linalg.inv(information)
        if counts.sum() >= least and _ratio(_errors(root, counts, noise, n_groups), aims) <= 1:
            break
        moved = scaled @ inverse  # (m, p): Sherman and Morrison's update of the inverse for each setting
        leverage = (moved * scaled).sum(axis=1)
        fall = moved[:, asked] ** 2 / (1 + leverage)[:, None]
        left = (np.diag(inverse)[asked] - fall) / n_groups
        if asked[0]:  # see `_errors`
            left[:, 0] += (1 - 1 / n_groups) * sizes[0] ** 2 / (counts @ root[:, 0] ** 2 + root[:, 0] ** 2)
        left /= goals**2
        begun = int(counts.sum()) >= root.shape[1]  # until then what is new, so that every parameter is determined
        place = int(np.argmin((left**8).sum(axis=1) ** (1 / 8))) if begun else int(np.argmax(leverage))
        counts[place] += 1
        information += np.outer(scaled[place], scaled[place])
    if _ratio(_errors(root, counts, noise, n_groups), aims) > 1:
        return counts
    return _thinned(root, counts, aims, noise, n_groups, least)


def _thinned(
    root: np.ndarray, counts: np.ndarray, aims: np.ndarray, noise: float, n_groups: int, least: int
) -> np.ndarray:  # fmt: skip
    again = True
    while again and counts.sum() > least:
        again = False
        for place in np.flatnonzero(counts):
            counts[place] -= 1
            if counts.sum() >= least and _ratio(_errors(root, counts, noise, n_groups), aims) <= 1:
                again = True
            else:
                counts[place] += 1
    return counts


def _table(
    plans: Mapping[str, np.ndarray], errors: Mapping[str, np.ndarray], names: Sequence[str],
    wanted: Mapping[str, float], n_groups: int,
) -> pd.DataFrame:  # fmt: skip
    rows = []
    for layout, counts in plans.items():
        found = dict(zip(names, errors[layout], strict=True))
        repeats = f"{int(counts.min())}" if layout != "chosen" else f"1 to {int(counts.max())}"
        n_settings = int((counts > 0).sum())
        row = {"layout": layout, "n_settings": n_settings, "n_repeats": repeats, "n_runs": int(counts.sum()) * n_groups}
        rows.append({**row, **{f"se_{name}": float(found[name]) for name in wanted}})
    return pd.DataFrame(rows)


def _refuse(errors: np.ndarray, names: Sequence[str], wanted: Mapping[str, float], most_runs: int) -> None:
    found = dict(zip(names, errors, strict=True))
    reached = ", ".join(f"{name} {found[name]:.3g} (wanted {error:g})" for name, error in wanted.items())
    raise ValueError(
        f"{most_runs} runs aren't enough: the best choice of settings reaches standard errors of {reached}; raise "
        "`most_runs`, offer a wider range of sizes, or want less"
    )
