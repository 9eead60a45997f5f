from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch

from lorascope.capture.buffers.copies import ChosenTokens, DirectCopier, StreamCopier, copier_for
from lorascope.capture.buffers.row_buffer import RowBuffer

from ..card import Card, card, on_card

__all__ = ["card"]

CUDA = torch.device("cuda:0")
SELECTIONS = {
    "all": np.arange(40),
    "one run": np.arange(7, 31),
    "two runs": np.concatenate([np.arange(0, 16), np.arange(20, 39)]),
    "scattered": np.array([0, 3, 4, 9, 17, 18, 39]),
    "one": np.array([39]),
    "none": np.empty(0, np.int64),
}


@pytest.mark.parametrize("flat", SELECTIONS.values(), ids=SELECTIONS.keys())
def test_runs_cover_the_chosen_in_order(flat: np.ndarray) -> None:
    chosen = ChosenTokens(flat)
    assert len(chosen) == len(flat)
    found = [np.arange(source.start, source.stop) for source, _ in chosen.runs]
    np.testing.assert_array_equal(np.concatenate([*found, np.empty(0, np.int64)]), flat)
    assert [target.start for _, target in chosen.runs] == [0, *(t.stop for _, t in chosen.runs)][: len(chosen.runs)]


@pytest.mark.parametrize("flat", SELECTIONS.values(), ids=SELECTIONS.keys())
@pytest.mark.parametrize(("stored", "strided"), [(torch.float32, False), (torch.bfloat16, True)])
def test_copy_casts_and_chooses_in_any_layout(flat: np.ndarray, stored: torch.dtype, strided: bool) -> None:
    output = torch.randn(40, 6, generator=torch.Generator().manual_seed(0)) * 100
    place = torch.full((len(flat), 12 if strided else 6), torch.nan, dtype=stored)
    place = place[:, 3:9] if strided else place
    copier = DirectCopier()
    copier.copy(output, ChosenTokens(flat), place)
    copier.mark()()
    assert torch.equal(place, output[torch.from_numpy(flat)].to(stored))


def test_one_run_is_viewed_and_anything_else_copied() -> None:
    output = torch.randn(40, 6)
    run = ChosenTokens(SELECTIONS["one run"]).view(output)
    assert run.data_ptr() == output[7].data_ptr()
    assert torch.equal(run, output[7:31])
    assert torch.equal(ChosenTokens(SELECTIONS["scattered"]).view(output), output[[0, 3, 4, 9, 17, 18, 39]])
    copied = ChosenTokens(SELECTIONS["one run"]).copy(output)
    assert copied.data_ptr() != output[7].data_ptr()
    assert torch.equal(copied, run)


def test_host_memory_is_copied_directly() -> None:
    copier = copier_for(torch.device("cpu"))
    assert isinstance(copier, DirectCopier)
    place = torch.empty(3)
    copier.send(torch.ones(3), place)
    assert torch.equal(place, torch.ones(3))


def test_layers_that_a_device_map_left_on_the_host_are_copied_at_once() -> None:
    copier = StreamCopier(CUDA)
    output, place = torch.randn(10, 3), torch.empty(4, 3)
    copier.copy(output, ChosenTokens(np.array([1, 2, 3, 8])), place)
    assert torch.equal(place, output[[1, 2, 3, 8]])
    copier.send(output[:4], place)
    assert torch.equal(place, output[:4])


@pytest.mark.parametrize("limit", [0, 1000, 2**30], ids=["one at a time", "some in flight", "all in flight"])
@pytest.mark.parametrize("stored", [torch.float32, torch.bfloat16], ids=str)
def test_copies_hold_what_was_put_out_though_the_pass_goes_on(
    limit: int, stored: torch.dtype, card: Callable[..., Card]
) -> None:
    devices, copier = card(), StreamCopier(CUDA, in_flight_bytes=limit)
    flat = SELECTIONS["two runs"]
    memory = RowBuffer({"x": ((20, len(flat), 3), np.dtype("uint16" if stored == torch.bfloat16 else "float32"))})
    copier.pin(memory.memory)
    places, expected = memory.tensors["x"], []
    for index in range(20):
        output = on_card(torch.randn(40, 3), index % 2)
        expected.append(output[torch.from_numpy(flat)].to(stored).cpu())
        copier.copy(output, ChosenTokens(flat), places[index])
        output.fill_(index)  # what comes after may use the output's memory
        assert copier._held_bytes <= limit
    if limit == 2**30:
        assert places.isnan().all()
    copier.mark()()
    assert torch.equal(places, torch.stack(expected))
    copier.close()
    devices.check()


def test_a_wait_is_for_the_copies_before_it(card: Callable[..., Card]) -> None:
    card()
    copier, memory = StreamCopier(CUDA), RowBuffer({"x": ((2, 3), np.dtype("float32"))})
    copier.pin(memory.memory)
    first, second = memory.tensors["x"]
    copier.send(on_card(torch.ones(3)), first)
    wait = copier.mark()
    copier.send(on_card(torch.ones(3)), second)
    wait()
    assert first.tolist() == [1, 1, 1]
    assert second.isnan().all()
    copier.close()  # waits for the other, too
    assert second.tolist() == [1, 1, 1]


def test_an_error_of_the_device_leaves_no_memory_registered(
    card: Callable[..., Card], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Everything that is asked of a device after an illegal access fails: waiting, too."""
    devices, copier = card(), StreamCopier(CUDA)
    copier.pin(RowBuffer({"x": ((2, 3), np.dtype("float32"))}).memory)

    def fail() -> None:
        raise RuntimeError("an illegal memory access was encountered")

    monkeypatch.setattr(copier, "mark", lambda: fail)
    with pytest.raises(RuntimeError, match="illegal memory access"):
        copier.close()
    assert devices.registered == {}


def test_a_refused_registration_is_forgotten_by_the_device(
    card: Callable[..., Card], monkeypatch: pytest.MonkeyPatch
) -> None:
    """CUDA remembers an error until it is asked for: a later kernel would be blamed for it."""
    card().may_register = False
    remembered: list[str] = ["out of memory"]

    def launch(*_: Any, **__: Any) -> None:
        if remembered:
            raise RuntimeError(f"CUDA error: {remembered.pop()}")

    monkeypatch.setattr(torch, "zeros", launch)
    StreamCopier(CUDA).pin(RowBuffer({"x": ((2, 3), np.dtype("float32"))}).memory)
    assert remembered == []
