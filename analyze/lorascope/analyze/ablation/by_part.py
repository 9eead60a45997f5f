"""The cost of taking each part of an adapter out, over samples."""

import numpy as np
import xarray as xr

from lorascope.analyze.miub.reduce import reduce_tokens, usable_samples
from lorascope.analyze.results.weights import standard_error, token_weights
from lorascope.stores import Run


def ablation_by_part(run: Run, adapter: str | None = None) -> xr.Dataset | None:
    """Average what taking out each part's delta does to the next token; None if no sample was ablated as a whole yet.

    Returns
    -------
    xarray.Dataset
        By `part` (a component, layer or kind of module): `kl`, KL(adapted || adapted without that part's delta) of the
        next-token distributions in nats, the weighted mean over a sample's tokens and then the mean over samples;
        `behind`, by how much it is below that of the part with the largest; and the standard errors of both, `kl_se`
        and `behind_se`. Samples count whose captured tokens were all ablated. Attributes `parts`, `n_samples`,
        `n_tokens`.

    Raises
    ------
    StoreError
        If the run has no ablation, or a chunk is broken.
    """
    ablation = run.ablation(adapter)
    labels = {"counted": ("token", run.committed.values), "weight": ("token", token_weights(run))}
    measured = xr.Dataset({"kl": ablation.rename(part="component")}).assign_coords(labels)
    by_sample = reduce_tokens(measured, "kl", run)
    used = usable_samples(measured, run, "mean") & np.isfinite(by_sample).all(axis=1)
    if not used.any():
        return None
    values = by_sample[used]
    behind = values[:, [values.mean(axis=0).argmax()]] - values
    lengths = (run.samples["token_stop"] - run.samples["token_start"]).values[used]
    numbers = {"kl": values.mean(axis=0), "kl_se": standard_error(values)}
    numbers |= {"behind": behind.mean(axis=0), "behind_se": standard_error(behind)}
    return xr.Dataset(
        {name: ("part", column) for name, column in numbers.items()},
        coords={"part": ablation["part"].values},
        attrs={"parts": ablation.attrs["parts"], "n_samples": int(used.sum()), "n_tokens": int(lengths.sum())},
    )
