"""Results of a study as `lorascope study run` writes them, made of known numbers."""

import json
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import xarray as xr

from lorascope.analyze import save

LAYERS, KINDS = 4, ("q_proj", "down_proj")
N0, R0 = 100e6, 8
SETS = {"piqa": "validation", "arce": "test", "hellaswag": "validation"}
BUCKETS = ("1-100", "101-200")
PROMPTS = ("main", "prompt1", "prompt2", "prompt3")
HIGHER = {"main": 0.0, "prompt1": 0.05, "prompt2": -0.05, "prompt3": -0.02}
GRID = [(share, 8) for share in (8, 4, 2, 1)] + [(1, 32), (1, 128)]
HITS = ("correct", "correct_per_token", "correct_per_character")
INFORMED = ((8, 8), (1, 8), (1, 128))


def n_parameters(share: int) -> int:
    return int(N0 * (0.5 + 0.5 / share))


def true_miub(share: int, rank: int) -> float:
    """The law that results follow apart from noise, in nats."""
    return 0.4 + 0.5 * (N0 / n_parameters(share)) ** 1.5 + 0.3 * (R0 / rank) ** 0.5


def make_unit(
    folder: Path,
    share: int = 1,
    rank: int = 8,
    *,
    seed: int = 0,
    task: str = "qa",
    model: str = "smol",
    sets: Iterable[str] = tuple(SETS),
    n_items: int = 24,
    prompts: Iterable[str] = PROMPTS,
    text: bool = True,
    lengths: bool = True,
    informed: bool | None = None,
    train_items: int | None = None,
    noise: float = 0.02,
    name: str | None = None,
    libraries: dict[str, str] | None = None,
    curve: dict[str, Any] | None = None,
    change: Callable[[xr.Dataset], xr.Dataset] = lambda results: results,
) -> Path:
    """Write one unit's results; an item's numbers go up and down with the item in all settings alike."""
    name = name or "-".join(
        part
        for part in (
            "" if model == "smol" else model, f"share{share}", f"r{rank}", f"s{seed}",
            f"d{train_items}" if train_items else "", task,
        ) if part
    )  # fmt: skip
    random = np.random.default_rng([share, rank, seed, len(task)])
    rows: list[dict[str, Any]] = []
    prompts = tuple(prompts)
    for prompt in prompts:
        for dataset in sets:
            rows += _items(dataset, prompt, prompts, n_items, lengths, random, (share, rank, seed, noise))
    if text:
        rows += _windows("wiki", 12, random, (share, rank, seed, noise))
    frame = pd.DataFrame(rows)
    paths = [f"model.layers.{layer}.{kind}" for layer in range(LAYERS) for kind in KINDS]
    parts = np.linspace(1, 2, len(paths)) / np.linspace(1, 2, len(paths)).sum()
    first = frame[(frame["dataset"] == frame["dataset"][0]) & (frame["prompt"] == frame["prompt"][0])]
    kinds = {key: np.str_ if isinstance(values.iloc[0], str) else None for key, values in frame.items()}
    kinds |= {f"{base}{hit}": np.int8 for base in ("", "base_") for hit in HITS}
    result = xr.Dataset(
        {key: ("sample", np.array(values.tolist(), kinds[key])) for key, values in frame.items()},
    )
    result["miub"].attrs["units"] = "nat"
    unit = {"model": model, "share": share, "rank": rank, "seed": seed, "task": task, "train_items": train_items}
    about = {
        "unit": unit | {"name": name},
        "recipe": {"train": {"version": 1, "config": {"rank": rank, "seed": seed, "learning_rate": 4e-5}}},
        "runs": {run: _run(name, run, share, libraries) for run in ("main", "prompts")[: 1 + (len(prompts) > 1)]},
        "training": _training(rank, train_items) | ({"miub": curve} if curve else {}),
        "notes": ["piqa: 5 of 6 items of 101 to 200 tokens", "arce: 0 of 6 items of 201 to 300 tokens"] * lengths,
    }
    result.attrs = {key: json.dumps(value) for key, value in about.items()} | {"measured": "2026-01-01T00:00:00"}
    folder.mkdir(parents=True, exist_ok=True)
    path = save(change(result), folder / f"{name}.nc")
    if (share, rank) in INFORMED if informed is None else informed:
        save(_information(paths, parts * first["miub"].mean(), random), folder / f"{name}.information.nc")
    return path


def _items(
    dataset: str, prompt: str, prompts: tuple[str, ...], n: int, lengths: bool, random: np.random.Generator,
    setting: tuple[int, int, int, float],
) -> Iterable[dict[str, Any]]:  # fmt: skip
    """Half of the items get every prompt; six more a bucket stand for their length alone."""
    share, rank, seed, noise = setting
    is_first = prompt == prompts[0]
    n_all = n + (12 if lengths else 0) if is_first else n // 2
    own = np.random.default_rng([*dataset.encode(), 7])  # the same in all settings
    level, ease = own.normal(0, 0.2, n + 12), own.uniform(0, 1, n + 12)
    for place in range(n_all):
        is_length = place >= n
        bucket = BUCKETS[(place - n) // 6] if is_length else ""
        if dataset == "piqa" and is_length and place == n + 11:
            continue  # the note says that it isn't there
        miub = true_miub(share, rank) + HIGHER.get(prompt, 0.0) + level[place] + 0.01 * seed + noise * random.normal()
        right = ease[place] < 0.5 + 0.02 * np.log2(rank) + 0.1 * (bucket == BUCKETS[1])
        yield {
            "id": f"{dataset}-{place}", "dataset": dataset, "split": SETS.get(dataset, "test"), "prompt": prompt,
            "length": 40, "answer": 1, "correct": int(right), "correct_per_token": int(ease[place] < 0.55),
            "ce": 1.5 + ease[place] + 0.1 * np.log2(rank) + 0.3 * share,
            "base_correct": int(ease[place] < 0.45), "base_correct_per_token": int(ease[place] < 0.5),
            "base_ce": 3.0 + ease[place],
            "correct_per_character": int(ease[place] < 0.52), "base_correct_per_character": int(ease[place] < 0.42),
            "bucket": bucket, "item_length": (50, 150)[BUCKETS.index(bucket)] if bucket else -1,
            "in_test": int(not is_length), "in_prompts": int(place < n // 2 and len(prompts) > 1),
            "miub": miub - 0.1 * (bucket == BUCKETS[1]),
        }  # fmt: skip


def _windows(
    dataset: str, n: int, random: np.random.Generator, setting: tuple[int, int, int, float]
) -> Iterable[dict[str, Any]]:
    share, rank, seed, noise = setting
    own = np.random.default_rng(3)
    for place, level in enumerate(own.normal(0, 0.1, n)):
        yield {
            **dict.fromkeys((f"{base}{hit}" for base in ("", "base_") for hit in HITS), -1),
            "id": f"{dataset}#{place}", "dataset": dataset, "split": "test", "prompt": "text", "length": 64 + place,
            "answer": -1, "ce": 3 + level + 0.02 * share, "base_ce": 3.5 + level, "bucket": "", "item_length": -1,
            "in_test": 1, "in_prompts": 0,
            "miub": 0.8 * true_miub(share, rank) + level + 0.01 * seed + noise * random.normal(),
        }  # fmt: skip


def _run(name: str, run: str, share: int, libraries: dict[str, str] | None) -> dict[str, Any]:
    return {
        "fingerprint": f"{name}-{run}-0123456789abcdef",
        "states": "none",
        "n_tokens": 4000,
        "provenance": {
            "model": {"n_parameters": n_parameters(share), "n_parameters_non_embedding": n_parameters(share) - 10**7},
            "libraries": {"torch": "2.9.0", **(libraries or {})},
            "device": {"type": "cpu", "name": "a processor"},
            "population": "all tokens",
            "data": "ab" * 32,
        },
        "measured": {"seconds": 2.0},
    }


def _training(rank: int, train_items: int | None) -> dict[str, Any]:
    steps = [{"loss": 3 - 0.1 * k, "learning_rate": 4e-5, "grad_norm": 1.0} for k in range(10)]
    return {
        "config": {"rank": rank, "learning_rate": 4e-5},
        "n_samples": train_items or 600,
        "steps": steps,
        "before": {"ce": 3.0, "accuracy": 0.4, "accuracy_per_token": 0.4, "n_samples": 16},
        "after": {"ce": 2.0, "accuracy": 0.5, "accuracy_per_token": 0.5, "n_samples": 16},
        "train_seconds": 12.5,
    }


def _information(paths: list[str], js: np.ndarray, random: np.random.Generator) -> xr.Dataset:
    """The panel's estimates: ten times js; the last has no value, the first only a lower bound."""
    n = len(paths)
    values = np.stack([10 * js, 9 * js], axis=1)
    values[-1] = np.nan
    verdicts = np.full((n, 2), "ok", object)
    verdicts[0], verdicts[-1] = "lower bound only", ""
    estimates = xr.Dataset(
        {
            "value": (("component", "estimator"), values, {"units": "nat"}),
            "verdict": (("component", "estimator"), verdicts),
            "js": ("component", js, {"units": "nat"}),
            "n_tokens": ("component", np.full(n, 500)),
            "n_samples": ("component", np.full(n, 20)),
        },
        coords={"component": np.array(paths, object), "estimator": np.array(["panel", "ksg"], object)},
    )
    return estimates.assign_attrs(run="run.zarr", projection="pca", n_axes=8)


def make_study(folder: Path, grid: Iterable[tuple[int, int]] = tuple(GRID), **options: Any) -> Path:
    for share, rank in grid:
        make_unit(folder / "results", share, rank, **options)
    return folder
