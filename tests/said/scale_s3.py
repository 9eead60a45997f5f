"""What the numbers of the section on S3 in docs/scale.md are held to: a benchmark's results, and a run's layout."""

import json
from collections.abc import Iterator
from typing import Any

from lorascope.stores.format.layout import FACTOR_CHUNK_COLUMNS, array_specs
from lorascope.stores.format.tables import ADAPTER_COLUMNS, TABLES

from ..faulty import SLOW_SECONDS
from ..printed import benchmark
from .page import ROOT, Saying, said

N_WORKERS = 2
STEPS = {
    "`open_run`": "open",
    "`token_labels` with texts": "labels",
    "`lorascope info`": "info",
    "`miub` of one layer": "miub",
    f"the same on a Dask cluster of {N_WORKERS} workers": "cluster",
}
"""First cell of a row of the table -> the benchmark's step."""


def sayings() -> Iterator[Saying]:
    found = json.loads((ROOT / "benchmarks/terabyte.json").read_text())
    shape, synthetic = found["shape"], benchmark("synthetic")
    n_tokens = shape["rows"] * 1024
    sizes = {"width": shape["width"], "n_components": shape["components"], "n_tokens": n_tokens}
    spec = synthetic.random_spec(**sizes, token_text=True)
    about = {10: "ten million"}[round(n_tokens / 1e6)]
    yield said(
        "A run of {} components and {} tokens opens with {} requests", len(spec.components), about, opened(found)
    )
    sizes = (len(spec.components), shape["width"], spec.adapters[0].rank[0])
    yield said("writes runs of {} components (width {}, rank {}, bfloat16)", *sizes)
    yield said(
        "digests of {} rows, without the rows' chunks. The other one has {} rows", shape["rows"], shape["layer_rows"]
    )
    yield said("on the {} cores meanwhile", found["machine"]["cores"])
    late = f"s, each answer {SLOW_SECONDS} s later"
    yield said("requests in {:.1f} s, or {:.1f} s with", found["open"]["s"], found["open"][late])
    yield said("with each answer {} s later", SLOW_SECONDS)
    for name, step in STEPS.items():
        values = [found[step][key] for key in ("requests", "MB", "processor s")]
        yield said(f"| {name} | {{}} | {{:.1f}} | {{:.1f}} |", *values)
    yield said("cluster of {} workers", N_WORKERS)
    n_columns = len(TABLES["components"]) - 1 + len(ADAPTER_COLUMNS)  # `fused` isn't needed
    yield said("one each for {} columns of tables, and {} lists", n_columns, opened(found) - 1 - n_columns)
    yield said("the metadata of some {} arrays", round(len(list(array_specs(spec))), -3))
    yield from one_layer(found, spec)


def opened(found: Any) -> int:
    """Requests for opening a run."""
    n: int = found["open"]["requests"]
    return n


def one_layer(found: Any, spec: Any) -> Iterator[Saying]:
    shape, miub = found["shape"], found["miub"]
    n_rows, n_chunks = shape["layer_rows"], miub["of chunks of rows"] + miub["of indexes of z"]
    layer = [place for place, component in enumerate(spec.components) if component.layer == 2]
    first, last = layer[0] * spec.adapters[0].rank[0], (layer[-1] + 1) * spec.adapters[0].rank[0] - 1
    n_parts = last // FACTOR_CHUNK_COLUMNS - first // FACTOR_CHUNK_COLUMNS + 1
    kinds = (len(layer), miub["of indexes of z"] // n_rows, n_parts, 1)
    assert sum(kinds) == n_chunks / n_rows
    words = (
        "takes {} requests a row: {} for base, {} for the index of z, {} for its part of z, and {} for js of capture"
    )
    yield said(words, sum(kinds), *kinds)
    yield said("That is {:.1f} MB a row, with {:.1f} MB of js", miub["MB of rows"] / n_rows, miub["MB of js"] / n_rows)
    others = miub["requests"] - n_chunks, miub["MB"] - miub["MB of rows"]
    yield said("The other {} requests, {:.0f} MB, are tables and weights", *others)
    cluster = found["cluster"]
    assert (cluster["of chunks of rows"], cluster["most often one chunk"]) == (miub["of chunks of rows"], 1)
    yield said("each of these {} chunks and parts of z", cluster["of chunks of rows"])
    size = miub["MB of rows"] / n_rows * shape["rows"] / 1e3
    words = "at {} rows one layer would take {} requests and {:.0f} GB"
    yield said(words, shape["rows"], sum(kinds) * shape["rows"], size)
