import hashlib
import importlib.util
import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import xarray as xr
from safetensors import TensorSpec, serialize_file
from safetensors.numpy import save_file

from lorascope.analyze.adapters.adapter import adapter_report
from lorascope.stores import expressions

PREFIX = "base_model.model."
Q, UP = "model.layers.2.self_attn.q_proj", "model.layers.10.mlp.up_proj"


def write(folder: Path, tensors: dict[str, np.ndarray], **config: Any) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    save_file(tensors, folder / "adapter_model.safetensors")
    settings = {"peft_type": "LORA", "r": 4, "lora_alpha": 8, "init_lora_weights": True, **config}
    (folder / "adapter_config.json").write_text(json.dumps(settings))
    return folder


def factors(path: str, *, rank: int = 4, d_in: int = 12, d_out: int = 20, seed: int = 0) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(seed)
    return {
        f"{PREFIX}{path}.lora_A.weight": rng.normal(size=(rank, d_in)).astype(np.float32),
        f"{PREFIX}{path}.lora_B.weight": rng.normal(size=(d_out, rank)).astype(np.float32),
    }


def expected(A: np.ndarray, B: np.ndarray, scaling: float) -> dict[str, float]:
    """From the matrix itself, in float64."""
    sigma = np.linalg.svd(scaling * B.astype(np.float64) @ A.astype(np.float64), compute_uv=False)
    p = sigma[sigma > 1e-12 * sigma[0]] / sigma.sum()
    return {
        "frobenius_norm": float(np.sqrt((sigma**2).sum())),
        "effective_rank": math.exp(-float((p * np.log(p)).sum())),
        "stable_rank": float((sigma**2).sum() / sigma[0] ** 2),
    }


def assert_agrees(report: xr.Dataset, path: str, reference: dict[str, float], *, rtol: float = 1e-12) -> None:
    row = report.sel(component=path)
    for name, value in reference.items():
        np.testing.assert_allclose(float(row[name]), value, rtol=rtol, err_msg=f"{name} of {path}")


def remarks(report: xr.Dataset) -> str:
    return "\n".join(json.loads(report.attrs["remarks"]))


def test_a_layers_modules_come_as_they_run(tmp_path: Path) -> None:
    names = ["self_attn.q_proj", "self_attn.k_proj", "mlp.gate_proj", "mlp.down_proj", "other"]
    made = [f"model.layers.{layer}.{name}" for layer in (2, 10) for name in names]
    tensors = {key: value for path in made for key, value in factors(path).items()}
    assert adapter_report(write(tmp_path / "lora", tensors))["component"].values.tolist() == made


def test_equals_the_dense_matrix(tmp_path: Path) -> None:
    tensors = factors(UP, d_out=30) | factors(Q, d_out=3, seed=1)
    report = adapter_report(write(tmp_path / "lora", tensors))
    assert list(report["component"].values) == [Q, UP]  # by number: as words, layer 10 would come first
    assert list(report["kind"].values) == ["q_proj", "up_proj"]
    assert list(report["layer"].values) == [2, 10]
    for path in (Q, UP):
        A, B = (tensors[f"{PREFIX}{path}.lora_{part}.weight"] for part in "AB")
        assert_agrees(report, path, expected(A, B, 2.0) | {"rank": 4, "scaling": 2})
    squares = report["frobenius_norm"] ** 2
    np.testing.assert_allclose(report["share"], squares / squares.sum(), rtol=1e-12)
    np.testing.assert_allclose(report["total_norm"], np.sqrt(squares.sum()), rtol=1e-12)
    assert set(report["dtype"].values) == {"float32"}
    assert all("long_name" in report[name].attrs for name in report.data_vars)
    assert all(report[name].attrs["units"] == "1" for name in report.data_vars if name != "dtype")


def test_attributes_say_where_it_comes_from(tmp_path: Path) -> None:
    folder = write(tmp_path / "lora", factors(Q), base_model_name_or_path="some/model", peft_version="0.21.2")
    attrs = adapter_report(folder).attrs
    content = (folder / "adapter_model.safetensors").read_bytes()
    assert attrs["file_sha256"] == hashlib.sha256(content).hexdigest()
    assert json.loads(attrs["config"]) == json.loads((folder / "adapter_config.json").read_text())
    assert (attrs["adapter"], attrs["scaling"]) == (str(folder), "alpha / rank")
    assert (attrs["n_parameters"], attrs["remarks"]) == (4 * 32, "[]")


@pytest.mark.parametrize("size", [1e-150, 1, 1e150])
def test_two_unequal_singular_values_by_hand_whatever_the_size(tmp_path: Path, size: float) -> None:
    # p = (3/4, 1/4): exp of the entropy is 4 / 3^(3/4); squares would give p = (9/10, 1/10), another number.
    B, A = (np.linalg.qr(np.random.default_rng(0).normal(size=(n, 3)))[0] for n in (30, 40))
    tensors = {f"{PREFIX}q.lora_A.weight": np.ascontiguousarray(A.T), f"{PREFIX}q.lora_B.weight": size * B * [3, 1, 0]}
    report = adapter_report(write(tmp_path / "lora", tensors, r=3, lora_alpha=3))
    reference = {"frobenius_norm": size * 10**0.5, "effective_rank": 4 / 3**0.75, "stable_rank": 10 / 9}
    assert_agrees(report, "q", reference)


@pytest.mark.parametrize(("d_out", "rank", "d_in"), [(50, 4, 30), (3, 8, 30), (30, 8, 3), (1, 1, 1), (6, 6, 6)])
def test_factors_of_any_shape(tmp_path: Path, d_out: int, rank: int, d_in: int) -> None:
    tensors = factors("q", rank=rank, d_in=d_in, d_out=d_out)
    report = adapter_report(write(tmp_path / "lora", tensors, r=rank, lora_alpha=rank))
    assert_agrees(report, "q", expected(*tensors.values(), 1.0), rtol=1e-11)


def test_the_dense_matrix_is_never_made(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    sizes: list[int] = []
    svd = np.linalg.svd
    monkeypatch.setattr(np.linalg, "svd", lambda a, **options: sizes.append(a.size) or svd(a, **options))
    # As a matrix of float64 it would take 80 GB.
    adapter_report(write(tmp_path / "wide", factors(Q, rank=1, d_in=100_000, d_out=100_000), r=1))
    assert sizes == [1]


def test_half_precision_is_read_exactly(tmp_path: Path) -> None:
    full = {key: value.astype(np.float16).astype(np.float32) for key, value in factors(Q).items()}
    bits = {key: (value.view(np.uint32) >> 16).astype(np.uint16) for key, value in full.items()}
    cut = {key: (value.astype(np.uint32) << 16).view(np.float32) for key, value in bits.items()}
    folder = write(tmp_path / "bfloat16", full)
    specs = {
        key: TensorSpec(dtype="bfloat16", shape=value.shape, data_ptr=value.ctypes.data, data_len=value.nbytes)
        for key, value in bits.items()
    }
    serialize_file(specs, folder / "adapter_model.safetensors", metadata={"format": "pt"})
    stored: list[tuple[Path, str, dict[str, np.ndarray]]] = [(folder, "bfloat16", cut)]
    for dtype in ("float16", "float64"):
        tensors = {key: value.astype(dtype) for key, value in full.items()}
        stored.append((write(tmp_path / dtype, tensors), dtype, full))
    for path, dtype, values in stored:
        report = adapter_report(path)
        assert list(report["dtype"].values) == [dtype]
        assert_agrees(report, Q, expected(*values.values(), 2.0))


def test_the_adapters_name_may_stand_in_keys(tmp_path: Path) -> None:
    tensors = factors(Q)
    named = {key.replace(".weight", ".default.weight"): value for key, value in tensors.items()}
    bare = {key.removeprefix(PREFIX): value for key, value in tensors.items()}
    reports = [adapter_report(write(tmp_path / str(i), one)) for i, one in enumerate((tensors, named, bare))]
    for report in reports[1:]:
        xr.testing.assert_identical(report.drop_attrs(), reports[0].drop_attrs())


@pytest.mark.parametrize("name", ["", ".default"])
def test_embeddings(tmp_path: Path, name: str) -> None:
    A, B = factors("x", d_in=50).values()
    path = f"{PREFIX}model.embed_tokens.lora_embedding_"
    report = adapter_report(write(tmp_path / "lora", {f"{path}A{name}": A, f"{path}B{name}": B}))
    assert_agrees(report, "model.embed_tokens", expected(A, B, 2.0) | {"layer": -1})
    assert "without the scale" in remarks(report)


def test_convolutions_are_matrices(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    A, B = rng.normal(size=(4, 3, 5, 5)), rng.normal(size=(6, 4, 1, 1))
    tensors = {f"{PREFIX}conv.lora_A.weight": A, f"{PREFIX}conv.lora_B.weight": B}
    report = adapter_report(write(tmp_path / "lora", tensors))
    kernel = np.einsum("or,rikl->oikl", B[:, :, 0, 0], A)
    np.testing.assert_allclose(report["frobenius_norm"], [2 * np.linalg.norm(kernel)], rtol=1e-12)
    assert_agrees(report, "conv", expected(A.reshape(4, -1), B.reshape(6, 4), 2.0))
    assert "convolutions, 1 of 1 components, are measured as matrices (d_out, channels x kernel)" in remarks(report)


def test_the_inner_layer_of_an_attention_is_called_as_in_the_model(tmp_path: Path) -> None:
    report = adapter_report(write(tmp_path / "lora", factors("attn.base_layer.out_proj") | factors("attn")))
    assert list(report["component"].values) == ["attn", "attn.out_proj"]


@pytest.mark.parametrize(
    ("config", "scaling"),
    [
        ({}, [2, 2]),
        ({"use_rslora": True}, [4, 4]),
        ({"alpha_pattern": {"q_proj": 2}}, [0.5, 2]),
        ({"alpha_pattern": {"proj": 2}}, [2, 2]),  # whole names only
        ({"alpha_pattern": {"layers\\.\\d+\\.mlp\\..*": 12, "up_proj": 2}}, [2, 3]),  # the first that fits
        ({"alpha_pattern": {"^model.layers.2.self_attn.q_proj": 1.5}}, [0.375, 2]),
        ({"lora_alpha": -8}, [-2, -2]),
        ({"alpha_pattern": None, "rank_pattern": None}, [2, 2]),
    ],
)
def test_scaling_is_pefts(tmp_path: Path, config: dict[str, Any], scaling: list[float]) -> None:
    tensors = factors(Q) | factors(UP)
    report = adapter_report(write(tmp_path / "lora", tensors, **config))
    np.testing.assert_allclose(report["scaling"], scaling)
    A, B = factors(Q).values()
    assert_agrees(report, Q, expected(A, B, scaling[0]))


def test_rank_patterns(tmp_path: Path) -> None:
    tensors = factors(Q, rank=2) | factors(UP)
    config = {"rank_pattern": {"self_attn.q_proj": 2}}
    report = adapter_report(write(tmp_path / "lora", tensors, **config))
    assert list(report["rank"].values) == [2, 4]
    assert list(report["scaling"].values) == [4, 2]
    rooted = adapter_report(write(tmp_path / "lora", tensors, use_rslora=True, **config))
    np.testing.assert_allclose(rooted["scaling"], [8 / 2**0.5, 4])
    assert rooted.attrs["scaling"] == "alpha / sqrt(rank)"


def test_what_adds_nothing_is_said(tmp_path: Path) -> None:
    tensors = factors(Q) | factors(UP)
    tensors[f"{PREFIX}{Q}.lora_B.weight"][:] = 0
    report = adapter_report(write(tmp_path / "part", tensors))
    assert remarks(report) == "s B A is zero in 1 of 2 components, which the adapter leaves unchanged"
    row = report.sel(component=Q)
    assert (float(row["frobenius_norm"]), float(row["share"])) == (0, 0)
    assert np.isnan(row["effective_rank"])
    assert np.isnan(row["stable_rank"])
    tensors[f"{PREFIX}{UP}.lora_B.weight"][:] = 0
    report = adapter_report(write(tmp_path / "none", tensors))
    assert remarks(report).startswith("untrained: s B A is zero in every component")
    assert np.isnan(report["share"]).all()
    assert float(report["total_norm"]) == 0


@pytest.mark.parametrize(
    ("init", "is_said"),
    [("pissa_niter_4", True), ("olora", True), ("eva", False), ("gaussian", False), (False, False)],
)
def test_inits_that_changed_the_base_are_said(tmp_path: Path, init: str | bool, is_said: bool) -> None:
    report = adapter_report(write(tmp_path / "lora", factors(Q), init_lora_weights=init))
    assert ("changed the base weights" in remarks(report)) == is_said


def test_what_is_beside_the_factors_is_said(tmp_path: Path) -> None:
    extra = {
        f"{PREFIX}{Q}.lora_B.bias": np.ones(20, np.float32),
        f"{PREFIX}{Q}.lora_magnitude_vector": np.ones(20, np.float32),
        **{f"{PREFIX}{name}.weight": np.ones((2, 2), np.float32) for name in ("lm_head", "score", "x", "y")},
    }
    folder = write(tmp_path / "lora", factors(Q) | extra, use_dora=True, alora_invocation_tokens=[1])
    report = adapter_report(folder)
    assert_agrees(report, Q, expected(*factors(Q).values(), 2.0))
    assert remarks(report).splitlines() == [
        "DoRA: norms are those of s B A, before the magnitude vector rescales the sum of base and change",
        "lora_B has a bias in 1 of 1 components, which isn't in the norms",
        "aLoRA: the change acts only on tokens from the invocation on",
        "also in the file and not measured: lm_head.weight, score.weight, x.weight and 1 more",
    ]
    assert report.attrs["n_parameters"] == 4 * 32 + 40


def test_layers_that_come_twice_are_measured_each(tmp_path: Path) -> None:
    """What the base is made of changes nothing in an adapter's own factors, which PEFT saves for each of its layers."""
    tensors = factors("layers.0.q", seed=1) | factors("layers.1.q", seed=2)
    report = adapter_report(write(tmp_path, tensors, layer_replication=[[0, 1], [0, 1]]))
    xr.testing.assert_equal(report, adapter_report(write(tmp_path / "plain", tensors)))


def test_progress_counts_components(tmp_path: Path) -> None:
    seen: list[tuple[int, int]] = []
    adapter_report(write(tmp_path / "lora", factors(Q) | factors(UP)), progress=lambda *at: seen.append(at))
    assert seen == [(1, 2), (2, 2)]


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"peft_type": "IA3"}, r"`peft_type` of adapter '.*lora' is 'IA3'; only 'LORA' can be measured"),
        ({"r": 0}, r"`r` of adapter '.*' is 0; a rank is a whole number of 1 or more"),
        ({"r": True}, r"`r` of adapter '.*' is True; a rank is a whole number"),
        ({"rank_pattern": {"q_proj": 1.5}}, r"`r` of adapter '.*' is 1.5; a rank is a whole number"),
        ({"lora_alpha": "8"}, r"`lora_alpha` of adapter '.*' is '8'; it must be a finite number"),
        ({"lora_alpha": 10**400}, r"`lora_alpha` of adapter '.*' is 10*\.\.\.0*; it must be a finite number"),
        ({"lora_alpha": math.inf}, r"`lora_alpha` of adapter '.*' is inf; it must be a finite number"),
        ({"rank_pattern": [8]}, r"`rank_pattern` of adapter '.*' is \[8\]; it maps layers to numbers"),
        ({"alpha_pattern": {"q(": 8}}, r"`alpha_pattern` of adapter '.*' has 'q\(', no regular expression"),
        ({"rank_pattern": {"(?i)q": 8}}, r"`rank_pattern` of adapter '.*' has '\(\?i\)q', no regular"),
        ({"kasa_config": {"beta": 1}}, r"`kasa_config` of adapter '.*' is {'beta': 1}: its change isn't one product"),
        (
            {"target_parameters": "experts.up"},
            r"`target_parameters` of adapter '.*' is 'experts.up'; it lists names",
        ),
    ],
)
def test_configurations_that_are_refused(tmp_path: Path, config: dict[str, Any], message: str) -> None:
    folder = write(tmp_path / "lora", factors(Q), **config)
    with pytest.raises(ValueError, match=message):
        adapter_report(folder)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"{", r"adapter_config.json` isn't JSON: Expecting .*; copy or write it again"),
        (b"[]", r"adapter_config.json' is no PEFT configuration: it holds no object with `peft_type`"),
        (b'{"r": 8}', r"it holds no object with `peft_type`"),
        (b'{"peft_type": "LORA", "r": 8}', r"adapter_config.json' lacks `r` or `lora_alpha`; save the adapter again"),
    ],
)
def test_files_that_are_no_configuration(tmp_path: Path, content: bytes, message: str) -> None:
    folder = write(tmp_path / "lora", factors(Q))
    (folder / "adapter_config.json").write_bytes(content)
    with pytest.raises(ValueError, match=message):
        adapter_report(folder)


def test_what_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match=r"adapter '.*nowhere' is not there; give a local folder that PEFT"):
        adapter_report(tmp_path / "nowhere")
    (tmp_path / "file").touch()
    with pytest.raises(FileNotFoundError, match=r"adapter '.*file' is a file; give a local folder"):
        adapter_report(tmp_path / "file")
    with pytest.raises(FileNotFoundError, match=r"is no adapter folder: there is no 'adapter_config.json' in it"):
        adapter_report(tmp_path)
    folder = write(tmp_path / "lora", factors(Q))
    (folder / "adapter_model.safetensors").unlink()
    with pytest.raises(FileNotFoundError, match=r"has no 'adapter_model.safetensors'; load it where you trust it"):
        adapter_report(folder)
    (folder / "adapter_model.bin").write_bytes(b"not even a pickle")
    message = (
        r"but 'adapter_model.bin', a pickle, which is never loaded; .* `save_pretrained\(folder, safe_serialization"
    )
    with pytest.raises(FileNotFoundError, match=message):
        adapter_report(folder)


@pytest.mark.parametrize("n_bytes", [0, 4, 100, -1])
def test_damaged_files(tmp_path: Path, n_bytes: int) -> None:
    file = write(tmp_path / "lora", factors(Q)) / "adapter_model.safetensors"
    file.write_bytes(file.read_bytes()[:n_bytes])
    with pytest.raises(ValueError, match=r"adapter_model.safetensors' is damaged: .*; copy or save the adapter again"):
        adapter_report(file.parent)


def wrong(change: dict[str, Any], drop: str = "") -> dict[str, np.ndarray]:
    tensors = factors(Q) | {f"{PREFIX}{key}": value for key, value in change.items()}
    return {key: value for key, value in tensors.items() if not drop or drop not in key}


@pytest.mark.parametrize(
    ("tensors", "message"),
    [
        ({}, r"there are no LoRA weights among the 0 tensors of 'adapter_model.safetensors'; save it again"),
        ({"lm_head.weight": np.ones(2)}, r"there are no LoRA weights among the 1 tensors"),
        (wrong({}, "lora_B"), rf"lora_A and lora_B belong together, and there is only A \({Q}\)"),
        (wrong({}, "lora_A"), rf"and there is only B \({Q}\)"),
        (wrong({f"{UP}.lora_magnitude_vector": np.ones(2)}), rf"there is only magnitude_vector \({UP}\)"),
        (wrong({f"{Q}.lora_B.weight": np.ones((20, 3))}), r"lora_A has shape \(4, 12\) and lora_B \(20, 3\), which"),
        (wrong({f"{Q}.lora_B.weight": np.ones((20, 4, 2))}), r"allowed are \(rank, d_in, ...\) and \(d_out, rank, 1"),
        (
            wrong({f"{Q}.lora_A.weight": np.ones((4, 2, 3, 3)), f"{Q}.lora_B.weight": np.ones((6, 2, 1, 1))}),
            r"which don't fit; .* none empty and no groups",
        ),
        (
            wrong({f"{Q}.lora_A.weight": np.ones((4, 2, 3, 3)), f"{Q}.lora_B.weight": np.ones((6, 4, 3, 3))}),
            r"and lora_B \(6, 4, 3, 3\), which don't fit; allowed",
        ),
        (wrong({f"{Q}.lora_A.weight": np.ones(0)}), r"lora_A has shape \(0,\) .*none empty"),
        (wrong({f"{Q}.lora_A.weight": np.ones((4, 0))}), r"none empty and no groups: gather shards before saving"),
        (
            wrong({f"{Q}.base_layer.lora_A.weight": np.ones((4, 12))}),
            rf"two tensors for lora_A; .* \({PREFIX}{Q}.base_layer.lora_A.weight and {PREFIX}{Q}.lora_A",
        ),
        (
            factors(Q) | {f"{Q}.lora_B.weight": np.ones((20, 4))},
            rf"two tensors for lora_B; .* \({PREFIX}{Q}.lora_B.weight and {Q}.lora_B.weight\)",
        ),
        (factors(Q, rank=3), rf"lora_A has 3 rows, but `r` and `rank_pattern` .* give rank 4; use the .* \({Q}\)"),
        (wrong({f"{Q}.lora_A.weight": np.ones((4, 12), np.int8)}), r"lora_A is of type 'I8'; allowed are bfloat16, fl"),
        (wrong({f"{Q}.lora_diag": np.ones(4)}), rf"a part of a LoRA variant that can't be .* \({Q}.lora_diag\)"),
        (wrong({f"{UP}.lora_A.mine.weight": np.ones(4)}), r"the keys name several adapters \('', 'mine'\); save"),
        (wrong({f"{Q}.lora_B.weight": np.full((20, 4), 1e200), f"{Q}.lora_A.weight": np.full((4, 12), 1e200)}),
         rf"s B A is beyond float64; take an earlier checkpoint \({Q}\)"),
    ],
)  # fmt: skip
def test_weights_that_are_refused(tmp_path: Path, tensors: dict[str, np.ndarray], message: str) -> None:
    with pytest.raises(ValueError, match=rf"adapter '.*lora' can't be measured: .*{message}"):
        adapter_report(write(tmp_path / "lora", tensors))


@pytest.mark.parametrize("value", [np.nan, np.inf])
@pytest.mark.parametrize("part", ["lora_A", "lora_B"])
def test_values_that_are_not_finite(tmp_path: Path, value: float, part: str) -> None:
    names = [f"layers.{i}.q_proj" for i in range(4)]
    tensors: dict[str, np.ndarray] = {}
    for name in names:
        tensors |= factors(name)
    for name in names[1:]:
        tensors[f"{PREFIX}{name}.{part}.weight"][1, 2] = value
    message = r"the weights hold NaN or infinite values; .* \(layers.1.q_proj, layers.2.q_proj and 1 more\)"
    with pytest.raises(ValueError, match=message):
        adapter_report(write(tmp_path / "lora", tensors))


def test_all_problems_are_named_at_once(tmp_path: Path) -> None:
    tensors = factors(Q, rank=3) | {f"{PREFIX}{UP}.lora_A.weight": np.ones((4, 4))}
    with pytest.raises(ValueError, match=rf"there is only A \({UP}\); lora_A has 3 rows"):
        adapter_report(write(tmp_path / "lora", tensors))


VARIANTS: list[dict[str, Any]] = [
    {},
    {"use_rslora": True},
    {
        "rank_pattern": {"q_proj": 2, "layers.1.mlp.up_proj": 6},
        "alpha_pattern": {".*mlp.*": 3, "1.self_attn.k_proj": 1},
    },
    {"use_rslora": True, "rank_pattern": {"up_proj": 5}, "alpha_pattern": {"model.layers.0.mlp.up_proj": 7}},
    {"lora_bias": True},
    {"target_modules": ["embed_tokens", "q_proj"]},
    {"modules_to_save": ["lm_head"]},
]


@pytest.mark.torch
@pytest.mark.skipif(importlib.util.find_spec("torch") is None, reason="needs lorascope[capture]")
@pytest.mark.filterwarnings("ignore")  # PEFT's, on merging and on embeddings that it saves
@pytest.mark.parametrize("options", VARIANTS, ids=["-".join(options) or "plain" for options in VARIANTS])
def test_equals_what_peft_would_merge(tmp_path: Path, options: dict[str, Any]) -> None:
    import torch
    from peft import LoraConfig, get_peft_model
    from peft.tuners.lora import LoraLayer
    from transformers import LlamaConfig, LlamaForCausalLM

    config = LlamaConfig(
        vocab_size=40, hidden_size=16, intermediate_size=24, num_hidden_layers=2, num_attention_heads=2,
        num_key_value_heads=1, attention_bias=True, mlp_bias=True,
    )  # fmt: skip
    dtype = "float32" if options else "bfloat16"
    targets = ["q_proj", "k_proj", "up_proj", "down_proj"]
    with torch.random.fork_rng():
        torch.manual_seed(0)
        lora = LoraConfig(**{"r": 4, "lora_alpha": 10, "target_modules": targets, **options})
        model: Any = get_peft_model(LlamaForCausalLM(config), lora)
        for name, parameter in model.named_parameters():
            if "lora_" in name:
                parameter.data = torch.randn_like(parameter).to(getattr(torch, dtype)).contiguous()
    model.save_pretrained(tmp_path / "lora")
    report = adapter_report(tmp_path / "lora")
    layers = {
        path.removeprefix(PREFIX): module for path, module in model.named_modules() if isinstance(module, LoraLayer)
    }
    assert set(report["component"].values) == set(layers)
    for path, module in layers.items():
        module.float()  # so that PEFT doesn't round its product to bfloat16
        delta = module.get_delta_weight("default").detach().double()
        sigma = torch.linalg.svdvals(delta)
        reference = {
            "scaling": module.scaling["default"],
            "rank": module.r["default"],
            "frobenius_norm": float(delta.norm()),
            "stable_rank": float((sigma**2).sum() / sigma[0] ** 2),
        }
        assert_agrees(report, path, reference, rtol=2e-6)
    assert set(report["dtype"].values) == {dtype}
    if "modules_to_save" in options:
        assert remarks(report) == "also in the file and not measured: lm_head.weight"


def test_patterns_that_may_take_for_ever(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(expressions, "MAX_SECONDS", 0.2)
    folder = write(tmp_path / "lora", factors("a" * 200), rank_pattern={"[*]?.*.+.{2,}.*.*X": 4})
    with pytest.raises(ValueError, match=r"`rank_pattern` of adapter '.*' has '.*', which may take for ever to match"):
        adapter_report(folder)


def test_usual_patterns_are_taken(tmp_path: Path) -> None:
    keys = (r"[*+{(?]\*\+\?\(\{\)\.layers", r".*\.layers\.\d+\.(?:self_attn|mlp)\.[^.]+", "[]*+{]*q", "a?" * 9 + "X")
    folder = write(tmp_path / "lora", factors(Q), alpha_pattern=dict.fromkeys(keys, 4))
    assert adapter_report(folder).sizes == {"component": 1}


@pytest.mark.parametrize("layer", ["layers.99999999999999999999.q", "layers.0." + "q" * 300])
def test_layers_that_no_store_can_name_are_refused(tmp_path: Path, layer: str) -> None:
    with pytest.raises(ValueError, match="at most 255 characters, and no number of more than 18 digits"):
        adapter_report(write(tmp_path / "lora", factors(layer)))
