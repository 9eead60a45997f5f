"""Runs that hold states of one's own making: base and delta of each component, as they are given."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from lorascope.stores import Adapter, Component, Run, RunSpec, create_run, open_run
from lorascope.stores.format.tables import N_DRAWS, N_LARGEST

__all__ = [
    "change_arrays",
    "sample_tables",
    "store_changes",
    "store_factors",
    "store_gradients",
    "store_replies",
    "store_states",
]


def store_states(
    path: Path,
    states: Mapping[str, tuple[np.ndarray, np.ndarray]],
    *,
    lengths: Sequence[int],
    d_in: int = 8,
    rank: int = 2,
    datasets: Sequence[str] = (),
    provenance: Mapping[str, Any] | None = None,
) -> Run:
    """A finished run of these (base, delta), float32 (token, feature) each; samples have these `lengths` in tokens.

    `datasets` are those of the samples.
    """
    components = tuple(
        Component(
            path=name,
            kind=name.rpartition(".")[2],
            layer=0,
            d_in=d_in,
            d_out=base.shape[1],
            dtype="float32",
            stored_dtype="float32",
        )
        for name, (base, _) in states.items()
    )
    n = len(components)
    adapter = Adapter(name="default", rank=(rank,) * n, scaling=(1.0,) * n, factored=(False,) * n)
    spec = RunSpec(
        stream="adapted",
        components=components,
        adapters=(adapter,),
        n_tokens=sum(lengths),
        n_samples=len(lengths),
        n_choices=0,
        token_text=False,
        attributes={"provenance": dict(provenance or {})},
    )
    arrays = {f"states/{name}/base": base for name, (base, _) in states.items()}
    arrays |= {f"adapters/default/delta/{name}": delta for name, (_, delta) in states.items()}
    return _stored(path, spec, sample_tables(lengths, datasets or ["made"] * len(lengths)), {}, arrays)


def store_factors(
    path: Path,
    factors: Mapping[str, np.ndarray],
    lora_B: Mapping[str, np.ndarray],
    *,
    lengths: Sequence[int],
    bases: Mapping[str, np.ndarray] | None = None,
    ids: np.ndarray | None = None,
    provenance: Mapping[str, Any] | None = None,
) -> Run:
    """A finished run of these z (token, rank) and B (feature, rank) by component, whose base is 0 unless it is given.

    Where tokens have `ids`, the text of each is ` t` and its id.
    """
    components = tuple(
        Component(
            path=name, kind=name.rpartition(".")[2], layer=0, d_in=8, d_out=len(lora_B[name]), dtype="float32",
            stored_dtype="float32",
        )
        for name in factors
    )  # fmt: skip
    n, ranks = len(components), tuple(z.shape[1] for z in factors.values())
    spec = RunSpec(
        stream="adapted",
        components=components,
        adapters=(Adapter(name="default", rank=ranks, scaling=(1.0,) * n, factored=(True,) * n),),
        n_tokens=sum(lengths),
        n_samples=len(lengths),
        n_choices=0,
        token_text=ids is not None,
        attributes={"provenance": dict(provenance or {})},
    )
    tables = sample_tables(lengths, ["made"] * len(lengths))
    if ids is not None:
        tables["tokens"] |= {"token_id": ids, "text": [f" t{token_id}" for token_id in ids]}
    weights = {f"adapters/default/lora_B/{name}": values.astype(np.float32) for name, values in lora_B.items()}
    arrays = {f"states/{c.path}/base": np.zeros((spec.n_tokens, c.d_out)) for c in components}
    arrays |= {f"states/{name}/base": base for name, base in (bases or {}).items()}
    arrays["adapters/default/factor"] = np.concatenate(list(factors.values()), axis=1)
    return _stored(path, spec, tables, weights, arrays)


def store_gradients(
    path: Path, gradients: Mapping[str, np.ndarray], *, provenance: Mapping[str, Any] | None = None
) -> Run:
    """A finished run without states, of 4 tokens a sample, with these gradients (sample, direction) by component."""
    components = tuple(
        Component(
            path=name, kind=name.rpartition(".")[2], layer=0, d_in=8, d_out=8, dtype="float32", stored_dtype="float32"
        )
        for name in gradients
    )
    n, table, ranks = (
        len(components),
        np.concatenate(list(gradients.values()), axis=1),
        [g.shape[1] for g in gradients.values()],
    )
    adapter = Adapter(
        name="default", rank=tuple(ranks), scaling=(1.0,) * n, factored=(True,) * n, importance=table.shape
    )
    spec = RunSpec(
        stream="adapted", components=components, adapters=(adapter,), n_tokens=4 * len(table), n_samples=len(table),
        n_choices=0, states="none", token_text=False, attributes={"provenance": dict(provenance or {})},
    )  # fmt: skip
    columns = {
        "gradient": table.astype(np.float32),
        "sample": np.arange(len(table)),
        "draw": np.zeros(len(table), int),
        "n_tokens": np.full(len(table), 4),
        "component": np.repeat(np.arange(n), ranks),
        "direction": np.concatenate([np.arange(rank) for rank in ranks]),
        "singular_value": np.ones(table.shape[1], np.float32),
    }
    weights = {f"adapters/default/importance/{name}": values for name, values in columns.items()}
    lengths = [4] * len(table)
    return _stored(path, spec, sample_tables(lengths, ["made"] * len(table)), weights, {})


def change_arrays(adapted: np.ndarray, base: np.ndarray, seed: int = 0) -> dict[str, np.ndarray]:
    """What a run keeps of these next-token distributions, float64 (token, vocabulary) > 0, by name; nll are NaN.

    The draws are seeded here, so they aren't those that a capture of the same distributions would make.
    """
    n, width = base.shape
    arrays: dict[str, np.ndarray] = {"kl_adapted_base": (adapted * np.log(adapted / base)).sum(1)}
    for name, terms in (("gain", adapted * np.log(adapted / base)), ("loss", base * np.log(base / adapted))):
        order = np.argsort(-terms, axis=1, kind="stable")[:, :N_LARGEST]
        largest = np.take_along_axis(terms, order, axis=1)
        arrays[name], arrays[f"{name}_token"] = np.full((n, N_LARGEST), np.nan), np.full((n, N_LARGEST), -1)
        arrays[name][:, : order.shape[1]] = np.where(largest > 0, largest, np.nan)
        arrays[f"{name}_token"][:, : order.shape[1]] = np.where(largest > 0, order, -1)
    uniform = np.random.default_rng(seed).random((n, N_DRAWS))
    for name, p in (("adapted", adapted), ("base", base)):
        arrays[f"{name}_choice"], arrays[f"{name}_choice_p"] = p.argmax(1), p.max(1)
        drawn = [np.searchsorted(np.cumsum(row), u, side="right") for row, u in zip(p, uniform, strict=True)]
        arrays[f"{name}_draw"] = np.minimum(drawn, width - 1)
        arrays[f"{name}_nll"] = np.full(n, np.nan)
    return arrays


def store_changes(
    path: Path,
    adapted: np.ndarray,
    base: np.ndarray,
    *,
    lengths: Sequence[int],
    ids: np.ndarray,
    texts: Sequence[str],
    measured: np.ndarray | None = None,
    datasets: Sequence[str] = (),
    seed: int = 0,
    tables: Mapping[str, Mapping[str, Any]] | None = None,
    provenance: Mapping[str, Any] | None = None,
) -> Run:
    """A finished run (states `none`) of these next-token distributions, float64 (token, vocabulary) > 0.

    `lengths` are those of the samples, `ids` the token ids, `texts` the text of each id, `measured` the tokens whose
    changes are stored (all by default); `tables` replace columns, such as `{"tokens": {"role": ...}}`.
    """
    component = Component(
        path="layers.0.q", kind="q", layer=0, d_in=8, d_out=8, dtype="float32", stored_dtype="float32"
    )
    spec = RunSpec(
        stream="adapted",
        components=(component,),
        adapters=(Adapter(name="default", rank=(2,), scaling=(1.0,), factored=(True,)),),
        n_tokens=sum(lengths),
        n_samples=len(lengths),
        n_choices=0,
        states="none",
        kl=True,
        n_vocabulary=len(texts),
        attributes={"provenance": dict(provenance or {})},
    )
    columns = sample_tables(lengths, datasets or ["made"] * len(lengths))
    columns["tokens"] |= {"token_id": ids, "text": [texts[index] for index in ids]}
    columns = {table: {**values, **(tables or {}).get(table, {})} for table, values in columns.items()}
    arrays = {f"adapters/default/changes/{name}": values for name, values in change_arrays(adapted, base, seed).items()}
    arrays["adapters/default/kl"] = (base * np.log(base / adapted)).sum(1)
    for values in arrays.values() if measured is not None else ():
        values[~np.asarray(measured)] = -1 if values.dtype.kind == "i" else np.nan
    arrays |= {name: np.ones((spec.n_tokens, 1)) for name in ("reductions/base_norm", "reductions/effective_width")}
    arrays |= {f"adapters/default/{name}": np.ones((spec.n_tokens, 1)) * 0.1 for name in ("js", "delta_norm")}
    starts = np.isin(np.arange(spec.n_tokens), np.cumsum([0, *lengths]))
    arrays["tokens/nll"] = np.where(starts, np.nan, 1.0)
    return _stored(path, spec, columns, {"vocabulary/text": np.array(texts, object)}, arrays)


def store_replies(
    path: Path,
    replies: Mapping[str, Sequence[str]],
    *,
    is_complete: bool | np.ndarray = True,
    adapters: Sequence[str] = ("default",),
    logliks: np.ndarray | None = None,
) -> Run:
    """A finished run (states `none`) with these replies: prompt -> texts at 0, 1, 1.5 and 2 times the scale.

    A word is a token; `logliks` (reply, scale) are -1 by default.
    """
    component = Component(
        path="layers.0.q", kind="q", layer=0, d_in=8, d_out=8, dtype="float32", stored_dtype="float32"
    )
    n = 4 * len(replies)
    spec = RunSpec(
        stream="base",
        components=(component,),
        adapters=tuple(Adapter(name=name, rank=(2,), scaling=(1.0,), factored=(True,)) for name in adapters),
        n_tokens=3,
        n_samples=1,
        n_choices=0,
        n_replies=n,
        states="none",
        token_text=False,
        attributes={"provenance": {}},
    )
    texts = [text for own in replies.values() for text in own]
    values = -np.ones((n, 4)) if logliks is None else logliks
    columns = {
        "prompt": np.repeat(np.array(list(replies), object), 4),
        "scale": np.resize([0, 1, 1.5, 2], n),
        "text": np.array(texts, object),
        "n_tokens": [max(len(text.split()), 1) for text in texts],
        "is_complete": np.full(n, is_complete),
        **{f"loglik_{scale}": column for scale, column in zip(("0", "1", "1_5", "2"), values.T, strict=True)},
    }
    weights: Any = {f"adapters/{name}/replies/{key}": own for name in adapters for key, own in columns.items()}
    arrays = {name: np.ones((3, 1)) for name in ("reductions/base_norm", "reductions/effective_width")}
    arrays |= {f"adapters/{name}/{key}": np.full((3, 1), 0.1) for name in adapters for key in ("js", "delta_norm")}
    arrays["tokens/nll"] = np.array([np.nan, 1, 1])
    return _stored(path, spec, sample_tables([3], ["made"]), weights, arrays)


def _stored(
    path: Path, spec: RunSpec, tables: Any, weights: Mapping[str, np.ndarray], arrays: Mapping[str, np.ndarray]
) -> Run:
    """The run of these arrays (token, ...); what else it has by token is NaN."""
    with pytest.MonkeyPatch.context() as patch, create_run(path, spec, tables=tables, weights=weights) as writer:
        patch.setattr("os.fsync", lambda descriptor: None)  # the slowest part, and no test cuts the power
        for row in range(spec.n_rows):
            tokens = writer.row_tokens(row)
            blocks = {
                key: np.full((tokens.stop - tokens.start, *shape[1:]), np.nan if dtype.kind == "f" else -1, dtype)
                for key, (shape, dtype) in writer.row_arrays(row).items()
            }
            given = {key: values[tokens].astype(blocks[key].dtype) for key, values in arrays.items()}
            writer.write_row(row, blocks | given)
        writer.finish({})
    return open_run(path)


def sample_tables(lengths: Sequence[int], datasets: Sequence[str]) -> dict[str, dict[str, object]]:
    """Tables of samples of text with these lengths in tokens."""
    n, n_tokens, stops = len(lengths), sum(lengths), np.cumsum(lengths)
    unknown = [-1] * n
    return {
        "samples": {
            "id": [f"s{i}" for i in range(n)],
            "dataset": list(datasets),
            "split": ["test"] * n,
            "prompt": ["text"] * n,
            "length": list(lengths),
            "answer": unknown,
            "prediction": unknown,
            "prediction_per_token": unknown,
            "correct": unknown,
            "correct_per_token": unknown,
            "ce": [np.nan] * n,
            "token_start": stops - lengths,
            "token_stop": stops,
        },
        "choices": {name: [] for name in ("sample", "text", "n_tokens", "loglik", "loglik_per_token")},
        "tokens": {
            "sample": np.repeat(np.arange(n), lengths),
            "position": np.concatenate([np.arange(length) for length in lengths]),
            "token_id": np.arange(n_tokens),
            "role": np.full(n_tokens, 4),
        },
    }
