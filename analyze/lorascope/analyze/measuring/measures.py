"""What can be measured of a token at a component: names, definitions, units, sources."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from ..kernels.linear import argmax_agreement_rows, norm_rows
from ..kernels.softmax import divergence_rows, effective_width_rows, jensen_shannon_rows
from .cka import hsic_terms

__all__ = ["MEASURES", "Measure", "resolve", "token_measure"]

Values = np.ndarray | tuple[np.ndarray, ...]
Attributes = Mapping[str, str]
TAKEN = {"done", "token", "component", "kind", "layer", "d_out", "rank", "delta_source"} | {
    "sample_of_token",
    "position",
    "role",
    "weight",
    "counted",
}
"""Names of what stands beside measures in a result."""


@dataclass(frozen=True, kw_only=True)
class Measure:
    """One function of a block, and what its results are called."""

    function: Callable[[np.ndarray, np.ndarray], Values]
    """(base, delta), float32 (token, feature) each -> an array (token,), or one for each of `outputs`."""
    outputs: Mapping[str, Attributes]
    """Name -> attributes: `long_name`, `units`, and `references` where it isn't our own definition."""
    whole_rows: bool = False
    """Whether a value depends on the other tokens of its row, so that all of them are needed at once."""


def token_measure(*, long_name: str, units: str, **attributes: str) -> Callable[[Callable[..., Values]], Measure]:
    """Make a measure of a function (base, delta) -> (token,), which gives it its name.

    Parameters
    ----------
    long_name, units
        What it is, in words, and its unit; "1" for a pure number.
    **attributes
        Others that the result is to carry, such as `references`.

    Raises
    ------
    ValueError
        If the function has the name of a measure of ours, or of a coordinate.

    Returns
    -------
    Callable
        A decorator. What it makes goes wherever the name of a measure goes. The function gets float32 blocks
        (token, feature) of any number of tokens, in a thread of its own; its value for a token must depend on that
        token alone.

    Examples
    --------
    >>> import numpy as np
    >>> @token_measure(long_name="largest absolute value of delta", units="1")
    ... def delta_peak(base, delta):
    ...     return np.abs(delta).max(axis=1)
    >>> list(delta_peak.outputs)
    ['delta_peak']
    """

    def make(function: Callable[..., Values]) -> Measure:
        name = function.__name__
        if name in MEASURES or name in TAKEN:
            raise ValueError(
                f"a measure can't be called {name!r}, as something else is; give the function another name"
            )
        return Measure(function=function, outputs={name: {"long_name": long_name, "units": units, **attributes}})

    return make


def _js(base: np.ndarray, delta: np.ndarray) -> np.ndarray:
    out = np.empty(len(base), np.float32)
    jensen_shannon_rows(base, delta, out)
    return out


def _js_permuted(base: np.ndarray, delta: np.ndarray) -> np.ndarray:
    return _js(base, np.take(delta, _permutation(delta.shape[1]), axis=1))  # 5 times as fast as delta[:, order]


@lru_cache(maxsize=32)
def _permutation(width: int) -> np.ndarray:
    # One permutation for all tokens and runs, so that the null is as reproducible as the measure.
    return np.random.default_rng(width).permutation(width)


def _js_delta_alone(base: np.ndarray, delta: np.ndarray) -> np.ndarray:
    return _js(base, delta - base)


def _effective_width(base: np.ndarray, delta: np.ndarray) -> np.ndarray:
    out = np.empty(len(base), np.float32)
    effective_width_rows(base, out)
    return out


def _divergences(base: np.ndarray, delta: np.ndarray) -> tuple[np.ndarray, ...]:
    out = tuple(np.empty(len(base), np.float32) for _ in range(4))
    divergence_rows(base, delta, *out)
    return (*out, np.exp(out[3]))


def _argmax_agreement(base: np.ndarray, delta: np.ndarray) -> np.ndarray:
    out = np.empty(len(base), np.float32)
    argmax_agreement_rows(base, delta, out)
    return out


def _norms(base: np.ndarray, delta: np.ndarray) -> tuple[np.ndarray, ...]:
    base_norm, delta_norm, dot = (np.empty(len(base), np.float32) for _ in range(3))
    norm_rows(base, delta, base_norm, delta_norm, dot)
    with np.errstate(divide="ignore", invalid="ignore"):
        ratio = np.where(np.isfinite(base_norm), delta_norm / base_norm, np.nan)
        cosine = dot / base_norm / delta_norm
    return base_norm, delta_norm, ratio, cosine


_LIN = "Lin 1991, Divergence measures based on the Shannon entropy, IEEE Trans. Inf. Theory 37(1)"
_KULLBACK = "Kullback and Leibler 1951, On information and sufficiency, Ann. Math. Stat. 22(1)"
_NGUYEN = "Nguyen, Raghu and Kornblith 2021, arXiv 2010.15327, eq. 3; Song et al. 2012, JMLR 13, eq. 5"

_ALL = (
    Measure(
        function=_js,
        outputs={
            "js": {
                "long_name": "Jensen-Shannon divergence of softmax(base) and softmax(lora)",
                "units": "nat",
                "references": f"arXiv 2501.03152, eq. 9; {_LIN}",
            }
        },
    ),
    Measure(
        function=_js_permuted,
        outputs={
            "js_permuted": {
                "long_name": "js of a delta whose features are permuted: what size alone would give",
                "units": "nat",
            }
        },
    ),
    Measure(
        function=_js_delta_alone,
        outputs={
            "js_delta_alone": {
                "long_name": "Jensen-Shannon divergence of softmax(base) and softmax(delta), delta without its base",
                "units": "nat",
                "references": _LIN,
            }
        },
    ),
    Measure(
        function=_effective_width,
        outputs={
            "effective_width": {
                "long_name": "exp of the entropy of softmax(base): how many features share its mass",
                "units": "1",
            }
        },
    ),
    Measure(
        function=_divergences,
        outputs={
            "kl_base_lora": {
                "long_name": "KL(softmax(base) || softmax(lora))",
                "units": "nat",
                "references": _KULLBACK,
            },
            "kl_lora_base": {
                "long_name": "KL(softmax(lora) || softmax(base))",
                "units": "nat",
                "references": _KULLBACK,
            },
            "entropy_base": {"long_name": "Shannon entropy of softmax(base)", "units": "nat"},
            "entropy_lora": {"long_name": "Shannon entropy of softmax(lora)", "units": "nat"},
            "effective_width_lora": {
                "long_name": "exp of the entropy of softmax(lora): how many features share its mass",
                "units": "1",
            },
        },
    ),
    Measure(
        function=_argmax_agreement,
        outputs={
            "argmax_agreement": {
                "long_name": "1 where base and lora have their largest feature in common",
                "units": "1",
            }
        },
    ),
    Measure(
        function=_norms,
        outputs={
            "base_norm": {"long_name": "|base|, Euclidean norm", "units": "1"},
            "delta_norm": {"long_name": "|delta|, Euclidean norm", "units": "1"},
            "delta_ratio": {"long_name": "|delta| / |base|, Euclidean norms", "units": "1"},
            "delta_cosine": {"long_name": "cosine of the angle between base and delta", "units": "1"},
        },
    ),
    Measure(
        function=hsic_terms,
        outputs={
            name: {
                "long_name": f"unbiased HSIC of {of}, linear kernels, of the token's group; linear CKA is made of it",
                "units": "1",
                "references": _NGUYEN,
            }
            for name, of in (("hsic_base", "base"), ("hsic_base_lora", "base and lora"), ("hsic_lora", "lora"))
        },
        whole_rows=True,
    ),
)
MEASURES: Mapping[str, Measure] = {name: measure for measure in _ALL for name in measure.outputs}
"""Name of a result -> the measure that gives it."""


def resolve(names: Sequence[str | Measure]) -> tuple[tuple[Measure, ...], dict[str, Attributes]]:
    """Measures to be run, each once, and name -> attributes of the results that were asked for, in this order.

    Raises
    ------
    ValueError
        If a name isn't in `MEASURES`, is asked for twice, or there is none.
    """
    if isinstance(names, str | Measure) or not names:
        raise ValueError(f"`names` is {names!r}; give a sequence of at least one name, such as ('js',)")
    wanted: dict[str, tuple[Measure, Attributes]] = {}
    for name in names:
        found = {name: MEASURES[name]} if isinstance(name, str) and name in MEASURES else _outputs(name)
        for output, measure in found.items():
            if output in wanted:
                raise ValueError(f"measure {output!r} is asked for twice; name each once")
            wanted[output] = measure, measure.outputs[output]
    measures = tuple({id(measure): measure for measure, _ in wanted.values()}.values())
    return measures, {name: attributes for name, (_, attributes) in wanted.items()}


def _outputs(measure: str | Measure) -> dict[str, Measure]:
    if isinstance(measure, str):
        raise ValueError(f"no measure {measure!r}; there are {sorted(MEASURES)}")
    for name in measure.outputs:
        if MEASURES.get(name, measure) is not measure or name in TAKEN:
            raise ValueError(f"a measure can't be called {name!r}, as something else is; give it another name")
    return dict.fromkeys(measure.outputs, measure)
