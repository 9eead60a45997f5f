import dataclasses
from pathlib import Path

import pytest
import torch
from torch import nn

from lorascope.capture.buffers.copies import IN_FLIGHT_BYTES
from lorascope.capture.buffers.row_buffer import buffer_bytes
from lorascope.capture.planning.estimate import estimate
from lorascope.capture.planning.memory import (
    device_needs,
    free_device_bytes,
    free_host_bytes,
    host_needs,
    job_groups,
    weight_bytes,
)
from lorascope.capture.samples.scoring import part_logits
from lorascope.stores import Adapter, Component, RunSpec
from lorascope.stores.format.spec import ROW_TOKENS


def make_spec(
    stream: str = "adapted", *, kl: bool = False, n_tokens: int = 10 * ROW_TOKENS, width: int = 100
) -> RunSpec:
    components = tuple(
        Component(
            path=f"model.layers.{i // 2}.{kind}",
            kind=kind,
            layer=i // 2,
            d_in=8,
            d_out=width * (1 + i % 2),
            dtype="bfloat16",
            stored_dtype="bfloat16",
        )
        for i, kind in enumerate(("q", "k") * 3)
    )
    adapter = Adapter(name="default", rank=(4,) * 6, scaling=(1.0,) * 6, factored=(True,) * 6)
    return RunSpec(
        stream=stream,  # type: ignore[arg-type]
        components=components,
        adapters=(adapter,),
        n_tokens=n_tokens,
        n_samples=1,
        n_choices=0,
        states="none" if kl else "all",
        kl=kl,
    )


def sizes(needs: list) -> dict[str, int]:
    return {need.what: need.n_bytes for need in needs}


def test_bytes_of_weights_count_shared_ones_once() -> None:
    layer = nn.Linear(8, 4, bias=False)
    model = nn.Sequential(layer, layer, nn.Linear(2, 3).half())
    model.register_buffer("steps", torch.zeros(5, dtype=torch.int64))
    n_bytes = 8 * 4 * 4 + (2 * 3 + 3) * 2 + 40
    assert weight_bytes(model) == n_bytes
    assert weight_bytes(model.to("meta")) == n_bytes


def test_what_the_device_holds() -> None:
    needs = device_needs(make_spec(), weights=1010, batch_tokens=7, vocabulary=11)
    assert {need.where for need in needs} == {"device"}
    assert sizes(needs) == {
        "weights": 1010,
        "outputs of a layer": 7 * 2 * 300,
        "logits": 7 * 11 * (2 + 8),
        "measuring js": 7 * 200 * (10 + 12 * 8) + 7 * 900 * (6 * 2 + 16),
        "states under way": 7 * 900 * 2 + 7 * 6 * 4 * 3 * 4,
    }
    bare = sizes(device_needs(make_spec(kl=True), weights=0, batch_tokens=7, vocabulary=11))
    assert bare["logits"] == 7 * 11 * (2 * 2 + 40)
    assert "states under way" not in bare
    pair = sizes(device_needs(make_spec("pair"), weights=0, batch_tokens=7, vocabulary=11))
    assert pair["logits"] == 7 * 11 * (2 * 2 + 8)
    assert pair["base of a pair"] == 7 * 900 * 2
    wide = sizes(device_needs(make_spec(width=10**6), weights=0, batch_tokens=100, vocabulary=11))
    assert wide["states under way"] == IN_FLIGHT_BYTES + 100 * 6 * 4 * 3 * 4
    many = sizes(device_needs(make_spec(), weights=0, batch_tokens=2**14, vocabulary=2**17))
    assert many["logits"] == 2**14 * 2**17 * 2 + part_logits(torch.device("cuda")) * 8


def test_what_the_host_holds() -> None:
    estimated = estimate(make_spec())
    row, spans = estimated.row_bytes, [range(2), range(9, 10)]
    for queue_rows, held in ((None, 4), (3, 3)):
        queue_bytes = queue_rows and queue_rows * row
        needs = sizes(host_needs(estimated, spans, queue_bytes=queue_bytes, n_threads=6))
        assert needs == {"row buffers": held * row, "encoding": 6 * 2 * ROW_TOKENS * 200 * 2}
    with pytest.raises(ValueError, match="a batch fills 2 rows at once"):  # as the capture refuses it
        host_needs(estimated, spans, queue_bytes=row, n_threads=6)


def test_rows_without_states_take_less() -> None:
    estimated = estimate(dataclasses.replace(make_spec(), states="sample", state_rows=(True,) + (False,) * 9))
    assert estimated.row_sizes() == [estimated.row_bytes] + [sum(estimated.bare_row_arrays)] * 9
    assert sum(estimated.bare_row_arrays) < estimated.row_bytes


def test_page_locked_rows_are_counted_as_torch_takes_them() -> None:
    """It makes each page-locked array a power of two (torch's `CachingHostAllocator`)."""
    assert buffer_bytes([0, 1, 3, 4, 1000], pinned=True) == 0 + 1 + 4 + 4 + 1024
    estimated = estimate(make_spec())
    assert estimated.row_sizes(pinned=True)[0] == buffer_bytes(estimated.row_arrays, pinned=True) > estimated.row_bytes
    pinned = sizes(host_needs(estimated, [range(1)], queue_bytes=None, n_threads=1, pinned=True))
    assert pinned["row buffers"] == 3 * estimated.row_sizes(pinned=True)[0]


def test_free_memory_is_the_least_of_what_machine_and_groups_allow(tmp_path: Path) -> None:
    meminfo = tmp_path / "meminfo"
    meminfo.write_text("MemTotal:       100 kB\nMemAvailable:    60 kB\nHugePages_Total:   0\n")
    free, tight, lifted = (tmp_path / name for name in ("free", "tight", "lifted"))
    for group, limit, used in ((free, "max", 5), (tight, str(50 * 1024), 20 * 1024), (lifted, "10", 20)):
        group.mkdir()
        (group / "memory.max").write_text(f"{limit}\n")
        (group / "memory.current").write_text(f"{used}\n")
    assert free_host_bytes(meminfo, [free]) == 60 * 1024
    assert free_host_bytes(meminfo, [free, tight, tmp_path / "none"]) == 30 * 1024
    assert free_host_bytes(meminfo, [lifted]) == 0
    assert free_host_bytes(tmp_path / "absent", []) is None
    assert free_host_bytes(tmp_path / "absent", [tight]) == 30 * 1024


def test_groups_of_a_process_and_those_above(tmp_path: Path) -> None:
    listing = tmp_path / "cgroup"
    listing.write_text("3:cpu:/old\n0::/job/step\n")
    assert job_groups(listing, tmp_path) == (tmp_path / "job/step", tmp_path / "job", tmp_path)
    assert job_groups(tmp_path / "absent", tmp_path) == (tmp_path,)


def test_free_memory_of_this_machine() -> None:
    here = free_device_bytes(torch.device("cpu"))
    assert here is None or here > 0
    assert free_device_bytes(torch.device("meta")) is None
    if torch.cuda.is_available():
        assert free_device_bytes(torch.device("cuda:0"))
