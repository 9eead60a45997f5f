"""Measures what an adapter changes beyond its task: KL and MIUB on neutral texts and on the user's data."""

from typing import Any, NamedTuple

import numpy as np
import xarray as xr

from lorascope.analyze.results.weights import prefix_repeats, ratio, ratio_error, token_weights
from lorascope.stores import Run, StoreError
from lorascope.stores.checking.verify import open_as_written
from lorascope.stores.format.layout import IN_RUN
from lorascope.stores.names import Patterns
from lorascope.stores.reading.read import RunLike, open_neutral


class NextTokenKL(NamedTuple):
    """Mean KL(base || adapted) of the next token in nats, its standard error over samples, and both numbers."""

    kl: float
    """NaN where it wasn't measured."""
    kl_se: float
    """NaN for one sample."""
    n_tokens: int
    n_samples: int


def forgetting(
    run: RunLike,
    *,
    adapter: str | None = None,
    component: Patterns = None,
    n_workers: int | None = None,
    progress: Any = None,
) -> xr.Dataset:
    """Return how far an adapter moves next tokens and layers on neutral texts, and for comparison on the user's data.

    On texts that the base wrote itself the mean KL is what the adapter forgot: per token, the divergence of the
    adapted model's distribution of texts from the base's own.

    Parameters
    ----------
    run
        An open run or its path or url, captured with neutral texts (`capture --neutral`), finished or not.
    adapter
        Name of the adapter; not needed if there is only one.
    component
        Path of a component or a pattern, such as `*.q_proj`, or several; by default all that the adapter changes.
    n_workers, progress
        As for `miub`.

    Returns
    -------
    xarray.Dataset
        By `texts`, `neutral` and `data`: `kl`, mean KL(base || adapted) of the next token in nats, over `n_tokens`
        places of `n_samples` samples, NaN where none was measured; `miub` in nats; and by component `js` (texts,
        component). `kl_se`, `miub_se` and `js_se` are standard errors over samples. The attribute `written_by` is
        `base`, or for texts of a file `file`.

    Raises
    ------
    StoreError
        If the run has no neutral texts or none is committed, they are of another model or adapter, or a chunk is
        broken.

    Notes
    -----
    Let x be a text of T tokens that the base P draws, and Q the adapted model. The sum over its places of
    KL(P(. | x_<t) || Q(. | x_<t)) has the mean KL(P(x) || Q(x)), by the chain rule of relative entropy (Cover and
    Thomas 2006, Elements of Information Theory, theorem 2.5.3). The mean per token is a ratio of sums over texts, with
    its linearised error. Texts are cut after 128 tokens with the start token, so what changes only later isn't seen.
    On the data and on a file's texts a beginning that samples share counts once, as in `changes`.
    """
    from lorascope.analyze.miub.miub import miub  # with numba, which the KL alone doesn't need

    run = open_as_written(run)
    neutral = open_neutral(run)
    if neutral is None:
        raise StoreError(f"`{run.place.name}` has no neutral texts; its capture with `--neutral 32` adds them")
    parts, options = [], {"adapter": adapter, "component": component, "n_workers": n_workers, "progress": progress}
    for each in (neutral, run):
        kl = next_token_kl(each, adapter)._asdict()
        parts.append(miub(each, **options).to_dataset()[["miub", "miub_se", "js", "js_se"]].assign(kl))
    result = xr.concat(parts, "texts", coords="minimal", compat="override", combine_attrs="drop_conflicts")
    result = result.assign_coords(texts=np.array(["neutral", "data"], object))
    result["kl"].attrs = {"long_name": "mean KL(base || adapted) of the next token", "units": "nat"}
    result["kl_se"].attrs = {"long_name": "standard error of kl over samples", "units": "nat"}
    return result.assign_attrs(written_by="base" if is_written_by_base(neutral) else "file")


def next_token_kl(run: Run, adapter: str | None = None) -> NextTokenKL:
    """Return the mean KL(base || adapted) of the next token over the committed tokens where it was measured."""
    name = adapter if adapter is not None else run.adapters[0] if len(run.adapters) == 1 else None
    if name is not None and f"adapters/{name}/kl" not in run.arrays:
        return NextTokenKL(np.nan, np.nan, 0, 0)
    kl = run.reduction("kl", name).values.astype(np.float64)
    weight = np.where(np.isnan(kl), 0.0, token_weights(run))
    if not is_written_by_base(run):  # else the base draws a beginning as often as it is likely
        weight[prefix_repeats(run, weight > 0)] = 0
    places = np.flatnonzero(weight)
    sample = np.unique(run.read_static("tokens/sample")[places], return_inverse=True)[1]
    sums = (np.bincount(sample, values)[:, None] for values in (weight[places] * kl[places], weight[places]))
    mean, residual = ratio(*sums)
    error = ratio_error(residual)
    return NextTokenKL(float(mean[0]), float(error[0]), len(places), len(residual))


def is_written_by_base(run: Run) -> bool:
    """Return whether the base model wrote a run's texts itself."""
    settings = (run.attributes.get("provenance") or {}).get("settings") or {}
    return any(str(name).endswith(IN_RUN) for name in settings.get("data") or ())
