"""Truncated adapters: products against the SVD of the whole matrix; what is refused."""

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import xarray as xr
from safetensors import TensorSpec, serialize_file
from safetensors.numpy import load_file, save_file

from lorascope.analyze import adapter_report
from lorascope.analyze.adapters import truncated
from lorascope.analyze.adapters.factors import DTYPES, StoredTensor, narrow_factor, read_factor
from lorascope.analyze.adapters.truncated import truncatable_branches, write_truncated

PREFIX = "base_model.model."
Q, UP = "model.layers.2.self_attn.q_proj", "model.layers.10.mlp.up_proj"
SCALING = 2.0


def factors(path: str, *, decay: float, rank: int = 4, d_in: int = 12, d_out: int = 20) -> dict[str, np.ndarray]:
    """Random singular vectors, each value `decay` of the one before it, turned into other A and B."""
    rng = np.random.default_rng(0)
    V, U, turned = (np.linalg.qr(rng.normal(size=(n, rank)))[0] for n in (d_in, d_out, rank))
    return {
        f"{PREFIX}{path}.lora_A.weight": np.ascontiguousarray(turned @ V.T),
        f"{PREFIX}{path}.lora_B.weight": np.ascontiguousarray(U * decay ** np.arange(rank) @ turned.T),
    }


def write(folder: Path, tensors: dict[str, np.ndarray], **config: Any) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    save_file(tensors, folder / "adapter_model.safetensors")
    settings = {"peft_type": "LORA", "r": 4, "lora_alpha": 4 * SCALING, "lora_dropout": 0.1, **config}
    (folder / "adapter_config.json").write_text(json.dumps(settings))
    return folder


def product(folder: Path, path: str, scaling: float) -> np.ndarray:
    tensors = load_file(folder / "adapter_model.safetensors")
    A, B = (tensors[f"{PREFIX}{path}.lora_{part}.weight"].astype(np.float64) for part in "AB")
    return scaling * B.reshape(len(B), -1) @ A.reshape(len(A), -1)


def some(whole: np.ndarray, numbers: list[int]) -> np.ndarray:
    U, sigma, V = np.linalg.svd(whole, full_matrices=False)
    return (U[:, numbers] * sigma[numbers]) @ V[numbers]


def keep(folder: Path, out: Path, *numbers: list[int]) -> xr.Dataset:
    """Write the adapter with these directions of its layers, the last ones of all further layers."""
    report, branches = truncatable_branches(folder, out)
    chosen = [*numbers, *[numbers[-1]] * (len(branches) - len(numbers))]
    return write_truncated(folder, out, report, [np.array(few) for few in chosen])


@pytest.mark.parametrize("numbers", [[0], [0, 1], [2], [0, 3], [0, 1, 2, 3]])
def test_each_layer_has_its_own_directions(tmp_path: Path, numbers: list[int]) -> None:
    folder = write(tmp_path / "lora", factors(Q, decay=0.5) | factors(UP, decay=0.9))
    found = keep(folder, tmp_path / "new", numbers, [1, 2])
    for path, few in ((Q, numbers), (UP, [1, 2])):
        new = product(tmp_path / "new", path, 1.0)
        np.testing.assert_allclose(new, some(product(folder, path, SCALING), few), atol=1e-14)
    assert list(found["rank_before"].values) == [4, 4]
    assert list(found["rank"].values) == [len(numbers), 2]
    assert (found.attrs["n_parameters_before"], found.attrs["n_parameters"]) == (4 * 64, 32 * (len(numbers) + 2))
    report = adapter_report(tmp_path / "new")
    assert list(report["rank"].values) == [len(numbers), 2]
    assert list(report["scaling"].values) == [1, 1]
    assert report.attrs["n_parameters"] == 32 * (len(numbers) + 2)


def test_both_factors_get_the_root_of_each_singular_value(tmp_path: Path) -> None:
    keep(write(tmp_path / "lora", factors(Q, decay=0.5)), tmp_path / "new", [0, 1])
    tensors = load_file(tmp_path / "new" / "adapter_model.safetensors")
    A, B = (tensors[f"{PREFIX}{Q}.lora_{part}.weight"] for part in "AB")
    for gram in (A @ A.T, B.T @ B):
        np.testing.assert_allclose(gram, np.diag([2.0, 1.0]), atol=1e-14)


def test_a_layer_without_change_stays_without(tmp_path: Path) -> None:
    tensors = factors(Q, decay=0.5) | {key: 0 * tensor for key, tensor in factors(UP, decay=1.0).items()}
    keep(write(tmp_path / "lora", tensors), tmp_path / "new", [0])
    assert not product(tmp_path / "new", UP, 1.0).any()


@pytest.mark.parametrize(
    "config",
    [
        {"use_rslora": True, "lora_alpha": 4},
        {"alpha_pattern": {"q_proj": 8, ".*": 3}, "lora_alpha": 1},
        {"lora_alpha": -8},
        {"rank_pattern": {"up_proj": 4}, "r": 4},
    ],
)
def test_the_scaling_is_in_the_product(tmp_path: Path, config: dict[str, Any]) -> None:
    folder = write(tmp_path / "lora", factors(Q, decay=0.5) | factors(UP, decay=0.9), **config)
    keep(folder, tmp_path / "new", [0, 1])
    scaling = float(adapter_report(folder)["scaling"].sel(component=Q))
    assert abs(scaling) == SCALING
    np.testing.assert_allclose(product(tmp_path / "new", Q, 1.0), some(product(folder, Q, scaling), [0, 1]), atol=1e-14)
    assert list(adapter_report(tmp_path / "new")["scaling"].values) == [1, 1]


def test_the_configuration_names_whole_paths_and_keeps_the_rest(tmp_path: Path) -> None:
    """Three layers of rank 1 are the usual; one whose path ends like another's isn't mistaken for it."""
    inner = f"vision.{Q}"
    tensors = {key: one for path in ("a", "b", inner) for key, one in factors(path, decay=0.01).items()}
    order = adapter_report(write(tmp_path / "ordered", tensors | factors(Q, decay=1.0)))["component"].values.tolist()
    folder = write(
        tmp_path / "lora", tensors | factors(Q, decay=1.0), init_lora_weights="orthogonal", target_modules="x"
    )
    found = keep(folder, tmp_path / "new", *([0, 1, 2, 3] if path == Q else [0] for path in order))
    assert dict(zip(found["component"].values, found["rank"].values, strict=True)) == {"a": 1, "b": 1, inner: 1, Q: 4}
    settings = json.loads((tmp_path / "new" / "adapter_config.json").read_text())
    pattern = {"^" + re.escape(Q): 4}
    assert settings == {
        "peft_type": "LORA", "r": 1, "lora_alpha": 1, "rank_pattern": pattern, "alpha_pattern": pattern,
        "init_lora_weights": True, "lora_dropout": 0.1, "target_modules": "x",
    }  # fmt: skip


def test_types_and_other_tensors_stay(tmp_path: Path) -> None:
    tensors = {key: one.astype(np.float16) for key, one in factors(Q, decay=0.5).items()}
    tensors |= {key: one.astype(np.float32) for key, one in factors(UP, decay=0.5).items()}
    tensors[f"{PREFIX}{UP}.lora_B.bias"] = np.arange(20, dtype=np.float32)
    tensors[f"{PREFIX}lm_head.weight"] = np.arange(6, dtype=np.float16).reshape(2, 3)
    found = keep(write(tmp_path / "lora", tensors), tmp_path / "new", [0, 1])
    new = load_file(tmp_path / "new" / "adapter_model.safetensors")
    assert {key: one.dtype for key, one in new.items()} == {key: one.dtype for key, one in tensors.items()}
    np.testing.assert_array_equal(new[f"{PREFIX}lm_head.weight"], tensors[f"{PREFIX}lm_head.weight"])
    np.testing.assert_array_equal(new[f"{PREFIX}{UP}.lora_B.bias"], SCALING * np.arange(20))
    assert found.attrs["n_parameters"] == 2 * 32 + 2 * 32 + 20


def test_convolutions_keep_their_kernels(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    A, B = rng.normal(size=(4, 3, 5, 5)), rng.normal(size=(6, 4, 1, 1))
    tensors = {f"{PREFIX}conv.lora_A.weight": A, f"{PREFIX}conv.lora_B.weight": B}
    folder = write(tmp_path / "lora", tensors)
    keep(folder, tmp_path / "new", [0, 2])
    new = load_file(tmp_path / "new" / "adapter_model.safetensors")
    assert [one.shape for one in new.values()] == [(2, 3, 5, 5), (6, 2, 1, 1)]
    np.testing.assert_allclose(
        product(tmp_path / "new", "conv", 1.0), some(product(folder, "conv", 2.0), [0, 2]), atol=1e-13
    )


@pytest.mark.parametrize(("dtype", "n_bits"), [("BF16", 8), ("F16", 11), ("F32", 24)])
def test_rounded_to_the_nearest(tmp_path: Path, dtype: str, n_bits: int) -> None:
    values = np.random.default_rng(0).normal(size=1000)
    ties = np.array([1 + 2.0**-n_bits, 1 + 3 * 2.0**-n_bits, -1.0, 0.0])
    stored = narrow_factor(np.append(ties, values), dtype)
    assert stored.dtype == DTYPES[dtype][1]
    (tmp_path / "bits").write_bytes(stored.tobytes())
    with (tmp_path / "bits").open("rb") as file:
        back = read_factor(file, StoredTensor(dtype, stored.shape, 0))[:, 0]
    np.testing.assert_array_equal(back[:4], [1, 1 + 2.0 ** (2 - n_bits), -1, 0])
    off = np.abs(back[4:] - values) / 2.0 ** np.floor(np.log2(np.abs(values)))
    assert 0.4 < off.max() * 2**n_bits <= 1


@pytest.mark.parametrize(("dtype", "beyond"), [("F16", 65520.0), ("BF16", 3.4e38), ("F32", 3.41e38)])
def test_what_overflows_a_type_is_refused(dtype: str, beyond: float) -> None:
    narrow_factor(np.array([0.99 * beyond]), dtype)
    with pytest.raises(FloatingPointError, match="overflow"):
        narrow_factor(np.array([1.0, -beyond]), dtype)


def test_bfloat16_is_written_as_such(tmp_path: Path) -> None:
    bits = {key: narrow_factor(one, "BF16") for key, one in factors(Q, decay=0.5).items()}
    folder = write(tmp_path / "lora", {})
    specs = {
        key: TensorSpec(dtype="bfloat16", shape=one.shape, data_ptr=one.ctypes.data, data_len=one.nbytes)
        for key, one in bits.items()
    }
    serialize_file(specs, folder / "adapter_model.safetensors", metadata={"format": "pt"})
    keep(folder, tmp_path / "new", [0, 1])
    before, after = adapter_report(folder), adapter_report(tmp_path / "new")
    assert list(after["dtype"].values) == ["bfloat16"]
    assert list(after["rank"].values) == [2]
    kept = float((after["frobenius_norm"] / before["frobenius_norm"])[0]) ** 2
    np.testing.assert_allclose(kept, (1 - 0.25**2) / (1 - 0.25**4), rtol=2e-2)


def test_a_folder_appears_whole_or_not_at_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = write(tmp_path / "lora", factors(Q, decay=0.5))

    def killed(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(truncated, "read_settings", killed)  # after everything is written
        with pytest.raises(KeyboardInterrupt):
            keep(folder, tmp_path / "new", [0])
    assert [path.name for path in tmp_path.iterdir()] == ["lora"]
    (folder / "finetune.json").write_text("{}")
    keep(folder, tmp_path / "new", [0])
    names = ["adapter_config.json", "adapter_model.safetensors", "finetune.json"]
    assert sorted(path.name for path in (tmp_path / "new").iterdir()) == names


def test_nothing_is_written_over(tmp_path: Path) -> None:
    folder = write(tmp_path / "lora", factors(Q, decay=0.5))
    (tmp_path / "other").mkdir()
    with pytest.raises(FileExistsError, match="`out` is .*, which is there already; name a new folder"):
        keep(folder, tmp_path / "other", [0])
    with pytest.raises(FileExistsError, match="which is there already and isn't this truncation's; name a new folder"):
        keep(folder, folder, [0])


@pytest.mark.parametrize("change", ["nothing", "directions", "weights", "settings", "record", "a file more"])
def test_the_same_is_there_already_and_all_else_is_refused(tmp_path: Path, change: str) -> None:
    folder, new = write(tmp_path / "lora", factors(Q, decay=0.5)), tmp_path / "new"
    (folder / "finetune.json").write_text("{}")
    first = keep(folder, new, [0, 1])
    damaged = {"weights": "adapter_model.safetensors", "settings": "adapter_config.json", "record": "finetune.json"}
    if change in damaged:
        content = (new / damaged[change]).read_bytes()
        (new / damaged[change]).write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    elif change == "a file more":
        (new / "README.md").write_text("x")
    before = {path.name: (path.read_bytes(), path.stat().st_mtime_ns) for path in new.iterdir()}
    if change in ("nothing", "a file more"):
        assert keep(folder, new, [0, 1]).identical(first)
    else:
        with pytest.raises(FileExistsError, match="isn't this truncation's; name a new folder"):
            keep(folder, new, [0, 2] if change == "directions" else [0, 1])
    assert {path.name: (path.read_bytes(), path.stat().st_mtime_ns) for path in new.iterdir()} == before
    assert sorted(path.name for path in tmp_path.iterdir()) == ["lora", "new"]


@pytest.mark.parametrize(
    ("config", "extra", "words"),
    [
        ({"use_dora": True}, {}, "DoRA's magnitudes belong to the whole change"),
        ({}, {f"{Q}.lora_magnitude_vector": np.ones(20)}, "DoRA's magnitudes belong to the whole change"),
        ({"init_lora_weights": "pissa_niter_4"}, {}, "the init 'pissa_niter_4' changed the base weights"),
        ({"use_qalora": True}, {}, "`use_qalora` of adapter .* is True"),
        ({}, {"lm_head.weight": np.ones(4, np.int32)}, "type 'I32' can't be copied; allowed are BF16, F16, F32, F64"),
        (
            {},
            {f"{Q}.lora_B.bias": np.full(20, 60000, np.float16)},
            "its truncated weights are beyond the type of the whole ones",
        ),
        ({"lora_alpha": 1e38}, {}, "its truncated weights are beyond the type of the whole ones"),
    ],
)
def test_refused(tmp_path: Path, config: dict[str, Any], extra: dict[str, np.ndarray], words: str) -> None:
    tensors = {key: one.astype(np.float16) for key, one in factors(Q, decay=0.5).items()}
    folder = write(tmp_path / "lora", tensors | {PREFIX + key: one for key, one in extra.items()}, **config)
    with pytest.raises(ValueError, match=words) as caught:
        keep(folder, tmp_path / "new", [0])
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "new").exists()


def test_more_ranks_than_peft_could_match(tmp_path: Path) -> None:
    """PEFT tries each expression on each layer; a folder that nothing here would read again isn't written."""
    tensors: dict[str, np.ndarray] = {}
    for place in range(2100):
        tensors |= factors(f"experts.{place}", decay=place % 2 or 0.001, rank=2, d_in=2, d_out=2)
    folder = write(tmp_path / "lora", tensors, r=2)
    with pytest.raises(ValueError, match="`rank_pattern` of .* has 1050 entries; allowed are 1024"):
        keep(folder, tmp_path / "new", *([0] if place % 2 else [0, 1] for place in range(2100)))
    assert [path.name for path in tmp_path.iterdir()] == ["lora"]
