"""A run of a few kB, made from random numbers: every stream, several adapters, with and without states."""

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from lorascope.stores import Adapter, Component, RunSpec, RunWriter, create_run
from lorascope.stores.format.spec import ROW_TOKENS

WIDTHS = (12, 20, 6)


@dataclass
class SmallRun:
    """What went into a run, to be compared with what comes out."""

    path: Path
    spec: RunSpec
    writer: RunWriter
    blocks: dict[int, dict[str, np.ndarray]]
    weights: dict[str, np.ndarray]
    tables: dict[str, dict[str, Any]]

    def whole(self, path: str) -> np.ndarray:
        return np.concatenate([self.blocks[row][path] for row in range(self.spec.n_rows)])


def make_components(dtypes: tuple[str, ...]) -> tuple[Component, ...]:
    return tuple(
        Component(
            path=f"model.layers.{i}.mlp.up_proj",
            kind="up_proj",
            layer=i,
            d_in=8,
            d_out=width,
            dtype=dtype,
            stored_dtype=dtype,
            fused=(("gate", 0, 3), ("up", 3, 6)) if i == 2 else (),
        )
        for i, (width, dtype) in enumerate(zip(WIDTHS, dtypes, strict=True))
    )


def make_tables(n_tokens: int) -> dict[str, dict[str, Any]]:
    half = n_tokens // 2
    return {
        "samples": {
            "id": ["a", "ü"],
            "dataset": ["facts", "facts"],
            "split": ["test", "test"],
            "prompt": ["main", "main"],
            "length": [half + 1, n_tokens - half],
            "answer": [1, 0],
            "prediction": [1, 1],
            "prediction_per_token": [1, 0],
            "correct": [1, 0],
            "correct_per_token": [1, 1],
            "ce": [0.5, 2.5],
            "token_start": [0, half],
            "token_stop": [half, n_tokens],
        },
        "choices": {
            "sample": [0, 0, 1, 1],
            "text": ["yes", "no", "Zürich", ""],
            "n_tokens": [1, 1, 2, 1],
            "loglik": [-1.0, -0.5, -3.0, -2.0],
            "loglik_per_token": [-1.0, -0.5, -1.5, -2.0],
        },
        "tokens": {
            "sample": [0] * half + [1] * (n_tokens - half),
            "position": [*range(1, half + 1), *range(n_tokens - half)],
            "token_id": [*range(n_tokens)],
            "role": [2] * n_tokens,
            "text": [f"t{i}" for i in range(n_tokens)],
        },
    }


def make_replies(n: int, seed: int) -> dict[str, np.ndarray]:
    """Columns of `n` replies, four for each prompt."""
    rng = np.random.default_rng(seed)
    names = ("loglik_0", "loglik_1", "loglik_1_5", "loglik_2")
    return {
        "prompt": np.array([f"prompt {i // 4}?" for i in range(n)], object),
        "scale": np.resize(np.array([0, 1, 1.5, 2], np.float32), n),
        "text": np.array([f"Ahoy {seed} \n ☠ {i}" for i in range(n)], object),
        "n_tokens": np.arange(n, dtype=np.int32),
        "is_complete": (np.arange(n) % 2).astype(np.int8),
        **{name: -rng.gamma(2, 9, n).astype(np.float32) for name in names},
    }


def make_blocks(writer: RunWriter, row: int, rng: np.random.Generator) -> dict[str, np.ndarray]:
    tokens = writer.row_tokens(row)
    blocks = {}
    for path, ((_, *rest), dtype) in writer.row_arrays(row).items():
        values = rng.normal(size=(tokens.stop - tokens.start, *rest)).astype(np.float32)
        name = path.rpartition("/")[2]
        if "/changes/" in path:  # ids below 7, probabilities, nats
            values = rng.integers(7, size=values.shape) if dtype == np.int32 else np.abs(values) % np.float32(1)
        if path.startswith("experts/") and dtype == np.int32:
            values = rng.integers(5, size=values.shape)
        if name in ("js", "swallowed"):
            values = np.abs(values) % np.float32(0.69)
        if name in ("nll", "kl", "ablation", "base_norm", "delta_norm", "effective_width"):
            values = 1 + np.abs(values)
        blocks[path] = (values.view(np.uint32) >> 16).astype(np.uint16) if dtype == np.uint16 else values.astype(dtype)
    return blocks


def importance_values(root: str, n_passes: int, n_directions: int, rng: np.random.Generator) -> dict[str, np.ndarray]:
    """Gradients of the two samples in turn, with directions of the three components in order, by path."""
    component = np.sort(np.arange(n_directions) % 3)
    values = {
        "gradient": rng.normal(size=(n_passes, n_directions)).astype(np.float32),
        "sample": np.arange(n_passes) % 2,
        "draw": np.arange(n_passes) // 2,
        "n_tokens": 5 + np.arange(n_passes),
        "component": component,
        "direction": np.arange(n_directions) - np.searchsorted(component, component),
        "singular_value": rng.random(n_directions).astype(np.float32),
    }
    return {f"{root}/{name}": array for name, array in values.items()}


@pytest.fixture
def make_run(tmp_path: Path) -> Iterator[Callable[..., SmallRun]]:
    """A run with the given stream, adapters and states, whose rows (all by default) are written and committed."""

    def make(
        name: str = "run.zarr",
        *,
        n_tokens: int = 2 * ROW_TOKENS + 100,
        stream: Any = "adapted",
        adapters: tuple[str, ...] = ("default",),
        factored: tuple[bool, ...] = (True, True, False),
        biased: tuple[bool, ...] = (),
        states: Any = "all",
        dtypes: tuple[str, ...] = ("float32", "bfloat16", "float16"),
        rows: tuple[int, ...] | None = None,
        base_ce: list[float] | None = None,
        columns: dict[str, Any] | None = None,
        token_ids: list[int] | None = None,
        weight: list[float] | None = None,
        delta_source: tuple[str, ...] = (),
        importance: tuple[int, int] | None = None,
        n_variants: int = 0,
        paths: tuple[str, ...] = (),
        **spec_options: Any,
    ) -> SmallRun:
        rng = np.random.default_rng(0)
        components = make_components(dtypes)
        if paths:
            components = tuple(replace(c, path=path) for c, path in zip(components, paths, strict=True))
        spec = RunSpec(
            stream=stream,
            components=components,
            adapters=tuple(
                Adapter(
                    name=a,
                    rank=(2, 3, 4),
                    scaling=(0.5, 2.0, 1.0),
                    factored=factored,
                    biased=biased,
                    delta_source=delta_source,
                    importance=importance,
                    n_variants=n_variants,
                )
                for a in adapters
            ),
            n_tokens=n_tokens,
            n_samples=2,
            n_choices=4,
            states=states,
            **spec_options,
        )
        weights = {
            f"adapters/{adapter.name}/lora_B/{c.path}": rng.normal(size=(c.d_out, rank)).astype(np.float32)
            for adapter in spec.adapters
            for c, rank, kept in zip(components, adapter.rank, adapter.factored, strict=True)
            if kept and states != "none"
        }
        for path in [path for path, has in zip(list(weights), biased, strict=False) if has]:
            weights[path.replace("lora_B", "lora_bias")] = rng.normal(size=weights[path].shape[0]).astype(np.float32)
        for adapter in spec.adapters if spec.n_replies else ():
            replies = make_replies(spec.n_replies, len(adapter.name))
            weights |= {f"adapters/{adapter.name}/replies/{name}": values for name, values in replies.items()}
        for adapter in spec.adapters if importance is not None else ():
            weights |= importance_values(f"adapters/{adapter.name}/importance", *importance, rng)
        for adapter in spec.adapters if n_variants else ():
            for name in ("miub", "kl", "ce_change"):  # the second sample wasn't read
                values = np.vstack([rng.random(n_variants), np.full(n_variants, np.nan)]).astype(np.float32)
                weights[f"adapters/{adapter.name}/nulls/{name}"] = values
        if spec.n_vocabulary:
            weights["vocabulary/text"] = np.array([f"t{token}" for token in range(spec.n_vocabulary)], object)
        tables = make_tables(n_tokens)
        if weight is not None:
            tables["tokens"]["weight"] = weight
        if base_ce is not None:
            tables["samples"]["base_ce"] = base_ce
        tables["samples"] |= columns or {}
        if token_ids is not None:
            tables["tokens"]["token_id"] = token_ids
            tables["tokens"]["position"] = [i % ROW_TOKENS for i in range(n_tokens)]
        blocks = {}
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr("os.fsync", lambda descriptor: None)  # the slowest part, and no test cuts the power
            writer = open_writers.enter_context(create_run(tmp_path / name, spec, tables=tables, weights=weights))
            for row in range(spec.n_rows):
                blocks[row] = make_blocks(writer, row, rng)
                if rows is None or row in rows:
                    writer.write_row(row, blocks[row])
            if rows is None:
                writer.finish({"provenance": {"note": "small"}})
        return SmallRun(tmp_path / name, spec, writer, blocks, weights, tables)

    with ExitStack() as open_writers:
        yield make
