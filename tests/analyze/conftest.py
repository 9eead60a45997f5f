"""A small run of random states, with what went into it kept in float64 for references."""

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from lorascope.stores import Adapter, Component, Run, RunSpec, create_run, open_run

KINDS = {"q_proj": 24, "up_proj": 40, "down_proj": 16}
SWALLOWED = 0.125


@dataclass
class Small:
    """A run and the float64 arrays that it was made from."""

    run: Run
    base: dict[str, np.ndarray] = field(default_factory=dict)
    delta: dict[str, np.ndarray] = field(default_factory=dict)

    @property
    def starts(self) -> np.ndarray:
        return np.asarray(self.run.samples["token_start"].values)

    def js(self) -> np.ndarray:
        """(token, component), from the definition."""
        return np.stack([divergence(self.base[path], self.delta[path]) for path in self.run.component_paths], axis=1)

    def by_sample(self, values: np.ndarray) -> np.ndarray:
        """Means over each sample's tokens, (sample, component)."""
        stops = self.run.samples["token_stop"].values
        return np.stack([values[a:b].mean(axis=0) for a, b in zip(self.starts, stops, strict=True)])


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
    states: Any = "all",
    adapters: tuple[str, ...] = ("default",),
    outside: bool = False,
    zero: bool = False,
    n_samples: int = 12,
    n_tokens: int | None = None,
    js_share: float = 0.5,
    not_finite: bool = False,
    word: str = " word",
    sample_id: str = "item",
    dataset: str = "facts",
    token_text: bool = True,
    attributes: dict[str, Any] | None = None,
    dtype: str = "float32",
    factored: bool = True,
) -> Small:
    rng = np.random.default_rng(5)
    components = [
        Component(
            path=f"model.layers.{layer}.{kind}",
            kind=kind,
            layer=layer,
            d_in=8,
            d_out=width,
            dtype=dtype,
            stored_dtype=dtype,
        )
        for layer in (0, 1)
        for kind, width in KINDS.items()
    ]
    if outside:
        components.append(
            Component(path="lm_head", kind="lm_head", layer=-1, d_in=8, d_out=30, dtype=dtype, stored_dtype=dtype)
        )
    lengths = np.full(n_samples, n_tokens) if n_tokens else rng.integers(4, 9, n_samples)
    tables = make_tables(rng, lengths, is_text=is_text, is_scored=is_scored, word=word, sample_id=sample_id)
    tables["samples"]["dataset"] = [dataset] * n_samples
    if not token_text:
        del tables["tokens"]["text"]
    n = len(components)
    spec = RunSpec(
        stream="base" if len(adapters) > 1 else "adapted",
        components=tuple(components),
        adapters=tuple(
            Adapter(name=name, rank=(2,) * n, scaling=(0.5,) * n, factored=(factored,) * n) for name in adapters
        ),
        n_tokens=int(lengths.sum()),
        n_samples=n_samples,
        n_choices=len(tables["choices"]["sample"]),
        states=states,
        token_text=token_text,
        attributes=attributes or {},
    )
    weights = {
        f"adapters/{name}/lora_B/{c.path}": rng.normal(size=(c.d_out, 2)).astype(np.float32) * (not zero)
        for name in adapters
        for c in components
        if states == "all" and factored
    }
    small = Small(run=None)  # type: ignore[arg-type]  # set below
    with create_run(path, spec, tables=tables, weights=weights) as writer:
        blocks = {
            key: rng.normal(size=(spec.n_tokens, *shape[1:]), scale=1.5).astype(np.float32)
            for key, (shape, _) in writer.row_arrays.items()
        }
        for index, c in enumerate(components if states == "all" else ()):
            base = blocks[f"states/{c.path}/base"]
            if factored:
                z = blocks[f"adapters/{adapters[0]}/factor"][:, 2 * index : 2 * index + 2].astype(np.float64)
                small.delta[c.path] = 0.5 * z @ weights[f"adapters/{adapters[0]}/lora_B/{c.path}"].T.astype(np.float64)
            small.base[c.path] = base.astype(np.float64)
            if dtype == "bfloat16":
                blocks[f"states/{c.path}/base"] = (base.view(np.uint32) >> 16).astype(np.uint16)
        measured = rng.random(spec.n_tokens) < js_share
        for name in adapters:
            js = blocks[f"adapters/{name}/js"]
            js[:] = np.abs(js) / 10
            if states == "all" and factored and dtype == "float32" and name == adapters[0]:
                js[:] = np.stack([divergence(small.base[c.path], small.delta[c.path]) for c in components], axis=1)
            js[~measured] = np.nan
        blocks["tokens/nll"] = np.abs(blocks["tokens/nll"])
        if not_finite:
            blocks[f"states/{components[0].path}/base"][3, 1] = np.inf
        writer.write_row(0, blocks)
        shares = {c.path: SWALLOWED * (i + 1) / n for i, c in enumerate(components)}
        writer.finish({"measured": {"seconds": 2.0, "seconds_waiting_for_disk": 0.5, "swallowed_share": shares}})
    small.run = open_run(path)
    return small


def make_tables(
    rng: np.random.Generator, lengths: np.ndarray, *, is_text: bool, is_scored: bool, word: str, sample_id: str
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
            "loglik": rng.normal(size=n * n_choices),
            "loglik_per_token": rng.normal(size=n * n_choices),
        },
        "tokens": {
            "sample": np.repeat(np.arange(n), lengths),
            "position": np.concatenate([np.arange(2, k + 2) for k in lengths]),
            "token_id": np.arange(stops[-1]) + 100,
            "role": np.concatenate(roles),
            "text": [word] * int(stops[-1]),
        },
    }
