"""Columns of a run's tables: samples, choices, tokens and components."""

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np

ROLES = (
    *("prompt", "choice", "answer", "generated", "text"),
    *("system", "user", "assistant", "tool", "template"),  # of a chat
)
"""Roles of tokens; `tokens/role` stores the index in this tuple."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Column:
    """Specification of a table's column, a one-dimensional array of the store: name, dtype and fill value."""

    name: str
    dtype: str
    fill: int | float | str
    attributes: Mapping[str, object] = field(default_factory=dict)
    by_row: bool = False
    """Whether it is measured by the forward pass, so written row by row; else it is known before."""
    optional: bool = False
    """Whether it may be missing, since it wasn't asked for or older writers didn't know it."""


def _text_column(name: str, meaning: str, *, optional: bool = False) -> Column:
    """Return the specification of a text column with empty fill value; `meaning` becomes its `long_name`."""
    return Column(name=name, dtype="string", fill="", attributes={"long_name": meaning}, optional=optional)


def _integer_column(name: str, meaning: str, dtype: str = "int32", *, optional: bool = False) -> Column:
    """Return the specification of an integer column with fill value -1; `meaning` becomes its `long_name`."""
    return Column(name=name, dtype=dtype, fill=-1, attributes={"long_name": meaning}, optional=optional)


def _float_column(name: str, meaning: str, units: str) -> Column:
    """Return the specification of a float64 column with fill value NaN; optional if named `base_...`."""
    optional = name.startswith("base_")  # early writers had no scores without the adapter
    attributes = {"long_name": meaning, "units": units}
    return Column(name=name, dtype="float64", fill=np.nan, attributes=attributes, optional=optional)


def _score_columns(prefix: str, which: str) -> tuple[Column, ...]:
    """Return the columns of a sample's scores; `prefix` is `base_` for scores without the adapter, else empty."""
    best = "choice with the highest log-likelihood"
    counts = (
        ("prediction", f"{best} {which}; -1 for text", "int16"),
        ("prediction_per_token", f"{best} per token {which}; -1 for text", "int16"),
        ("correct", "1 where prediction is the answer, 0 where not, -1 for text", "int8"),
        ("correct_per_token", "the same for prediction_per_token", "int8"),
    )
    return (
        *(_integer_column(prefix + name, meaning, dtype, optional=bool(prefix)) for name, meaning, dtype in counts),
        _float_column(f"{prefix}ce", f"mean negative log-likelihood of the answer's tokens {which}", "nat/token"),
    )


def _answer_columns(prefix: str, which: str) -> tuple[Column, ...]:
    """Return the columns of a sample's written answer; `prefix` is `base_` for that without the adapter, else empty."""
    text = f"what the model {which} wrote greedily as its answer; empty for text"
    choice = "choice that was read in it; -1 where none was, and for text"
    correct = "1 where written_prediction is the answer, 0 where not, -1 for text"
    return (
        _text_column(f"{prefix}written", text, optional=True),
        _integer_column(f"{prefix}written_prediction", choice, "int16", optional=True),
        _integer_column(f"{prefix}written_correct", correct, "int8", optional=True),
    )


_N_TARGETS = _integer_column(
    "n_targets", "tokens that `ce` is the mean over: the answer's, a text's or the assistant's", optional=True
)
TOKEN_TEXT = _text_column("text", "the token's own text, as the tokenizer decodes it alone", optional=True)
TOKEN_WEIGHT = Column(
    name="weight",
    dtype="float32",
    fill=np.nan,
    attributes={
        "long_name": "inverse of the probability that the token was taken into the run: means and sums over tokens "
        "that are weighted by it are unbiased",
        "units": "1",
    },
    optional=True,
)

TABLES: Mapping[str, tuple[Column, ...]] = {
    "samples": (
        _text_column("id", "name of the sample in its data set"),
        _text_column("dataset", "data set"),
        _text_column("split", "split of the data set"),
        _text_column("prompt", "name of the prompt, or `text`"),
        _integer_column("length", "tokens of the whole sequence that the model read"),
        _integer_column("answer", "index of the right choice; -1 for text", "int16"),
        _N_TARGETS,
        *_score_columns("", "with the adapter"),
        *_score_columns("base_", "without the adapter"),
        *_answer_columns("", "with the adapter"),
        *_answer_columns("base_", "without the adapter"),
        _integer_column("token_start", "first of the sample's captured tokens on the token axis", "int64"),
        _integer_column("token_stop", "one past the last of them", "int64"),
    ),
    "choices": (
        _integer_column("sample", "index of the sample", "int64"),
        _text_column("text", "the choice"),
        _integer_column("n_tokens", "tokens of the choice"),
        _float_column("loglik", "log-likelihood with the adapter, summed over the choice's tokens", "nat"),
        _float_column("loglik_per_token", "loglik / n_tokens", "nat/token"),
        _float_column("base_loglik", "log-likelihood without the adapter", "nat"),
        _float_column("base_loglik_per_token", "base_loglik / n_tokens", "nat/token"),
    ),
    "tokens": (
        _integer_column("sample", "index of the sample", "int64"),
        _integer_column("position", "place in the sample's sequence, from 0"),
        _integer_column("token_id", "id in the tokenizer's vocabulary"),
        Column(
            name="role",
            dtype="int8",
            fill=-1,
            attributes={
                "long_name": "what the token is there for",
                "flag_values": list(range(len(ROLES))),
                "flag_meanings": " ".join(ROLES),
            },
        ),
        TOKEN_TEXT,
        TOKEN_WEIGHT,
        Column(
            name="nll",
            dtype="float32",
            fill=np.nan,
            attributes={
                "long_name": "negative log-likelihood of the token given those before it, in the stream's own pass; "
                "NaN for the first of a sequence",
                "units": "nat",
            },
            by_row=True,
        ),
    ),
    "components": (
        _text_column("path", "module path in the plain model"),
        _text_column("kind", "last name of the path"),
        _integer_column("layer", "index of the decoder layer; -1 outside of one"),
        _integer_column("d_in", "features that come in"),
        _integer_column("d_out", "features that go out"),
        _text_column("dtype", "type in which the layer put its output out"),
        _text_column("stored_dtype", "type in which base is stored"),
        _text_column("fused", "row ranges of a fused projection as JSON, [[name, start, stop], ...]"),
    ),
}
"""Table -> columns, in the order of the specification."""


def is_base_column(path: str) -> bool:
    """Return whether the column at `path` has scores or answers of the model without the adapter."""
    return path.startswith(("samples/base_", "choices/base_"))


def is_answer_column(path: str) -> bool:
    """Return whether the column at `path` has the model's written answers, with or without the adapter."""
    return path.startswith(("samples/written", "samples/base_written"))


def is_base_score_column(path: str) -> bool:
    """Return whether the column at `path` has scores without the adapter; early writers wrote no chunk of these."""
    return is_base_column(path) and not is_answer_column(path)
