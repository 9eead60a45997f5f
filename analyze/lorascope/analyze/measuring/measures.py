"""Measures of a token at a component: functions of base and delta, with their names, units and references.

Base is the output of a frozen layer, delta is what the adapter adds, and lora is their sum. The measure js is the
Jensen-Shannon divergence of softmax(base) and softmax(lora).
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from lorascope.kernels.linear import norm_rows
from lorascope.kernels.softmax import divergence_rows, effective_width_rows, jensen_shannon_rows
from lorascope.stores.names import suggestion

Values = np.ndarray | tuple[np.ndarray, ...]
Attributes = Mapping[str, str]
RESERVED_NAMES = {
    "done",
    "token",
    "sample_of_token",
    "position",
    "role",
    "weight",
    "counted",
    "component",
    "kind",
    "layer",
}
RESERVED_NAMES |= {"d_out", "rank", "delta_source", "sample", "text", "miub"}
"""Names of coordinates and variables of a result, which a measure can't have."""


@dataclass(frozen=True, kw_only=True)
class Measure:
    """Measure of a token at a component: a function of base and delta, with names and attributes of its results."""

    function: Callable[[np.ndarray, np.ndarray], Values]
    """(base, delta), float32 (token, feature) each -> an array (token,), or one for each of `outputs`."""
    outputs: Mapping[str, Attributes]
    """Name -> attributes: `long_name`, `units`, and `references` if the definition isn't our own."""


def token_measure(*, long_name: str, units: str, **attributes: str) -> Callable[[Callable[..., Values]], Measure]:
    """Return a decorator that turns a function (base, delta) -> (token,) into a measure of the same name.

    Parameters
    ----------
    long_name, units
        Description and unit of the measure; "1" for a pure number.
    **attributes
        Further attributes of the result, such as `references`.

    Returns
    -------
    Callable
        A decorator. Its result can be used wherever the name of a measure can. The function's name must not be that of
        an existing measure or of a coordinate. The function gets float32 blocks (token, feature) with any number of
        tokens, and is called in threads or other processes. Its value for a token must depend on that token alone.

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
        """Return the function as a `Measure` whose only result has the function's name."""
        outputs = {function.__name__: {"long_name": long_name, "units": units, **attributes}}
        return Measure(function=function, outputs=outputs)

    return make


def _run_kernel(kernel: Callable[..., None], n: int, *blocks: np.ndarray) -> tuple[np.ndarray, ...]:
    """Return the n arrays float32 (token,) that a compiled kernel fills from blocks (token, feature)."""
    out = tuple(np.empty(len(blocks[0]), np.float32) for _ in range(n))
    kernel(*blocks, *out)
    return out


def _js(base: np.ndarray, delta: np.ndarray) -> np.ndarray:
    """Return the Jensen-Shannon divergence of softmax(base) and softmax(base + delta), nats (token,)."""
    return _run_kernel(jensen_shannon_rows, 1, base, delta)[0]


@lru_cache(maxsize=32)
def feature_permutation(width: int) -> np.ndarray:
    """Return the fixed random order of `width` features in which the null measure `js_permuted` takes delta.

    It is the same for all tokens and runs, so that the null is reproducible.
    """
    return np.random.default_rng(width).permutation(width).astype(np.uint32)


def _js_permuted(base: np.ndarray, delta: np.ndarray) -> np.ndarray:
    """Return js after shuffling delta's features, nats (token,): what the size of delta alone would give."""
    return _js(base, np.take(delta, feature_permutation(delta.shape[1]), axis=1))  # 5 times as fast as delta[:, order]


def _js_delta_alone(base: np.ndarray, delta: np.ndarray) -> np.ndarray:
    """Return the Jensen-Shannon divergence of softmax(base) and softmax(delta), nats (token,)."""
    return _js(base, delta - base)


def _effective_width(base: np.ndarray, delta: np.ndarray) -> np.ndarray:
    """Return exp(entropy of softmax(base)), float32 (token,): how many features share its mass."""
    return _run_kernel(effective_width_rows, 1, base)[0]


def _divergences(base: np.ndarray, delta: np.ndarray) -> tuple[np.ndarray, ...]:
    """Return the eight measures (token,) of softmax(base) and softmax(base + delta) that share their exponentials."""
    out = np.empty((8, len(base)), np.float32)
    divergence_rows(base, delta, out)
    return tuple(out)


def norms(base: np.ndarray, delta: np.ndarray) -> tuple[np.ndarray, ...]:
    """Return |base|, |delta|, |delta| / |base|, and the cosine between base and delta, each float32 (token,)."""
    return norm_measures(*_run_kernel(norm_rows, 3, base, delta))


def norm_measures(base_norm: np.ndarray, delta_norm: np.ndarray, dot: np.ndarray) -> tuple[np.ndarray, ...]:
    """Return what `norms` does, from both norms and the dot product of base and delta."""
    with np.errstate(divide="ignore", invalid="ignore"):
        cosine = dot / base_norm / delta_norm
    return base_norm, delta_norm, norm_ratio(delta_norm, base_norm), cosine


def norm_ratio(delta: np.ndarray, base: np.ndarray) -> np.ndarray:
    """Return the norms' ratio delta / base, float32: inf if only base is 0, NaN if both are 0 or one isn't finite."""
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.asarray(np.where(np.isfinite(delta) & np.isfinite(base), delta / base, np.nan), np.float32)


ONE_PASS = {_js: 1, _js_permuted: 1, _divergences: 8, norms: 3}
"""Functions of measures that `measure_factor_rows` can compute, in its order, and the number of rows it fills."""


_LIN = "Lin 1991, Divergence measures based on the Shannon entropy, IEEE Trans. Inf. Theory 37(1)"
_KULLBACK = "Kullback and Leibler 1951, On information and sufficiency, Ann. Math. Stat. 22(1)"


def _attributes(long_name: str, units: str = "nat", references: str = "") -> Attributes:
    """Return a measure's xarray attributes: `long_name`, `units`, and `references` if there are any."""
    return {"long_name": long_name, "units": units} | ({"references": references} if references else {})


_DIVERGENCE = "Jensen-Shannon divergence of softmax(base) and"
_WIDTH = "exp of the entropy of softmax({}): how many features share its mass"
_JS = _attributes(f"{_DIVERGENCE} softmax(lora)", references=f"arXiv 2501.03152, eq. 9; {_LIN}")
_EFFECTIVE_WIDTH = _attributes(_WIDTH.format("base"), "1")
_DEFINITIONS: Mapping[Callable[[np.ndarray, np.ndarray], Values], Mapping[str, Attributes]] = {
    _divergences: {
        "js": _JS,
        "kl_base_lora": _attributes("KL(softmax(base) || softmax(lora))", references=_KULLBACK),
        "kl_lora_base": _attributes("KL(softmax(lora) || softmax(base))", references=_KULLBACK),
        "entropy_base": _attributes("Shannon entropy of softmax(base)"),
        "entropy_lora": _attributes("Shannon entropy of softmax(lora)"),
        "effective_width": _EFFECTIVE_WIDTH,
        "effective_width_lora": _attributes(_WIDTH.format("lora"), "1"),
        "argmax_agreement": _attributes("1 where base and lora have their largest feature in common", "1"),
    },
    _js: {"js": _JS},
    _js_permuted: {"js_permuted": _attributes("js of a delta whose features are permuted: what size alone would give")},
    _js_delta_alone: {
        "js_delta_alone": _attributes(f"{_DIVERGENCE} softmax(delta), delta without its base", references=_LIN)
    },
    _effective_width: {"effective_width": _EFFECTIVE_WIDTH},
    norms: {
        "base_norm": _attributes("|base|, Euclidean norm", "1"),
        "delta_norm": _attributes("|delta|, Euclidean norm", "1"),
        "delta_ratio": _attributes("|delta| / |base|, Euclidean norms", "1"),
        "delta_cosine": _attributes("cosine of the angle between base and delta", "1"),
    },
}
MEASURES: Mapping[str, Measure] = {
    name: measure
    for function, outputs in _DEFINITIONS.items()
    for measure in [Measure(function=function, outputs=outputs)]
    for name in outputs
}
"""Name of a result -> the measure that computes it."""


def resolve_measures(names: Sequence[str | Measure]) -> tuple[tuple[Measure, ...], dict[str, Attributes]]:
    """Return the measures to compute, each once, and a dict from each requested name to its xarray attributes.

    Raises
    ------
    ValueError
        If a name isn't in `MEASURES`, is given twice, or `names` is empty.
    """
    if isinstance(names, str | Measure) or not names:
        raise ValueError(f"`names` is {names!r}; give a sequence of at least one name, such as ('js',)")
    by_name: dict[str, Measure] = {}
    for asked in names:
        if isinstance(asked, str) and asked not in MEASURES:
            raise ValueError(f"no measure {asked!r}; there are {sorted(MEASURES)}{suggestion(asked, [*MEASURES])}")
        outputs = {asked: MEASURES[asked]} if isinstance(asked, str) else dict.fromkeys(asked.outputs, asked)
        for name, measure in outputs.items():
            if (name in MEASURES and measure not in MEASURES.values()) or name in RESERVED_NAMES:
                raise ValueError(
                    f"a measure can't be called {name!r}, a name that is in use already; give it another name"
                )
            if name in by_name:
                raise ValueError(f"measure {name!r} is given twice; name each once")
            by_name[name] = measure
    measures = {id(measure): measure for measure in by_name.values()}.values()
    # js and the effective width come with the divergences, in the same pass
    needed = (m for m in measures if not any(m.outputs.keys() < other.outputs.keys() for other in measures))
    return tuple(needed), {name: measure.outputs[name] for name, measure in by_name.items()}
