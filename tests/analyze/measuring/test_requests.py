"""Requests that reading a run in an object store takes: none is for components or rows that nobody asked for."""

import re
import threading
from collections import Counter
from typing import Any
from urllib.parse import parse_qs, urlparse

import distributed
import numpy as np
import pytest

from lorascope.analyze import miub
from lorascope.analyze.measuring import run as measuring
from lorascope.cli.main import main
from lorascope.stores import Adapter, Component, RunSpec, create_run, open_run
from lorascope.stores.format.spec import ROW_TOKENS
from lorascope.stores.places import byte_cache

# A cluster's own threads and sockets end a moment after it does.
pytestmark = pytest.mark.filterwarnings("ignore::ResourceWarning", "ignore::pytest.PytestUnraisableExceptionWarning")

LAYER = 2
"""Components of a layer, whose z are the columns of one inner chunk."""
BY_ROW = re.compile(r"/(base|factor|js|swallowed|nll)/c\.")


@pytest.fixture(autouse=True)
def _cold(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing that an earlier test read is at hand."""
    monkeypatch.setattr(byte_cache, "_cache", byte_cache.ByteCache(2**20))


def write(url: str, *, n_layers: int, n_rows: int) -> str:
    """A finished run of random numbers; every sample is a row."""
    rng = np.random.default_rng(0)
    names = [(layer, f"part_{i}") for layer in range(n_layers) for i in range(LAYER)]
    widths: dict[str, Any] = {"d_in": 4, "d_out": 40, "dtype": "float32", "stored_dtype": "float32"}
    components = tuple(
        Component(path=f"model.layers.{layer}.{kind}", kind=kind, layer=layer, **widths) for layer, kind in names
    )
    n = len(components)
    adapter = Adapter(name="default", rank=(64 // LAYER,) * n, scaling=(1.0,) * n, factored=(True,) * n)
    spec = RunSpec(
        stream="adapted",
        components=components,
        adapters=(adapter,),
        n_tokens=n_rows * ROW_TOKENS,
        n_samples=n_rows,
        n_choices=0,
    )
    texts = {name: [name] * n_rows for name in ("id", "dataset", "split", "prompt")}
    unknown = ("answer", "prediction", "prediction_per_token", "correct", "correct_per_token")
    stop = np.arange(1, n_rows + 1) * ROW_TOKENS
    tables = {
        "samples": {
            **texts,
            **{name: [-1] * n_rows for name in unknown},
            "length": [ROW_TOKENS] * n_rows,
            "ce": [1.0] * n_rows,
            "token_start": stop - ROW_TOKENS,
            "token_stop": stop,
        },
        "choices": {name: [] for name in ("sample", "text", "n_tokens", "loglik", "loglik_per_token")},
        "tokens": {
            "sample": np.repeat(np.arange(n_rows), ROW_TOKENS),
            "position": np.tile(np.arange(ROW_TOKENS), n_rows),
            "token_id": np.zeros(spec.n_tokens, np.int64),
            "role": np.full(spec.n_tokens, 4),
            "text": ["x"] * spec.n_tokens,
        },
    }
    weights = {f"adapters/default/lora_B/{c.path}": rng.normal(size=(40, 64 // LAYER)) for c in components}
    with create_run(url, spec, tables=tables, weights=weights) as writer:
        for row in range(n_rows):
            arrays = writer.row_arrays(row).items()
            writer.write_row(row, {key: np.abs(rng.normal(size=shape).astype(dtype)) for key, (shape, dtype) in arrays})
        writer.finish({})
    return url


@pytest.fixture
def runs(s3: Any) -> dict[tuple[int, int], str]:
    """Numbers of layers and of rows -> url."""
    sizes = ((2, 1), (4, 1), (2, 3))
    return {size: write(f"{s3.prefix}/{size[0]}-{size[1]}.zarr", n_layers=size[0], n_rows=size[1]) for size in sizes}


def requests(s3: Any, job: Any) -> list[Any]:
    s3.counted_from_now(lambda index, method: None)
    job()
    return list(s3.answers)


def to_rows(answers: list[Any]) -> Counter[tuple[str, str]]:
    """Chunk and part of it -> how often it was requested; the index of a shard is counted by `indexes`."""
    asked = (answer for answer in answers if BY_ROW.search(answer.path) and not answer.part.startswith("bytes=-"))
    return Counter((answer.path.partition(".zarr")[2], answer.part) for answer in asked)


def listed(answers: list[Any]) -> list[str]:
    """Folders whose objects were listed."""
    queries = [parse_qs(urlparse(answer.path).query) for answer in answers]
    return [query["prefix"][0].rstrip("/").partition(".zarr/")[2] for query in queries if "list-type" in query]


def test_opening_takes_as_many_requests_for_any_number_of_components_and_rows(runs: Any, s3: Any) -> None:
    found = {size: requests(s3, lambda url=url: repr(open_run(url))) for size, url in runs.items()}
    assert {size: len(answers) for size, answers in found.items()} == dict.fromkeys(runs, 17)
    for answers in found.values():
        assert not to_rows(answers)


def test_opening_requests_columns_at_once(runs: Any, s3: Any) -> None:
    """Else each would wait for the answer to the one before, which takes a tenth of a second in some stores."""
    together, alone = threading.Barrier(7), []

    def wait(index: int, method: str) -> None:
        if 1 <= index <= 7:
            try:
                together.wait(10)
            except threading.BrokenBarrierError:
                alone.append(index)

    s3.counted_from_now(wait)
    open_run(runs[2, 1])
    assert not alone


def test_what_a_run_holds_is_known_without_its_rows(runs: Any, s3: Any, capsys: pytest.CaptureFixture[str]) -> None:
    found = {size: requests(s3, lambda url=url: main(["info", url])) for size, url in runs.items()}
    assert len({len(answers) for answers in found.values()}) == 1
    for answers in found.values():
        assert not to_rows(answers)
        assert set(listed(answers)) == {"samples/id", "choices/sample", "tokens/sample", "neutral"}
    out = capsys.readouterr().out
    assert "on disk" not in out
    assert main(["info", runs[2, 1], "--full"]) == 0
    assert "on disk" in capsys.readouterr().out


def test_one_layer_is_read_alone(runs: Any, s3: Any) -> None:
    """Of z its inner chunk; of js, which capture measured, the chunk of all components."""
    found = {size: requests(s3, lambda url=url: miub(url, component="model.layers.1.*")) for size, url in runs.items()}
    for (_, n_rows), answers in found.items():
        asked = to_rows(answers)
        assert set(asked.values()) == {1}
        of_row = Counter(path.split("/")[-2] for path, _ in asked)
        assert of_row == {"base": LAYER * n_rows, "factor": n_rows, "js": n_rows}
        assert all("/model.layers.1." in path for path, _ in asked if "/states/" in path)
    large, small = (
        sum(answer.n_bytes for answer in found[size] if "/factor/" in answer.path) for size in ((4, 1), (2, 1))
    )
    assert large < 1.1 * small  # the index is longer


def test_cluster_reads_each_chunk_once(s3: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of separate workers, though each component is a task of its own as far as z allows."""
    url = write(f"{s3.prefix}/run.zarr", n_layers=3, n_rows=3)
    monkeypatch.setattr(measuring, "GROUP_BYTES", 1)
    with distributed.LocalCluster(n_workers=2, threads_per_worker=1, dashboard_address=":0", silence_logs=50) as local:
        results = []
        answers = requests(s3, lambda: results.append(miub(url, scheduler=local.scheduler_address)))
    asked = to_rows(answers)
    assert set(asked.values()) == {1}
    assert Counter(path.split("/")[-2] for path, _ in asked) == {"base": 3 * LAYER * 3, "factor": 3 * 3, "js": 3}
    assert results[0].equals(miub(url))
