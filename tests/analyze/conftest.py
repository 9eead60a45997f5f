"""A small run of random states, with what went into it kept in float64 for references."""

import dataclasses
import json
import shutil
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from lorascope.stores import Adapter, Component, Run, RunSpec, create_run, open_run
from lorascope.stores.format.digests import chunk_digest, combine_digests
from lorascope.stores.format.layout import DIGEST_ARRAYS, array_specs

NEWER = ("/weight", "/delta_source", "/swallowed", "/delta_norm", "/kl")
KINDS = {"q_proj": 24, "up_proj": 40, "down_proj": 16}
SWALLOWED = 0.125
ABLATED = 2
"""Every second sample is ablated."""
PASSES = np.repeat([1, 3, 4, 9, 10], 3)
"""Sample of each pass whose gradients are stored: three draws of each of five samples."""


@dataclass
class Small:
    """A run and the float64 arrays that it was made from; delta is the first adapter's, in a pair the difference."""

    run: Run
    base: dict[str, np.ndarray] = field(default_factory=dict)
    delta: dict[str, np.ndarray] = field(default_factory=dict)
    weight: np.ndarray = field(default_factory=lambda: np.empty(0))

    @property
    def starts(self) -> np.ndarray:
        return np.asarray(self.run.samples["token_start"].values)

    def js(self) -> np.ndarray:
        """(token, component), from the definition."""
        return np.stack([divergence(self.base[path], self.delta[path]) for path in self.run.component_paths], axis=1)

    def by_sample(self, values: np.ndarray) -> np.ndarray:
        """Weighted means over each sample's tokens, (sample, component)."""
        stops = self.run.samples["token_stop"].values
        return np.stack(
            [np.average(values[a:b], axis=0, weights=self.weight[a:b]) for a, b in zip(self.starts, stops, strict=True)]
        )


def softmax(x: np.ndarray) -> np.ndarray:
    e = np.exp(x - x.max(axis=1, keepdims=True))
    return np.asarray(e / e.sum(axis=1, keepdims=True))


def divergence(base: np.ndarray, delta: np.ndarray) -> np.ndarray:
    p, q = softmax(base), softmax(base + delta)
    m = (p + q) / 2
    return np.asarray((p * np.log(p / m) + q * np.log(q / m)).sum(axis=1) / 2)


@pytest.fixture(scope="session")
def make_small(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Small]:
    """A finished run of 2 layers x 3 kinds and 12 samples, multiple-choice unless asked for text."""
    known: dict[str, Small] = {}

    def make(**options: Any) -> Small:
        key = repr(sorted(options.items()))
        if key not in known:
            with pytest.MonkeyPatch.context() as patch:
                patch.setattr("os.fsync", lambda descriptor: None)  # the slowest part, and no test cuts the power
                known[key] = write_small(tmp_path_factory.mktemp("small") / "run.zarr", **options)
        return known[key]

    return make


@pytest.fixture(scope="session")
def small(make_small: Callable[..., Small]) -> Small:
    return make_small()


def write_small(
    path: Path,
    *,
    is_text: bool = False,
    is_scored: bool = True,
    stream: Any = None,
    states: Any = "all",
    state_rows: tuple[bool, ...] = (),
    adapters: tuple[str, ...] = ("default",),
    outside: bool = False,
    zero: bool = False,
    n_samples: int = 12,
    n_tokens: int | None = None,
    js_share: float = 0.5,
    kl_share: float | None = None,
    ablate: Any = None,
    is_weighted: bool = False,
    generated: bool = False,
    chat: bool = False,
    not_finite: bool = False,
    word: str | tuple[str, ...] = " word",
    sample_id: str = "item",
    dataset: str = "facts",
    token_text: bool = True,
    attributes: dict[str, Any] | None = None,
    dtype: str = "float32",
    factored: bool = True,
    delta_source: str = "branch",
    importance: bool = False,
) -> Small:
    rng = np.random.default_rng(5)
    components = make_components(dtype, outside=outside)
    lengths = np.full(n_samples, n_tokens) if n_tokens else rng.integers(4, 9, n_samples)
    tables = make_tables(rng, lengths, is_text=is_text, is_scored=is_scored, word=word, sample_id=sample_id)
    tables["samples"]["dataset"] = [dataset] * n_samples
    if not token_text:
        del tables["tokens"]["text"]
    if generated:
        tables["tokens"]["role"] = np.where(tables["tokens"]["role"] == 2, 3, tables["tokens"]["role"])
    if chat:  # a token of the template on both sides of each speaker's
        turns = [5, 9, 6, 9, 7, 7, 9, 6]  # places in ROLES
        tables["tokens"]["role"] = np.concatenate([turns[:length] for length in lengths])
    # Tokens of a sample weigh alike, as capture has it, and a few other ones don't, as the format allows.
    weight = np.repeat(rng.integers(1, 6, n_samples), lengths) + (rng.random(int(lengths.sum())) < 0.1)
    if is_weighted:
        tables["tokens"]["weight"] = weight
    n = len(components)
    spec = RunSpec(
        stream=stream or ("base" if len(adapters) > 1 else "adapted"),
        components=components,
        adapters=tuple(
            Adapter(
                name=name,
                rank=(2,) * n,
                scaling=(0.5,) * n,
                factored=(factored,) * n,
                delta_source=() if factored else (delta_source,) * n,
                importance=(len(PASSES), 2 * n) if importance else None,
            )
            for name in adapters
        ),
        n_tokens=int(lengths.sum()),
        n_samples=n_samples,
        n_choices=len(tables["choices"]["sample"]),
        states=states,
        state_rows=state_rows,
        kl=kl_share is not None,
        ablate=ablate,
        ablation_parts=()
        if ablate is None
        else tuple(c.path for c in components)
        if ablate == "components"
        else ("0", "1")
        if ablate == "layers"
        else tuple(KINDS),
        token_text=token_text,
        attributes=attributes or {},
    )
    weights = {
        f"adapters/{name}/lora_B/{c.path}": rng.normal(size=(c.d_out, 2)).astype(np.float32) * (not zero)
        for name in adapters
        for c in components
        if states != "none" and factored
    }
    if importance:
        for name in adapters:
            gradients = make_gradients(np.random.default_rng(6), lengths, n)  # all else is as without
            weights |= {f"adapters/{name}/importance/{column}": values for column, values in gradients.items()}
    small = Small(run=None, weight=weight if is_weighted else np.ones(spec.n_tokens))  # type: ignore[arg-type]
    arrays = {
        entry.path: rng.normal(size=entry.shape, scale=1.5).astype(np.float32)
        for entry in array_specs(dataclasses.replace(spec, states="sample", state_rows=(True,) * spec.n_rows))
        if entry.by_row
    }
    fill_states(small, spec, arrays, weights)
    for adapter in spec.adapters:
        fill_measured(small, spec, adapter.name, arrays, rng, js_share=js_share, kl_share=kl_share)
    if ablate is not None:
        ablation = arrays[f"adapters/{adapters[0]}/ablation"]
        ablation[:] = np.exp(ablation)
        ablation[np.repeat(np.arange(n_samples) % ABLATED != 0, lengths)] = np.nan
    arrays["tokens/nll"] = np.abs(arrays["tokens/nll"])
    if not_finite:
        arrays[f"states/{components[0].path}/base"][3, 1] = np.inf
        arrays[f"adapters/{adapters[0]}/js"][3, 0] = np.nan if states != "all" else 0.1
    if dtype == "bfloat16":
        arrays |= {
            key: (block.view(np.uint32) >> 16).astype(np.uint16)
            for key, block in arrays.items()
            if key.startswith("states/")
        }
    with create_run(path, spec, tables=tables, weights=weights) as writer:
        for row in range(spec.n_rows):
            writer.write_row(row, {key: arrays[key][writer.row_tokens(row)] for key in writer.row_arrays(row)})
        writer.finish({"measured": {"seconds": 2.0, "seconds_waiting_for_disk": 0.5}})
    small.run = open_run(path)
    return small


def make_components(dtype: str, *, outside: bool) -> tuple[Component, ...]:
    names = [(f"model.layers.{layer}.{kind}", kind, layer, width) for layer in (0, 1) for kind, width in KINDS.items()]
    if outside:
        names.append(("lm_head", "lm_head", -1, 30))
    return tuple(
        Component(path=path, kind=kind, layer=layer, d_in=8, d_out=width, dtype=dtype, stored_dtype=dtype)
        for path, kind, layer, width in names
    )


def make_gradients(rng: np.random.Generator, lengths: np.ndarray, n: int) -> dict[str, np.ndarray]:
    """Gradients of two directions of each of n components, which vary in size over three orders of magnitude."""
    return {
        "gradient": (rng.normal(size=(len(PASSES), 2 * n)) * np.exp(2 * rng.normal(size=2 * n))).astype(np.float32),
        "sample": PASSES,
        "draw": np.arange(len(PASSES)) % 3,
        "n_tokens": lengths[PASSES],
        "component": np.arange(2 * n) // 2,
        "direction": np.arange(2 * n) % 2,
        "singular_value": rng.random(2 * n).astype(np.float32),
    }


def fill_states(small: Small, spec: RunSpec, arrays: dict[str, np.ndarray], weights: dict[str, np.ndarray]) -> None:
    """Remember base and delta, of the rows that keep states, in float64."""
    first = spec.adapters[0].name
    for index, c in enumerate(spec.components):
        base = arrays[f"states/{c.path}/base"].astype(np.float64)
        if spec.stream == "pair":
            delta = arrays[f"states/{c.path}/adapted"].astype(np.float64) - base
        elif f"adapters/{first}/factor" in arrays:
            z = arrays[f"adapters/{first}/factor"][:, 2 * index : 2 * index + 2].astype(np.float64)
            lora_b = weights.get(
                f"adapters/{first}/lora_B/{c.path}", np.random.default_rng(index).normal(size=(c.d_out, 2))
            )
            delta = 0.5 * z @ lora_b.T.astype(np.float64)
        else:
            delta = arrays[f"adapters/{first}/delta/{c.path}"].astype(np.float64)
        small.base[c.path], small.delta[c.path] = base, delta


def fill_measured(
    small: Small,
    spec: RunSpec,
    adapter: str,
    arrays: dict[str, np.ndarray],
    rng: np.random.Generator,
    *,
    js_share: float,
    kl_share: float | None,
) -> None:
    """What capture measures: of the first adapter by the definitions, of others random numbers."""
    measured = rng.random(spec.n_tokens) < js_share
    js, root = arrays[f"adapters/{adapter}/js"], f"adapters/{adapter}"
    js[:] = np.abs(js) / 10
    if adapter == spec.adapters[0].name:
        pairs = [(small.base[c.path], small.delta[c.path]) for c in spec.components]
        js[:] = np.stack([divergence(base, delta) for base, delta in pairs], axis=1)
        arrays["reductions/base_norm"][:] = np.stack([np.linalg.norm(base, axis=1) for base, _ in pairs], axis=1)
        arrays["reductions/effective_width"][:] = np.stack([width(base) for base, _ in pairs], axis=1)
        arrays[f"{root}/delta_norm"][:] = np.stack([np.linalg.norm(delta, axis=1) for _, delta in pairs], axis=1)
    if spec.states == "all":
        js[~measured] = np.nan
    n = len(spec.components)
    arrays[f"{root}/swallowed"][:] = SWALLOWED * np.arange(1, n + 1) / n + 0.01 * rng.uniform(size=(spec.n_tokens, 1))
    arrays[f"{root}/swallowed"][~measured] = np.nan
    if kl_share is not None:
        arrays[f"{root}/kl"][:] = np.abs(arrays[f"{root}/kl"])
        arrays[f"{root}/kl"][rng.random(spec.n_tokens) >= kl_share] = np.nan


def width(base: np.ndarray) -> np.ndarray:
    p = softmax(base)
    return np.asarray(np.exp(-(p * np.log(p)).sum(axis=1)))


def without_newer(run: Run, root: Path) -> Run:
    """A copy without the arrays that a run of version 1 may lack."""
    shutil.copytree(run.path, root)
    content = json.loads((root / "zarr.json").read_text())
    nodes = content["consolidated_metadata"]["metadata"]
    for path in [p for p in nodes if p.startswith("reductions") or p.endswith(NEWER)]:
        del nodes[path]
        shutil.rmtree(root / path, ignore_errors=True)
    for digest in ("root_digest", "metadata_digest"):  # such a run has none
        del content["attributes"][digest]
    (root / "zarr.json").write_text(json.dumps(content))
    run = open_run(root)
    once = [array for array in run.arrays.values() if not array.by_row and array.path not in DIGEST_ARRAYS]
    keys = [key for array in once for key in map(array.key, range(array.n_chunks))]
    parts = ((key, chunk_digest(run.format_version, (root / key).read_bytes())) for key in keys)
    content["attributes"]["static_digest"] = combine_digests(parts).hex()
    (root / "zarr.json").write_text(json.dumps(content))
    return open_run(root)


def make_tables(
    rng: np.random.Generator,
    lengths: np.ndarray,
    *,
    is_text: bool,
    is_scored: bool,
    word: str | tuple[str, ...],
    sample_id: str,
) -> dict[str, dict[str, Any]]:
    """Each sample's last two tokens are its answer; two tokens before the first captured one weren't captured."""
    n, stops = len(lengths), np.cumsum(lengths)
    roles = [[4] * k if is_text else [0] * max(k - 2, 0) + [2] * min(k, 2) for k in lengths]
    answers = np.full(n, -1) if is_text else rng.integers(0, 2, n)
    scored = is_scored and not is_text

    def scores(prefix: str, accuracy: float) -> dict[str, Any]:
        correct = (rng.random(n) < accuracy).astype(int)
        picked = np.where(correct == 1, answers, 1 - answers)
        return {
            f"{prefix}prediction": picked if scored else [-1] * n,
            f"{prefix}prediction_per_token": picked if scored else [-1] * n,
            f"{prefix}correct": correct if scored else [-1] * n,
            f"{prefix}correct_per_token": correct if scored else [-1] * n,
            f"{prefix}ce": rng.uniform(1, 3, n) if is_scored else [np.nan] * n,
        }

    n_choices = 0 if is_text else 2
    return {
        "samples": {
            "id": [f"{sample_id}-{i}" for i in range(n)],
            "dataset": ["facts"] * n,
            "split": ["test"] * n,
            "prompt": ["text" if is_text else "main"] * n,
            "length": lengths + 2,
            "answer": answers,
            **scores("", 0.7),
            **scores("base_", 0.4),
            "token_start": stops - lengths,
            "token_stop": stops,
        },
        "choices": {
            "sample": np.repeat(np.arange(n), n_choices),
            "text": ["yes", "no"] * (n if n_choices else 0),
            "n_tokens": [2] * (n * n_choices),
            "loglik": rng.normal(size=n * n_choices) if is_scored else [np.nan] * (n * n_choices),
            "loglik_per_token": rng.normal(size=n * n_choices) if is_scored else [np.nan] * (n * n_choices),
        },
        "tokens": {
            "sample": np.repeat(np.arange(n), lengths),
            "position": np.concatenate([np.arange(2, k + 2) for k in lengths]),
            "token_id": np.arange(stops[-1]) + 100,
            "role": np.concatenate(roles),
            "text": np.resize(word, stops[-1]).tolist(),
        },
    }
