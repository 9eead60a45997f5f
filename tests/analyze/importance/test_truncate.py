"""Truncation by importance: which directions are kept, what is estimated to be lost, whose run is taken."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from lorascope.analyze import truncate_adapter
from lorascope.analyze.adapters.factors import hash_adapter
from lorascope.analyze.importance.truncate import choose_directions
from lorascope.stores import Run, StoreError, open_run

from ...stored import store_gradients
from ..conftest import Small
from .test_compare_measures import write_adapter


def greedy(values: list[np.ndarray], sizes: list[int], share: float) -> list[list[int]]:
    """The best of each layer, then one direction after the other while less than the share is kept."""
    kept = [[int(own.argmax())] for own in values]
    rest = [(-own[k] / size, place, k) for place, (own, size) in enumerate(zip(values, sizes, strict=True))
            for k in range(len(own)) if k not in kept[place] and own[k] > 0]  # fmt: skip
    for _, place, k in sorted(rest):
        if sum(values[p][k] for p, few in enumerate(kept) for k in few) >= share * sum(map(sum, values)):
            break
        kept[place].append(k)
    return [sorted(few) for few in kept]


def chosen(values: list[np.ndarray], sizes: list[int], share: float) -> list[list[int]]:
    layer = np.repeat(np.arange(len(values)), list(map(len, values)))
    mask = choose_directions(np.concatenate(values), layer, np.array(sizes)[layer], share)
    return [np.flatnonzero(mask[layer == place]).tolist() for place in range(len(values))]


@pytest.mark.parametrize("share", [1e-3, 0.3, 0.9, 0.99, 0.999999])
def test_directions_are_kept_by_importance_per_parameter(share: float) -> None:
    rng = np.random.default_rng(0)
    values, sizes = [np.exp(3 * rng.normal(size=rank)) for rank in (4, 1, 8, 8)], [10, 300, 20, 40]
    expected = greedy(values, sizes, share)
    assert chosen(values, sizes, share) == expected
    assert len({len(few) for few in expected}) > 1 or share < 0.5


def test_all_of_it_is_every_direction_that_has_any() -> None:
    values = [np.array([0.0, 2.0, 1e-9, 0.0]), np.zeros(3)]
    assert chosen(values, [1, 1], 1.0) == [[1, 2], [0]]


@pytest.fixture
def folder(make_small: Callable[..., Small], tmp_path: Path) -> Path:
    (tmp_path / "lora").mkdir()
    write_captured(tmp_path / "lora", make_small(importance=True).run)
    return tmp_path / "lora"


def write_captured(folder: Path, run: Run) -> None:
    """An adapter whose change has the norm of the run's in each layer."""
    write_adapter(folder, run.component_paths)
    stored, tensors = run.importance(), load_file(folder / "adapter_model.safetensors")
    for place, path in enumerate(run.component_paths):
        b, a = (f"base_model.model.{path}.lora_{part}.weight" for part in "BA")
        norm = np.linalg.norm(stored["singular_value"].values[stored["component"].values == place])
        tensors[b] *= 2 * norm / np.linalg.norm(tensors[b] @ tensors[a])  # alpha / rank is 1 / 2
    save_file(tensors, folder / "adapter_model.safetensors")


def test_what_is_left_and_lost_of_a_run(make_small: Callable[..., Small], folder: Path, tmp_path: Path) -> None:
    run = make_small(importance=True).run
    result = truncate_adapter(folder, tmp_path / "new", run=run, share=0.9999)
    stored = run.importance()
    g, n = stored["gradient"].values.astype(float).reshape(5, 3, 6, 2), stored["n_tokens"].values.reshape(5, 3)[:, :1]
    value = (g**2).mean(axis=1) / (2 * n[..., None])

    def kept_of(samples: list[int]) -> np.ndarray:
        kept = np.zeros((6, 2), bool)
        for place, few in enumerate(greedy([*value[samples].mean(axis=0)], [8 + 24] * 6, 0.9999)):
            kept[place, few] = True
        return kept

    kept = kept_of([0, 1, 2, 3, 4])
    assert result["rank"].values.tolist() == kept.sum(axis=1).tolist()
    assert 6 < kept.sum() < 12
    lost = np.empty(5)
    for half, other in (([0, 2, 4], [1, 3]), ([1, 3], [0, 2, 4])):
        lost[half] = (g[..., ~kept_of(other)].sum(axis=-1) ** 2 / (2 * n)).mean(axis=1)[half]
    np.testing.assert_allclose(result["lost"], lost.mean())
    np.testing.assert_allclose(result["lost_se"], lost.std(ddof=1) / np.sqrt(5))
    assert {result.attrs[name] for name in ("share", "n_samples")} == {0.9999, 5}
    path = run.component_paths[0]
    B, A = (load_file(folder / "adapter_model.safetensors")[f"base_model.model.{path}.lora_{p}.weight"] for p in "BA")
    new = load_file(tmp_path / "new" / "adapter_model.safetensors")
    U, _, _ = np.linalg.svd(B @ A)
    few = U[:, :2][:, kept[0]]
    product = new[f"base_model.model.{path}.lora_B.weight"] @ new[f"base_model.model.{path}.lora_A.weight"]
    np.testing.assert_allclose(product, few @ few.T @ B @ A / 2, atol=1e-5)  # alpha / rank is 1 / 2
    whole = truncate_adapter(folder, tmp_path / "whole", run=run, share=1)
    assert (whole["rank"] == 2).all()
    assert float(whole["lost"]) == 0


def test_another_adapters_run_is_refused(make_small: Callable[..., Small], folder: Path, tmp_path: Path) -> None:
    run = open_run(make_small(importance=True).run.path)
    run.attributes["provenance"] = {"adapters": {"default": {"sha256": hash_adapter(folder)}}}
    truncate_adapter(folder, tmp_path / "new", run=run)
    write_adapter(folder, run.component_paths, seed=1)
    with pytest.raises(ValueError, match="`path` is '.*lora', another adapter: its hash is .*; give the captured"):
        truncate_adapter(folder, tmp_path / "newer", run=run)
    assert not (tmp_path / "newer").exists()


def test_another_adapters_run_without_a_hash_is_refused(
    make_small: Callable[..., Small], folder: Path, tmp_path: Path
) -> None:
    run = make_small(importance=True).run
    write_adapter(folder, run.component_paths, seed=1)
    with pytest.raises(ValueError, match="'.*lora', another adapter: its change of .* has a norm of .*; give the capt"):
        truncate_adapter(folder, tmp_path / "new", run=run)
    assert not (tmp_path / "new").exists()


@pytest.mark.parametrize(
    ("ranks", "words"),
    [
        ({"a": 2}, "run.zarr' has the importance of 0 directions of 'b', not of its 2; capture all components with"),
        ({"a": 2, "b": 1}, "run.zarr' has the importance of 1 directions of 'b', not of its 2"),
    ],
)
def test_a_run_of_other_directions_is_refused(tmp_path: Path, ranks: dict[str, int], words: str) -> None:
    (tmp_path / "lora").mkdir()
    write_adapter(tmp_path / "lora", ["a", "b"])
    run = store_gradients(tmp_path / "run.zarr", {path: np.ones((3, rank)) for path, rank in ranks.items()})
    with pytest.raises(StoreError, match=words):
        truncate_adapter(tmp_path / "lora", tmp_path / "new", run=run)


def test_a_run_without_importance_is_refused(small: Small, folder: Path, tmp_path: Path) -> None:
    with pytest.raises(StoreError, match="holds no importance; capture it again with `--importance"):
        truncate_adapter(folder, tmp_path / "new", run=small.run)


@pytest.mark.parametrize("share", [0, -0.5, 1.01, float("nan")])
def test_shares_are_above_zero_and_at_most_one(small: Small, folder: Path, tmp_path: Path, share: float) -> None:
    with pytest.raises(ValueError, match=r"`share` is .*; it must be above 0 and at most 1, such as 0\.99"):
        truncate_adapter(folder, tmp_path / "new", run=small.run, share=share)
