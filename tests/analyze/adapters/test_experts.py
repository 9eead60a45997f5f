"""LoRA on the stacked weights of experts, read without a model: against PEFT's own change of each expert's weight."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import xarray as xr

from lorascope.analyze import adapter_experts, adapter_report
from lorascope.analyze.adapters import adapter
from lorascope.analyze.adapters.factors import hash_adapter
from lorascope.analyze.adapters.truncated import truncatable_branches

from .test_adapter import PREFIX, factors, remarks, write

KINDS = ("mixtral", "qwen3", "gptoss", "llama4")
TARGETS = ["experts.gate_up_proj", "experts.down_proj"]
EXPERTS = "model.layers.0.mlp.experts"
VARIABLES = ("frobenius_norm", "effective_rank", "stable_rank")


def measured(values: np.ndarray) -> dict[str, float]:
    """Norm and ranks from the definition, of singular values."""
    p = values[values > 1e-6 * values.max()] / values.sum()
    return {
        "frobenius_norm": float(np.sqrt(np.square(values).sum())),
        "effective_rank": float(np.exp(-(p * np.log(p)).sum())),
        "stable_rank": float(np.square(values).sum() / values.max() ** 2),
    }


def stacked(module: str = EXPERTS, *, n_experts: int = 5, rank: int = 4, seed: int = 0) -> dict[str, np.ndarray]:
    """Factors of both parameters of a module of experts as PEFT saves them, hidden 12 and 10 within."""
    rows = n_experts * rank
    up, down = (
        factors(path, rank=rows, d_in=d_in, d_out=d_out, seed=seed + i)
        for i, (path, d_in, d_out) in enumerate([(f"{module}.base_layer", 12, 20), (module, 10, 12)])
    )
    return up | down


@pytest.mark.torch
@pytest.mark.filterwarnings("ignore:The following rank_pattern keys:RuntimeWarning")  # though it uses them
@pytest.mark.parametrize("settings", [{}, {"use_rslora": True}, {"rank_pattern": {r".*\.gate_up_proj": 2}}], ids=str)
@pytest.mark.parametrize("kind", KINDS)
def test_equals_what_peft_adds_to_each_expert(tmp_path: Path, kind: str, settings: dict[str, Any]) -> None:
    pytest.importorskip("peft")
    from peft.tuners.lora.layer import ParamWrapper

    from lorascope.capture.models.adapter import adapter_identity

    from ...mixtures import lora_on_experts, mixture

    model = lora_on_experts(mixture(kind), **settings)
    model.save_pretrained(tmp_path)
    report, experts = adapter_report(tmp_path), adapter_experts(tmp_path)
    wrappers = {
        f"{name.removeprefix(PREFIX).replace('.base_layer', '')}.{wrapper.parameter_name}": wrapper
        for name, wrapper in model.named_modules()
        if isinstance(wrapper, ParamWrapper)
    }
    assert set(report["component"].values) == set(experts["component"].values) == set(wrappers)
    assert set(report["kind"].values) == set(TARGETS)
    assert set(report["layer"].values) == {0, 1}
    for path, wrapper in wrappers.items():
        delta = wrapper.get_delta_weight("default").detach().numpy().astype(np.float64)
        values = np.linalg.svd(delta, compute_uv=False)
        assert len(delta) == experts.sizes["expert"] == 5
        for expert, own in enumerate(values):
            row = experts.sel(component=path, expert=expert)
            np.testing.assert_allclose([row[name] for name in VARIABLES], [*measured(own).values()], rtol=1e-5)
        row = report.sel(component=path)
        np.testing.assert_allclose([row[name] for name in VARIABLES], [*measured(values.ravel()).values()], rtol=1e-5)
        assert (row["rank"], row["scaling"]) == (wrapper.r["default"], wrapper.scaling["default"])
    np.testing.assert_allclose(experts["share"].sum("expert"), report["share"], rtol=1e-12)
    assert hash_adapter(tmp_path) == adapter_identity(model)["sha256"]
    assert report.attrs["n_parameters"] == adapter_identity(model)["n_parameters"]


@pytest.mark.torch
@pytest.mark.parametrize("target", TARGETS)
def test_one_parameter_alone(tmp_path: Path, target: str) -> None:
    """It has the key of the outer wrapper, whichever it is."""
    pytest.importorskip("peft")
    from ...mixtures import lora_on_experts, mixture

    both = lora_on_experts(mixture("mixtral"))
    one = lora_on_experts(mixture("mixtral"), [target])
    name = f"layers.1.mlp.{target}"
    weights = {
        wrapper.parameter_name: wrapper
        for path, wrapper in both.named_modules()
        if "layers.1.mlp.experts" in path and hasattr(wrapper, "parameter_name")
    }
    for path, wrapper in one.named_modules():
        if path.endswith("layers.1.mlp.experts"):
            for part in ("lora_A", "lora_B"):
                source = getattr(weights[target.rpartition(".")[2]], part)["default"].weight
                getattr(wrapper, part)["default"].weight.data = source.data.clone()
    for folder, model in ((tmp_path / "both", both), (tmp_path / "one", one)):
        model.save_pretrained(folder)
    assert list(adapter_report(tmp_path / "one")["kind"].values) == [target, target]
    left, right = (adapter_experts(tmp_path / folder).sel(component=f"model.{name}") for folder in ("both", "one"))
    xr.testing.assert_allclose(left[[*VARIABLES]], right[[*VARIABLES]])


@pytest.mark.torch
@pytest.mark.filterwarnings("ignore:The following (alpha|rank)_pattern keys:RuntimeWarning")  # though it uses them
@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"alpha_pattern": {"gate.weight": 64}},
        {"alpha_pattern": {"gate": 64}},
        {"rank_pattern": {r".*mlp\.gate\.weight": 2}},
        {"alpha_pattern": {"down_proj": 64, "weight": 16}},
    ],
    ids=str,
)
def test_router_is_an_ordinary_layer(tmp_path: Path, settings: dict[str, Any]) -> None:
    """As `all-linear` has it on Mixtral."""
    pytest.importorskip("peft")
    from ...mixtures import lora_on_experts, mixture

    model = lora_on_experts(mixture("mixtral"), ["gate.weight", *TARGETS], **settings)
    model.save_pretrained(tmp_path)
    report = adapter_report(tmp_path)
    router = dict(model.named_modules())["base_model.model.model.layers.0.mlp.gate"]
    norm = float(router.get_delta_weight("default").detach().norm())
    np.testing.assert_allclose(report["frobenius_norm"].sel(component="model.layers.0.mlp.gate"), norm, rtol=1e-5)
    assert set(adapter_experts(tmp_path)["kind"].values) == set(TARGETS)


def test_experts_without_a_change_and_numbers_of_experts_that_differ(tmp_path: Path) -> None:
    other = EXPERTS.replace("0", "1")
    tensors = stacked() | stacked(other, n_experts=3, seed=7) | factors("model.layers.0.self_attn.q_proj")
    B = tensors[f"{PREFIX}{EXPERTS}.lora_B.weight"]
    B[:, 2::5] = 0  # of expert 2, at each of the ranks
    folder = write(tmp_path / "lora", tensors, target_parameters=TARGETS, alpha_pattern={"down_proj": 4})
    report, experts = adapter_report(folder), adapter_experts(folder)
    assert "s B A is zero in 1 of 16 experts of all components" in remarks(report)
    assert report.sizes["component"] == 5
    assert dict(experts.sizes) == {"component": 4, "expert": 5}
    zero = experts.sel(component=f"{EXPERTS}.down_proj", expert=2)
    assert (float(zero["frobenius_norm"]), float(zero["share"])) == (0, 0)
    assert np.isnan([zero["effective_rank"], zero["stable_rank"]]).all()
    absent = experts.sel(component=f"{other}.down_proj").isel(expert=[3, 4])
    assert all(np.isnan(absent[name]).all() for name in experts.data_vars)
    A = tensors[f"{PREFIX}{EXPERTS}.lora_A.weight"]
    for expert in range(5):
        dense = 1.0 * B[:, expert::5].astype(np.float64) @ A[4 * expert : 4 * expert + 4].astype(np.float64)
        norm = experts["frobenius_norm"].sel(component=f"{EXPERTS}.down_proj", expert=expert)
        np.testing.assert_allclose(norm, np.linalg.norm(dense), rtol=1e-12, atol=1e-15)
    assert np.isfinite(report["effective_rank"]).all()
    assert float(experts["share"].sum()) == pytest.approx(float(report["share"][report["kind"] != "q_proj"].sum()))


def test_untrained_experts_have_no_share(tmp_path: Path) -> None:
    tensors = {key: value * ("lora_A" in key) for key, value in stacked().items()}
    experts = adapter_experts(write(tmp_path / "lora", tensors, target_parameters=TARGETS))
    assert (experts["frobenius_norm"] == 0).all()
    assert np.isnan(experts["share"]).all()


def test_adapter_without_experts(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"adapter '.*lora' has no LoRA on the stacked weights of experts; see `adap"):
        adapter_experts(write(tmp_path / "lora", factors("model.layers.0.self_attn.q_proj")))


def down(**shape: int) -> dict[str, np.ndarray]:
    """The factors of both parameters, with those of `down_proj` of another shape."""
    return stacked() | factors(EXPERTS, **{"rank": 20, "d_in": 10, "d_out": 12} | shape)


NOT_FINITE = stacked() | {f"{PREFIX}{EXPERTS}.lora_B.weight": np.full((12, 20), np.nan)}


@pytest.mark.parametrize(
    ("tensors", "targets", "message"),
    [
        (stacked(), TARGETS[:1], rf"it has 2 pairs of lora_A and .* names 1 of its weights down.* \({EXPERTS}\)"),
        (stacked(), ["experts.w"], r"it has 2 pairs of lora_A and lora_B, and `target_parameters` names 0 of its"),
        (factors(EXPERTS, rank=20), TARGETS, r"it has 1 pairs of lora_A and lora_B, and .* names 2 of its weights"),
        (stacked() | factors(f"{EXPERTS}.base_layer.base_layer"), TARGETS, r"it has 3 pairs of lora_A and lora_B"),
        (down(rank=18), TARGETS, rf"lora_A has 18 rows, but `r` .* give rank 4; .* \({EXPERTS}.down_proj\)"),
        (down(rank=2), TARGETS, rf"lora_A has 2 rows, but `r` .* give rank 4; .* \({EXPERTS}.down_proj\)"),
        (down(d_in=11), TARGETS, r"are \(12, 20\) in it and \(11, 12\) in down_proj, which don't fit each other"),
        (down(d_out=13), TARGETS, rf"don't fit each other; save the adapter again .* \({EXPERTS}.gate_up_proj\)"),
        (NOT_FINITE, TARGETS, rf"the weights hold NaN or infinite values; .* \({EXPERTS}.down_proj\)"),
    ],
)
def test_weights_of_experts_that_are_refused(
    tmp_path: Path, tensors: dict[str, np.ndarray], targets: Any, message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        adapter_report(write(tmp_path / "lora", tensors, target_parameters=targets))


def test_parameters_of_different_numbers_of_experts_are_refused(tmp_path: Path) -> None:
    folder = write(tmp_path / "lora", stacked(), target_parameters=TARGETS, rank_pattern={"gate_up_proj": 2})
    with pytest.raises(ValueError, match="rows of A by rank are 10 experts in it and 5 in down_proj; use the config"):
        adapter_report(folder)


def test_table_of_experts_is_never_much_larger_than_the_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(adapter, "MAX_EXPERTS", 19)
    folder = write(tmp_path / "lora", stacked() | stacked(f"x.{EXPERTS}"), target_parameters=TARGETS)
    with pytest.raises(ValueError, match="4 components of 5 experts are more than the 19 allowed"):
        adapter_report(folder)


def test_truncation_is_refused_by_name(tmp_path: Path) -> None:
    folder = write(tmp_path / "lora", stacked(), target_parameters=TARGETS)
    message = (
        r"LoRA on parameters, such as those of experts, can't be truncated, only that on layers \(target_parameters"
    )
    with pytest.raises(ValueError, match=message):
        truncatable_branches(folder, tmp_path / "out")


def test_only_pairs_of_experts_are_stacked(tmp_path: Path) -> None:
    """The keys of an ordinary layer mean what they meant, whatever parameters are adapted too."""
    folder = write(
        tmp_path / "lora", stacked() | factors("mlp.up_proj"), target_parameters=["up_proj.weight", *TARGETS]
    )
    plain = write(tmp_path / "plain", factors("mlp.up_proj"))
    row, expected = (adapter_report(path).sel(component="mlp.up_proj") for path in (folder, plain))
    assert float(row["frobenius_norm"]) == float(expected["frobenius_norm"])
    assert json.loads(adapter_report(plain).attrs["remarks"]) == []
