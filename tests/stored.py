"""Runs that hold states of one's own making: base and delta of each component, as they are given."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from lorascope.stores import Adapter, Component, Run, RunSpec, create_run, open_run

__all__ = ["sample_tables", "store_factors", "store_states"]


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


def _stored(
    path: Path, spec: RunSpec, tables: Any, weights: Mapping[str, np.ndarray], arrays: Mapping[str, np.ndarray]
) -> Run:
    """The run of these arrays (token, ...); what else it has by token is NaN."""
    with pytest.MonkeyPatch.context() as patch, create_run(path, spec, tables=tables, weights=weights) as writer:
        patch.setattr("os.fsync", lambda descriptor: None)  # the slowest part, and no test cuts the power
        for row in range(spec.n_rows):
            tokens = writer.row_tokens(row)
            blocks = {
                key: np.full((tokens.stop - tokens.start, *shape[1:]), np.nan, dtype)
                for key, (shape, dtype) in writer.row_arrays(row).items()
            }
            writer.write_row(row, blocks | {key: values[tokens].astype(np.float32) for key, values in arrays.items()})
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
