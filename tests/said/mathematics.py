"""What the numbers of docs/mathematics.md are held to."""

import re
from collections.abc import Iterator

import numpy as np
import pandas as pd

from lorascope.analyze import jensen_shannon
from lorascope.study import paper_study
from lorascope.study.results.claims import CLAIMS

from .mi_and_js import DEPENDENT, FLIPPED, MOST_JS, agreeing
from .page import ROOT, Saying, count, equation, exponent, ln, quoted, rows, said

PAGE = (ROOT / "docs/mathematics.md").read_text()
COMPONENTS = {"Phi3": 4 * 32, "LLaMA3": 7 * 32}
"""Linear layers: Phi-3 fuses q, k and v, and gate and up."""


def decades() -> pd.Series:
    """Over how many powers of ten each model's size varies in the paper's tables."""
    sizes = paper_study().groupby("model")["N"]
    return np.log10(sizes.max() / sizes.min())


def sayings() -> Iterator[Saying]:
    yield from equations()
    yield from consequences()
    yield said("answers all {} for your own model", count(max(CLAIMS)))
    readings = re.findall(r"^\| ACC\b.*\|$", (ROOT / "docs/capture.md").read_text(), re.MULTILINE)
    yield said("| {} ways, all reported", count(len(readings)))


def equations() -> Iterator[Saying]:
    numbered = re.findall(r"^\| (\d+) \|", PAGE, re.MULTILINE)
    yield said("It lists the {} numbered equations", count(len(numbered)))
    yield quoted("I <= log(2) JS(P_OL, P_O P_L)", place="eq. 2")
    ratio = FLIPPED.mutual_information / (FLIPPED.js + FLIPPED.kl_mixture)
    yield said("JS is below I/{:.0f}, so I is above {:.0f} JS", ratio, ratio)
    yield equation("(ln 2)² = 0.48")
    zero = np.zeros((1, 20))
    yield said("it is {:.0f} for L = O", jensen_shannon(zero, zero).item())
    yield quoted("JS(P, Q) = KL(P‖M)/2 + KL(Q‖M)/2, M = (P + Q)/2", place="eq. 3")
    yield quoted("JS(P_OL, P_O P_L) >= I/2", place="eq. 6")
    yield equation("JS = I/2 - KL(M‖P_O P_L)", **{**DEPENDENT, "KL(M‖P_O P_L)": FLIPPED.kl_mixture})
    yield quoted('"multiplying both sides by log(2)"', place="eq. 7")
    yield quoted("eq. 6 times log 2 contains I/2 times log 2", place="eq. 6")
    yield quoted("M = (1/N) sum over samples", place="eq. 9")
    yield quoted("PPL = exp(-(1/N) sum of log q(w))", place="eq. 11")
    yield said("a component can't exceed {}", ln(MOST_JS))
    cells = paper_study()
    means = cells["MIUB"] / cells["model"].map(COMPONENTS)
    yield said("the paper's values are {:.1f} to {:.1f} a component", means.min(), means.max())


def consequences() -> Iterator[Saying]:
    errors = rows("docs/benchmarks.md", "| dtype | JS, nats |")
    largest = max(float(cell) for row in errors if row["dtype"] == "float32" for cell in list(row.values())[2:] if cell)
    yield said("with a relative error of at most {},", exponent(largest, 1))
    yield said("N covers only {:.2f} to {:.2f} decades", decades().min(), decades().max())
    yield said("and R has {} values", count(paper_study()["R"].nunique()))
    base, delta = np.random.default_rng(0).normal(size=(2, 1, 20))
    yield said("does nothing has MIUB {:.0f}", jensen_shannon(base, 0 * delta).item())
    yield said("MI and MIUB agree to {} to {} digits", *map(count, agreeing()))
    p, q = (np.exp(state) / np.exp(state).sum() for state in (base, base + delta))
    states = {"H(P)": p, "H(Q)": q, "H(M)": (p + q) / 2}
    entropies = {name: -(one @ np.log(one.T)).item() for name, one in states.items()}
    yield equation("H(M) - H(P)/2 - H(Q)/2", **{**entropies, "value": jensen_shannon(base, delta).item()})
