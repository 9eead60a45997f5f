"""Sentences on what the adapter forgot: how far it moves next tokens and layers on neutral texts."""

import xarray as xr

from lorascope.analyze.changes.forgetting import is_written_by_base, next_token_kl
from lorascope.analyze.results.format import format_error
from lorascope.stores import Run
from lorascope.stores.reading.read import open_neutral


def answer_what_it_forgot(run: Run, result: xr.DataTree) -> str:
    """Return sentences (plain text) on KL and MIUB on a run's neutral texts and its data; no text without such texts.

    `result` is that of `qualified_numbers`.
    """
    from lorascope.analyze.miub.miub import miub  # with numba

    neutral = open_neutral(run)
    if neutral is None:
        return ""
    adapter = result.attrs["adapter"]
    there, here = (next_token_kl(each, adapter) for each in (neutral, run))
    if not there.n_tokens:
        return "Can't tell, since no neutral text is captured yet; give the command of the capture again."
    moved = miub(neutral, adapter=adapter, component=result.dataset["component"].values.tolist())
    texts = f"{there.n_samples} text{'' if there.n_samples == 1 else 's'}"
    texts += " that the base wrote itself" if is_written_by_base(neutral) else " of a neutral file"
    on_data = f", on the data by {format_error(here.kl, here.kl_se)}" if here.n_tokens else ""
    places = f"{there.n_tokens} tokens" + (f", of the data {here.n_tokens}" if here.n_tokens else "")
    sizes = " and ".join(format_error(float(each["miub"]), float(each["miub_se"])) for each in (moved, result))
    return (
        f"On {texts}, the adapter moves the next token by {format_error(there.kl, there.kl_se)} nat{on_data} "
        f"(mean KL(base || adapted) of {places}, ± standard error over texts; 0: nothing is forgotten). "
        f"MIUB there and on the data: {sizes} nat."
    )
