import dataclasses
from functools import partial
from pathlib import Path
from typing import Any

import torch

from lorascope.capture.buffers.copies import IN_FLIGHT_BYTES
from lorascope.capture.buffers.row_buffer import buffer_bytes
from lorascope.capture.planning.memory import device_bytes_needed, free_device_bytes, free_host_bytes, job_groups
from lorascope.capture.samples.scoring import logits_per_part
from lorascope.capture.settling.estimate import estimate
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


def test_what_the_device_holds() -> None:
    needs_of = partial(device_bytes_needed, shards={}, has_kernel=False)
    needs = needs_of(make_spec(), weights={"weights": 1010}, batch_tokens=7, vocabulary=11)
    assert needs == {
        "weights": 1010,
        "outputs of a layer": 7 * 2 * 300,
        "logits": 7 * 11 * (2 + 8),
        "measuring js": 7 * 200 * (10 + 12 * 8) + 7 * 900 * (6 * 2 + 16),
        "states under way": 7 * 900 * 2 + 7 * 6 * 4 * 3 * 4,
    }
    bare = needs_of(make_spec(kl=True), weights={}, batch_tokens=7, vocabulary=11)
    assert bare["logits"] == 7 * 11 * (2 * 2 + 40)
    assert "states under way" not in bare
    ablated = dataclasses.replace(make_spec(), ablate="kinds", ablation_parts=("q", "k"))
    assert needs_of(ablated, weights={}, batch_tokens=7, vocabulary=11)["logits"] == bare["logits"]
    adapter = dataclasses.replace(make_spec().adapters[0], importance=(8, 24))
    graded = needs_of(dataclasses.replace(make_spec(), adapters=(adapter,)), weights={}, batch_tokens=7, vocabulary=11)
    assert graded["gradients"] == 2 * 7 * (11 + 3 * 8 + (8 + 100 + 8 + 200))
    turned = dataclasses.replace(make_spec().adapters[0], n_variants=9)
    nulls = needs_of(dataclasses.replace(make_spec(), adapters=(turned,)), weights={}, batch_tokens=7, vocabulary=11)
    widths = zip(turned.rank, make_spec().components, strict=True)
    assert nulls["null adapters"] == 4 * 9 * sum(rank * component.d_out for rank, component in widths)
    pair = needs_of(make_spec("pair"), weights={}, batch_tokens=7, vocabulary=11)
    assert pair["logits"] == 7 * 11 * (2 * 2 + 8)
    assert pair["base of a pair"] == 7 * 900 * 2
    wide = needs_of(make_spec(width=10**6), weights={}, batch_tokens=100, vocabulary=11)
    assert wide["states under way"] == IN_FLIGHT_BYTES + 100 * 6 * 4 * 3 * 4
    many = needs_of(make_spec(), weights={}, batch_tokens=2**14, vocabulary=2**17)
    assert many["logits"] == 2**14 * 2**17 * 2 + logits_per_part(torch.device("cuda")) * 8


def test_the_kernel_holds_nothing_but_its_results() -> None:
    spec = make_spec(kl=True)
    spec = dataclasses.replace(spec, adapters=(*spec.adapters, dataclasses.replace(spec.adapters[0], name="other")))
    sizes: dict[str, Any] = {"weights": {"weights": 1010}, "batch_tokens": 7, "vocabulary": 11}
    needs, others = (
        device_bytes_needed(spec, **sizes, shards={}, has_kernel=has_kernel) for has_kernel in (True, False)
    )
    assert needs["logits"] == 7 * 11 * 2 * 2
    assert needs["measuring js"] == 7 * 6 * 2 * 24
    changed = {"logits", "measuring js"}
    assert {what: size for what, size in needs.items() if what not in changed} == {
        what: size for what, size in others.items() if what not in changed
    }


def test_rows_without_states_take_less() -> None:
    estimated = estimate(dataclasses.replace(make_spec(), states="sample", state_rows=(True,) + (False,) * 9))
    sizes = buffer_bytes(estimated.row_arrays), buffer_bytes(estimated.bare_row_arrays)
    assert estimated.row_sizes() == [sizes[0]] + [sizes[1]] * 9
    assert sum(estimated.bare_row_arrays) < sum(estimated.row_arrays)


def test_rows_are_counted_in_whole_pages() -> None:
    """Each array begins at a page; no more is taken, be it page-locked or not."""
    assert buffer_bytes([0, 1, 4096, 4097]) == 0 + 4096 + 4096 + 8192
    estimated = estimate(make_spec())
    assert estimated.row_sizes()[0] == buffer_bytes(estimated.row_arrays)


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
