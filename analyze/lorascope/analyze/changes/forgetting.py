"""Measures what an adapter changes beyond its task: KL and MIUB on neutral texts and on the user's data."""

from typing import Any, NamedTuple

import numpy as np
import xarray as xr

from lorascope.analyze.results.format import format_error
from lorascope.analyze.results.weights import prefix_repeats, ratio, ratio_error, token_weights
from lorascope.stores import Run, StoreError
from lorascope.stores.checking.verify import open_as_written
from lorascope.stores.format.layout import IN_RUN
from lorascope.stores.names import Patterns
from lorascope.stores.reading.read import RunLike, open_neutral

BY_BASE = "that the base wrote itself"
"""Source of texts that the base model wrote."""


class NextTokenKL(NamedTuple):
    """Mean KL(base || adapted) of the next token in nats, its standard error over samples, and both numbers."""

    kl: float
    kl_se: float
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

    On texts that the base wrote itself the mean KL is what the adapter forgot: how far its distribution of texts is
    from the base's own, per token.

    Parameters
    ----------
    run
        An open run or its path or url, captured with neutral texts (`capture --neutral`).
    adapter, component, n_workers, progress
        As for `miub`.

    Returns
    -------
    xarray.Dataset
        By `texts`, `neutral` and `data`: `kl`, mean KL(base || adapted) of the next token in nats, over `n_tokens`
        places of `n_samples` samples, NaN where none was measured; `miub` in nats; and by component `js` (texts,
        component). `kl_se`, `miub_se` and `js_se` are standard errors over samples. `source` says whose texts they are.

    Raises
    ------
    StoreError
        If there are no neutral texts, none is committed, they are of another model, or a chunk is broken.

    Notes
    -----
    Let x be a text that the base P draws, and Q the adapted model. The sum over its places of KL(P(. | x_<t) ||
    Q(. | x_<t)) has the mean KL(P(x) || Q(x)), by the chain rule of relative entropy (Cover and Thomas 2006, Elements
    of Information Theory, theorem 2.5.3). The mean per token is a ratio of sums over texts, with its linearised error.
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
    return result.assign_attrs(source=text_source(neutral))


def next_token_kl(run: Run, adapter: str | None = None) -> NextTokenKL:
    """Return the mean KL(base || adapted) of the next token over the committed tokens where it was measured."""
    if not any(path.endswith("/kl") for path in run.arrays):
        return NextTokenKL(np.nan, np.nan, 0, 0)
    kl = run.reduction("kl", adapter).values.astype(np.float64)
    weight = np.where(np.isnan(kl), 0.0, token_weights(run))
    if text_source(run) != BY_BASE:  # which draws a beginning as often as it is likely
        weight[prefix_repeats(run, weight > 0)] = 0
    places = np.flatnonzero(weight)
    sample = np.unique(run.read_static("tokens/sample")[places], return_inverse=True)[1]
    sums = (np.bincount(sample, values)[:, None] for values in (weight[places] * kl[places], weight[places]))
    mean, residual = ratio(*sums)
    return NextTokenKL(float(mean[0]), float(ratio_error(residual)[0]), len(places), len(residual))


def describe_forgetting(run: Run, adapter: str) -> str:
    """Return a sentence (plain text) on the KL on a run's neutral texts and its data; no text without such texts."""
    if (neutral := open_neutral(run)) is None:
        return ""
    if not neutral.finished:
        return "Can't tell, since the neutral texts aren't captured yet; give the command of the capture again."
    forgotten, on_data = (next_token_kl(each, adapter) for each in (neutral, run))
    unit = "text" if text_source(neutral) == BY_BASE else "sample"  # such as a window of a long text
    texts = f"{forgotten.n_samples} {unit}{'s' * (forgotten.n_samples != 1)} {text_source(neutral)}"
    task = f", on the data by {format_error(on_data.kl, on_data.kl_se)}" * (on_data.n_tokens > 0)
    return (
        f"On {texts} the next token moves by {format_error(forgotten.kl, forgotten.kl_se)} nat{task} "
        "(mean KL(base || adapted); 0 if nothing is forgotten)."
    )


def text_source(run: Run) -> str:
    """Return whose texts are in a run: "that the base wrote itself", or "of" and the names of files."""
    settings = (run.attributes.get("provenance") or {}).get("settings") or {}
    names = [str(name) for name in settings.get("data") or ()]
    return BY_BASE if any(name.endswith(IN_RUN) for name in names) else f"of {', '.join(names)}"
