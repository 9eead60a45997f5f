"""What the numbers of docs/mi-and-js.md are held to."""

import math
from collections.abc import Iterator

import numpy as np

from lorascope.analyze import jensen_shannon
from lorascope.analyze.information import js_lower_bound, js_upper_bound
from lorascope.study import paper_table

from ..dependence import dependence, normals
from .page import Saying, count, equation, ln, part, quoted, said

FLIPPED = dependence(np.array([[0.4, 0.1], [0.1, 0.4]]))
"""A fair bit and its copy, wrong one time in five."""
DEPENDENT = {"I": FLIPPED.mutual_information, "JS": FLIPPED.js}
MOST_JS = js_upper_bound(np.inf)


def sayings() -> Iterator[Saying]:
    yield from reversed_claim()
    yield from lower_bound()
    yield from no_upper_bound()
    yield from ratio_bound()
    base, delta = np.random.default_rng(0).normal(size=(2, 1, 20))
    yield said("It takes one token and makes {} softmax vectors", count(len([base, delta])))
    yield said("is at most {} a component", ln(MOST_JS))
    yield said("and MIUB is {:.0f}.", jensen_shannon(base, 0 * delta).item())
    yield said("and {:.0f} exactly where the two softmaxes agree", jensen_shannon(base, 0 * delta + 3).item())
    yield said("agrees with MIUB to {} to {} digits", *map(count, agreeing()))


def reversed_claim() -> Iterator[Saying]:
    """Equations 2 to 7 of the paper, and what is true in their place."""
    yield quoted("M = (P + Q)/2", place="eq. 3")
    yield quoted("JS = KL(P‖M)/2 + KL(Q‖M)/2", place="eq. 3")
    yield quoted("summed with weight 1/2 over P and 1/2 over Q", place="eq. 3")
    yield quoted("I <= log(2) JS(P‖Q)", place="eq. 2")
    yield quoted("JS >= I/2", place="eq. 6")
    yield equation("JS = I/2 - KL(M‖Q)", **{**DEPENDENT, "KL(M‖Q)": FLIPPED.kl_mixture})
    yield equation("JS < I/2", **DEPENDENT)
    yield equation("I > 2 JS > log(2) JS", **DEPENDENT)
    yield said("JS is never more than {}", ln(MOST_JS))
    independent = dependence(np.full((2, 2), 0.25))
    yield said("then both sides are {:.0f}", max(independent.mutual_information, independent.js))
    yield quoted("equation 6 times log 2 has I/2 times log 2 on its right", place="eq. 6")
    base = 2
    yield said("If the log has base {}, so that the factor is {:.0f}", base, math.log(2, base))
    pairs = {f"normal, correlation {rho}": dependence(normals(rho)) for rho in (0.1, 0.5, 0.75, 0.9, 0.99, 0.9999)}
    pairs |= {f"one symbol twice, uniform among {n}": dependence(np.eye(n) / n) for n in (2, 1000)}
    pairs["a fair bit and its copy, wrong one time in five"] = FLIPPED
    for name, (mi, js, _) in pairs.items():
        yield said("| {} | {:.4f} | {:.4f} | {:.4f} | {:.4f} |", name, mi, js, math.log(2) * js, js_lower_bound(js))


def lower_bound() -> Iterator[Saying]:
    x = np.array([0.01, 0.5, 2.0, 10.0])
    words = "J(x) = ln 2 - ((1 + a) ln(1 + a) + a x)/2"
    yield equation(words, **{"J(x)": js_upper_bound(x), "a": np.exp(-x), "x": x})
    least = 1e-9
    yield said("Near {:.0f}, Xi is 2/ln 2 = {:.3f} times JS", least, js_lower_bound(least) / least)
    yield equation("2/ln 2 = 2.885")
    yield said("comes near {}. No better", ln(MOST_JS))
    assert math.isclose(js_upper_bound(math.log(7)), dependence(np.eye(7) / 7).js)
    yield said("one symbol that is seen {}", "twice" if np.eye(7).ndim == 2 else "")
    half = part(math.exp(-MOST_JS))  # the entropy of a fair coin is the most that JS can be
    yield said("{} of them are real, in the other {} l comes", half, half)
    yield said("JS >= {} - CE, apart", ln(MOST_JS))
    yield said("I >= Xi({} - CE)", ln(MOST_JS))


def no_upper_bound() -> Iterator[Saying]:
    """A symbol that is 0 with a large probability, and otherwise one of many."""
    n, likely = np.array([1e3, 1e6, 1e12]), 0.95
    rest, q = 1 - likely, likely**2
    yield said("It is {} with probability {}, and", np.argmax([likely, rest]), likely)
    yield equation("I = 0.1985 + 0.05 ln n", I=-likely * math.log(likely) - rest * np.log(rest / n), n=n)
    js = (likely * math.log(2 / (1 + likely)) + q * math.log(2 * likely / (1 + likely)) + (1 + rest - q) * MOST_JS) / 2
    yield said("Then JS stays below {:.4f} for every n", math.ceil(js * 1e4) / 1e4)


def ratio_bound() -> Iterator[Saying]:
    """f and g, which KL and JS average over a bounded density ratio."""
    p, q = np.array([0.5, 0.3, 0.2]), np.array([0.2, 0.3, 0.5])
    t, m = p / q, (p + q) / 2
    f, g = t * np.log(t) - t + 1, (t * np.log(2 * t / (1 + t)) + np.log(2 / (1 + t))) / 2
    assert math.isclose(q @ f, p @ np.log(t))
    assert math.isclose(q @ g, (p @ np.log(p / m) + q @ np.log(q / m)) / 2)
    yield equation("f(t) = t ln t - t + 1", **{"f(t)": f, "t": t})
    yield equation("g(t) = (t ln(2t/(1 + t)) + ln(2/(1 + t)))/2", **{"g(t)": g, "t": t})

    def kappa(t: float) -> float:
        return (t * math.log(t) - t + 1) / ((t * math.log(2 * t / (1 + t)) + math.log(2 / (1 + t))) / 2)

    values = (kappa(1 + 1e-4), 1, kappa(10), 10, kappa(1000), 1000)
    yield said("kappa is {:.0f} at {}, {:.2f} at {}, {:.1f} at {}, and grows", *values)
    yield equation("2 (ln T - 1)/ln 2", T=1e200, value=kappa(1e200))


def agreeing() -> tuple[int, int]:
    """The fewest and the most digits to which MI and MIUB agree in the paper's table 3."""
    values = paper_table(3).pivot(index="setting", columns="metric", values="value").dropna()
    digits = np.floor(-np.log10(1 - values["MI"] / values["MIUB"])).astype(int)
    return digits.min(), digits.max()
