import logging
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from lorascope.capture.adapters.components import find_components
from lorascope.capture.config import CaptureConfig
from lorascope.capture.planning.estimate import estimate
from lorascope.capture.planning.probe import Rates, expect, measure, padded_tokens
from lorascope.capture.samples.encode import encode_items
from lorascope.capture.specify import specify
from lorascope.stores import RunSpec, open_place


def make_spec(model: Any, dtype: torch.dtype, **settings: Any) -> RunSpec:
    components = {"default": find_components(model, "default")}
    config = CaptureConfig(model="m", adapter="a", data="d.txt", out="o", **settings)
    dtypes = {component.path: dtype for component in components["default"]}
    return specify(config, components, dtypes, n_tokens=3000, n_samples=6, n_choices=0)


@pytest.mark.parametrize(
    ("dtype", "settings", "ratio"),
    [
        (torch.float32, {}, (0.5, 0.95)),
        (torch.float32, {"codec": "raw"}, (1.0, 1.01)),
        (torch.float32, {"store": "bf16"}, (0.4, 0.9)),
        (torch.bfloat16, {}, (0.4, 0.9)),
    ],
    ids=["float32", "raw", "narrowed", "bfloat16"],
)
def test_a_trial_measures_and_leaves_nothing_behind(
    adapted: Any,
    tiny_items: Any,
    tiny_tokenizer: Any,
    tmp_path: Path,
    dtype: torch.dtype,
    settings: dict[str, Any],
    ratio: tuple[float, float],
) -> None:
    samples = encode_items(tiny_items, tiny_tokenizer, max_length=256, window_tokens=64)
    model = adapted.to(dtype)
    spec = make_spec(model, dtype, **settings)
    before = sorted(tmp_path.rglob("*"))
    rates = measure(model, samples, [slice(0, 4), slice(4, 6)], spec, str(tmp_path / "no/such/folder/run.zarr"))
    assert sorted(tmp_path.rglob("*")) == before
    assert not any(module._forward_hooks for module in model.modules())
    lengths = [len(sample.token_ids) for sample in samples[:4]]
    itemsize = 4 if spec.components[0].stored_dtype == "float32" else 2
    assert rates.n_bytes == padded_tokens(lengths) * itemsize * sum(c.d_out for c in spec.components)
    assert rates.n_tokens >= padded_tokens(lengths)
    assert ratio[0] < rates.ratio < ratio[1]
    assert all(value > 0 for value in rates)


def test_a_large_model_is_tried_in_part(
    adapted: Any, tiny_items: Any, tiny_tokenizer: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    samples = encode_items(tiny_items, tiny_tokenizer, max_length=256, window_tokens=64)
    spec = make_spec(adapted, torch.float32)
    whole = measure(adapted, samples, [slice(0, 6)], spec, str(tmp_path / "run.zarr"))
    monkeypatch.setattr("lorascope.capture.planning.probe.TRIAL_BYTES", whole.n_bytes // 4)
    part = measure(adapted, samples, [slice(0, 6)], spec, str(tmp_path / "run.zarr"))
    assert 0 < part.n_bytes < whole.n_bytes / 2
    monkeypatch.setattr("lorascope.capture.planning.probe.TRIAL_BYTES", 1)
    assert measure(adapted, samples, [slice(0, 6)], spec, str(tmp_path / "run.zarr")).n_bytes > 0


@pytest.fixture
def bucket(monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """A bucket of a real S3 server on this machine."""
    from moto.server import ThreadedMotoServer

    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    server = ThreadedMotoServer("127.0.0.1", 0, verbose=False)
    server.start()
    url = "http://{}:{}".format(*server.get_host_and_port())
    for name, value in {
        "AWS_ACCESS_KEY_ID": "an-id",
        "AWS_SECRET_ACCESS_KEY": "a-secret",
        "AWS_REGION": "us-east-1",
        "AWS_ENDPOINT_URL": url,
        "AWS_ALLOW_HTTP": "true",
    }.items():
        monkeypatch.setenv(name, value)
    try:
        urllib.request.urlopen(urllib.request.Request(f"{url}/bucket", method="PUT")).close()
        yield "s3://bucket"
    finally:
        server.stop()


def test_a_trial_leaves_nothing_in_an_object_store(
    adapted: Any, tiny_items: Any, tiny_tokenizer: Any, bucket: str
) -> None:
    samples = encode_items(tiny_items, tiny_tokenizer, max_length=256, window_tokens=64)
    spec = make_spec(adapted, torch.float32)
    open_place(bucket).write("other/run.zarr/zarr.json", b"{}")
    rates = measure(adapted, samples, [slice(0, 6)], spec, f"{bucket}/other/run.zarr")
    assert rates.write_rate > 0
    assert list(open_place(bucket).keys()) == ["other/run.zarr/zarr.json"]


@pytest.mark.parametrize(
    ("beside", "write_rate", "total", "bottleneck"),
    [
        (False, 1e12, 7 + 10 + 4 + 2, "forward"),
        (True, 1e12, 7 + 10, "forward"),
        (False, None, 7 + 100, "write"),
        (True, None, 7 + 100, "write"),
    ],
    ids=["CPU", "GPU", "slow disk and CPU", "slow disk and GPU"],
)
def test_stages_are_laid_beside_each_other_as_they_run(
    adapted: Any, beside: bool, write_rate: float | None, total: float, bottleneck: str
) -> None:
    estimated = estimate(make_spec(adapted, torch.float32))
    states = sum(part.raw_bytes for part in estimated.parts if part.name in {"base", "factor", "reductions"})
    rates = Rates(
        forward_seconds=0.01,
        copy_rate=states / 4,
        encode_rate=states / 2,
        write_rate=write_rate or estimated.stored_bytes / 100,
        ratio=0.8,
        n_tokens=1,
        n_bytes=1,
    )
    times = expect(rates, estimated, passed_tokens=1000, scored_tokens=700, beside_the_pass=beside)
    assert times.stages["score"] == pytest.approx(7)
    assert [times.stages[name] for name in ("forward", "copy", "encode")] == pytest.approx([10, 4, 2])
    assert times.total == pytest.approx(total)
    assert times.bottleneck == bottleneck
