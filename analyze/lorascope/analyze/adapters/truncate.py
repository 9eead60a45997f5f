"""A smaller adapter: of each layer's change the directions that hold a share of it, as a folder that PEFT loads."""

import json
import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import xarray as xr
from jaxtyping import Float64
from safetensors import TensorSpec, serialize_file

from lorascope.stores import Problem
from lorascope.stores.adapter_settings import CONFIG, is_residual
from lorascope.stores.places.atomic_write import atomic_write
from lorascope.stores.progress import Progress

from ..targets import refuse_elsewhere
from .adapter import Opened, component_coords, open_adapter, weights_sha256
from .factors import (
    DTYPES,
    INNER,
    KEY,
    PREFIX,
    WEIGHTS,
    narrow_stored,
    read_factors,
    read_stored,
    require,
    widen_stored,
)
from .settings import rank_at, scaling_at

RECORD = "finetune.json"
"""What `lorascope finetune` leaves beside an adapter; it says among others which layers of the base share weights."""


class Truncated(NamedTuple):
    """One layer's change, cut to fewer directions."""

    A: Float64[np.ndarray, "rank d_in"]
    B: Float64[np.ndarray, "d_out rank"]
    """B A is the truncated s B A."""
    kept: float
    """Share of the squared Frobenius norm that is left; NaN where the change is zero."""


def truncate_adapter(
    path: str | Path, out: str | Path, *, share: float = 0.99, progress: Progress | None = None
) -> xr.Dataset:
    """Write an adapter that keeps of each layer's change s B A the fewest directions that hold a share of it.

    Parameters
    ----------
    path
        Folder of the adapter, as `adapter_report` takes it.
    out
        Folder of the new one, which PEFT and every command here load. It must not be there yet, and appears when it is
        whole.
    share
        Share of the squared Frobenius norm of s B A that each layer keeps at least, above 0 and at most 1, which keeps
        all but what is zero to rounding. A layer has at least rank 1.
    progress
        Called with (components done, components in all).

    Returns
    -------
    xr.Dataset
        Over `component`, with coordinates `kind` and `layer` as `adapter_report` has them: `rank_before`, `rank`,
        `kept` (share of the squared norm that is left, before the weights are rounded to their type; NaN where s B A is
        zero), `n_parameters_before` and `n_parameters` (of A, B and their bias). Attributes name the `adapter`, its
        weights' SHA-256, `out` and `share`.

    Raises
    ------
    FileExistsError
        If `out` is there.
    FileNotFoundError
        If there is no adapter.
    ValueError
        If `share` isn't above 0 and at most 1; `adapter_report` would refuse the adapter; it is DoRA's, whose
        magnitudes rescale base and change together; its init changed the base weights, so that s B A isn't its change
        of the checkpoint; or new weights are beyond the type of the old.

    Notes
    -----
    The truncated SVD is the best approximation of its rank in the Frobenius norm (Eckart & Young 1936). It is that of
    the small core between thin QR factors of B and A^T, in float64; B' = U sqrt(S), A' = sqrt(S) V^T, rounded to the
    types of B and A. The scaling is in B' A' (and in the bias of a lora_B): alpha is each layer's rank, so that PEFT
    multiplies by one. Ranks other than the most common stand in `rank_pattern` and `alpha_pattern` by whole paths.
    Convolutions are truncated as matrices (d_out, channels x kernel). Other tensors are copied, and so are the other
    settings, but for the init, which a trained adapter needs no more and which may not allow the new rank (orthogonal
    takes even ones). The squared norm weighs every input direction alike; how much a truncation costs on data,
    `lorascope.capture.compare_adapters` measures.

    References
    ----------
    Eckart & Young (1936), Psychometrika 1(3), 211-218.
    """
    folder, target = Path(path), Path(out)
    if not 0 < share <= 1:
        raise ValueError(f"`share` is {share!r}; it must be above 0 and at most 1, such as 0.99")
    if target.exists() or target.is_symlink():
        raise FileExistsError(f"`out` is {str(target)!r}, which is there already; name a new folder")
    refuse_elsewhere(target, "out")
    opened = open_adapter(folder)
    require(_refusals(opened), folder)
    with atomic_write(target, flush=True) as partial:
        partial.mkdir()
        cut = _write_weights(opened, folder, partial / WEIGHTS, share, progress)
        paths = [branch.path for branch in opened.branches]
        ranks = [one.A.shape[0] for one in cut]
        settings = _new_settings(opened.settings, dict(zip(paths, ranks, strict=True)))
        if (folder / RECORD).is_file():
            (partial / RECORD).write_bytes((folder / RECORD).read_bytes())
        (partial / CONFIG).write_text(json.dumps(settings, indent=2) + "\n", encoding="utf-8")
        open_adapter(partial)  # refuses patterns of too many layers: PEFT tries each on each layer
    return _dataset(opened, cut).assign_attrs(
        measure="an adapter truncated to a share of each layer's squared Frobenius norm of s B A",
        adapter=str(folder),
        file_sha256=weights_sha256(folder),
        out=str(target),
        share=share,
        lorascope=version("lorascope"),
    )


def _refusals(opened: Opened) -> Iterator[Problem]:
    """Why this adapter's layers can't be truncated one by one."""
    settings = opened.settings
    if is_residual(settings):
        init = settings.get("init_lora_weights")
        message = (
            f"the init {init!r} changed the base weights, and s B A isn't the change of the checkpoint; save it with "
            "PEFT's `path_initial_model_for_weight_conversion` first"
        )
        yield Problem("init_lora_weights", "init", message)
    for branch in opened.branches:
        if "magnitude_vector" in branch.beside or settings.get("use_dora"):
            message = "DoRA's magnitude rescales base and change together, so that s B A alone isn't what is kept"
            yield Problem(branch.path, "dora", message)
        elif odd := branch.beside - {"B_bias", "embedding"}:
            yield Problem(branch.path, "unknown", f"there is a lora_{min(odd)}, which PEFT doesn't make")
    for key, tensor in opened.keys.items():
        if tensor.dtype not in DTYPES:
            allowed = ", ".join(kind for kind, _ in DTYPES.values())
            yield Problem(key, "dtype", f"it is of type {tensor.dtype!r}; allowed are {allowed}")


def _truncate(
    B: Float64[np.ndarray, "d_out rank"], A: Float64[np.ndarray, "rank d_in"], scaling: float, share: float
) -> Truncated:
    """The fewest singular directions of scaling * B A that hold this share of its squares."""
    (left, R_B), (right, R_A) = np.linalg.qr(B), np.linalg.qr(A.T)
    with np.errstate(over="ignore", invalid="ignore"):
        core = scaling * (R_B @ R_A.T)
    if not np.isfinite(core).all():
        raise OverflowError("s B A is beyond float64")
    U, sigma, V = np.linalg.svd(core, full_matrices=False)
    ratios = sigma / (sigma[0] or 1.0)  # so that squares neither overflow nor vanish
    ratios[ratios < np.finfo(np.float64).eps * max(len(A), *A.shape[1:], len(B))] = 0  # zero to rounding
    squares = np.square(ratios)
    left_out = np.append(np.cumsum(squares[::-1])[::-1], 0.0)  # by the rank from 0 on
    total = left_out[0]
    rank = max(1, int(np.argmax(left_out <= (1 - share) * total)))
    root = np.sqrt(sigma[:rank])
    kept = float(1 - left_out[rank] / total) if total else float("nan")
    return Truncated(root[:, None] * (V[:rank] @ right.T), (left @ U[:, :rank]) * root, kept)


def _write_weights(
    opened: Opened, folder: Path, target: Path, share: float, progress: Progress | None
) -> list[Truncated]:
    """Write the weights of the truncated adapter; every tensor keeps its key and type."""
    keys = {tensor: key for key, tensor in opened.keys.items()}
    matches = {key: KEY.fullmatch(key.removeprefix(PREFIX)) for key in opened.keys}
    biases = {INNER.sub("", found["path"]): key for key, found in matches.items() if found and found["leaf"] == "bias"}
    cut, problems = [], []
    with (folder / WEIGHTS).open("rb") as file:
        stored = {key: read_stored(file, opened.keys[key]) for key, found in matches.items() if found is None}
        for done, branch in enumerate(opened.branches, start=1):
            (n_in, *kernel), (n_out, _, *ones) = branch.down.shape[1:], branch.up.shape
            scaling = scaling_at(opened.settings, branch.path)
            try:
                A, B = read_factors(file, branch)
                one = _truncate(B, A, scaling, share)
                stored[keys[branch.down]] = narrow_stored(one.A.reshape(-1, n_in, *kernel), branch.down.dtype)
                stored[keys[branch.up]] = narrow_stored(one.B.reshape(n_out, -1, *ones), branch.up.dtype)
                if key := biases.get(branch.path):  # PEFT multiplies it by the scaling too
                    dtype = opened.keys[key].dtype
                    bias = scaling * widen_stored(read_stored(file, opened.keys[key]), dtype)
                    stored[key] = narrow_stored(bias, dtype)
                cut.append(one)
            except OverflowError as error:
                problems.append(Problem(branch.path, "values", f"{error}; take an earlier checkpoint"))
            if progress is not None:
                progress(done, len(opened.branches))
    require(problems, folder)
    specs = {
        key: TensorSpec(
            dtype=DTYPES[opened.keys[key].dtype][0],
            shape=values.shape,
            data_ptr=values.ctypes.data,
            data_len=values.nbytes,
        )
        for key, values in stored.items()
    }
    serialize_file(specs, target, metadata={"format": "pt"})
    return cut


def _new_settings(settings: Mapping[str, Any], ranks: Mapping[str, int]) -> dict[str, Any]:
    """The configuration of an adapter of these ranks by path, whose scaling is one everywhere."""
    counts = Counter(ranks.values())
    usual = max(counts, key=lambda rank: (counts[rank], rank))
    # PEFT lets an expression fit the end of a path too, where another layer's may end alike.
    pattern = {f"^{re.escape(path)}": rank for path, rank in ranks.items() if rank != usual}
    unused = {"use_rslora": False, "init_lora_weights": True, "eva_config": None}
    return {
        **settings,
        **{name: value for name, value in unused.items() if name in settings},
        "r": usual,
        "lora_alpha": usual,
        "rank_pattern": pattern,
        "alpha_pattern": pattern,
    }


def _dataset(opened: Opened, cut: Sequence[Truncated]) -> xr.Dataset:
    before = np.array([rank_at(opened.settings, branch.path) for branch in opened.branches])
    after = np.array([one.A.shape[0] for one in cut])
    widths = np.array([one.A.shape[1] + one.B.shape[0] for one in cut])
    biases = [one.B.shape[0] * ("B_bias" in branch.beside) for one, branch in zip(cut, opened.branches, strict=True)]
    values = {
        "rank_before": (before, "rank of A and B"),
        "rank": (after, "rank of the truncated A and B"),
        "kept": (np.array([one.kept for one in cut]), "share of the squared Frobenius norm of s B A that is left"),
        "n_parameters_before": (before * widths + biases, "numbers in A, B and their bias"),
        "n_parameters": (after * widths + biases, "numbers in the truncated A, B and their bias"),
    }
    return xr.Dataset(
        {name: ("component", numbers, {"long_name": text, "units": "1"}) for name, (numbers, text) in values.items()},
        coords=component_coords([branch.path for branch in opened.branches]),
    )
