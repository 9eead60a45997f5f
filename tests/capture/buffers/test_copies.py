import numpy as np
import pytest
import torch

from lorascope.capture.buffers.copies import Chosen, DirectCopier, copier_for

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
    chosen = Chosen(flat)
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
    copier.copy(output, Chosen(flat), place)
    copier.mark()()
    assert torch.equal(place, output[torch.from_numpy(flat)].to(stored))


def test_one_run_is_viewed_and_anything_else_copied() -> None:
    output = torch.randn(40, 6)
    run = Chosen(SELECTIONS["one run"]).view(output)
    assert run.data_ptr() == output[7].data_ptr()
    assert torch.equal(run, output[7:31])
    assert torch.equal(Chosen(SELECTIONS["scattered"]).view(output), output[[0, 3, 4, 9, 17, 18, 39]])
    copied = Chosen(SELECTIONS["one run"]).copy(output)
    assert copied.data_ptr() != output[7].data_ptr()
    assert torch.equal(copied, run)


def test_host_memory_is_copied_directly() -> None:
    copier = copier_for(torch.device("cpu"))
    assert isinstance(copier, DirectCopier)
    values = torch.ones(3)
    assert copier.fetch(values) is values
