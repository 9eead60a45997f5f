"""Norms and ranks of a LoRA adapter's weights, without data, model or torch."""

import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import xarray as xr
from jaxtyping import Float64

from lorascope.stores import Problem
from lorascope.stores.adapter_settings import has_residual_init, setting_patterns
from lorascope.stores.expressions import check_patterns
from lorascope.stores.format.spec import component_kind
from lorascope.stores.progress import Progress

from .factors import (
    DTYPES,
    WEIGHTS,
    Branch,
    adapted_path,
    branch_problems,
    group_tensors,
    module_rank,
    module_scaling,
    nesting_problems,
    raise_problems,
    read_factor,
    read_settings,
    read_tensors,
)

VARIABLES = {
    "rank": ("rank r of A and B", "1"),
    "n_experts": ("number of pairs of A and B: of experts whose weights are stacked; 1 of a layer", "1"),
    "scaling": ("what B A is multiplied by, s", "1"),
    "dtype": ("stored type of A, and of B where it is another", ""),
    "frobenius_norm": ("Frobenius norm of s B A", "1"),
    "effective_rank": ("effective rank of B A, from singular values that add up to one; NaN where B A is zero", "1"),
    "stable_rank": ("squared Frobenius norm by squared spectral norm; NaN where B A is zero", "1"),
    "share": ("share of the sum of squared Frobenius norms; NaN where all are zero", "1"),
}
"""Variable of the result -> its `long_name` and `units`."""
MAX_EXPERTS = 2**24
"""Most experts of all components together, hundreds of times those of the largest mixtures."""


def adapter_report(path: str | Path, *, progress: Progress | None = None) -> xr.Dataset:
    """Return norms and ranks of an adapter's change of each layer's weight, scaling * B A, from its folder.

    Parameters
    ----------
    path
        Folder with `adapter_config.json` and `adapter_model.safetensors`, as PEFT's `save_pretrained` writes it; keys
        may hold the adapter's name. Weights in bfloat16, float16, float32 or float64; a pickle is never read.
    progress
        Called with (components done, components in all).

    Returns
    -------
    xr.Dataset
        Over `component`, layers in ascending order, with coordinates `component` (module path in the plain model, as in
        runs), `kind` (its last name) and `layer` (-1 outside of one). Variables (component,): `rank`, `n_experts` (1
        of a layer), `scaling` (as the configuration gives it), `dtype`, `frobenius_norm`, `effective_rank`,
        `stable_rank`, `share`; and `total_norm` (), the root of the sum of all squared Frobenius norms. Norms are in
        the unit of the weights. Attributes hold the adapter's `config` (JSON, as it was saved), the SHA-256 of its
        weights file, `n_parameters` (of A, B, their bias and magnitudes) and `remarks` (JSON list of sentences that a
        reader of the numbers should know).

    Raises
    ------
    FileNotFoundError
        If there is no such folder, or no configuration or no safetensors in it.
    ValueError
        If the configuration isn't LoRA's, has patterns that may take for ever to match, or is a variant whose change
        isn't one product s B A per layer; the weights file is damaged; factors are missing, don't fit each other or the
        configuration, or hold NaN or infinite values; or s B A is beyond float64. The message names all reasons and
        layers.

    Notes
    -----
    All arithmetic is float64. The cost is of the order of (d_in + d_out) r^2: thin QR of B and of A^T, then the SVD of
    the r x r core. Only one layer's factors are in memory at a time. The effective rank is that of Roy and Vetterli,
    exp(-sum p_k ln p_k) with p_k = sigma_k / sum_l sigma_l, singular values themselves and not their squares; the
    stable rank is sum sigma_k^2 / sigma_1^2. Both lie between 1 and the rank. `fan_in_fan_out` transposes s B A, which
    changes none of these. DoRA's magnitudes, the bias of a lora_B, and the scale that some models put on an embedding's
    output aren't in the norms. A convolution's A is taken as a matrix (rank, channels x kernel). Stacked weights of
    experts are one component, a block-diagonal matrix of `n_experts` times the rank; see `adapter_experts`.

    References
    ----------
    Hu et al., arXiv 2106.09685 (LoRA). Kalajdzievski, arXiv 2312.03732 (rsLoRA's scaling). Roy & Vetterli (2007), "The
    effective rank", EUSIPCO, eqs. 2 to 4. Rudelson & Vershynin (2007), J. ACM 54(4) (stable rank).
    """
    return measure_weights(path, progress=progress)[0]


def adapter_experts(path: str | Path) -> xr.Dataset:
    """Return norms and ranks of an adapter's change of each expert's weight, from the adapter's folder.

    Returns
    -------
    xr.Dataset
        Over `component` (a parameter of experts, such as `model.layers.3.mlp.experts.down_proj`, with coordinates as in
        `adapter_report`) and `expert`, from 0: `frobenius_norm`, `effective_rank`, `stable_rank` and `share`, which
        mean the same as there, of the expert's own s B A. NaN beyond a component's own number of experts.

    Raises
    ------
    FileNotFoundError, ValueError
        As `adapter_report`; ValueError also if the adapter has no LoRA on experts.
    """
    experts = measure_weights(path)[1]
    if not experts["component"].size:
        raise ValueError(f"adapter {str(path)!r} has no LoRA on the stacked weights of experts; see `adapter_report`")
    return experts


def measure_weights(path: str | Path, *, progress: Progress | None = None) -> tuple[xr.Dataset, xr.Dataset]:
    """Return what `adapter_report` and `adapter_experts` do, the second empty without LoRA on experts, or raise."""
    folder = Path(path)
    settings = read_settings(folder)
    keys = read_tensors(folder)
    branches, others, problems = group_tensors(keys, settings)
    check_patterns(
        setting_patterns(settings, f"of adapter {str(folder)!r}"),
        [adapted_path(settings, branch.path) for branch in branches],
    )
    problems += [problem for branch in branches for problem in branch_problems(branch, settings)]
    problems += nesting_problems(branches, settings)
    if not branches and not problems:
        message = f"there are no LoRA weights among the {len(keys)} tensors of {WEIGHTS!r}; save it again with PEFT"
        problems.append(Problem("", "empty", message))
    raise_problems(problems, folder)
    values = _all_singular_values(folder, branches, settings, progress)
    result = _spectra_dataset(branches, [_spectrum(own.ravel()) for own in values], settings)
    stacked = {branch.path: own for branch, own in zip(branches, values, strict=True) if "experts" in branch.extras}
    experts = _experts_dataset(result, stacked)
    own = [tensor for key, tensor in keys.items() if ".lora_" in key]
    with (folder / WEIGHTS).open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    result = result.assign_attrs(
        measure="norms and ranks of s B A, from an adapter's weights alone",
        adapter=str(folder),
        file_sha256=digest,
        n_parameters=sum(int(np.prod(tensor.shape)) for tensor in own),
        config=json.dumps(settings),
        scaling="alpha / sqrt(rank)" if settings.get("use_rslora") else "alpha / rank",
        remarks=json.dumps(list(_remarks(result, experts, branches, others, settings)), ensure_ascii=False),
        lorascope=version("lorascope"),
    )
    return result, experts


def _singular_values(
    B: Float64[np.ndarray, "*expert d_out rank"], A: Float64[np.ndarray, "*expert rank d_in"], scaling: float
) -> Float64[np.ndarray, "*expert singular_value"]:
    """Return the singular values of scaling * B A, descending."""
    # B A = Q_B (R_B R_A^T) Q_A^T, and orthonormal columns don't change singular values. The Gram matrices B^T B and
    # A A^T would be cheaper, but lose half the digits of the small ones.
    with np.errstate(over="ignore", invalid="ignore"):
        left, right = (np.asarray(np.linalg.qr(factor, mode="r")) for factor in (B, A.swapaxes(-1, -2)))
        core = scaling * (left @ right.swapaxes(-1, -2))
    if not np.isfinite(core).all():
        raise OverflowError("s B A is beyond float64")
    return np.asarray(np.linalg.svd(core, compute_uv=False))


def _spectrum(values: Float64[np.ndarray, "*expert singular_value"]) -> dict[str, Any]:
    """Return Frobenius norm, effective and stable rank by name from singular values; ranks are NaN if all are zero."""
    largest = values.max(axis=-1, keepdims=True)
    with np.errstate(invalid="ignore"):  # 0 / 0
        ratios = values / largest  # so that squares neither overflow nor vanish
    p = ratios / ratios.sum(axis=-1, keepdims=True)
    entropy = -(p * np.log(np.where(p > 0, p, 1))).sum(axis=-1)
    stable = np.square(ratios).sum(axis=-1)
    norm = np.where(largest[..., 0] == 0, 0.0, largest[..., 0] * np.sqrt(stable))
    return {"frobenius_norm": norm, "effective_rank": np.exp(entropy), "stable_rank": stable}


def _all_singular_values(
    folder: Path, branches: Sequence[Branch], settings: Mapping[str, Any], progress: Progress | None
) -> list[Float64[np.ndarray, "*expert singular_value"]]:
    """Return the singular values of each layer's change, scaling * B A; raise one ValueError for all that fail."""
    spectra, problems = [], []
    with (folder / WEIGHTS).open("rb") as file:
        for done, branch in enumerate(branches, start=1):
            A, B = read_factor(file, branch.down), read_factor(file, branch.up)
            if "experts" in branch.extras:  # rows of A are sorted by expert, columns of B by rank
                rank = module_rank(settings, branch.path)
                A, B = A.reshape(-1, rank, A.shape[1]), B.reshape(len(B), rank, -1).transpose(2, 0, 1)
            try:
                if not (np.isfinite(A).all() and np.isfinite(B).all()):
                    raise OverflowError("the weights hold NaN or infinite values")
                spectra.append(_singular_values(B, A, module_scaling(settings, branch.path)))
            except OverflowError as error:
                problems.append(Problem(branch.path, "values", f"{error}; take an earlier checkpoint"))
            if progress is not None:
                progress(done, len(branches))
    raise_problems(problems, folder)
    return spectra


def _spectra_dataset(
    branches: Sequence[Branch], measured: Sequence[Mapping[str, float]], settings: Mapping[str, Any]
) -> xr.Dataset:
    """Return the measured norms and ranks of all layers as a dataset by component, without attributes."""
    paths = [branch.path for branch in branches]
    names = [path.split(".") for path in paths]
    types = [dict.fromkeys(DTYPES[factor.dtype][0] for factor in (branch.down, branch.up)) for branch in branches]
    values: dict[str, Any] = {
        "rank": [module_rank(settings, path) for path in paths],
        "n_experts": [branch.down.shape[0] // module_rank(settings, branch.path) for branch in branches],
        "scaling": [module_scaling(settings, path) for path in paths],
        "dtype": np.array([", ".join(names) for names in types], object),
        **{name: np.array([spectrum[name] for spectrum in measured]) for name in measured[0]},
    }
    largest = values["frobenius_norm"].max() or 1.0  # so that squares don't overflow
    squares = np.square(values["frobenius_norm"] / largest)
    values["share"] = squares / squares.sum() if squares.any() else np.full(len(squares), np.nan)
    total = {"long_name": "root of the sum of all squared Frobenius norms of s B A", "units": "1"}
    return xr.Dataset(
        {
            name: ("component", values[name], {"long_name": long_name} | ({"units": units} if units else {}))
            for name, (long_name, units) in VARIABLES.items()
        }
        | {"total_norm": ((), largest * np.sqrt(squares.sum()), total)},
        coords={
            "component": np.array(paths, object),
            "kind": ("component", np.array([component_kind(path) for path in paths], object)),
            "layer": ("component", [next((int(n) for n in name if n.isdecimal()), -1) for name in names]),
        },
    )


def _experts_dataset(report: xr.Dataset, values: Mapping[str, np.ndarray]) -> xr.Dataset:
    """Return norms and ranks by component and expert, from singular values (expert, singular_value) by component."""
    n_experts = max(map(len, values.values()), default=0)
    if len(values) * n_experts > MAX_EXPERTS:
        raise ValueError(f"{len(values)} components of {n_experts} experts are more than the {MAX_EXPERTS} allowed")
    names = ("frobenius_norm", "effective_rank", "stable_rank")
    columns = {name: np.full((len(values), n_experts), np.nan) for name in names}
    for row, own in enumerate(values.values()):
        for name, numbers in _spectrum(own).items():
            columns[name][row, : len(own)] = numbers
    with np.errstate(invalid="ignore"):  # 0 / 0
        columns["share"] = np.square(columns["frobenius_norm"] / report["total_norm"].values)
    return xr.Dataset(
        {name: (("component", "expert"), column, report[name].attrs) for name, column in columns.items()},
        coords={**report.isel(component=report["component"].isin([*values])).coords, "expert": np.arange(n_experts)},
    )


def _remarks(
    result: xr.Dataset,
    experts: xr.Dataset,
    branches: Sequence[Branch],
    others: Sequence[str],
    settings: Mapping[str, Any],
) -> Iterator[str]:
    """Yield sentences that a reader of an adapter's norms should know, such as that it is untrained."""
    n, n_zero = len(branches), int((result["frobenius_norm"].values == 0).sum())
    if n_zero == n:
        yield "untrained: s B A is zero in every component, as before the first step"
    elif n_zero:
        yield f"s B A is zero in {n_zero} of {n} components, which the adapter leaves unchanged"
    if n_idle := int((experts["frobenius_norm"].values == 0).sum()):
        yield f"s B A is zero in {n_idle} of {int(experts['frobenius_norm'].count())} experts of all components"
    if has_residual_init(settings):
        init = settings["init_lora_weights"]
        yield f"the init {init!r} changed the base weights: s B A is the change from that base, not from the checkpoint"
    if any("magnitude_vector" in branch.extras for branch in branches):
        yield "DoRA: norms are those of s B A, before the magnitude vector rescales the sum of base and change"
    if n_biased := sum("B_bias" in branch.extras for branch in branches):
        yield f"lora_B has a bias in {n_biased} of {n} components, which isn't in the norms"
    if any("embedding" in branch.extras for branch in branches):
        yield "norms of an embedding are without the scale that some models put on its output"
    if n_conv := sum(len(branch.down.shape) > 2 for branch in branches):
        yield f"convolutions, {n_conv} of {n} components, are measured as matrices (d_out, channels x kernel)"
    if settings.get("alora_invocation_tokens"):
        yield "aLoRA: the change acts only on tokens from the invocation on"
    if others:
        more = f" and {len(others) - 3} more" if len(others) > 3 else ""
        yield f"also in the file and not measured: {', '.join(others[:3])}{more}"
