"""Words and numbers that options take, apart from all that computes with them: a command is parsed without that."""

from numbers import Integral
from typing import Literal

Reduction = Literal["mean", "sum", "last", "answer"]
"""Reductions of a sample's tokens to one number at a component."""
Unit = Literal["nat", "bit", "sqrt"]
"""Units of js; `sqrt` is the root of nats."""
Residual = Literal["relative", "log", "absolute"]
"""Differences that a fit of a scaling law makes small."""
N_SHUFFLES = 19
"""Shuffles of the null by default: p can be 0.05."""
SAMPLE_KEYS = ("dataset", "split", "prompt", "length")
COMPONENT_KEYS = ("component", "layer", "kind", "rank")
TOKEN_KEYS = ("role", "position", "text")
KEYS = (*SAMPLE_KEYS, *COMPONENT_KEYS, *TOKEN_KEYS)
"""Keys by which `group_by` takes a result apart."""
RUN_KEYS = ("run", "model", "adapter", "rank", "stream", "datasets")
"""Keys that tell several results apart."""


def require_whole(name: str, value: object, least: int = 1) -> None:
    """Raise ValueError unless an option is a whole number of at least so much."""
    if not isinstance(value, Integral) or isinstance(value, bool) or value < least:
        raise ValueError(f"`{name}` is {value!r}; give a whole number of at least {least}")
