"""Runs for the benchmark of the page: made-up words, samples of many lengths, random states at SmolLM2's widths."""

from pathlib import Path

import numpy as np
from synthetic import small

from lorascope.stores import Adapter, Component, RunSpec, create_run
from lorascope.stores.format.spec import ROW_TOKENS

__all__ = ["N_LAYERS", "WIDTHS", "write_run"]

N_LAYERS = 30
WIDTHS = {
    "self_attn.q_proj": 576,
    "self_attn.k_proj": 192,
    "self_attn.v_proj": 192,
    "self_attn.o_proj": 576,
    "mlp.gate_proj": 1536,
    "mlp.up_proj": 1536,
    "mlp.down_proj": 576,
}
RANK = 8
VOCABULARY = 30_000
MEDIAN_TOKENS, LONGEST_TOKENS = 160, 4096
PARTS = [a + b for a in ("k", "l", "m", "n", "p", "r", "s", "t", "v", "st") for b in "aeiou"]


def write_run(
    path: Path, *, n_tokens: int, state_rows: tuple[int, ...] | None, wide: dict[str, int] | None = None
) -> Path:
    """A finished bfloat16 run; with states of all rows, or of those named.

    Js by token and the other measures are log-normal: with a level of each token and each component, and as
    hard to compress as measured ones. Blocks repeat from component to component and from row to row, each time rolled.

    Parameters
    ----------
    n_tokens
        Of the run.
    state_rows
        Rows with states; None for all, and then the run is of `states: all` and js is the view index's.
    wide
        Components' paths with their widths, where these aren't SmolLM2's.
    """
    rng = np.random.default_rng(n_tokens)
    components = tuple(
        Component(
            path=(name := f"model.layers.{layer}.{kind}"),
            kind=kind.rpartition(".")[2],
            layer=layer,
            d_in=64,
            d_out=(wide or {}).get(name, width),
            dtype="bfloat16",
            stored_dtype="bfloat16",
        )
        for layer in range(N_LAYERS)
        for kind, width in WIDTHS.items()
    )
    n, n_rows = len(components), -(-n_tokens // ROW_TOKENS)
    adapter = Adapter(name="default", rank=(RANK,) * n, scaling=(2.0,) * n, factored=(True,) * n)
    tables = _tables(rng, n_tokens)
    spec = RunSpec(
        stream="adapted",
        components=components,
        adapters=(adapter,),
        n_tokens=n_tokens,
        n_samples=len(tables["samples"]["length"]),
        n_choices=0,
        states="all" if state_rows is None else "sample",
        state_rows=() if state_rows is None else tuple(row in state_rows for row in range(n_rows)),
        attributes={"fingerprint": "0" * 64, "provenance": {"model": {"name": "random"}}},
    )
    weights = {
        f"adapters/default/lora_B/{c.path}": rng.normal(size=(c.d_out, RANK), scale=0.02).astype(np.float32)
        for c in components
    }
    level = rng.normal(size=(ROW_TOKENS, 1)) + rng.normal(size=n)
    measured = 1e-3 * np.exp(level + 0.5 * rng.normal(size=(ROW_TOKENS, n))).astype(np.float32)
    factor = rng.standard_normal((ROW_TOKENS, RANK * n), np.float32)
    bits = {width: _states(rng, width) for width in {c.d_out for c in components}}
    with create_run(path, spec, tables=tables, weights=weights) as writer:
        for row in range(n_rows):
            length = writer.row_tokens(row).stop - writer.row_tokens(row).start
            blocks = {}
            for at, (key, (shape, _)) in enumerate(small(writer, row)):
                width = shape[1] if len(shape) > 1 else 1
                values = np.roll(measured[:, :width], row + 100 * at, axis=0)
                blocks[key] = values[:length].reshape(length, *shape[1:])
            if "adapters/default/factor" in writer.row_arrays(row):
                blocks["adapters/default/factor"] = np.roll(factor, row, axis=0)[:length]
                for at, component in enumerate(components):
                    block = np.roll(bits[component.d_out], row + 31 * at, axis=0)
                    blocks[f"states/{component.path}/base"] = block[:length]
            writer.write_row(row, blocks)
        writer.finish({})
    return path


def _states(rng: np.random.Generator, width: int) -> np.ndarray:
    """Bits of bfloat16; each feature has a mean and a deviation of its own."""
    scale = np.exp(0.5 * rng.standard_normal(width))
    base = rng.standard_normal(width) + scale * rng.standard_normal((ROW_TOKENS, width))
    return (base.astype(np.float32).view(np.uint32) >> 16).astype(np.uint16)


def _tables(rng: np.random.Generator, n_tokens: int) -> dict[str, dict[str, object]]:
    lengths = np.exp(np.log(MEDIAN_TOKENS) + 0.6 * rng.standard_normal(n_tokens // 16)).astype(int)
    lengths = np.clip(lengths, 16, LONGEST_TOKENS)
    n = int(np.searchsorted(np.cumsum(lengths), n_tokens)) + 1
    stops = np.minimum(np.cumsum(lengths[:n]), n_tokens)
    starts = np.concatenate([[0], stops[:-1]])
    lengths = stops - starts
    position = np.arange(n_tokens) - np.repeat(starts, lengths)
    ids = np.minimum(rng.zipf(1.2, n_tokens) - 1, VOCABULARY - 1)
    words = _words(rng)
    answer = np.repeat(lengths, lengths) - position <= 4
    flags = {name: rng.integers(0, 2, n) for name in ("correct", "correct_per_token", "base_correct")}
    return {
        "samples": {
            "id": [f"item-{i:05d}-{rng.integers(2**32):08x}" for i in range(n)],
            "dataset": [f"set-{i}" for i in rng.integers(0, 4, n)],
            "split": ["test"] * n,
            "prompt": ["plain"] * n,
            "length": lengths,
            "answer": rng.integers(0, 4, n),
            "prediction": rng.integers(0, 4, n),
            "prediction_per_token": rng.integers(0, 4, n),
            **flags,
            "base_prediction": rng.integers(0, 4, n),
            "base_prediction_per_token": rng.integers(0, 4, n),
            "base_correct_per_token": flags["base_correct"],
            "ce": rng.gamma(2, 1, n),
            "base_ce": rng.gamma(2, 1, n),
            "token_start": starts,
            "token_stop": stops,
        },
        "choices": {name: [] for name in ("sample", "text", "n_tokens", "loglik", "loglik_per_token")},
        "tokens": {
            "sample": np.repeat(np.arange(n), lengths),
            "position": position,
            "token_id": ids,
            "role": np.where(answer, 2, 0),
            "text": [words[i] for i in ids],
        },
    }


def _words(rng: np.random.Generator) -> list[str]:
    """The vocabulary, frequent words first and short; one in fifty isn't ASCII."""
    words = [",", ".", "\n"]
    for i in range(len(words), VOCABULARY):
        parts = rng.integers(0, len(PARTS), 1 + int(np.log10(i)) // 2 + i % 2)
        words.append(f" {''.join(PARTS[part] for part in parts)}{'é' if i % 50 == 7 else ''}")
    return words
