"""What a design can tell of a law's parameters, before any response is looked at."""

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import pandas as pd  # type: ignore[import-untyped]

from .design import arrays_of, rank_of, references_of, term_derivatives
from .frame import checked
from .laws import AXES, law_named
from .table import refuse_sizes

NARROW_DECADES = 1.0
"""Decades of a size below which an exponent describes its range and says little beyond it."""


class Identifiability(NamedTuple):
    """What follows from the settings alone."""

    axes: pd.DataFrame
    """`axis`, `column`, `n_levels`, `decades`, `n_levels_needed` (for amplitude and exponent beside a level; one more
    lets the shape be checked), `enough`."""
    rank: int
    """How many of a fit's parameters are determined: levels, amplitudes and exponents, references held."""
    n_parameters: int
    """How many parameters a fit has, levels included; all follow from the settings where the rank is as large."""
    sentences: tuple[str, ...]
    """What isn't determined, in words."""


def identifiability(
    frame: pd.DataFrame,
    *,
    N: str | None = None,
    R: str | None = None,
    D: str | None = None,
    groups: Sequence[str] = (),
    offsets: Sequence[str] = (),
    law: str = "additive",
) -> Identifiability:
    """Which parameters of a law the settings in a table can determine; the response isn't needed.

    Parameters
    ----------
    frame
        One row a cell.
    N, R, D
        Columns of sizes.
    groups
        Columns that together define a group with its own level.
    offsets
        Columns whose values shift the level of all groups alike.
    law
        A law with sizes alone, see `fit_scaling_law`.

    Raises
    ------
    TypeError, ValueError
        As `fit_scaling_law` for the table; and for the law 'share'.

    Notes
    -----
    Eq. 8 of arXiv 2501.03152 prints nine parameters. N0, R0 and D0 come only in products with A, B and C, so that no
    design determines more than six of them; fits hold the references. The rank is that of the derivatives by the
    parameters, at exponents of no meaning, on which it hardly depends.

    Examples
    --------
    >>> import pandas as pd
    >>> told = identifiability(pd.DataFrame({"N": [1e8, 2e8, 4e8, 8e8], "D": [1e5, 1e6, 1e7, 3e5]}), N="N", D="D")
    >>> told.rank, told.n_parameters
    (4, 5)
    """
    chosen = law_named(law)
    if law == "share":
        raise ValueError("`law` is 'share', which isn't about N; look at 'additive'")
    roles = {axis: name for axis, name in (("N", N), ("R", R), ("D", D)) if name is not None}
    refuse_sizes(roles, law)
    sizes = list(roles.values())
    rows, _ = checked(frame, numbers=sizes, positive=sizes, labels=[*groups, *offsets])
    arrays = arrays_of(rows, law, roles, references_of(rows, roles), groups, offsets, rows.iloc[0])
    columns, exponents = chosen.terms(arrays["logs"])
    whole = np.column_stack([arrays["levels"], term_derivatives(columns, len(exponents))])
    found, said = [], []
    for axis, column in roles.items():
        amplitude, exponent = AXES[axis]
        n_levels, decades = int(rows[column].nunique()), math.log10(rows[column].max() / rows[column].min())
        n_needed = 3 if exponent in exponents and not (law == "multiplicative" and len(roles) > 1) else 2
        found.append((axis, column, n_levels, decades, n_needed, n_levels >= n_needed))
        if n_levels == 1:
            said.append(f"{column!r} has one level: its term is a constant, part of the level")
            continue
        if law == "additive" or (law == "as printed" and axis != "D"):
            said.append(f"only {amplitude} {axis}0^{exponent} is determined, not {amplitude} and {axis}0 apart")
        if n_levels < n_needed:
            said.append(f"{column!r} has {n_levels} levels: level, amplitude and exponent need {n_needed}")
        elif n_levels == n_needed == 3:
            said.append(f"{column!r} has 3 levels for 3 parameters: its shape isn't put to a test")
        if decades < NARROW_DECADES:
            said.append(f"{column!r} spans {decades:.2g} decades: an exponent says little beyond them")
    axes = pd.DataFrame(found, columns=["axis", "column", "n_levels", "decades", "n_levels_needed", "enough"])
    rank, n_parameters = rank_of(whole), whole.shape[1]
    if rank < n_parameters and axes["enough"].all():
        said.append(f"{', '.join(map(repr, sizes))} go along with each other or with the groups")
    return Identifiability(axes, rank, n_parameters, tuple(said))
