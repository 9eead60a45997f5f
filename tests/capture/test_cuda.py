"""Copies from a GPU during the pass; what can be proved without one is in `test_order.py`, which always runs."""

import copy
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from lorascope.capture import attach_adapter, load_model
from lorascope.capture.buffers.copies import ChosenTokens, StreamCopier
from lorascope.capture.buffers.row_buffer import RowBuffer
from lorascope.capture.recording.reduce import reduce_tokens
from lorascope.stores import verify

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
CUDA = torch.device("cuda")


@pytest.mark.parametrize("limit", [0, 2**30], ids=["one at a time", "all in flight"])
@pytest.mark.parametrize("stored", ["float32", "uint16"])
def test_copies_hold_what_was_put_out_though_the_pass_goes_on(limit: int, stored: str) -> None:
    copier = StreamCopier(CUDA, in_flight_bytes=limit)
    flat = np.concatenate([np.arange(0, 900), np.arange(1000, 1900)])
    memory = RowBuffer({str(index): ((len(flat), 512), np.dtype(stored)) for index in range(40)})
    copier.pin(memory.memory)
    assert memory.memory.is_pinned()
    expected, seconds = [], 0.0
    for index, place in enumerate(memory.tensors.values()):
        output = torch.randn(2000, 512, device=CUDA)
        expected.append(output[torch.from_numpy(flat).to(CUDA)].to(place.dtype).cpu())
        torch.cuda._sleep(2_000_000)  # the copy is asked for long before the device gets there
        start = time.perf_counter()
        copier.copy(output, ChosenTokens(flat), place)
        seconds += time.perf_counter() - start
        output.fill_(index)  # what comes after may use the output's memory
        del output
    copier.mark()()
    assert all(torch.equal(place, values) for place, values in zip(memory.tensors.values(), expected, strict=True))
    if limit:
        assert seconds < 40 * 0.5e-3  # the device alone sleeps a millisecond in each
    copier.close()
    assert not memory.memory.is_pinned()


def test_a_refused_registration_leaves_the_device_as_it_was(caplog: pytest.LogCaptureFixture) -> None:
    copier, memory = StreamCopier(CUDA), RowBuffer({"x": ((1024, 8), np.dtype("float32"))})
    torch.cuda.init()
    other = StreamCopier(CUDA)
    other.pin(memory.memory)
    copier.pin(memory.memory)  # registered already
    assert "can't page-lock" in caplog.text
    values = torch.randn(1024, 8, device=CUDA)
    copier.send(values, memory.tensors["x"])
    copier.close()
    assert torch.equal(memory.tensors["x"], values.cpu())
    other.close()


def test_device_reduces_to_the_same_as_the_host() -> None:
    base, delta = torch.randn(300, 576) * 5, torch.randn(300, 576) * 0.1
    pytest.importorskip("triton")
    from lorascope.capture.recording.fused import measure_delta

    there = base.to(CUDA), delta.to(CUDA)
    for found in (reduce_tokens(*there), measure_delta(*there)[:4]):
        for one, expected in zip(found, reduce_tokens(base, delta), strict=True):
            torch.testing.assert_close(one.cpu(), expected, rtol=2e-6, atol=1e-12)


@pytest.mark.parametrize("states", ["all", "sample", "none"])
def test_capture_on_a_gpu_is_that_on_a_cpu(
    make: Any, tiny_model: Any, tiny_adapter: Path, text: Path, states: str
) -> None:
    options = {"data": (str(text),), "states": states, "window_tokens": 200, "batch_tokens": 900}
    here = make("cpu", **options)
    model = attach_adapter(copy.deepcopy(tiny_model).to(CUDA), tiny_adapter)
    there = make("cuda", model=model, **options)
    assert verify(there.path).ok
    np.testing.assert_allclose(there.tokens["nll"], here.tokens["nll"], rtol=1e-3, atol=1e-4)
    np.testing.assert_allclose(there.js(), here.js(), rtol=1e-2, atol=1e-7)
    if states == "all":
        for path in here.component_paths:
            np.testing.assert_allclose(there.base(path), here.base(path), rtol=1e-3, atol=1e-3)
            np.testing.assert_allclose(there.delta(path), here.delta(path), rtol=1e-3, atol=1e-3)


def test_a_given_model_is_never_moved(make: Any, adapted: Any) -> None:
    run = make(model=adapted, device="cuda")
    assert {parameter.device.type for parameter in adapted.parameters()} == {"cpu"}
    assert run.attributes["provenance"]["device"]["type"] == "cpu"


@pytest.mark.skipif(torch.cuda.device_count() < 2, reason="needs two GPUs")
def test_a_model_spread_over_gpus(make: Any, tiny_model: Any, tiny_adapter: Path, tmp_path: Path) -> None:
    tiny_model.save_pretrained(tmp_path / "model")
    spread, _ = load_model(str(tmp_path / "model"), device_map="balanced")
    here, there = make("cpu"), make("gpus", model=attach_adapter(spread, tiny_adapter))
    assert verify(there.path).ok
    for path in here.component_paths:
        np.testing.assert_allclose(there.base(path).values, here.base(path).values, rtol=1e-4, atol=1e-5)
