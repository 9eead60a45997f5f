import math
import warnings

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.optimize import minimize_scalar
from scipy.stats import chi2

from lorascope.analyze.scaling import random_intercept as module
from lorascope.analyze.scaling.group_design import GroupDesign, group_design
from lorascope.analyze.scaling.random_intercept import random_intercept
from lorascope.study.paper_tables import CellSet, paper_study


def paper(sweep: str, model: str | None = None, cells: CellSet = "as printed") -> GroupDesign:
    study = paper_study(cells)
    whole = study["model"].map(paper_study().groupby("model")["N"].max())
    x = np.log(study["N"] / whole) if sweep == "size" else np.log(study["R"] / 32)
    kept = (study["sweep"] == sweep) & (True if model is None else study["model"] == model)
    return group_design(np.log(study["MIUB"][kept]), x[kept].to_numpy()[:, None], ["x"], list(study["block"][kept]))


def drawn(seed: int, spread: float = 1.0) -> GroupDesign:
    """Two columns, uneven groups."""
    rng = np.random.default_rng(seed)
    groups = np.repeat(np.arange(8), rng.integers(2, 7, 8))
    x = rng.normal(size=(len(groups), 2)) + rng.normal(size=(8, 2))[groups]
    y = 3 + x @ [0.5, -2.0] + rng.normal(size=len(groups)) + spread * rng.normal(size=8)[groups]
    return group_design(y, x, ["a", "b"], groups.tolist())


def dense(design: GroupDesign, ratio: float) -> tuple[float, np.ndarray, np.ndarray, float]:
    """-2 restricted log likelihood, coefficients, their covariance and residual variance, with V written out."""
    columns = np.column_stack([np.ones(design.n), design.x])
    v = np.eye(design.n) + ratio * (design.codes[:, None] == design.codes)
    inverse = np.linalg.inv(v)
    information = columns.T @ inverse @ columns
    beta = np.linalg.solve(information, columns.T @ inverse @ design.y)
    residual = design.y - columns @ beta
    free = design.n - columns.shape[1]
    s = residual @ inverse @ residual / free
    deviance = free * (math.log(2 * math.pi * s) + 1) + np.linalg.slogdet(v)[1] + np.linalg.slogdet(information)[1]
    return float(deviance), beta, s * np.linalg.inv(information), float(s)


INSIDE = {
    "paper's ranks": paper("rank"),
    "paper's sizes": paper("size"),
    "Phi3's ranks": paper("rank", "Phi3"),
    "LLaMA3's sizes": paper("size", "LLaMA3"),
    "LLaMA3's sizes, uneven": paper("size", "LLaMA3", "without collapsed"),
    "drawn": drawn(0),
    "drawn, wide": drawn(1, spread=20.0),
}


@pytest.mark.parametrize("design", INSIDE.values(), ids=INSIDE.keys())
def test_against_the_profile_of_dense_matrices(design: GroupDesign) -> None:
    found = random_intercept(design)
    search = minimize_scalar(
        lambda log: dense(design, math.exp(log))[0], bounds=(-8, 14), method="bounded", options={"xatol": 1e-9}
    )
    deviance, beta, covariance, s = dense(design, math.exp(search.x))
    assert found.place == "inside"
    assert not found.boundary
    assert found.group_variance / found.residual_variance == pytest.approx(math.exp(search.x), rel=1e-5)
    assert found.residual_variance == pytest.approx(s, rel=1e-5)
    np.testing.assert_allclose(found.slopes, beta[1:], rtol=1e-6)
    np.testing.assert_allclose(found.errors, np.sqrt(np.diag(covariance)[1:]), rtol=1e-5)
    assert found.intercept == pytest.approx(beta[0], rel=1e-8)
    assert found.likelihood_ratio == pytest.approx(dense(design, 0.0)[0] - deviance, rel=1e-7)
    assert found.likelihood_ratio_p == pytest.approx(chi2.sf(found.likelihood_ratio, 1) / 2)


def variance_components(design: GroupDesign) -> tuple[float, float]:
    """Of even groups with the same x in each: by mean squares, the group one below zero where they say so."""
    y, x, size = design.within(design.y), design.within(design.x), design.sizes[0]
    slope = np.linalg.lstsq(x, y)[0]
    residual = ((y - x @ slope) ** 2).sum() / (design.n - design.n_parameters)
    between = size * design.means(design.y).var(ddof=1)
    return float((between - residual) / size), float(residual)


@pytest.mark.parametrize("case", [("rank", None), ("rank", "Phi3"), ("rank", "LLaMA3"), ("size", "LLaMA3")], ids=str)
def test_even_groups_have_the_variances_of_mean_squares(case: tuple[str, str | None]) -> None:
    design = paper(*case)
    group, residual = variance_components(design)
    found = random_intercept(design)
    assert found.group_variance == pytest.approx(group, rel=1e-5)
    assert found.residual_variance == pytest.approx(residual, rel=1e-5)
    np.testing.assert_allclose(found.slopes, np.linalg.lstsq(design.within(design.x), design.within(design.y))[0])


def test_the_papers_phi3_sizes_lie_at_zero() -> None:
    design = paper("size", "Phi3")
    assert variance_components(design)[0] < 0
    found = random_intercept(design)
    assert (found.place, found.boundary, found.group_variance) == ("zero", True, 0.0)
    assert (found.likelihood_ratio, found.likelihood_ratio_p) == (0.0, 1.0)
    _, beta, covariance, s = dense(design, 0.0)
    np.testing.assert_allclose([found.intercept, *found.slopes], beta, rtol=1e-10)
    assert found.errors[0] == pytest.approx(math.sqrt(covariance[1, 1]), rel=1e-10)
    assert found.residual_variance == pytest.approx(s, rel=1e-10)


def test_mixed_lm_on_the_papers_phi3_sizes() -> None:
    """What made us maximise ourselves; it hangs on the versions of statsmodels and SciPy that ours are tested with."""
    found = random_intercept(paper("size", "Phi3"))
    outcomes = found.optimisers.set_index("optimiser")
    assert outcomes.loc["lbfgs", "outcome"] == "singular matrix"
    assert math.isnan(outcomes.loc["lbfgs", "group_variance"])
    assert outcomes.loc["bfgs", "outcome"] == "agrees"
    assert 0 < outcomes.loc["bfgs", "group_variance"] < 1e-9 < outcomes.loc["bfgs", "residual_variance"]
    inside = random_intercept(paper("size", "LLaMA3"))  # the maximum isn't at zero, and still
    assert inside.agreeing == ("bfgs", "cg", "nm", "powell")


def test_nothing_that_mixed_lm_reports_is_taken_over() -> None:
    known = {
        "agrees",
        "singular matrix",
        "did not converge",
        "stopped short of the maximum",
        "coefficients off",
    }
    for seed in range(8):
        for spread in (0.0, 1.0, 1e5):
            design = drawn(seed, spread)
            found = random_intercept(design)
            assert set(found.optimisers["outcome"]) <= known
            if found.place != "huge":
                ratio = found.group_variance / found.residual_variance
                np.testing.assert_allclose(found.slopes, dense(design, ratio)[1][1:], rtol=1e-10)


class Reported:
    """MixedLM with generalised least squares of dense matrices, at a ratio of variances that it is told."""

    ratio = 0.0
    converged = True
    scale = 1e-3

    def __init__(self, y: np.ndarray, columns: np.ndarray, groups: np.ndarray) -> None:
        self.fe_params = dense(group_design(y, columns[:, 1:], ["x"], groups.tolist()), self.ratio)[1]
        self.cov_re = np.array([[self.ratio * self.scale]])

    def fit(self, **options: object) -> "Reported":
        return self


class Singular(Reported):
    def fit(self, **options: object) -> Reported:
        raise np.linalg.LinAlgError("Singular matrix")


class Lost(Reported):
    converged = False


class Short(Reported):
    ratio = 0.1


class Silent(Reported):
    """As of statsmodels issue 10239: converged, with an intercept of 0."""

    def __init__(self, y: np.ndarray, columns: np.ndarray, groups: np.ndarray) -> None:
        super().__init__(y, columns, groups)
        self.fe_params[0] = 0.0


class Sloping(Reported):
    def __init__(self, y: np.ndarray, columns: np.ndarray, groups: np.ndarray) -> None:
        super().__init__(y, columns, groups)
        self.fe_params[1] *= 1.01


@pytest.mark.parametrize(
    ("reports", "outcome"),
    [
        (Reported, "agrees"),
        (Singular, "singular matrix"),
        (Lost, "did not converge"),
        (Short, "stopped short of the maximum"),
        (Silent, "coefficients off"),
        (Sloping, "coefficients off"),
    ],
)
def test_each_outcome(monkeypatch: pytest.MonkeyPatch, reports: type[Reported], outcome: str) -> None:
    monkeypatch.setattr("statsmodels.regression.mixed_linear_model.MixedLM", reports)
    design = paper("size", "Phi3")
    found = random_intercept(design)
    assert set(found.optimisers["outcome"]) == {outcome}
    assert found.agreeing == (module.OPTIMISERS if outcome == "agrees" else ())
    short = (dense(design, reports.ratio)[0] - dense(design, 0.0)[0]) / 2
    assert outcome == "singular matrix" or found.optimisers["short_by"][0] == pytest.approx(short, rel=1e-6, abs=1e-9)
    np.testing.assert_allclose([found.intercept, *found.slopes], dense(design, 0.0)[1], rtol=1e-10)


def test_mixed_lm_itself_still_does_so() -> None:
    """If this fails, statsmodels has mended issue 10239."""
    from statsmodels.regression.mixed_linear_model import MixedLM

    design = paper("size", "Phi3")
    columns = np.column_stack([np.ones(design.n), design.x])
    model = MixedLM(design.y, columns, groups=design.codes)
    assert model.get_fe_params(np.array([[1e-11]]), np.empty(0))[0][0] == pytest.approx(0.0, abs=1e-6)
    assert model.get_fe_params(np.array([[1e-9]]), np.empty(0))[0][0] == pytest.approx(7.35, abs=0.01)


def test_huge_variance_is_said() -> None:
    design = drawn(3, spread=1e5)
    found = random_intercept(design)
    assert (found.place, found.boundary) == ("huge", True)
    fixed = np.linalg.lstsq(design.within(design.x), design.within(design.y))[0]
    assert (np.abs(found.slopes - fixed) < 1e-3 * found.errors).all()


def test_other_warnings_pass(monkeypatch: pytest.MonkeyPatch) -> None:
    class Warner(Reported):
        def fit(self, **options: object) -> Reported:
            warnings.warn("something new", RuntimeWarning, stacklevel=2)
            return self

    monkeypatch.setattr("statsmodels.regression.mixed_linear_model.MixedLM", Warner)
    with pytest.warns(RuntimeWarning, match="something new"):
        random_intercept(paper("size", "Phi3"))


def test_one_group_is_refused() -> None:
    rng = np.random.default_rng(0)
    design = group_design(rng.normal(size=5), rng.normal(size=(5, 1)), ["x"], ["a"] * 5)
    with pytest.raises(ValueError, match=r"a random intercept needs two groups or more; there is one"):
        random_intercept(design)


@settings(deadline=None, max_examples=30)
@given(st.integers(0, 1000), st.floats(-100, 100), st.floats(-3, 3))
def test_shift_scale_and_order(seed: int, shift: float, log10: float) -> None:
    design = drawn(seed)
    rng, scale = np.random.default_rng(seed), 10**log10
    order = rng.permutation(design.n)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "OPTIMISERS", ())
        patch.setattr(module, "RandomIntercept", lambda *parts: parts)
        one = module.random_intercept(design)
        other = module.random_intercept(
            group_design(design.y[order] + shift, design.x[order] * scale, ["a", "b"], design.codes[order].tolist())
        )
    np.testing.assert_allclose(np.multiply(other[0], scale), one[0], rtol=1e-5, atol=1e-7)
    np.testing.assert_allclose(np.multiply(other[1], scale), one[1], rtol=1e-5)
    np.testing.assert_allclose(other[2], one[2] + shift, rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(other[3:5], one[3:5], rtol=1e-4, atol=1e-6)
    assert other[5] == one[5]
