"""Sentences on what the adapter forgot: how far it moves next tokens and layers on neutral texts."""

import xarray as xr

from lorascope.analyze.changes.forgetting import next_token_kl, text_source
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
    if not neutral.finished:
        return "Can't tell, since the neutral texts aren't captured yet; give the command of the capture again."
    forgotten, on_data = (next_token_kl(each, adapter) for each in (neutral, run))
    moved = miub(neutral, adapter=adapter, component=result.dataset["component"].values.tolist())
    kl, task = (format_error(*each[:2]) for each in (forgotten, on_data))
    n_texts = f"{forgotten.n_samples} text{'' if forgotten.n_samples == 1 else 's'}"
    on_task, n_task = (
        (f", on the data by {task}", f" and {on_data.n_tokens} of the data") if on_data.n_tokens else ("", "")
    )
    sizes = " and ".join(format_error(float(each["miub"]), float(each["miub_se"])) for each in (moved, result))
    return (
        f"On {n_texts} {text_source(neutral)}, the adapter moves the next token by {kl} nat{on_task} (mean KL(base || "
        f"adapted) over {forgotten.n_tokens} tokens{n_task}, ± standard error over texts; 0 if nothing is forgotten). "
        f"MIUB there and on the data: {sizes} nat."
    )
