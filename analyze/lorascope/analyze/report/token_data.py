"""What the page's script needs to show any sample and any component by token, within a number of bytes."""

import base64
import json
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import xarray as xr

from lorascope.stores import Run
from lorascope.stores.format.tables import ROLES
from lorascope.stores.visible import visible

from .markup import as_json
from .token_texts import MOST_TOKENS, SPEAKERS, UNDERLINED, answer_text, sample_titles, token_strings

KEPT_TOKENS = 4000
"""Tokens of one sample that the page holds."""
DECADES = 12
"""Most powers of ten below the largest value that codes reach; smaller values are shown as this much."""
_NLL_STEPS = 1000
_BYTES, _BYTES_A_SAMPLE, _BYTES_A_TOKEN, _BYTES_A_COMPONENT = 500, 300, 12, 130


def token_data(run: Run, qualified: xr.DataTree, room: int) -> dict[str, Any]:
    """Samples, their tokens and js by token and component, as JSON takes it.

    Parameters
    ----------
    run, qualified
        A run and what `qualify` made of it.
    room
        Bytes that it may take. Where it is too small, every n-th sample by its MIUB is there. Where js by component
        would take more than half of it, texts get that half, and of every n-th of those samples js is there as well.
    """
    ranked, texts = _ranked(qualified), token_strings(run)
    starts = run.samples["token_start"].values
    counts = np.minimum(run.samples["token_stop"].values - starts, KEPT_TOKENS)
    spans = [np.arange(start, start + count) for start, count in zip(starts, counts, strict=True)]
    sizes = {text: len(_dumps(text).encode()) + 1 for text in set(texts)}
    lengths = np.array([sizes[text] for text in texts], dtype=np.int64)
    costs = _BYTES_A_SAMPLE + np.array([lengths[spans[k]].sum() + _BYTES_A_TOKEN * counts[k] for k in ranked])
    names = _BYTES_A_COMPONENT * qualified.sizes["component"] + sum(
        map(len, qualified.dataset["component"].values.tolist())
    )
    by_component = np.ceil(counts[ranked] * qualified.sizes["component"] * 4 / 3)
    room -= _BYTES
    places = max(_every(costs + by_component, room - names), _every(costs, room / 2), key=len)
    kept = _every(by_component[places], room - names - costs[places].sum())
    shown, carrying = ranked[places], ranked[places[kept]]
    return {
        "samples": _samples(run, qualified, shown, set(carrying.tolist())),
        "n_samples": len(ranked),
        "texts": [[texts[token] for token in spans[k]] for k in shown],
        "roles": list(ROLES),
        "underlined": sorted(UNDERLINED),
        "speakers": sorted(SPEAKERS),
        "most": MOST_TOKENS,
        **_tokens(run, qualified, [spans[k] for k in shown]),
        **_components(qualified, [spans[k] for k in carrying]),
    }


def as_script(data: Mapping[str, Any]) -> str:
    """The element that the script reads."""
    return f'<script type="application/json" id="token-data">{_dumps(data)}</script>'


def lowest(values: np.ndarray) -> np.ndarray:
    """The least value above 0 that codes tell apart, of each column: tokens may differ by many powers of ten."""
    positive = np.where(values > 0, values, np.inf).min(axis=0, initial=np.inf)
    tops = largest(values)
    return np.asarray(np.where(tops > 0, np.maximum(positive, tops * 10.0**-DECADES), 1.0))


def largest(values: np.ndarray) -> np.ndarray:
    """The largest value of each column; 0 where none is finite."""
    return np.asarray(np.where(np.isnan(values), 0.0, values).max(axis=0, initial=0.0))


def codes(
    values: np.ndarray, low: np.ndarray | float, top: np.ndarray | float, dtype: type[np.unsignedinteger[Any]]
) -> np.ndarray:
    """Values from `low` to `top` as whole numbers on a logarithmic scale: 0 for 0, the largest code for NaN."""
    last = np.iinfo(dtype).max - 1
    with np.errstate(divide="ignore", invalid="ignore"):
        place = 1 + (last - 1) * np.where(top > low, np.log(values / low) / np.log(top / low), 1.0)
    found = np.where(values > 0, np.clip(np.round(place), 1, last), 0)
    found[np.isnan(values)] = last + 1
    return np.asarray(found.astype(dtype))


def _ranked(qualified: xr.DataTree) -> np.ndarray:
    """Samples that were measured, from the most moved to the least; those that aren't finite come last."""
    by_sample = qualified.children["samples"].dataset
    ranked = np.argsort(-np.nan_to_num(by_sample["miub"].values, nan=-1.0), kind="stable")
    return np.asarray(ranked[by_sample["used"].values[ranked]])


def _every(costs: np.ndarray, room: float) -> np.ndarray:
    """Places of every n-th, n the smallest for which they fit into the room; none where not even one does."""
    for step in range(1, len(costs) + 1):
        if costs[::step].sum() <= room:
            return np.arange(0, len(costs), step)
    return np.arange(0)


def _samples(run: Run, qualified: xr.DataTree, shown: Sequence[int], carrying: set[int]) -> list[dict[str, Any]]:
    miub, length = qualified.children["samples"].dataset["miub"].values, run.samples["length"].values
    titles, change = sample_titles(run), np.full(len(length), np.nan)
    if "base_ce" in run.samples:
        change = run.samples["ce"].values - run.samples["base_ce"].values
    return [
        {
            "title": visible(titles[index]),
            "miub": _number(miub[index]),
            "change": _number(change[index]),
            "loss": _number(run.samples["ce"].values[index]) if "ce" in run.samples else None,
            "length": int(length[index]),
            "captured": int(run.samples["token_stop"].values[index] - run.samples["token_start"].values[index]),
            "answers": visible(answer_text(run, index)),
            "place": int(index),
            "carries": index in carrying,
        }
        for index in map(int, shown)
    ]


def _tokens(run: Run, qualified: xr.DataTree, places: list[np.ndarray]) -> dict[str, Any]:
    """Columns by token, one sample behind the other."""
    at = np.concatenate([np.empty(0, np.int64), *places])
    js, nll = qualified.children["tokens"].dataset["miub"].values, run.tokens["nll"].values[at].astype(np.float64)
    low, top = float(lowest(js)), float(largest(js))
    steps = np.where(np.isfinite(nll), np.clip(np.round(np.abs(nll) * _NLL_STEPS), 0, 65534), 65535)
    return {
        "position": _packed(run.tokens["position"].values[at].astype(np.uint32)),
        "role": _packed(run.tokens["role"].values[at].astype(np.int8).view(np.uint8)),
        "nll": _packed(steps.astype(np.uint16)),
        "js": _packed(codes(js[at], low, top, np.uint16)),
        "js_low": low,
        "js_top": top,
    }


def _components(qualified: xr.DataTree, places: list[np.ndarray]) -> dict[str, Any]:
    """Js by component, and in it by token of the samples that carry it."""
    if not places:
        return {"components": [], "values": ""}
    at = np.concatenate(places)
    js = qualified.children["tokens"].dataset["js"].values[at].astype(np.float64)
    lows, tops = lowest(js), largest(js)
    labels = zip(*(qualified.dataset[name].values.tolist() for name in ("component", "layer", "kind")), strict=True)
    return {
        "components": [
            {"path": visible(path), "layer": layer, "kind": visible(kind), "low": float(low), "top": float(top)}
            for (path, layer, kind), low, top in zip(labels, lows, tops, strict=True)
        ],
        "values": _packed(codes(js, lows, tops, np.uint8).T),
    }


def _packed(values: np.ndarray) -> str:
    """Little-endian bytes in base64."""
    return base64.b64encode(np.ascontiguousarray(values, values.dtype.newbyteorder("<")).tobytes()).decode()


def _number(value: float) -> float | None:
    return float(value) if np.isfinite(value) else None


def _dumps(value: Any) -> str:
    return as_json(json.dumps(value, ensure_ascii=False, separators=(",", ":"), allow_nan=False))
