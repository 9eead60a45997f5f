"""Columns of a run's tables: samples, choices, tokens and components."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from .spec import MAX_COMPONENTS

ROLES = (
    *("prompt", "choice", "answer", "generated", "text"),
    *("system", "user", "assistant", "tool", "template"),  # of a chat
)
"""Roles of tokens; `tokens/role` stores the index in this tuple."""
MAX_FLOAT32 = float(np.finfo(np.float32).max)
"""Largest finite float32."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Column:
    """Specification of a table's column, a one-dimensional array of the store: name, dtype, fill and allowed values."""

    name: str
    dtype: str
    fill: int | float | str
    low: float | None = None
    """Smallest allowed value; None if any is allowed, NaN included, which is outside of every range."""
    high: float | str = np.inf
    """Largest allowed value; the name of a table stands for the index of its last entry."""
    attributes: Mapping[str, object] = field(default_factory=dict)
    by_row: bool = False
    """Whether it is measured by the forward pass, so written row by row; else it is known before."""
    optional: bool = False
    """Whether it may be missing, since it wasn't asked for or older writers didn't know it."""
    axis: tuple[tuple[str, int], ...] = ()
    """Names and lengths of its further axes."""


def _text_column(name: str, meaning: str, *, optional: bool = False) -> Column:
    """Return the specification of a text column with empty fill value; `meaning` becomes its `long_name`."""
    return Column(name=name, dtype="string", fill="", attributes={"long_name": meaning}, optional=optional)


def _integer_column(
    name: str, meaning: str, dtype: str = "int32", *, low: int = 0, high: float | str = np.inf, optional: bool = False
) -> Column:
    """Return the specification of an integer column with fill value -1; `meaning` becomes its `long_name`."""
    attributes = {"long_name": meaning}
    return Column(name=name, dtype=dtype, fill=-1, low=low, high=high, attributes=attributes, optional=optional)


def _float_column(name: str, meaning: str, units: str = "", dtype: str = "float32", **more: Any) -> Column:
    """Return the specification of a float column with fill value NaN; `meaning` becomes its `long_name`.

    `more` are further fields of `Column`.
    """
    attributes = {"long_name": meaning, **({"units": units} if units else {})}
    return Column(name=name, dtype=dtype, fill=np.nan, attributes=attributes, **more)


def _score_column(name: str, meaning: str, units: str) -> Column:
    """Return the specification of a float64 column of scores; optional if named `base_...`."""
    # Early writers had no scores without the adapter.
    return _float_column(name, meaning, units, "float64", optional=name.startswith("base_"))


def _score_columns(prefix: str, which: str) -> tuple[Column, ...]:
    """Return the columns of a sample's scores; `prefix` is `base_` for scores without the adapter, else empty."""
    best = "choice with the highest log-likelihood"
    counts: tuple[tuple[str, str, str, float | str], ...] = (
        ("prediction", f"{best} {which}; -1 for text", "int16", "choices"),
        ("prediction_per_token", f"{best} per token {which}; -1 for text", "int16", "choices"),
        ("correct", "1 where prediction is the answer, 0 where not, -1 for text", "int8", 1),
        ("correct_per_token", "the same for prediction_per_token", "int8", 1),
    )
    return (
        *(
            _integer_column(prefix + name, meaning, dtype, low=-1, high=high, optional=bool(prefix))
            for name, meaning, dtype, high in counts
        ),
        _score_column(f"{prefix}ce", f"mean negative log-likelihood of the answer's tokens {which}", "nat/token"),
    )


def _answer_columns(prefix: str, which: str) -> tuple[Column, ...]:
    """Return the columns of a sample's written answer; `prefix` is `base_` for that without the adapter, else empty."""
    text = f"what the model {which} wrote greedily as its answer; empty for text"
    choice = "choice that was read in it; -1 where none was, and for text"
    correct = "1 where written_prediction is the answer, 0 where not, -1 for text"
    return (
        _text_column(f"{prefix}written", text, optional=True),
        _integer_column(f"{prefix}written_prediction", choice, "int16", low=-1, high="choices", optional=True),
        _integer_column(f"{prefix}written_correct", correct, "int8", low=-1, high=1, optional=True),
    )


_N_TARGETS = _integer_column(
    "n_targets", "tokens that `ce` is the mean over: the answer's, a text's or the assistant's", optional=True
)
TOKEN_TEXT = _text_column("text", "the token's own text, as the tokenizer decodes it alone", optional=True)
TOKEN_WEIGHT = _float_column(
    "weight",
    "inverse of the probability that the token was taken into the run: means and sums over tokens that are weighted by "
    "it are unbiased",
    "1",
    low=float(np.finfo(np.float32).tiny),
    high=MAX_FLOAT32,
    optional=True,
)

TABLES: Mapping[str, tuple[Column, ...]] = {
    "samples": (
        _text_column("id", "name of the sample in its data set"),
        _text_column("dataset", "data set"),
        _text_column("split", "split of the data set"),
        _text_column("prompt", "name of the prompt, or `text`"),
        _integer_column("length", "tokens of the whole sequence that the model read", low=1),
        _integer_column("answer", "index of the right choice; -1 for text", "int16", low=-1, high="choices"),
        _N_TARGETS,
        *_score_columns("", "with the adapter"),
        *_score_columns("base_", "without the adapter"),
        *_answer_columns("", "with the adapter"),
        *_answer_columns("base_", "without the adapter"),
        _integer_column("token_start", "first of the sample's captured tokens on the token axis", "int64"),
        _integer_column("token_stop", "one past the last of them", "int64"),
    ),
    "choices": (
        _integer_column("sample", "index of the sample", "int64", high="samples"),
        _text_column("text", "the choice"),
        _integer_column("n_tokens", "tokens of the choice"),
        _score_column("loglik", "log-likelihood with the adapter, summed over the choice's tokens", "nat"),
        _score_column("loglik_per_token", "loglik / n_tokens", "nat/token"),
        _score_column("base_loglik", "log-likelihood without the adapter", "nat"),
        _score_column("base_loglik_per_token", "base_loglik / n_tokens", "nat/token"),
    ),
    "tokens": (
        _integer_column("sample", "index of the sample", "int64", high="samples"),
        _integer_column("position", "place in the sample's sequence, from 0"),
        _integer_column("token_id", "id in the tokenizer's vocabulary"),
        Column(
            name="role",
            dtype="int8",
            fill=-1,
            low=-1,
            high=len(ROLES) - 1,
            attributes={
                "long_name": "what the token is there for",
                "flag_values": list(range(len(ROLES))),
                "flag_meanings": " ".join(ROLES),
            },
        ),
        TOKEN_TEXT,
        TOKEN_WEIGHT,
        _float_column(
            "nll",
            "negative log-likelihood of the token given those before it, in the stream's own pass; NaN for the first "
            "of a sequence",
            "nat",
            by_row=True,
        ),
    ),
    "components": (
        _text_column("path", "module path in the plain model"),
        _text_column("kind", "last name of the path"),
        _integer_column("layer", "index of the decoder layer; -1 outside of one", low=-1, high=MAX_COMPONENTS - 1),
        _integer_column("d_in", "features that come in", low=1),
        _integer_column("d_out", "features that go out", low=1),
        _text_column("dtype", "type in which the layer put its output out"),
        _text_column("stored_dtype", "type in which base is stored"),
        _text_column("fused", "row ranges of a fused projection as JSON, [[name, start, stop], ...]"),
    ),
}
"""Table -> columns, in the order of the specification."""
ADAPTER_COLUMNS = (
    _integer_column("rank", "rank of the adapter at this component; 0 where it leaves it alone"),
    _float_column("scaling", "delta = scaling * B A x", dtype="float64"),
    _integer_column(
        "factor_start", "first column of this component's z in `factor`; -1 where delta is stored", "int64", low=-1
    ),
    _text_column(
        "delta_source",
        "where delta comes from: factor, the adapter's own branch, or the difference of output and base",
        optional=True,
    ),
)
"""Values that an adapter has for each component."""
REPLY_SCALES = (0.0, 1.0, 1.5, 2.0)
"""Factors on an adapter's scaling with which a model replies to prompts; 0 is the model without the adapter."""
REPLY_COLUMNS = (
    _text_column("prompt", "what the model was asked, or the text that it continued"),
    _float_column(
        "scale",
        "factor on the adapter's scaling while the reply was written; 0 without the adapter",
        low=0,
        high=max(REPLY_SCALES),
    ),
    _text_column("text", "reply that was written greedily, without special tokens"),
    _integer_column("n_tokens", "tokens of the reply, with the one that ends it"),
    _integer_column(
        "is_complete", "1 where the reply ends with a token that ends a text, 0 where it was cut", "int8", high=1
    ),
    *(
        _float_column(
            f"loglik_{scale:g}".replace(".", "_"),
            f"log-likelihood at {scale:g} times the adapter's scaling, summed over the tokens",
            "nat",
            low=-MAX_FLOAT32,
            high=0,
        )
        for scale in REPLY_SCALES
    ),
)
"""Columns of the table of an adapter's replies to prompts, one entry per prompt and scale."""
IMPORTANCE_COLUMNS = {
    "pass": (
        _integer_column("sample", "index of the sample that the pass read", high="samples"),
        _integer_column("draw", "number of the draw of labels in its sample"),
        _integer_column("n_tokens", "places of the pass at which a label was drawn", low=1),
    ),
    "direction": (
        _integer_column("component", "index of the component", high="components"),
        _integer_column(
            "direction",
            "number of the singular direction of scaling * B A, by descending singular value; -1 for a bias of "
            "lora_B, 0 for the whole of a delta that isn't factored",
            low=-1,
        ),
        _float_column(
            "singular_value",
            "singular value of scaling * B A in this direction; Euclidean norm of a bias times scaling; NaN for a "
            "delta that isn't factored",
        ),
    ),
}
"""Axis of an adapter's gradients -> what is stored of each entry along it."""
NULL_COLUMNS = tuple(
    _float_column(name, f"{meaning}; NaN for samples that weren't read", units)
    for name, units, meaning in (
        ("miub", "nat", "js of the variant in the run's stream, summed over components, mean over a sample's tokens"),
        ("kl", "nat/token", "KL(base || variant) of the next token's distribution, mean over a sample's tokens"),
        ("ce_change", "nat/token", "cross-entropy of the tokens to predict, with the variant minus without an adapter"),
    )
)
"""Values that each variant of an adapter, itself and its nulls, has in each sample."""
ROW_STATES = Column(
    name="states",
    dtype="uint8",
    fill=0,
    low=0,
    high=1,
    attributes={"long_name": "1 where the row keeps states, factor and delta; 0 where it keeps reductions alone"},
)
N_LARGEST = 20
"""Number of tokens that gain most, and of tokens that lose most, which are stored after each token."""
N_DRAWS = 8
"""Number of tokens that are drawn from each next-token distribution."""


def _change_column(name: str, units: str, meaning: str, *axis: tuple[str, int]) -> Column:
    """Return a column of `changes`, measured after each token: token ids, int32, if `units` is empty, else float32."""
    if not units:
        column = _integer_column(name, f"{meaning}; -1 where it wasn't measured", low=-1, high="vocabulary")
        return replace(column, by_row=True, axis=axis)
    return _float_column(name, f"{meaning}; NaN where it wasn't measured", units, by_row=True, axis=axis)


_LARGEST, _DRAW = ("largest", N_LARGEST), ("draw", N_DRAWS)
CHANGE_COLUMNS = tuple(
    _change_column(*row)
    for row in (
        ("gain_token", "", "token ids with the largest p log(p / q), descending; -1 where fewer are above 0", _LARGEST),
        ("loss_token", "", "token ids with the largest q log(q / p), descending; -1 where fewer are above 0", _LARGEST),
        ("adapted_choice", "", "token id that is likeliest under P"),
        ("base_choice", "", "token id that is likeliest under Q"),
        ("adapted_draw", "", "token ids drawn from P, by the same uniform numbers as base_draw", _DRAW),
        ("base_draw", "", "token ids drawn from Q, by the same uniform numbers as adapted_draw", _DRAW),
        ("kl_adapted_base", "nat", "Kullback-Leibler divergence KL(P || Q), the sum of p log(p / q) over token ids"),
        ("gain", "nat", "p log(p / q) of gain_token", _LARGEST),
        ("loss", "nat", "q log(q / p) of loss_token", _LARGEST),
        ("adapted_choice_p", "1", "probability of adapted_choice under P"),
        ("base_choice_p", "1", "probability of base_choice under Q"),
        ("adapted_nll", "nat", "negative log-likelihood of the token itself given those before it, with the adapter"),
        ("base_nll", "nat", "negative log-likelihood of the token itself given those before it, without the adapter"),
    )
)
"""Values that an adapter has after each token: how the next token's distribution changes from Q without it to P."""
VOCABULARY_TEXT = _text_column("text", "text of each token id, as the tokenizer decodes it alone")


def find_column(path: str) -> Column | None:
    """Return the specification of the column that is stored at `path`; None for an array of another kind."""
    table, _, name = path.rpartition("/")
    columns = {**TABLES, "rows": (ROW_STATES,)}.get(table, ())
    if table.startswith("adapters/"):
        importance = (*IMPORTANCE_COLUMNS["pass"], *IMPORTANCE_COLUMNS["direction"])
        folders = {"": ADAPTER_COLUMNS, "changes": CHANGE_COLUMNS, "importance": importance, "replies": REPLY_COLUMNS}
        folders["nulls"] = NULL_COLUMNS
        columns = folders.get("/".join(table.split("/")[2:]), ())
    return next((column for column in columns if column.name == name), None)


def is_base_column(path: str) -> bool:
    """Return whether the column at `path` has scores or answers of the model without the adapter."""
    return path.startswith(("samples/base_", "choices/base_"))


def is_answer_column(path: str) -> bool:
    """Return whether the column at `path` has the model's written answers, with or without the adapter."""
    return path.startswith(("samples/written", "samples/base_written"))


def is_base_score_column(path: str) -> bool:
    """Return whether the column at `path` has scores without the adapter; early writers wrote no chunk of these."""
    return is_base_column(path) and not is_answer_column(path)
