"""Runs of random states at real widths, written as capture writes them, for the benchmarks of analysis."""

from pathlib import Path

import numpy as np

from lorascope.stores import Adapter, Component, RunSpec, create_run
from lorascope.stores.format.spec import ROW_TOKENS

__all__ = ["random_spec", "random_weights", "token_tables", "write_run"]

RANK = 8
SAMPLE_TOKENS = 256


def random_spec(*, width: int, n_components: int, n_tokens: int, rank: int = RANK, token_text: bool = False) -> RunSpec:
    """Specification of a bfloat16 run whose components share one width, seven in a layer."""
    components = tuple(
        Component(
            path=f"model.layers.{i // 7}.part_{i % 7}",
            kind=f"part_{i % 7}",
            layer=i // 7,
            d_in=64,
            d_out=width,
            dtype="bfloat16",
            stored_dtype="bfloat16",
        )
        for i in range(n_components)
    )
    adapter = Adapter(
        name="default", rank=(rank,) * n_components, scaling=(2.0,) * n_components, factored=(True,) * n_components
    )
    return RunSpec(
        stream="adapted",
        components=components,
        adapters=(adapter,),
        n_tokens=n_tokens,
        n_samples=n_tokens // SAMPLE_TOKENS,
        n_choices=0,
        token_text=token_text,
        attributes={"fingerprint": "0" * 64, "provenance": {}},
    )


def random_weights(spec: RunSpec, rng: np.random.Generator) -> dict[str, np.ndarray]:
    """lora_B of every component, random."""
    return {
        f"adapters/default/lora_B/{c.path}": rng.normal(size=(c.d_out, rank), scale=0.02).astype(np.float32)
        for c, rank in zip(spec.components, spec.adapters[0].rank, strict=True)
    }


def write_run(path: Path, *, width: int, n_components: int, n_rows: int, rank: int = RANK, fresh: bool = False) -> Path:
    """A finished run of a `random_spec`.

    Each feature has a mean and a deviation of its own, as activations have; delta is some 5 % of base. Blocks repeat
    from component to component and from row to row, each time rolled by one token: what is read differs everywhere, and
    20 GB are written in minutes. With `fresh`, no z occurs twice.
    """
    rng = np.random.default_rng(width)
    spec = random_spec(width=width, n_components=n_components, n_tokens=n_rows * ROW_TOKENS, rank=rank)
    weights = random_weights(spec, rng)
    scale = np.exp(0.5 * rng.standard_normal(width))
    base = rng.standard_normal(width) + scale * rng.standard_normal((ROW_TOKENS, width))
    bits = (base.astype(np.float32).view(np.uint32) >> 16).astype(np.uint16)
    factor = rng.standard_normal((ROW_TOKENS, rank * n_components), np.float32)
    with create_run(path, spec, tables=token_tables(spec.n_tokens), weights=weights) as writer:
        for row in range(n_rows):
            blocks: dict[str, np.ndarray] = {
                key: np.full((ROW_TOKENS, *shape[1:]), np.nan, dtype) for key, (shape, dtype) in small(writer, row)
            }
            blocks["adapters/default/factor"] = (
                rng.standard_normal(factor.shape, np.float32) if fresh else np.roll(factor, row, axis=0)
            )
            for index, component in enumerate(spec.components):
                blocks[f"states/{component.path}/base"] = np.roll(bits, row + 31 * index, axis=0)
            writer.write_row(row, blocks)
        writer.finish({})
    return path


def small(writer: object, row: int) -> list[tuple[str, tuple[tuple[int, ...], np.dtype]]]:
    """Arrays of a row that hold numbers by token, not states."""
    arrays = writer.row_arrays(row)  # type: ignore[attr-defined]
    return [(key, value) for key, value in arrays.items() if value[1] == np.float32 and not key.endswith("factor")]


def token_tables(n_tokens: int) -> dict[str, dict[str, object]]:
    """Tables of samples of `SAMPLE_TOKENS` tokens each, without choices, scores and texts."""
    n_samples = n_tokens // SAMPLE_TOKENS
    unknown = [-1] * n_samples
    return {
        "samples": {
            "id": [f"s{i}" for i in range(n_samples)],
            "dataset": ["synthetic"] * n_samples,
            "split": ["test"] * n_samples,
            "prompt": ["text"] * n_samples,
            "length": [SAMPLE_TOKENS] * n_samples,
            "answer": unknown,
            "prediction": unknown,
            "prediction_per_token": unknown,
            "correct": unknown,
            "correct_per_token": unknown,
            "ce": [np.nan] * n_samples,
            "token_start": np.arange(n_samples) * SAMPLE_TOKENS,
            "token_stop": (np.arange(n_samples) + 1) * SAMPLE_TOKENS,
        },
        "choices": {name: [] for name in ("sample", "text", "n_tokens", "loglik", "loglik_per_token")},
        "tokens": {
            "sample": np.repeat(np.arange(n_samples), SAMPLE_TOKENS),
            "position": np.tile(np.arange(SAMPLE_TOKENS), n_samples),
            "token_id": np.zeros(n_tokens, np.int64),
            "role": np.full(n_tokens, 4),
        },
    }
