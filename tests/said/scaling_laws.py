"""What the numbers of docs/scaling-laws.md are held to."""

import math
import re
from collections.abc import Iterator
from typing import Any

import numpy as np
import pandas as pd
from scipy import stats

from lorascope.analyze.fits import laws, resampling, verdicts
from lorascope.analyze.fits.fit import fit_scaling_law
from lorascope.study import paper_study
from lorascope.study.paper_tables import CHANCE

from ..printed import benchmark
from .page import Saying, count, equation, said

CUBE = pd.DataFrame(np.stack(np.meshgrid(*3 * [np.geomspace(1, 1e4, 5)]), axis=-1).reshape(-1, 3), columns=list("NRD"))
"""Sizes that all vary on their own."""


def sayings() -> Iterator[Saying]:
    study = paper_study()
    runs = study.pivot(index=["model", "setting"], columns="dataset", values="MIUB")
    yield said("a run that is printed {} counts once", {2: "twice"}[runs.value_counts().max()])
    for law in laws.LAWS.values():
        yield said("| {} |", law.equation)
    yield from powers()
    yield from intervals()
    yield from coverage()
    yield from designs()
    n_settings = count(study["setting"].nunique())
    yield said("{} settings are only {} values", n_settings.capitalize(), n_settings)
    yield said("whose accuracy is below {}, which is chance among {} choices", CHANCE, count(round(1 / CHANCE)))


def powers() -> Iterator[Saying]:
    yield said("if their spread is {} or more", verdicts.NOISY)
    low, high = laws.BOUNDS["alpha"]
    assert laws.BOUNDS["gamma"] == (low, high)
    yield said("alpha and gamma between {} and {:g}, beta between {} and {:g};", low, high, *laws.BOUNDS["beta"])
    x, e, small = np.array([0.5, 2.0, 30.0]), 0.7, 1e-12
    power = laws.Column("A", np.log(x)[:, None], (0,))
    yield equation("(x^e - 1)/e", x=x, e=e, value=power.centred(np.array([e])))
    np.testing.assert_allclose(power.centred(np.array([small])), np.log(x))
    yield said("the limit of eq. 8 for exponents that go to {:.0f}", small)
    yield said("so that an exponent may go to {:.0f}", small)
    yield said("if its exponent may be {:.0f}, since", small)
    signs = {np.sign(power.per_unit(np.array([e]))) for e in (-small, small)}
    yield said("have {} branches that meet at infinity", count(len(signs)))


def intervals() -> Iterator[Saying]:
    cells = CUBE.assign(y=CUBE["N"] ** -0.3 * np.exp(0.01 * np.sin(CUBE.index)))
    fit = fit_scaling_law(cells, "y", N="N", law="log-log", repeat="D", groups=["R"])
    yield said("intervals of the parameters ({:.0f} % by default)", 100 * fit.level)
    low, high = fit.conf_int().loc["alpha", ["low", "high"]]
    reach = ((high - low) / 2 / fit.bse["alpha"]) ** 2
    n = next(n for n in (1, 2, 3) if math.isclose(stats.f.ppf(fit.level, n, fit.df_resid), reach, rel_tol=1e-3))
    yield said("the quantile of F({}, df)", n)


def coverage() -> Iterator[Saying]:
    script = benchmark("fit_coverage")
    counts, (wide, phi3, two, _) = script.stored_counts(), script.DESIGNS
    found = {one.name: {row["parameter"]: row for row in counts[one.name]} for one in (wide, phi3, two)}

    def held(row: dict[str, Any], kind: str = "F") -> float:
        return float(100 * row[kind] / row["n"])

    for design, words in (
        (wide, f"simulated studies with {len(wide.sizes['N'])} sizes and {len(wide.sizes['R'])} ranks, it"),
        (phi3, "studies with the paper's settings for Phi3, which don't identify beta, it"),
    ):
        alpha, beta = found[design.name]["alpha"], found[design.name]["beta"]
        yield said("Of {} " + words, alpha["n"])
        yield said(words + " held alpha in {:.1f} % and beta in {:.1f} %", held(alpha), held(beta))
    yield said("simulated studies with {} sizes and {} ranks", len(wide.sizes["N"]), len(wide.sizes["R"]))
    yield said("was open for beta in {}", found[phi3.name]["beta"]["open"])
    alpha = found[two.name]["alpha"]
    sets = (count(two.n_groups), count(phi3.n_groups))
    yield said("With {} of the {} data sets, which leave {} degrees of freedom", *sets, alpha["df"])
    by_chi_square = held(alpha, "chi-square")
    yield said("held in {:.1f} % by F, and would have been in {:.1f} % by chi-square", held(alpha), by_chi_square)
    yield said("fewer than {} groups, because", resampling.FEW_GROUPS)
    for n_groups in script.N_GROUPS["log-log"]:
        (row,) = counts[script.groups_name("log-log", n_groups)]
        yield said("In {} simulated studies whose slope", row["n"])
        shares = (held(row, kind) for kind in script.OVER_GROUPS)
        yield said("| {} groups | {:.1f} % | {:.1f} % |", n_groups, *shares)


def designs() -> Iterator[Saying]:
    names = set(re.findall(r"[A-Z]0|\b[ABC]\b|alpha|beta|gamma", laws.LAWS["additive"].equation))
    yield said("Eq. 8 has {} parameters", count(len(names)))
    fit = fit_scaling_law(CUBE.assign(y=1 + CUBE["N"] ** -0.3 + CUBE["R"] ** -0.4 + CUBE["D"] ** -0.5), "y", *"NRD")
    yield said("no study determines more than {}", count(len(fit.params) - 1))  # the level is none of eq. 8
    for n in (3, 2):
        cells = CUBE[CUBE["N"].isin(np.unique(CUBE["N"])[:n])]
        try:
            fit_scaling_law(cells.assign(y=cells["N"] ** -0.3 + 1e-4 * cells.index), "y", "N", repeat="D", groups=["R"])
        except ValueError:
            yield said("A size with fewer than {} levels can't", count(n + 1))
